"""Vectors of cells as a submission: embeddings that somebody published with a card, or that lie in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scmf.core.errors import DataError
from scmf.data.loading.load import read_file
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.submissions.protocol import EmptySubmission
from scmf.evaluation.tasks import Task


@dataclass(frozen=True)
class VectorsSubmission(EmptySubmission):
    """Embeddings under a key of ``obsm``.

    Parameters
    ----------
    obsm
        The key.
    file
        An .h5ad file that holds them; None: the files of the task's card do.
    """

    obsm: str
    file: Path | None = None

    def vectors(self, task: Task, cells: TaskCells) -> Mapping[str, np.ndarray]:
        """The vectors of these cells, by cell id."""
        if self.file is None:
            held, where = cells.adata, f"card {task.dataset!r}"
        else:
            held, where = read_file(self.file), str(self.file)
        if self.obsm not in held.obsm:
            raise DataError(
                f"no {self.obsm!r} in obsm", wanted=f"one of {', '.join(held.obsm) or '(there is none)'}", where=where,
                fix="choose another --obsm",
            )  # fmt: skip
        rows = held.obs_names.get_indexer(cells.adata.obs_names)
        if (lost := int((rows < 0).sum())) or not held.obs_names.is_unique:
            raise DataError(
                f"{lost} of {cells.adata.n_obs} cells have no vector",
                wanted="a vector for every cell of the task, by id",
                where=where, fix=f"embed all cells of {task.dataset!r}",
            )  # fmt: skip
        x_ND = np.asarray(held.obsm[self.obsm], np.float32)[rows]
        if not np.isfinite(x_ND).all():
            raise DataError(
                "vectors that are not finite", wanted="finite numbers", where=where, fix="repair the embedding"
            )
        return {"official" if self.file is None else "mini": x_ND}
