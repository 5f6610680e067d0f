"""Highly variable genes: the flavours of scanpy, streamed, fitted on the training cells.

Lives here: `highly_variable_genes` and the arithmetic from moments to genes, that of ``scanpy.pp`` and
``scanpy.experimental.pp.highly_variable_genes`` 1.11, so that the same cells give the same genes and ranks.
Lives elsewhere: the passes over the cells (moments), keeping the genes (normalize.SelectGenes).

=====================  ======================  ======  ========================================================
flavour                counts                  passes  source
=====================  ======================  ======  ========================================================
``seurat``             log-normalized          1       Satija et al. 2015, normalized dispersion in 20 bins
``cell_ranger``        log-normalized          1       Zheng et al. 2017, dispersion by median and MAD in bins
``seurat_v3``          raw                     2       Stuart et al. 2019, variance after clipping; needs
                                                       scikit-misc; batches: median rank first
``seurat_v3_paper``    raw                     2       the same; batches: number of batches first
``pearson_residuals``  raw                     2       Lause, Berens, Kobak 2021; time for every cell and gene
=====================  ======================  ======  ========================================================

Legend: A batches, G genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy.stats import norm

from scmf.core import registry
from scmf.core.errors import ConfigError, DataError, MissingExtraError
from scmf.data.preprocess import moments
from scmf.data.preprocess.moments import Selection, mean_and_variance
from scmf.data.preprocess.normalize import Pipeline
from scmf.data.preprocess.steps import LibrarySize, Log1p, SelectGenes
from scmf.data.stores.corpus import Corpus

_POINTS = 4
"""Genes that loess of degree 2 needs in a neighborhood, one more than it has coefficients."""

Flavor = Literal["seurat", "cell_ranger", "seurat_v3", "seurat_v3_paper", "pearson_residuals"]


@dataclass(frozen=True)
class Cutoffs:
    """Bounds of the flavours ``seurat`` and ``cell_ranger`` when no number of genes is given (scanpy's defaults)."""

    min_mean: float = 0.0125
    max_mean: float = 3.0
    min_disp: float = 0.5
    max_disp: float = np.inf

    def hold(self, mean: Any, dispersion: Any) -> Any:
        """Which genes are within them."""
        return (
            (mean > self.min_mean)
            & (mean < self.max_mean)
            & (dispersion > self.min_disp)
            & (dispersion < self.max_disp)
        )


@dataclass(frozen=True)
class HvgResult:
    """The genes chosen.

    Parameters
    ----------
    table
        One row a gene, in the order of the genes; columns as scanpy returns them with ``inplace=False``.
    flavor
        The flavour.
    fitted_on
        Fingerprint of the corpus and number of cells.
    """

    table: pd.DataFrame
    flavor: str
    fitted_on: dict[str, Any]

    @property
    def selected(self) -> tuple[str, ...]:
        """The highly variable genes, in the order of the genes."""
        return tuple(str(gene) for gene in self.table.index[self.table["highly_variable"].to_numpy(bool)])

    def why_not(self, wanted: int) -> str:
        """Why there are not as many genes as were wanted, as one clause; empty where there are."""
        found, size = len(self.selected), len(self.table)
        if found == wanted:
            return ""
        if found > wanted:
            return f"{found:,} genes instead of {wanted:,}: the last ones are equally variable"
        if size < wanted:
            return f"{found:,} genes instead of {wanted:,}: there are {size:,} genes"
        return f"{found:,} genes instead of {wanted:,}: the others vary in no cell, or cannot be compared with others"

    def step(self) -> SelectGenes:
        """The step of a pipeline that keeps them."""
        return SelectGenes(self.selected)


def highly_variable_genes(
    corpus: Corpus,
    *,
    keep: np.ndarray | None,
    flavor: Flavor = "seurat",
    n_top_genes: int | None = None,
    batch_key: str | None = None,
    genes: Sequence[str] | None = None,
    normalize: Pipeline | None = None,
    cutoffs: Cutoffs | None = None,
    n_bins: int = 20,
    span: float = 0.3,
    theta: float = 100,
    clip: float | None = None,
    threads: int = 2,
) -> HvgResult:
    """Choose highly variable genes from the training cells.

    Parameters
    ----------
    corpus
        Raw counts.
    keep
        Boolean (n_cells,): the training cells. None says that all cells are; it must be said, because genes chosen
        with test cells leak.
    flavor
        See the table of this file.
    n_top_genes
        How many; None: by ``cutoffs`` (``seurat``, ``cell_ranger``), 2,000 (``seurat_v3``), 1,000 (residuals).
    batch_key
        Column of ``obs``: choose within each batch and join, as scanpy does.
    genes
        Genes to choose from; None: those of the stores, which must then agree.
    normalize
        Steps in front of ``seurat`` and ``cell_ranger``; default: 10,000 counts a cell, natural logarithm. It is
        fitted on ``keep`` where it is not fitted.
    cutoffs, n_bins, span, theta, clip
        As in scanpy. ``clip=None`` with batches is the square root of the number of cells of the *first* batch
        for all of them, as scanpy has it.
    threads
        Blocks read ahead; the result does not depend on it.

    Raises
    ------
    ConfigError
        Unknown flavour, or steps that do not end in a natural logarithm.
    MissingExtraError
        ``seurat_v3`` without scikit-misc.

    Notes
    -----
    Residuals are computed in float64; scanpy multiplies sums in the type of the matrix, so on a float32 matrix its
    residual variances differ in the seventh digit.
    """
    if flavor not in get_args(Flavor):
        known = list(get_args(Flavor))
        raise ConfigError(f"flavor {flavor!r}", where="hvg", fix=registry.did_you_mean(str(flavor), known))
    loess = _loess() if flavor.startswith("seurat_v3") else None
    selection = Selection.of(corpus, keep=keep, genes=genes, batch_key=batch_key, threads=threads)
    if flavor in ("seurat", "cell_ranger"):
        steps = Pipeline([LibrarySize(), Log1p()]) if normalize is None else normalize
        if not steps.steps or steps.steps[-1] != Log1p() or any(step.kind == "select_genes" for step in steps.steps):
            raise ConfigError(
                f"steps {[step.kind for step in steps.steps]}",
                wanted="steps that end in log1p (natural) and keep all genes",
                where=f"hvg flavor {flavor}",
                fix="leave normalize out, or end it with Log1p()",
            )
        steps = steps if steps.is_fitted else steps.fit(corpus, keep=keep, threads=threads)
        limit = (cutoffs or Cutoffs()) if n_top_genes is None else n_top_genes
        table = _by_dispersion(selection, steps, flavor, limit, n_bins, batched=batch_key is not None)
    elif flavor == "pearson_residuals":
        table = _by_residuals(selection, n_top_genes or 1000, theta, clip)
    else:
        table = _by_clipped_variance(selection, flavor, n_top_genes or 2000, span, loess)
    if batch_key is None:
        table = table.drop(columns=["highly_variable_nbatches", "highly_variable_intersection"], errors="ignore")
    return HvgResult(table, flavor, {"fingerprint": corpus.fingerprint, "cells": int(selection.n_cells_A.sum())})


# --- seurat, cell_ranger --------------------------------------------------------------------------


def _by_dispersion(
    selection: Selection, steps: Pipeline, flavor: str, limit: Cutoffs | int, n_bins: int, *, batched: bool
) -> pd.DataFrame:
    sum_AG, square_AG = moments.sums(selection, steps, expm1=flavor == "seurat")
    names = pd.Index(selection.genes)
    if not batched:
        mean, variance = mean_and_variance(sum_AG[0], square_AG[0], int(selection.n_cells_A[0]))
        return _dispersions(mean, variance, flavor, limit, n_bins, selection.name_of(0)).set_index(names)
    tables = []
    for a, n in enumerate(selection.n_cells_A.tolist()):
        seen = sum_AG[a] > 0
        mean, variance = mean_and_variance(sum_AG[a, seen], square_AG[a, seen], n)
        found = _dispersions(mean, variance, flavor, limit, n_bins, selection.name_of(a)).set_index(names[seen])
        unseen = pd.DataFrame(0.0, index=names[~seen], columns=found.columns).astype({"highly_variable": bool})
        tables.append(pd.concat([found, unseen]).loc[names] if (~seen).any() else found)
    table = pd.concat(tables, axis=0)
    table["highly_variable"] = table["highly_variable"].astype(int)
    table = table.groupby(table.index, observed=True).agg(
        {"means": "mean", "dispersions": "mean", "dispersions_norm": "mean", "highly_variable": "sum"}
    )
    table["highly_variable_nbatches"] = table["highly_variable"]
    table["highly_variable_intersection"] = table["highly_variable_nbatches"] == len(selection.batches)
    if isinstance(limit, Cutoffs):
        table["dispersions_norm"] = table["dispersions_norm"].fillna(0)
        table["highly_variable"] = limit.hold(table["means"], table["dispersions_norm"])
        return table.loc[names]
    table = table.sort_values(["highly_variable_nbatches", "dispersions_norm"], ascending=False, na_position="last")
    table["highly_variable"] = np.arange(len(table)) < limit
    return table.loc[names]


def _dispersions(
    mean: np.ndarray, variance: np.ndarray, flavor: str, limit: Cutoffs | int, n_bins: int, of: str
) -> pd.DataFrame:
    """Dispersions normalized within bins of the mean, and the choice; ``of`` names the cells in errors."""
    if not (variance > 0).any():
        raise _too_few(f"no gene varies in {of}", f"hvg flavor {flavor}")
    mean = np.where(mean == 0, 1e-12, mean)
    dispersion = variance / mean
    if flavor == "seurat":
        dispersion[dispersion == 0] = np.nan
        dispersion, mean = np.log(dispersion), np.log1p(mean)
    table = pd.DataFrame({"means": mean, "dispersions": dispersion})
    bins: Any = n_bins
    if flavor == "cell_ranger":
        bins = np.r_[-np.inf, np.percentile(table["means"], np.arange(10, 105, 5)), np.inf]
        if np.any(np.diff(bins) <= 0):
            raise DataError(
                f"too many of {len(mean):,} genes have the same mean in {of} for bins by quantile "
                f"({np.count_nonzero(mean == 1e-12):,} are in no cell)",
                wanted="mostly genes that are expressed",
                where="hvg flavor cell_ranger",
                fix="give genes= without those that no training cell expresses",
            )
    table["mean_bin"] = pd.cut(table["means"], bins=bins)
    groups = table.groupby("mean_bin", observed=True)["dispersions"]
    if flavor == "seurat":
        level, width = groups.agg("mean"), groups.agg("std")
        alone = width.isna()  # one gene in a bin gets the normalized dispersion 1
        width[alone], level[alone] = level[alone], 0
    else:
        level = groups.agg("median")
        width = groups.agg(lambda values: np.median(np.abs((values - np.median(values)) / norm.ppf(3 / 4))))
    level_G = level.loc[table["mean_bin"]].to_numpy()
    width_G = width.loc[table["mean_bin"]].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (table["dispersions"].to_numpy() - level_G) / width_G
    table["dispersions_norm"] = scaled
    if isinstance(limit, Cutoffs):
        table["highly_variable"] = limit.hold(mean, np.nan_to_num(scaled))
    else:
        ranked = np.sort(scaled[~np.isnan(scaled)])[::-1]
        if not len(ranked):
            raise _too_few(f"no dispersion can be compared with others in {of}", f"hvg flavor {flavor}")
        lowest = ranked[min(limit, len(ranked)) - 1]
        table["highly_variable"] = np.nan_to_num(scaled, nan=-np.inf) >= lowest
    return table


# --- seurat_v3, pearson_residuals -----------------------------------------------------------------


def _loess() -> Any:
    try:
        from skmisc.loess import loess
    except ImportError as error:
        raise MissingExtraError("scikit-misc", "preprocess", needed_for="flavour seurat_v3") from error
    return loess


def _too_few(found: str, where: str) -> DataError:
    return DataError(
        found,
        wanted="enough cells and genes for this flavor",
        where=where,
        fix="leave the batch out with keep, join it with another, or use flavor pearson_residuals",
    )


def _fitted(mean_G: np.ndarray, variance_G: np.ndarray, span: float, loess: Any, of: str) -> np.ndarray:
    """log10 of the variance that loess expects at each mean.

    Its Fortran code ends the process where a neighborhood has too few points: so they are counted before.
    """
    where = "hvg flavor seurat_v3"
    points = len(np.unique(mean_G))
    if int(span * len(mean_G)) < _POINTS or points < _POINTS:
        raise _too_few(f"{len(mean_G):,} genes with {points:,} different means vary in {of}", where)
    try:
        model = loess(np.log10(mean_G), np.log10(variance_G), span=span, degree=2)
        model.fit()
        fitted: np.ndarray = model.outputs.fitted_values
    except ValueError as error:
        text = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise _too_few(f"no curve through the variances of {of} (loess: {text})", where) from error
    if not np.isfinite(fitted).all():
        raise _too_few(f"no finite curve through the variances of {of}", where)
    return fitted


def _by_clipped_variance(selection: Selection, flavor: str, n_top: int, span: float, loess: Any) -> pd.DataFrame:
    sum_AG, square_AG = moments.sums(selection, None)
    mean_AG, std_AG = np.empty_like(sum_AG), np.empty_like(sum_AG)
    for a, n in enumerate(selection.n_cells_A.tolist()):
        mean_AG[a], variance = mean_and_variance(sum_AG[a], square_AG[a], n)
        varies = variance > 0
        expected = np.zeros(len(variance))
        expected[varies] = _fitted(mean_AG[a, varies], variance[varies], span, loess, selection.name_of(a))
        std_AG[a] = np.sqrt(10**expected)
    n_A1 = selection.n_cells_A[:, None]
    clip_sum, clip_square = moments.clipped_sums(selection, std_AG * np.sqrt(n_A1) + mean_AG)
    scaled_AG = (1 / ((n_A1 - 1) * np.square(std_AG))) * (
        (n_A1 * np.square(mean_AG)) + clip_square - 2 * clip_sum * mean_AG
    )
    table = _ranked(selection, sum_AG, square_AG, scaled_AG, "variances_norm", n_top)
    by_rank, by_batches = ("highly_variable_rank", True), ("highly_variable_nbatches", False)
    return _top(table, [by_rank, by_batches] if flavor == "seurat_v3" else [by_batches, by_rank], n_top)


def _by_residuals(selection: Selection, n_top: int, theta: float, clip: float | None) -> pd.DataFrame:
    if theta <= 0 or (clip is not None and clip < 0):
        raise ConfigError(f"theta {theta}, clip {clip}", wanted="theta > 0, clip >= 0", where="hvg pearson_residuals")
    sum_AG, square_AG = moments.sums(selection, None)
    n_A = selection.n_cells_A
    clip_A = np.full(len(n_A), np.sqrt(n_A[selection.first]) if clip is None else clip)
    residual, squared = moments.residual_sums(selection, sum_AG, clip_A, theta)
    mean = residual / n_A[:, None]
    table = _ranked(selection, sum_AG, square_AG, squared / n_A[:, None] - mean**2, "residual_variances", n_top)
    table["highly_variable_intersection"] = table["highly_variable_nbatches"] == len(n_A)
    return _top(table, [("highly_variable_nbatches", False), ("highly_variable_rank", True)], n_top)


def _ranked(
    selection: Selection, sum_AG: np.ndarray, square_AG: np.ndarray, score_AG: np.ndarray, name: str, n_top: int
) -> pd.DataFrame:
    """Median rank of each gene over the batches in which it is among the first ``n_top``, and their number."""
    mean, variance = mean_and_variance(sum_AG.sum(axis=0), square_AG.sum(axis=0), int(selection.n_cells_A.sum()))
    rank_AG = np.argsort(np.argsort(-score_AG, axis=1), axis=1).astype(np.float32)
    n_batches = (rank_AG < n_top).sum(axis=0)
    rank_AG[rank_AG >= n_top] = np.nan
    rank = np.ma.median(np.ma.masked_invalid(rank_AG), axis=0).filled(np.nan)
    columns = {"means": mean, "variances": variance, "highly_variable_nbatches": n_batches}
    columns |= {"highly_variable_rank": rank, name: np.mean(score_AG, axis=0)}
    return pd.DataFrame(columns, index=pd.Index(selection.genes))


def _top(table: pd.DataFrame, by: list[tuple[str, bool]], n_top: int) -> pd.DataFrame:
    """Mark the first ``n_top`` rows in the order of these columns."""
    names, rising = [name for name, _ in by], [up for _, up in by]
    order = table[names].sort_values(names, ascending=rising, na_position="last").index
    table["highly_variable"] = table.index.isin(order[:n_top])
    return table
