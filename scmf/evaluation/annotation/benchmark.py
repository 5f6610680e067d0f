"""Cell-type annotation: how well labels are read off a representation of cells.

Probes on any representation (N, D), fitted on training cells and scored on test cells: logistic regression
(linear_probe) and nearest neighbors (knn_probe), both on columns standardized with the mean and standard deviation
of the training cells; and, when asked for, nearest neighbors as they are (knn_transfer) and five folds of all cells
(cross_validated). Predictions made elsewhere (a fine-tuned head) are scored by the same functions. Lives elsewhere: the
representations (baselines, scmf.models.embed), scores of predicted labels (label_scores), the folds (cross_validation).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from scmf.core.config.run import EvalConfig
from scmf.core.errors import EvaluationError
from scmf.data.loading.labels import CellLabels
from scmf.evaluation.annotation import transfer
from scmf.evaluation.annotation.cross_validation import CROSS_VALIDATED, cross_validated
from scmf.evaluation.annotation.label_scores import confusion, definitions, from_confusion, per_class, score
from scmf.evaluation.annotation.metric_table import METRICS
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.protocol import Benchmark
from scmf.evaluation.score import check_vectors, package
from scmf.evaluation.submissions.protocol import Submission
from scmf.evaluation.tasks import Task
from scmf.results.score import Score

__all__ = [
    "CONSTANT", "CROSS_VALIDATED", "HEAD", "LINEAR", "MAJORITY", "NEAREST", "SHUFFLED", "TRANSFER", "Annotation",
    "Unseen", "confusion", "definitions", "from_confusion", "per_class", "score",
]  # fmt: skip

LINEAR, NEAREST, HEAD, CONSTANT = "linear_probe", "knn_probe", "finetuned_head", "constant"
TRANSFER = "knn_transfer"
MAJORITY = "majority"
"""Method: the most frequent label of the training cells."""

SHUFFLED = "shuffled_labels"
"""Method: a probe that was fitted on shuffled training labels."""

Unseen = Literal["error", "report"]
"""What to do with test cells whose label no training cell has."""


class Annotation(Benchmark):
    """Benchmark ``annotation``.

    Parameters
    ----------
    knn_neighbors
        Neighbors that vote in knn_probe, each with one vote (Euclidean distance).
    transfer_neighbors
        Neighbors that vote in knn_transfer.
    """

    name = "annotation"
    asks_for = "vectors of cells"
    task_options = ("unseen", "finetune", "knn_neighbors")

    def __init__(self, *, knn_neighbors: int = 15, transfer_neighbors: int = 10) -> None:
        package("scikit-learn")  # if it is missing say so now, and not after training
        self.knn_neighbors = knn_neighbors
        self.transfer_neighbors = transfer_neighbors

    @classmethod
    def recipe_options(cls, settings: EvalConfig) -> dict[str, Any]:
        """Neighbors of the probe, and whether a head is fine-tuned."""
        return {"knn_neighbors": settings.knn_neighbors, "finetune": settings.finetune is not None}

    @classmethod
    def score(cls, task: Task, submission: Submission, cells: TaskCells) -> Iterator[Score]:
        """Probes of the vectors, references of the cells alone, and the fine-tuned head where the task asks for it."""
        benchmark, truth = cls(knn_neighbors=task.knn_neighbors), cells.labels
        vectors = submission.vectors(task, cells)
        yield from benchmark.run(vectors, truth, unseen=task.unseen, protocols=task.protocols or None)
        if MAJORITY in submission.references:
            yield benchmark.majority(truth, unseen=task.unseen)
        if SHUFFLED in submission.references:
            yield from benchmark.shuffled_labels(vectors["pca"], truth, unseen=task.unseen)
        if task.finetune:
            started = time.perf_counter()
            for method, predicted in submission.labels(task, cells):
                yield benchmark.scored(
                    predicted, truth, protocol=HEAD, method=method, started=started, unseen=task.unseen
                )
                started = time.perf_counter()

    def run(
        self,
        representations: Mapping[str, np.ndarray],
        truth: CellLabels,
        *,
        protocols: Sequence[str] | None = None,
        unseen: Unseen = "error",
    ) -> Iterator[Score]:
        """Score every representation under every protocol.

        Parameters
        ----------
        representations
            Method to matrix (N, D).
        truth
            Labels and parts of the N cells; valid cells and those without a label are neither fitted nor scored.
        protocols
            Among linear_probe, knn_probe, knn_transfer and cross_validated, which knows no parts; the first two when
            None.
        unseen
            ``report`` scores test cells with a label of the training cells, and says how many others there are and
            how well they are told apart by the certainty of the probe.

        Raises
        ------
        EvaluationError
            If a label of the test cells has no training cell and ``unseen`` is ``error``; if a protocol is unknown, or
            the vectors of a method are not finite or all the same.
        """
        protocols = (LINEAR, NEAREST) if protocols is None else protocols
        known = (LINEAR, NEAREST, TRANSFER, CROSS_VALIDATED)
        if wrong := [name for name in protocols if name not in known]:
            raise EvaluationError(
                f"protocol {wrong[0]!r}", wanted=f"among {', '.join(known)}", where=self.name, fix="choose another"
            )
        if set(protocols) != {CROSS_VALIDATED}:
            _check(truth, unseen)
        for method, x_ND in representations.items():
            check_vectors(x_ND, method, where=self.name)
            for protocol in protocols:
                if protocol == CROSS_VALIDATED:
                    rows = truth.labeled
                    yield cross_validated(x_ND[rows], truth.labels[rows], method=method)
                else:
                    yield self._probe(x_ND, truth, truth.labels, protocol=protocol, method=method, unseen=unseen)

    def shuffled_labels(
        self,
        x_ND: np.ndarray,
        truth: CellLabels,
        *,
        protocols: Sequence[str] = (LINEAR, NEAREST),
        unseen: Unseen = "error",
        seed: int = 0,
        method: str = SHUFFLED,
    ) -> Iterator[Score]:
        """Chance: probes of a representation (N, D) whose training labels were shuffled among the training cells."""
        _check(truth, unseen)
        check_vectors(x_ND, method, where=self.name)
        labels, train = truth.labels.copy(), truth.rows("train")
        labels[train] = np.random.default_rng(seed).permutation(labels[train])
        for protocol in protocols:
            yield self._probe(x_ND, truth, labels, protocol=protocol, method=method, unseen=unseen)

    def _probe(
        self, x_ND: np.ndarray, truth: CellLabels, labels: np.ndarray, *, protocol: str, method: str, unseen: Unseen
    ) -> Score:
        """Score of a probe that learns ``labels`` of the training cells."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        started = time.perf_counter()
        train, test = truth.rows("train"), truth.rows("test")
        if protocol == TRANSFER:
            probe = make_pipeline(KNeighborsClassifier(min(self.transfer_neighbors, len(train)), algorithm="brute"))
        elif protocol == LINEAR:
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
        else:
            probe = make_pipeline(StandardScaler(), KNeighborsClassifier(min(self.knn_neighbors, len(train))))
        probe.fit(x_ND[train], labels[train])
        return self.scored(
            probe.predict(x_ND[test]),
            truth,
            protocol=protocol,
            method=method,
            started=started,
            unseen=unseen,
            certainty=probe.predict_proba(x_ND[test]).max(axis=1) if unseen == "report" else None,
        )

    def scored(
        self,
        predicted: np.ndarray,
        truth: CellLabels,
        *,
        protocol: str,
        method: str,
        started: float,
        unseen: Unseen = "error",
        certainty: np.ndarray | None = None,
    ) -> Score:
        """Score of labels predicted for the test cells, str (n_test,), in the order of the cells.

        Parameters
        ----------
        certainty
            Largest probability of a label, or share of the votes (n_test,), to tell unseen labels by; None where a
            method has none.
        """
        test = truth.rows("test")
        true, train_labels = truth.labels[test], truth.labels[truth.rows("train")]
        donors = None if truth.donors is None else truth.donors[test]
        details: dict[str, Any] = {
            "confusion": confusion(predicted, true),
            "per_class": per_class(predicted, true, train_labels),
            **({"without_label": n} if (n := truth.left_out.get("without_label")) else {}),
        }
        if unseen == "report":
            found = transfer.report(predicted, true, train_labels, certainty=certainty, donors=donors)
            details["unseen"] = truth.unseen()
        else:
            found = transfer.plain(predicted, true, donors=donors)
        details |= found.details
        lines = found.definitions
        if protocol == TRANSFER:
            how = (
                f"; label: vote of the {self.transfer_neighbors} nearest training cells, Euclidean, not standardized"
                " (scGPT, Tutorial_ZeroShot_Reference_Mapping)"
            )
            lines = {name: line + how for name, line in lines.items()}
        return Score(
            benchmark=self.name,
            protocol=protocol,
            method=method,
            metrics=found.metrics,
            **(METRICS.facts(found.metrics, sklearn=package("scikit-learn")) | {"definitions": lines}),
            n_cells=len(true),
            n_train=len(train_labels),
            seconds=time.perf_counter() - started,
            details=details,
            intervals=found.intervals,
        )

    def majority(self, truth: CellLabels, *, unseen: Unseen = "error") -> Score:
        """The most frequent label of the training cells, for every test cell."""
        started = time.perf_counter()
        labels, counts = np.unique(truth.labels[truth.rows("train")], return_counts=True)
        predicted = np.repeat(labels[counts.argmax()], len(truth.rows("test")))
        return self.scored(predicted, truth, protocol=CONSTANT, method=MAJORITY, started=started, unseen=unseen)


def _check(truth: CellLabels, unseen: Unseen) -> None:
    """Raise `EvaluationError` unless the split can be scored."""
    if unseen == "error":
        truth.check_trained_labels()
    else:
        truth.check_parts()
        transfer.check_some_seen(truth)
    truth.check_classes()
