"""What is known of cells beside their counts: labels, batches, parts of a split, donors.

Lives here: reading them from loaded cells, and the checks of a split that is learnt from and scored. Lives elsewhere:
loading the cells (load), the metrics (scmf.evaluation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.data.loading.facts import LoadedCells


@dataclass(frozen=True)
class CellLabels:
    """What is known of N cells: their labels, batches, parts and donors.

    Parameters
    ----------
    labels
        Cell types, str (N,).
    batches
        Studies or other batches, str (N,), or None.
    parts
        ``train``, ``valid`` or ``test`` of each cell, str (N,).
    donors
        Whom each cell is from, str (N,), or None.
    """

    labels: np.ndarray
    batches: np.ndarray | None
    parts: np.ndarray
    donors: np.ndarray | None = None

    @classmethod
    def of(cls, cells: LoadedCells) -> CellLabels:
        """Read the labels of cells as `scmf.data.loading.load.load_cells` returns them.

        Raises
        ------
        EvaluationError
            If the cells have no labels or no split.
        """
        facts = cells.facts
        if not facts.label_key:
            raise EvaluationError(
                "cells without labels", wanted="a column of obs", where="data.label_key", fix="name the column"
            )
        if cells.split is None:
            raise EvaluationError(
                "cells without a split", wanted="train and test parts", where="data.split", fix="name a split"
            )

        def column(key: str | None) -> np.ndarray | None:
            return cells.obs[key].astype(str).to_numpy() if key else None

        return cls(
            labels=cells.obs[facts.label_key].astype(str).to_numpy(),
            batches=column(facts.batch_key),
            parts=cells.split,
            donors=column(facts.donor_key),
        )

    def take(self, rows: np.ndarray) -> CellLabels:
        """What is known of the cells ``rows``."""
        return CellLabels(
            labels=self.labels[rows],
            batches=None if self.batches is None else self.batches[rows],
            parts=self.parts[rows],
            donors=None if self.donors is None else self.donors[rows],
        )

    def rows(self, part: str) -> np.ndarray:
        """Indices of the cells of ``part``."""
        return np.flatnonzero(self.parts == part)

    def check_parts(self) -> None:
        """Raise `EvaluationError` unless there are training cells and test cells."""
        for part in ("train", "test"):
            if not len(self.rows(part)):
                raise EvaluationError(
                    f"no cells in part {part!r}",
                    wanted="train and test cells",
                    where="data.split",
                    fix="choose another split",
                )

    def unseen(self) -> dict[str, int]:
        """Labels of test cells that no training cell has, with the number of test cells."""
        test = self.labels[self.rows("test")]
        labels, counts = np.unique(test[~np.isin(test, self.labels[self.rows("train")])], return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))

    def check_trained_labels(self) -> None:
        """Raise `EvaluationError` unless every label of the test cells occurs among the training cells."""
        self.check_parts()
        if unseen := self.unseen():
            raise EvaluationError(
                f"label missing in the training split: {', '.join(unseen)} ({sum(unseen.values())} test cells)",
                wanted="every label of the test cells among the training cells",
                where="data.split, data.label_key",
                fix="choose another split, or merge or drop those labels; a task of a suite of your own may have "
                "`unseen: report` (scmf evaluate RUN --tasks TASK --suite FILE)",
            )
