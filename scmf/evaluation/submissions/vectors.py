"""Vectors of cells as a submission: embeddings that somebody published with a card, or that lie in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core.errors import DataError
from scmf.data.loading.load import opened
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
        An .h5ad file or an AnnData that holds them; None: the files of the task's card do.
    by_order
        They are those of the task's cells in their order, whatever ids the file has.
    """

    obsm: str
    file: Path | AnnData | None = None
    by_order: bool = False

    def vectors(self, task: Task, cells: TaskCells) -> Mapping[str, np.ndarray]:
        """The vectors of these cells, by cell id."""
        if self.file is None:
            held, where = cells.adata, f"card {task.dataset!r}"
        else:
            held, where = opened(self.file)
        if self.obsm not in held.obsm:
            raise DataError(
                f"no {self.obsm!r} in obsm", wanted=f"one of {', '.join(held.obsm) or '(there is none)'}", where=where,
                fix="choose another --obsm",
            )  # fmt: skip
        rows = _rows(held.obs_names, cells.adata.obs_names, by_order=self.by_order, dataset=task.dataset, where=where)
        x_ND = np.asarray(held.obsm[self.obsm], np.float32)[rows]
        if not np.isfinite(x_ND).all():
            raise DataError(
                "vectors that are not finite", wanted="finite numbers", where=where, fix="repair the embedding"
            )
        return {"official" if self.file is None else "mini": x_ND}


def _rows(held: pd.Index, wanted: pd.Index, *, by_order: bool, dataset: str, where: str) -> np.ndarray:
    """The row of each cell of a task among those of a file, by id or by order."""
    known = held.get_indexer(wanted) if held.is_unique else np.full(len(wanted), -1)
    if not by_order and (known < 0).any():
        lost = f"{int((known < 0).sum())} of {len(wanted)} cells have no vector"
        order = "" if len(held) != len(wanted) else "; or --by-order, if they lie in the order of the task's cells"
        raise DataError(
            lost if held.is_unique else f"{lost}: the ids of the file are not unique",
            wanted="a vector for every cell of the task, by id", where=where,
            fix=f"embed all cells of {dataset!r}{order}",
        )  # fmt: skip
    if not by_order:
        return known
    if len(held) != len(wanted):
        raise DataError(
            f"{len(held):,} vectors", wanted=f"{len(wanted):,}, one for each cell of the task", where=where,
            fix=f"embed all cells of {dataset!r}, or give cell ids and leave --by-order out",
        )  # fmt: skip
    rows = np.arange(len(wanted))
    if (known >= 0).all() and (known != rows).any():
        raise DataError(
            "the cells of the task in another order", wanted="vectors in the order of the task, or by id", where=where,
            fix="leave --by-order out",
        )  # fmt: skip
    return rows
