"""What is known of cells beside their counts: labels, batches, parts of a split, donors.

A missing label, batch or donor is the empty text and never a class: cells without a label lie in no part, so that
nothing is fitted on them and nothing scored, and they are counted. Lives here: reading them from loaded cells, and the
checks of a split that is learnt from and scored. Lives elsewhere: loading the cells (load), which values are missing
(stores.missing), the metrics (scmf.evaluation).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from scmf.core.errors import EvaluationError
from scmf.data.loading.facts import DataFacts, LoadedCells
from scmf.data.stores.missing import known_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CellLabels:
    """What is known of N cells: their labels, batches, parts and donors.

    Parameters
    ----------
    labels
        Cell types, str (N,); empty where a cell has none.
    batches
        Studies or other batches, str (N,), or None; empty where a cell has none.
    parts
        ``train``, ``valid`` or ``test`` of each cell, str (N,); empty for cells without a label, which take no part.
    donors
        Whom each cell is from, str (N,), or None; empty where nobody knows.
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
            If the cells have no labels, not even one, or no split.
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
            return known_text(cells.obs[key]) if key else None

        labels = known_text(cells.obs[facts.label_key])
        if not (labels != "").any():
            raise EvaluationError(
                f"no value in column {facts.label_key!r} of {cells.n_obs:,} cells",
                wanted="labels", where="data.label_key", fix="name the column that holds the labels",
            )  # fmt: skip
        return cls(
            labels=labels,
            batches=column(facts.batch_key),
            parts=np.where(labels == "", "", cells.split),
            donors=column(facts.donor_key),
        )

    @property
    def labeled(self) -> np.ndarray:
        """Indices of the cells that have a label."""
        return np.flatnonzero(self.labels != "")

    @property
    def complete(self) -> np.ndarray:
        """Indices of the cells that have a label and, where there are batches, a batch."""
        known = self.labels != ""
        return np.flatnonzero(known if self.batches is None else known & (self.batches != ""))

    @property
    def left_out(self) -> dict[str, int]:
        """How many cells lack a label, and how many with a label lack a batch; what no cell lacks is not named."""
        found = {"without_label": len(self.labels) - len(self.labeled)}
        found["without_batch"] = len(self.labeled) - len(self.complete)
        return {name: n for name, n in found.items() if n}

    def say_left_out(self, facts: DataFacts) -> None:
        """Log how many cells lack a label or a batch."""
        lost, where = self.left_out, facts.dataset
        if n := lost.get("without_label"):
            of = f"{n:,} of {len(self.labels):,} cells have no label in {facts.label_key!r}"
            log.warning(f"{where}: {of}: they are left out, nothing is fitted on them or scored")
        if n := lost.get("without_batch"):
            of = f"{n:,} of {len(self.labeled):,} cells have no batch in {facts.batch_key!r}"
            log.warning(f"{where}: {of}: they are left out of batch integration")

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
                    f"no cells in part {part!r}" + (" that have a label" if "without_label" in self.left_out else ""),
                    wanted="train and test cells",
                    where="data.split",
                    fix="choose another split",
                )

    def check_classes(self) -> None:
        """Raise `EvaluationError` unless the training cells have two labels or more."""
        if len(names := np.unique(self.labels[self.rows("train")])) < 2:
            raise EvaluationError(
                f"all {len(self.rows('train')):,} training cells have the label {str(names[0])!r}",
                wanted="two labels or more, to tell apart",
                where="data.label_key, data.split",
                fix="name another column, choose another split, or leave annotation out of eval.benchmarks",
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
