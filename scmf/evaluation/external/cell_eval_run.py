"""Metrics of cell-eval on a predicted perturbation screen, as Scores under the protocol ``cell_eval``.

cell-eval is the evaluator of the Virtual Cell Challenge. Its control cells are those of the truth, on both sides, as
everywhere here. Lives here: truth and prediction as it reads them, its table as a Score. Lives elsewhere: our own
definitions of such metrics (scmf.evaluation.perturbation.benchmark), which are tested against it.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.errors import ConfigError, EvaluationError, MissingExtraError
from scmf.evaluation.perturbation.truth import Pair, PerturbationTruth, Prediction, check_prediction
from scmf.evaluation.score import package
from scmf.evaluation.uncertainty import bootstrap_means
from scmf.results.metric import Metric, MetricTable
from scmf.results.score import FEW_UNITS, Score

log = logging.getLogger(__name__)

PROTOCOL = "cell_eval"
EXTRA = "cell-eval"
PROFILES = ("full", "minimal", "vcc", "de", "anndata", "pds")
"""Sets of metrics that cell-eval knows; ``vcc`` are those of the challenge."""

_COLUMN = "target"
_FROM_ZERO = "ZERO"
_NO_BEST = "NONE"


class CellEval:
    """The evaluator of cell-eval.

    Parameters
    ----------
    profile
        One of `PROFILES`.
    skip
        Metrics to leave out, by their names in cell-eval.
    threads
        Threads of its differential expression.
    draws
        Draws of the bootstrap over perturbations.

    Raises
    ------
    MissingExtraError
        If cell-eval is not installed.
    ConfigError
        If the profile is unknown.
    """

    name = "perturbation"
    protocol = PROTOCOL

    def __init__(self, *, profile: str = "full", skip: Sequence[str] = (), threads: int = 1, draws: int = 1000) -> None:
        if importlib.util.find_spec("cell_eval") is None:
            raise MissingExtraError(EXTRA, EXTRA, needed_for=f"the protocol {PROTOCOL} of {self.name}")
        if profile not in PROFILES:
            raise ConfigError(f"profile {profile!r}", wanted=f"one of {', '.join(PROFILES)}", where="CellEval")
        self.profile, self.skip, self.threads, self.draws = profile, tuple(skip), threads, draws

    def run(self, truth: PerturbationTruth, predictions: Mapping[str, Prediction]) -> Iterator[Score]:
        """Score every prediction.

        Parameters
        ----------
        truth
            The screen; its control cells are those of every prediction.
        predictions
            Method to predicted cells (M, G) of each test pair.

        Raises
        ------
        EvaluationError
            A test pair is not predicted, or as a mean profile alone: cell-eval compares sets of cells.
        """
        for method in sorted(predictions):
            started = time.perf_counter()
            log.info(f"cell-eval: {method}")
            prediction = predictions[method]
            check_prediction(prediction, truth, where=method)
            flat = [pair for pair in truth.pairs if np.ndim(prediction[pair]) != 2]
            if flat:
                raise EvaluationError(
                    f"{len(flat)} of {len(truth.pairs)} conditions are predicted as a mean profile",
                    wanted="predicted cells: cell-eval tests differential expression of sets of cells",
                    where=method, fix="predict cells, or score the profiles with the benchmark perturbation",
                )  # fmt: skip
            table: dict[Pair, dict[str, float]] = {}
            for covariate in sorted({covariate for covariate, _ in truth.pairs}):
                table |= self._evaluate(truth, prediction, covariate)
            yield self._score(truth, method, [table[pair] for pair in truth.pairs], started)

    def _evaluate(
        self, truth: PerturbationTruth, prediction: Prediction, covariate: str
    ) -> dict[Pair, dict[str, float]]:
        """Pair to metrics, of the test pairs of one cell type."""
        from cell_eval import MetricsEvaluator

        pairs = [pair for pair in truth.pairs if pair[0] == covariate]
        control = truth.cells((covariate, truth.control), None)
        real = _anndata(truth, control, {pair: truth.cells(pair) for pair in pairs})
        predicted = _anndata(truth, control, {pair: np.asarray(prediction[pair], np.float64) for pair in pairs})
        with tempfile.TemporaryDirectory(prefix="scmf-cell-eval-") as folder:
            evaluator = MetricsEvaluator(
                adata_pred=predicted, adata_real=real, control_pert=truth.control, pert_col=_COLUMN,
                num_threads=self.threads, outdir=str(Path(folder, "out")),
            )  # fmt: skip
            found, _ = evaluator.compute(
                profile=self.profile,  # type: ignore[arg-type]
                skip_metrics=list(self.skip) or None,
                write_csv=False,
                break_on_error=True,
            )
        rows = {str(row["perturbation"]): row for row in found.iter_rows(named=True)}
        return {
            pair: {name: _number(value) for name, value in rows[pair[1]].items() if name != "perturbation"}
            for pair in pairs
        }

    def _score(
        self, truth: PerturbationTruth, method: str, rows: Sequence[Mapping[str, float]], started: float
    ) -> Score:
        """Means over perturbations; a mean over an incomplete set does not exist, and says why under ``left_out``."""
        kinds, told = _best_values(), _descriptions()
        names = [condition if len({c for c, _ in truth.pairs}) == 1 else f"{condition} in {covariate}"
                 for covariate, condition in truth.pairs]  # fmt: skip
        each, counts, left_out = {}, {}, {}
        for metric in sorted({name for row in rows for name in row}):
            values = np.array([row.get(metric, math.nan) for row in rows])
            if kinds.get(metric, _NO_BEST) == _NO_BEST:
                counts[metric] = dict(zip(names, values.tolist(), strict=True))
            elif not np.isfinite(values).all():
                left_out[metric] = f"no value for {int((~np.isfinite(values)).sum())} of {len(values)} perturbations"
            else:
                each[metric] = values
        by = package("cell-eval", EXTRA)
        table = MetricTable(*(_metric(name, told[name], kinds[name]) for name in each))
        return Score(
            benchmark=self.name,
            protocol=self.protocol,
            method=method,
            metrics={metric: float(values.mean()) for metric, values in each.items()},
            **table.facts(each, by=by),
            n_cells=int(sum(len(truth.rows(*pair, "test")) for pair in truth.pairs)),
            n_train=int((truth.parts == "train").sum()),
            seconds=time.perf_counter() - started,
            details={
                "per_perturbation": {
                    metric: dict(zip(names, [round(float(value), 6) for value in values], strict=True))
                    for metric, values in each.items()
                },
                "counts": {name: {key: _plain(value) for key, value in row.items()} for name, row in counts.items()},
                "left_out": left_out,
            },
            intervals=bootstrap_means(each, unit="perturbations", draws=self.draws)
            if len(rows) >= FEW_UNITS and each
            else {},
        )


def _metric(name: str, description: str, best: str) -> Metric:
    line = description.strip().rstrip(".").replace("{", "{{").replace("}", "}}")
    return Metric(name, f"{line}; mean over test perturbations ({{by}})", higher_is_better=best != _FROM_ZERO)


def _anndata(truth: PerturbationTruth, control: np.ndarray, cells: Mapping[Pair, np.ndarray]) -> Any:
    """Cells as cell-eval reads them: the control first, the condition in a column of obs."""
    import anndata as ad
    import pandas as pd

    names = [truth.control] * len(control)
    names += [condition for (_, condition), block in cells.items() for _ in range(len(block))]
    obs = pd.DataFrame({_COLUMN: pd.Categorical(names)}, index=[f"cell{i}" for i in range(len(names))])
    return ad.AnnData(
        np.concatenate([control, *cells.values()]), obs=obs, var=pd.DataFrame(index=pd.Index(truth.genes))
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _plain(value: float) -> int | None:
    """A count; None where there is none (JSON has no NaN)."""
    return int(value) if math.isfinite(value) else None


def _best_values() -> dict[str, str]:
    """Metric to ``ZERO``, ``ONE`` or ``NONE``: the best value there is."""
    from cell_eval.metrics import metrics_registry

    return {name: info.best_value.name for name, info in metrics_registry.metrics.items()}


def _descriptions() -> dict[str, str]:
    from cell_eval.metrics import metrics_registry

    return {name: str(info.description) for name, info in metrics_registry.metrics.items()}
