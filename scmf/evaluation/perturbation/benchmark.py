"""Perturbation response: what a perturbation changes, in mean profiles and in cells, predicted and true.

Lives here: the benchmark, means over perturbations, subgroups, intervals. Lives elsewhere: what a prediction and the
truth are (truth), formulas (metrics, ranks, energy_distance), baselines
(baselines).

Array legend: N cells, G genes, P perturbations, D dimensions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from scmf.core.config.section import Section
from scmf.core.errors import EvaluationError
from scmf.evaluation.cells import TaskCells
from scmf.evaluation.perturbation import ranks as perturbation_ranks
from scmf.evaluation.perturbation.baselines import additive, linear, nearest, no_change, replicates, train_mean
from scmf.evaluation.perturbation.control_halves import seen_by_models
from scmf.evaluation.perturbation.energy_distance import energy_distance_pertpy, energy_distance_scperturb
from scmf.evaluation.perturbation.metric_table import METRICS, SUBGROUP, pertpy_metric
from scmf.evaluation.perturbation.metrics import log_fold_change, most_expressed, profile_metrics
from scmf.evaluation.perturbation.own_controls import own_scores
from scmf.evaluation.perturbation.own_references import own_ceiling
from scmf.evaluation.perturbation.space import Space
from scmf.evaluation.perturbation.truth import PerturbationTruth, Prediction, check_prediction, profile_of
from scmf.evaluation.protocol import Benchmark
from scmf.evaluation.score import package
from scmf.evaluation.submissions.protocol import Submission
from scmf.evaluation.tasks import Task
from scmf.evaluation.uncertainty import bootstrap, bootstrap_means
from scmf.results.score import FEW_UNITS, Interval, Score

log = logging.getLogger(__name__)

CEILING = "ceiling"


class PerturbationOptions(Section):
    """``options`` of a task."""

    controls: Literal["shared", "halves"] = "shared"
    """``halves``: models and baselines see one half of the control cells, the truth is compared with the other;
    ``shared``: one mean on both sides, as tasks have it that were in use before."""


class Perturbation(Benchmark):
    """Benchmark ``perturbation``.

    Parameters
    ----------
    cells
        Score what needs predicted cells, too: DES, energy distances.
    draws
        Draws of the bootstrap over perturbations.
    distances
        Further distances of sets of cells by their names in pertpy (``wasserstein``, ``euclidean`` …), in the
        space of the energy distances; filed as ``distance_<name>``, smaller is nearer.
    """

    name = "perturbation"
    asks_for = "predicted cells"
    task_options = ("top_genes",)
    Options = PerturbationOptions
    log_expression = True

    def __init__(self, *, cells: bool = True, draws: int = 1000, distances: Sequence[str] = ()) -> None:
        self.cells, self.draws = cells, draws
        self.distances = {name: pertpy_distance(name) for name in distances}

    @classmethod
    def score(cls, task: Task, submission: Submission, cells: TaskCells) -> Iterator[Score]:
        """Scores of the predictions, and the ceiling where the submission has it among its references."""
        truth = PerturbationTruth.of(cells.adata)
        if task.top_genes is not None:
            truth = truth.on_variable_genes(task.top_genes)
        if task.options.get("controls") == "halves":
            yield from cls._own(task, submission, truth)
            return
        predictions = submission.predictions(task, truth)
        if not predictions:
            return
        # the score of the challenge starts from the train mean, whoever is scored
        base = {} if "train_mean" in predictions else {"train_mean": train_mean(truth)}
        for score in cls().run(truth, {**base, **predictions}):
            if score.method in predictions:
                yield score
        if CEILING in submission.references:
            yield cls().ceiling(truth)

    @classmethod
    def _own(cls, task: Task, submission: Submission, truth: PerturbationTruth) -> Iterator[Score]:
        """Scores with own controls; the submission is given the cells that a model may see."""
        predictions = submission.predictions(task, seen_by_models(truth))
        yield from own_scores(truth, predictions)
        if CEILING in submission.references and predictions:
            yield own_ceiling(truth)

    def baselines(self, truth: PerturbationTruth) -> dict[str, Prediction]:
        """Method to prediction: no change, train mean, linear, nearest, and additive where there are combinations."""
        found = {
            "no_change": no_change(truth),
            "train_mean": train_mean(truth),
            "linear": linear(truth),
            "nearest": nearest(truth),
        }
        if any(len(truth.genes_of(condition)) > 1 for _, condition in truth.pairs):
            found["additive"] = additive(truth)
        return found

    def ceiling(self, truth: PerturbationTruth, *, seed: int = 0) -> Score:
        """Half of the test cells as the prediction of the other half; see `replicates`."""
        prediction, other_half = replicates(truth, seed=seed)
        return next(self.run(other_half, {CEILING: prediction}))

    def run(self, truth: PerturbationTruth, predictions: Mapping[str, Prediction]) -> Iterator[Score]:
        """Score every prediction.

        Parameters
        ----------
        truth
            The screen; its control cells are those of every prediction.
        predictions
            Method to predicted cells or profiles of each test pair.

        Raises
        ------
        EvaluationError
            A test pair is not predicted, has another width, or holds values that are not finite.
        """
        base: Mapping[str, np.ndarray] | None = None
        space, groups = Space(truth), np.array([truth.subgroup(condition) for _, condition in truth.pairs])
        # the train mean is what the score of the Virtual Cell Challenge starts from
        for method in sorted(predictions, key=lambda name: (name != "train_mean", name)):
            started = time.perf_counter()
            log.info(f"perturbation: {method}")
            check_prediction(predictions[method], truth, where=method)
            each = self._each(truth, predictions[method], space)
            metrics = {name: float(np.mean(values)) for name, values in each.items()}
            parts = parts_of(each, groups)
            metrics |= {name: float(np.mean(values)) for part in parts.values() for name, values in part.items()}
            intervals = self._intervals(each, parts)
            if {"mae", "pds", "des"} <= set(metrics):
                base = each if method == "train_mean" else base
                if base is not None:
                    score = _challenge(each, base)
                    metrics["vcc_score"] = score(np.arange(len(groups)))["vcc_score"]
                    if len(groups) >= FEW_UNITS:
                        intervals |= bootstrap(score, len(groups), unit="perturbations", draws=self.draws)
            yield self._score(truth, method, metrics, intervals, each, groups.tolist(), started)

    def _intervals(
        self, each: Mapping[str, np.ndarray], parts: Mapping[str, Mapping[str, np.ndarray]]
    ) -> dict[str, Interval]:
        """Intervals over perturbations: of all, and of each subgroup that has as many as it takes."""
        found: dict[str, Interval] = {}
        for values in (each, *parts.values()):
            if len(next(iter(values.values()))) >= FEW_UNITS:
                found |= bootstrap_means(values, unit="perturbations", draws=self.draws)
        return found

    def _each(self, truth: PerturbationTruth, prediction: Prediction, space: Space) -> dict[str, np.ndarray]:
        """Metric to one value a pair (P,)."""
        pairs = truth.pairs
        profiles = np.stack([profile_of(prediction, pair) for pair in pairs])
        true = np.stack([truth.mean(*pair) for pair in pairs])
        control = np.stack([truth.control_mean(covariate) for covariate, _ in pairs])
        rows = [
            profile_metrics(
                profiles[i],
                true[i],
                control[i],
                de=space.de(pair),
                expressed=most_expressed(control[i], truth.genes),
                nondropout=space.nondropout(pair),
            )  # fmt: skip
            for i, pair in enumerate(pairs)
        ]
        found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        found |= self._ranks(truth, profiles, true, control)
        if self.cells and all(np.ndim(prediction[pair]) == 2 and len(prediction[pair]) > 1 for pair in pairs):
            found |= self._sets(truth, prediction, space)
        return found

    def _ranks(
        self, truth: PerturbationTruth, profiles: np.ndarray, true: np.ndarray, control: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Ranks among the perturbations of the same covariate; nothing where a covariate has one perturbation alone."""
        pairs = truth.pairs
        kinds = np.array([covariate for covariate, _ in pairs])
        if min((kinds == kind).sum() for kind in set(kinds)) < 2:
            return {}
        found = {name: np.zeros(len(pairs)) for name in ("rank_cosine_logfc", "rank_rmse", "pds")}
        for kind in sorted(set(kinds)):
            mine = np.flatnonzero(kinds == kind)
            x, y, c = profiles[mine], true[mine], control[mine]
            fold, true_fold = log_fold_change(x, c), log_fold_change(y, c)
            targets = [truth.genes_of(pairs[i][1]) for i in mine]
            found["rank_cosine_logfc"][mine] = perturbation_ranks.perturbench_rank(fold, true_fold, similarity="cosine")
            found["rank_rmse"][mine] = perturbation_ranks.perturbench_rank(x, y, similarity="rmse")
            found["pds"][mine] = perturbation_ranks.discrimination(x - c, y - c, truth.genes, targets)
        return found

    def _sets(self, truth: PerturbationTruth, prediction: Prediction, space: Space) -> dict[str, np.ndarray]:
        """Metrics of sets of cells: DES, energy distances."""
        names = ("des", "energy_distance_pertpy", "energy_distance_scperturb")
        found: dict[str, list[float]] = {name: [] for name in names}
        for pair in truth.pairs:
            cells = np.asarray(prediction[pair], np.float64)
            control = truth.cells((pair[0], truth.control), None)
            predicted = perturbation_ranks.differential_expression(cells, control)
            expressed = space.expressed(pair)
            found["des"].append(perturbation_ranks.expression_overlap(predicted, expressed, space.truth.genes))
            x, y = space.project(cells), space.project(truth.cells(pair))
            found["energy_distance_pertpy"].append(energy_distance_pertpy(x, y))
            found["energy_distance_scperturb"].append(energy_distance_scperturb(x, y))
            for name, distance in self.distances.items():
                found.setdefault(f"distance_{name}", []).append(float(distance(x, y)))
        return {name: np.array(values) for name, values in found.items()}

    def _score(
        self,
        truth: PerturbationTruth,
        method: str,
        metrics: dict[str, float],
        intervals: dict[str, Interval],
        each: dict[str, np.ndarray],
        groups: list[str],
        started: float,
    ) -> Score:
        named = [
            condition if len(set(truth.covariates)) == 1 else f"{condition} in {kind}"
            for kind, condition in truth.pairs
        ]
        table, packages = METRICS, {"sklearn": package("scikit-learn")}
        if self.distances:
            table = METRICS.extended(*map(pertpy_metric, self.distances))
            packages["pertpy"] = package("pertpy", "perturbation")
        return Score(
            benchmark=self.name,
            protocol=truth.kind,
            method=method,
            metrics=metrics,
            **table.facts(metrics, subgroup=SUBGROUP, **packages),
            n_cells=int(sum(len(truth.rows(*pair, "test")) for pair in truth.pairs)),
            n_train=int((truth.parts == "train").sum()),
            seconds=time.perf_counter() - started,
            details={
                "per_perturbation": {
                    name: dict(zip(named, [round(float(value), 6) for value in each[name]], strict=True))
                    for name in ("pearson_delta", "mse_top20", "pds")
                    if name in each
                },
                "subgroups": dict(zip(named, groups, strict=True)),
                **({} if len(named) >= FEW_UNITS else {"units": _listed(named, each)}),
            },
            intervals=intervals,
        )


