"""What is known of a perturbation screen, and what a prediction of it is.

The unit of evaluation is a pair (covariate, condition) with test cells: a perturbation in a cell type. Control cells
are always those of the truth; those that a prediction brings along are never looked at. Lives here: reading the truth
from cells, its means, the kind of the split, reading and checking a prediction. Lives elsewhere: metrics
(metrics), ranks (ranks), baselines (baselines).

Array legend: N cells, G genes, M predicted cells.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from scmf.core.errors import EvaluationError
from scmf.data.splits.conditions import genes_of
from scmf.data.splits.held_out import TEST, TRAIN
from scmf.data.stores.missing import is_missing, known_text
from scmf.evaluation.perturbation.scales import as_matrix, refuse_other_scales

log = logging.getLogger(__name__)

Pair = tuple[str, str]
"""Covariate (cell type, line) and condition."""

Prediction = Mapping[Pair, np.ndarray]
"""Pair to predicted cells (M, G), or to a predicted mean profile (G,)."""


class ReadPrediction(dict[Pair, np.ndarray]):
    """Predicted cells of a file.

    Parameters
    ----------
    controls
        Which control cells the model saw: ``a`` (the half for models) or ``all``.
    """

    def __init__(self, *, controls: str) -> None:
        super().__init__()
        self.controls = controls


ONE = "all"
"""The covariate of a screen in one kind of cells."""

UNSEEN_PERTURBATION, UNSEEN_COMBINATION, UNSEEN_CELL_TYPE = (
    "unseen_perturbation",
    "unseen_combination",
    "unseen_cell_type",
)


@dataclass(frozen=True)
class PerturbationTruth:
    """Cells of a screen.

    Parameters
    ----------
    x_NG
        log1p of counts per 10,000, CSR float32 (N, G).
    genes
        Names of the genes (G,), as conditions name them.
    conditions, covariates, parts
        Condition, cell type or line, and part of each cell, str (N,).
    control
        Name of the control condition.
    separator
        Sign between the genes of a combination; None when there are none.
    cell_ids
        Id of each cell (N,), by which halves of control cells are told; None where they are not known.
    """

    x_NG: sp.csr_matrix
    genes: np.ndarray
    conditions: np.ndarray
    covariates: np.ndarray
    parts: np.ndarray
    control: str
    separator: str | None = None
    cell_ids: np.ndarray | None = None
    _means: dict[tuple[str, str, str | None], np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, cells: Any) -> PerturbationTruth:
        """Read the truth from cells as `scmf.data.loading.load.load_cells` returns them.

        ``facts.perturbation`` names the columns; raw counts in X are log-normalized (log1p of counts per 10,000 of the
        total of the cell: ``total_counts``, else ``obs["n_counts"]`` where it is given), expression that the card calls
        log-normalized is taken as it is.

        Raises
        ------
        EvaluationError
            No perturbation section, no split, no control cells, no test cells, or values that are not finite.
        """
        facts = cells.facts
        names = facts.perturbation
        if names is None:
            raise EvaluationError(
                f"cells of {facts.dataset!r} name no perturbation", wanted="`perturbation` in the card",
                where="datasets/<card>.yaml", fix="name key, control and, for combinations, separator",
            )  # fmt: skip
        if cells.split is None:
            raise EvaluationError("cells without a split", wanted="train and test parts", where="data.split")
        covariate = names.covariate_key
        conditions = known_text(cells.obs[names.key])
        if is_missing([names.control])[0]:  # a control that is called None is no missing value
            written = cells.obs[names.key].astype(str).to_numpy()
            conditions = np.where(written == names.control, names.control, conditions)
        covariates = known_text(cells.obs[covariate]) if covariate else np.repeat(ONE, cells.n_obs)
        known = (conditions != "") & (covariates != "")
        if n := int((~known).sum()):
            log.warning(f"{facts.dataset}: {n:,} of {len(known):,} cells have no condition or cell type: left out")
            cells, conditions, covariates = cells[known], conditions[known], covariates[known]
        truth = cls(
            x_NG=log_expression(cells),
            genes=_names_of_genes(cells),
            conditions=spelled(conditions, control=names.control, separator=names.separator),
            covariates=covariates,
            parts=cells.split,
            control=names.control,
            separator=names.separator,
            cell_ids=np.asarray(cells.obs.index, dtype=str),
        )
        truth.check()
        return truth

    def check(self) -> None:
        """Raise `EvaluationError` unless there are test pairs, each with control cells of its covariate."""
        if not np.isfinite(self.x_NG.data).all():
            raise EvaluationError("expression that is not finite", wanted="finite numbers", where="X")
        if len(self.genes) < 2:
            raise EvaluationError(f"{len(self.genes)} gene", wanted="two genes or more, to compare profiles", where="X")
        if not self.pairs:
            raise EvaluationError("no perturbed test cells", wanted="at least one", where="data.split")
        for covariate in sorted({covariate for covariate, _ in [*self.pairs, *self.training_pairs]}):
            if not len(self.rows(covariate, self.control)):
                raise EvaluationError(
                    f"no control cells ({self.control!r}) of {covariate!r}",
                    wanted="control cells of every cell type that is tested or trained on",
                    where="perturbation.control",
                    fix="name the control as the column has it, or leave this cell type out of the split",
                )

    @property
    def pairs(self) -> list[Pair]:
        """The pairs with test cells, sorted, without the control."""
        chosen = (self.parts == TEST) & (self.conditions != self.control)
        return sorted(set(zip(self.covariates[chosen].tolist(), self.conditions[chosen].tolist(), strict=True)))

    @property
    def training_pairs(self) -> list[Pair]:
        """The pairs with training cells, sorted, without the control."""
        chosen = (self.parts == TRAIN) & (self.conditions != self.control)
        return sorted(set(zip(self.covariates[chosen].tolist(), self.conditions[chosen].tolist(), strict=True)))

    def rows(self, covariate: str, condition: str, part: str | None = None) -> np.ndarray:
        """Indices of the cells of a pair; those of one part when it is named."""
        chosen = (self.covariates == covariate) & (self.conditions == condition)
        return np.flatnonzero(chosen if part is None else chosen & (self.parts == part))

    def kept(self, rows: np.ndarray) -> PerturbationTruth:
        """The screen with these cells alone."""
        ids = None if self.cell_ids is None else self.cell_ids[rows]
        return replace(
            self, x_NG=self.x_NG[rows], conditions=self.conditions[rows], covariates=self.covariates[rows],
            parts=self.parts[rows], cell_ids=ids, _means={},
        )  # fmt: skip

    def cells(self, pair: Pair, part: str | None = TEST) -> np.ndarray:
        """Expression of the cells of a pair, dense float64 (n, G)."""
        return self.x_NG[self.rows(*pair, part)].toarray().astype(np.float64)

    def mean(self, covariate: str, condition: str, part: str | None = TEST) -> np.ndarray:
        """Mean expression of a pair, float64 (G,)."""
        key = (covariate, condition, part)
        if key not in self._means:
            rows = self.rows(covariate, condition, part)
            self._means[key] = np.asarray(self.x_NG[rows].astype(np.float64).mean(axis=0)).ravel()
        return self._means[key]

    def control_mean(self, covariate: str) -> np.ndarray:
        """Mean expression of the control cells of a covariate, float64 (G,)."""
        return self.mean(covariate, self.control, None)

    @property
    def mean_total(self) -> float:
        """Mean over cells of the sum of what the logs are of: 10,000 where all genes are there."""
        key = ("", "", "total")
        if key not in self._means:
            x = self.x_NG.astype(np.float64)
            x.data = np.expm1(x.data)
            self._means[key] = np.array([x.sum() / x.shape[0]])
        return float(self._means[key][0])

    def genes_of(self, condition: str) -> tuple[str, ...]:
        """Perturbed genes of a condition."""
        return genes_of(condition, separator=self.separator, controls=(self.control,))

    def on_variable_genes(self, count: int) -> PerturbationTruth:
        """The same screen on the ``count`` genes with the largest variance over training cells, in their order.

        Equal variances go by name, and what differs by rounding alone is equal.
        """
        x = self.x_NG[np.flatnonzero(self.parts == TRAIN)].astype(np.float64)
        mean = np.asarray(x.mean(axis=0)).ravel()
        variance = np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
        kept = np.sort(np.lexsort((self.genes.astype(str), -np.round(variance, 9)))[:count])
        return replace(self, x_NG=self.x_NG[:, kept], genes=self.genes[kept], _means={})

    @property
    def kind(self) -> str:
        """What the split asks for: `UNSEEN_CELL_TYPE`, `UNSEEN_COMBINATION` or `UNSEEN_PERTURBATION`."""
        trained = {condition for _, condition in self.training_pairs}
        tested = {condition for _, condition in self.pairs}
        if tested <= trained:
            return UNSEEN_CELL_TYPE
        return UNSEEN_COMBINATION if all(len(self.genes_of(name)) > 1 for name in tested) else UNSEEN_PERTURBATION

    def subgroup(self, condition: str) -> str:
        """``unseen_single``, or ``seen0``, ``seen1``, ``seen2``: genes of a combination that training perturbed."""
        known = {gene for _, name in self.training_pairs for gene in self.genes_of(name)}
        mine = self.genes_of(condition)
        return f"seen{sum(gene in known for gene in mine)}" if len(mine) > 1 else "unseen_single"


def _names_of_genes(cells: Any) -> np.ndarray:
    """Symbols of the genes (G,), the id where a gene has none."""
    ids = np.asarray(cells.var_names, dtype=str)
    symbols = cells.var.get("symbol")
    return ids if symbols is None else np.where(is_missing(symbols), ids, np.asarray(symbols, dtype=str))


def spelled(conditions: np.ndarray, *, control: str, separator: str | None, known: Iterable[str] = ()) -> np.ndarray:
    """Conditions (N,) with one spelling of each set of genes: B+A and A+B are one, A+control is A, control is control.

    Parameters
    ----------
    conditions
        As a column has them.
    control, separator
        See `PerturbationTruth`.
    known
        Spellings that are kept where they are sets of the same genes.
    """
    names, codes = np.unique(conditions, return_inverse=True)
    kept = {genes_of(name, separator=separator, controls=(control,)): name for name in known} | {(): control}
    for name in names.tolist():
        kept.setdefault(genes_of(name, separator=separator, controls=(control,)), name)
    one = [kept[genes_of(name, separator=separator, controls=(control,))] for name in names.tolist()]
    return np.array(one, dtype=str)[codes]


def log_expression(cells: Any) -> sp.csr_matrix:
    """log1p of counts per 10,000, CSR float32 (N, G); X as it is where the card says it is log-normalized."""
    facts, x = cells.facts, sp.csr_matrix(cells.X, dtype=np.float32)
    if facts.expression == "log1p":
        return x
    if cells.total_counts is not None:
        depth = cells.total_counts.astype(np.float64)
    elif "n_counts" in cells.obs:
        depth = cells.obs["n_counts"].to_numpy(np.float64)
    else:
        depth = np.asarray(x.sum(axis=1)).ravel()
    if (depth <= 0).any():
        raise EvaluationError(
            f"{int((depth <= 0).sum())} cells without a count", wanted="counts in every cell", where=facts.dataset
        )
    scaled = sp.csr_matrix(sp.diags(1e4 / depth) @ x)
    return sp.csr_matrix(scaled.log1p(), dtype=np.float32)


def read_prediction(adata: Any, truth: PerturbationTruth, *, where: object = "the prediction") -> Prediction:
    """Predicted cells of an AnnData by pair.

    Parameters
    ----------
    adata
        ``X``: log-normalized expression as the truth has it; ``obs["condition"]``, and ``obs["covariate"]`` where the
        screen has several cell types; ``var_names``: the genes of the truth, in any order. Control cells are ignored.
        ``uns["controls"]``: which control cells its model saw, ``a`` (the half for models); ``all`` if not said.

    Raises
    ------
    EvaluationError
        A column, a gene or a test condition is missing; counts were given; a value is not finite.
    """
    several = len(set(truth.covariates)) > 1
    for column in ("condition", *(("covariate",) if several else ())):
        if column not in adata.obs:
            raise EvaluationError(f"no column {column!r} in obs", wanted=column, where=where, fix="name it so")
    place = {str(gene): i for i, gene in enumerate(adata.var_names)}
    if lost := [str(gene) for gene in truth.genes if str(gene) not in place]:
        raise EvaluationError(
            f"{len(lost)} of {len(truth.genes)} genes are missing, the first is {lost[0]!r}",
            wanted="every gene of the truth", where=where, fix="predict all genes; a gene left out is not a zero",
        )  # fmt: skip
    columns = [place[str(gene)] for gene in truth.genes]
    conditions = known_text(adata.obs["condition"])
    covariates = known_text(adata.obs["covariate"]) if several else np.repeat(truth.pairs[0][0], adata.n_obs)
    known = set(truth.conditions.tolist())
    conditions = spelled(conditions, control=truth.control, separator=truth.separator, known=known)
    x = as_matrix(adata.X, where=where)[:, columns]
    refuse_other_scales(x, truth.mean_total, where=where)
    controls = str(adata.uns.get("controls", "all"))
    if controls not in ("a", "all"):
        raise EvaluationError(f"uns['controls'] is {controls!r}", wanted="`a` or `all`", where=where)
    found = ReadPrediction(controls=controls)
    for pair in sorted(set(zip(covariates.tolist(), conditions.tolist(), strict=True))):
        if pair[1] not in (truth.control, "") and pair[0]:
            rows = (covariates == pair[0]) & (conditions == pair[1])
            found[pair] = x[np.flatnonzero(rows)].toarray().astype(np.float64)
    check_prediction(found, truth, where=where)
    return found


def check_prediction(prediction: Prediction, truth: PerturbationTruth, *, where: object) -> None:
    """Raise `EvaluationError` unless every test pair is predicted, finite, of the right width, and no name unknown.

    Predictions of training conditions and of control cells may be there; they are not looked at.
    """
    if strange := sorted({condition for _, condition in prediction} - {*truth.conditions.tolist(), truth.control}):
        raise EvaluationError(
            f"{len(strange)} conditions that the screen does not have, the first is {strange[0]!r}",
            wanted=f"names of the screen such as {truth.pairs[0][1]!r}",
            where=where,
            fix="name conditions as the data set does, the genes of a combination in its order",
        )
    if lost := [pair for pair in truth.pairs if pair not in prediction]:
        covariate, condition = lost[0]
        raise EvaluationError(
            f"no prediction of {condition!r} in {covariate!r}" + (f" and {len(lost) - 1} more" if lost[1:] else ""),
            wanted=f"all {len(truth.pairs)} test conditions",
            where=where,
            fix="predict them; no change is a prediction, too",
        )
    for pair in truth.pairs:
        values = np.asarray(prediction[pair])
        if values.ndim not in (1, 2) or values.shape[-1] != len(truth.genes) or not len(values):
            raise EvaluationError(
                f"{pair[1]!r}: shape {values.shape}", wanted=f"(cells, {len(truth.genes)})", where=where
            )
        if not np.isfinite(values).all():
            raise EvaluationError(f"{pair[1]!r}: values that are not finite", wanted="finite numbers", where=where)


def profile_of(prediction: Prediction, pair: Pair) -> np.ndarray:
    """Mean profile of a predicted pair, float64 (G,): what the prediction says it is, else the mean of its cells."""
    exact = getattr(prediction, "profile", None)
    return mean_profile(prediction[pair]) if exact is None else np.asarray(exact(pair), np.float64)


def mean_profile(predicted: np.ndarray) -> np.ndarray:
    """Mean of predicted cells, or the predicted mean itself, float64 (G,)."""
    values = np.asarray(predicted, np.float64)
    return values if values.ndim == 1 else values.mean(axis=0)
