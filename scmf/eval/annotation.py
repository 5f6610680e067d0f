"""Cell-type annotation: how well labels are read off a representation of cells.

Two probes on any representation (N, D), fitted on training cells and scored on test cells: logistic
regression (linear_probe) and nearest neighbours (knn_probe). Both standardise each column with the
mean and standard deviation of the training cells. Predictions made elsewhere (a fine-tuned head) are
scored by the same function. Lives elsewhere: the representations (baselines, scmf.embedding).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from scmf.eval.score import Score, Truth, package

LINEAR, NEAREST, HEAD, CONSTANT = "linear_probe", "knn_probe", "finetuned_head", "constant"


def score(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Metrics of predicted labels.

    Parameters
    ----------
    predicted, truth
        Labels, str (N,).

    Returns
    -------
    dict
        ``accuracy`` and ``macro_f1`` (unweighted mean of F1 over the classes that occur in ``truth``; a
        class that is never predicted has F1 0).
    """
    from sklearn.metrics import accuracy_score, f1_score

    macro_f1 = f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0.0)
    return {"accuracy": float(accuracy_score(truth, predicted)), "macro_f1": float(macro_f1)}


def definitions() -> dict[str, str]:
    """One line a metric."""
    sklearn = package("scikit-learn")
    return {
        "accuracy": f"share of test cells with the right label (sklearn.metrics.accuracy_score, {sklearn})",
        "macro_f1": "unweighted mean of per-class F1 over classes that occur in the test cells "
        f"(sklearn.metrics.f1_score, average='macro', {sklearn})",
    }


def confusion(predicted: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Counts of (true, predicted) labels, rows are true, for the confusion plot."""
    from sklearn.metrics import confusion_matrix

    labels = sorted(set(truth) | set(predicted))
    return {"labels": labels, "matrix": confusion_matrix(truth, predicted, labels=labels).tolist()}


class Annotation:
    """Benchmark ``annotation``.

    Parameters
    ----------
    knn_neighbors
        Neighbours that vote, each with one vote (Euclidean distance).
    """

    name = "annotation"

    def __init__(self, *, knn_neighbors: int = 15) -> None:
        package("scikit-learn")  # if it is missing say so now, and not after training
        self.knn_neighbors = knn_neighbors

    def run(self, representations: Mapping[str, np.ndarray], truth: Truth) -> Iterator[Score]:
        """Score every representation under both probes.

        Parameters
        ----------
        representations
            Method to matrix (N, D).
        truth
            Labels and parts of the N cells; valid cells are neither fitted nor scored.

        Raises
        ------
        EvaluationError
            If a label of the test cells has no training cell.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        truth.check_trained_labels()
        train, test = truth.rows("train"), truth.rows("test")
        for method, x_ND in representations.items():
            for protocol in (LINEAR, NEAREST):
                started = time.perf_counter()
                classifier = (
                    LogisticRegression(C=1.0, max_iter=5000)
                    if protocol == LINEAR
                    else KNeighborsClassifier(min(self.knn_neighbors, len(train)))
                )
                probe = make_pipeline(StandardScaler(), classifier).fit(x_ND[train], truth.labels[train])
                predicted = probe.predict(x_ND[test])
                yield self.scored(predicted, truth, protocol=protocol, method=method, started=started)

    def scored(self, predicted: np.ndarray, truth: Truth, *, protocol: str, method: str, started: float) -> Score:
        """Score of labels predicted for the test cells, str (n_test,), in the order of the cells."""
        true = truth.labels[truth.rows("test")]
        return Score(
            benchmark=self.name,
            protocol=protocol,
            method=method,
            metrics=score(predicted, true),
            definitions=definitions(),
            n_cells=len(true),
            n_train=len(truth.rows("train")),
            seconds=time.perf_counter() - started,
            details={"confusion": confusion(predicted, true)},
        )

    def majority(self, truth: Truth) -> Score:
        """The most frequent label of the training cells, for every test cell."""
        started = time.perf_counter()
        labels, counts = np.unique(truth.labels[truth.rows("train")], return_counts=True)
        predicted = np.repeat(labels[counts.argmax()], len(truth.rows("test")))
        return self.scored(predicted, truth, protocol=CONSTANT, method="majority", started=started)
