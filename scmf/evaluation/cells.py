"""The cells of a task, with what is computed of them once: labels, and the vectors of the baselines.

Lives elsewhere: loading them (run), what is known of them (scmf.data.loading.labels), the baselines themselves
(baselines).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.data.loading.facts import LoadedCells
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.baselines import baseline_representations

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskCells:
    """Cells that submissions are scored on.

    Parameters
    ----------
    adata
        As `scmf.data.loading.load.load_cells` returns them.
    known
        Labels and parts, where they are not those of ``adata``.
    """

    adata: LoadedCells
    known: CellLabels | None = None

    @cached_property
    def labels(self) -> CellLabels:
        """Labels, batches, parts and donors; cells that lack one are counted in the log."""
        if self.known is not None:
            return self.known
        found = CellLabels.of(self.adata)
        found.say_left_out(self.adata.facts)
        return found

    @cached_property
    def baselines(self) -> dict[str, np.ndarray]:
        """``hvg`` and ``pca`` of all cells, fitted on the training cells (all cells without a split)."""
        import torch

        train = self.adata.rows("train")
        if len(train) < 2 or self.adata.n_vars < 2:
            raise EvaluationError(
                f"{len(train):,} training cells and {self.adata.n_vars:,} genes", where=self.adata.facts.dataset,
                wanted="two training cells and two genes or more, of which principal components are made",
                fix="choose another split, or give more cells or genes",
            )  # fmt: skip
        log.info("baselines: highly variable genes, principal components")
        threads = torch.get_num_threads()
        try:
            vectors = baseline_representations(self.adata, train)
        except (ValueError, IndexError, ZeroDivisionError, FloatingPointError) as error:
            raise EvaluationError(
                f"no baselines of {len(train):,} training cells and {self.adata.n_vars:,} genes "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__})",
                wanted="training cells that differ, in genes that vary", where=self.adata.facts.dataset,
                fix="choose another split, or give more cells or genes",
            ) from error  # fmt: skip
        torch.set_num_threads(threads)  # thread pools are limited and let go on the way, torch's with them
        return vectors

    def with_baselines(self) -> TaskCells:
        """The same cells, after the baselines were computed: what is amiss shows before any training."""
        _ = self.baselines
        return self
