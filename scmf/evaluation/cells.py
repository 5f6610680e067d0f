"""The cells of a task, with what is computed of them once: labels, and the vectors of the baselines.

Lives elsewhere: loading them (run), what is known of them (scmf.data.loading.labels), the baselines themselves
(baselines).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np

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

        log.info("baselines: highly variable genes, principal components")
        threads = torch.get_num_threads()
        vectors = baseline_representations(self.adata, self.adata.rows("train"))
        torch.set_num_threads(threads)  # thread pools are limited and let go on the way, torch's with them
        return vectors

    def with_baselines(self) -> TaskCells:
        """The same cells, after the baselines were computed: what is amiss shows before any training."""
        _ = self.baselines
        return self