def parts_of(each: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Subgroup to ``metric.subgroup`` and the values of its perturbations; nothing where all are of one."""
    names = sorted(set(groups.tolist()))
    return {
        group: {f"{name}.{group}": values[groups == group] for name, values in each.items()}
        for group in (names if len(names) > 1 else [])
    }


def _challenge(
    each: Mapping[str, np.ndarray], base: Mapping[str, np.ndarray]
) -> Callable[[np.ndarray], dict[str, float]]:
    """Score of the challenge on some perturbations, of which both sides take the same."""

    def score(rows: np.ndarray) -> dict[str, float]:
        user, start = (
            {name: float(side[name][rows].mean()) for name in ("mae", "pds", "des")} for side in (each, base)
        )
        return {"vcc_score": perturbation_ranks.challenge_score(user, start)}

    return score


def _listed(named: Sequence[str], each: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The values of all metrics of each perturbation, which stand instead of an interval where they are few."""
    values = {name: dict(zip(named, map(float, column), strict=True)) for name, column in each.items()}
    return {"unit": "perturbations", "values": values}


def pertpy_distance(name: str) -> Any:
    """A distance of sets of cells by its name in pertpy.

    Raises
    ------
    MissingExtraError, EvaluationError
        pertpy is not installed, or knows no such distance.
    """
    if name == "mmd":
        raise EvaluationError(
            "pertpy's mmd is the squared distance of two means, no maximum mean discrepancy",
            wanted="mmd_pca of a task with `options: {controls: halves}`, or pertpy's euclidean", where="distances",
            fix="see docs/benchmarks.md",
        )  # fmt: skip
    package("pertpy", "perturbation")
    import jax

    wide = jax.config.jax_enable_x64
    import pertpy

    # importing pertpy turns 64-bit numbers on for all of JAX; scib-metrics then fails in the same process
    jax.config.update("jax_enable_x64", wide)
    try:
        return pertpy.tools.Distance(name, obsm_key="X_pca")
    except ValueError as error:
        raise EvaluationError(
            str(error), wanted="a distance of pertpy", where="distances", fix="see its docs"
        ) from error
