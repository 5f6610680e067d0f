"""Which matrix of an AnnData holds raw counts.

Lives here: looking at one matrix, choosing among ``layers["counts"]``, ``raw.X`` and ``X``, recovering counts from
log-normalized values where that is exact, the canonical sparse form.
Lives elsewhere: which genes the columns are (genes), putting it together (load), what values that are no integers
look like (fractions), the same check block by block (canonical).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from scmf.core import registry
from scmf.core.errors import CountsError, DataError
from scmf.data.stores.canonical import MOST_NOISE, NOISE, Rounding
from scmf.data.stores.fractions import looks_like, refuse_damage, rounded_normalized

_log = logging.getLogger("scmf.data.stores")
_BLOCK = 1 << 22
"""Values looked at in one go."""
_INTEGERS_OF_FLOAT32 = 2**24
"""Above this, float32 does not hold every integer."""


@dataclass(frozen=True)
class Verdict:
    """What one matrix holds.

    Parameters
    ----------
    where
        ``X``, ``raw.X`` or ``layers/<name>``.
    kind
        ``counts``; or why not: ``nan``, ``infinite``, ``negative``, ``not integers``, ``empty``, ``too large``,
        ``not counts`` (whole numbers that are rounded normalized values).
    found
        The same as one clause with numbers and, for a single bad value, its cell and gene.
    shape
        Cells, genes.
    max
        Largest value (NaN where there is none).
    look
        Of values that are no integers: ``normalized``, ``corrected`` (counts from which something was taken away, or
        which an EM algorithm dealt out), or empty where it cannot be told.
    """

    where: str
    kind: Literal["counts", "nan", "infinite", "negative", "not integers", "empty", "too large", "not counts"]
    found: str
    shape: tuple[int, int]
    max: float
    look: str = ""

    @property
    def ok(self) -> bool:
        """Whether the matrix holds raw counts."""
        return self.kind == "counts"


def candidates(adata: Any) -> list[str]:
    """Matrices that may hold counts, in the order in which ``auto`` takes the first that does."""
    found = ["layers/counts"] if "counts" in adata.layers else []
    found += ["raw.X"] if adata.raw is not None else []
    return found + (["X"] if adata.X is not None else [])


def matrix_of(adata: Any, where: str, *, path: object = None) -> tuple[Any, pd.DataFrame]:
    """The matrix called ``where`` and the gene table of its columns.

    For ``raw.X`` the table is ``raw.var``, with the columns that only ``var`` has joined to it.
    """
    if where == "X" and adata.X is not None:
        return adata.X, adata.var
    if where == "raw.X" and adata.raw is not None:
        var = adata.raw.var.copy()
        more = [column for column in adata.var.columns if column not in var.columns]
        if more and adata.var.index.is_unique and var.index.is_unique:
            var = var.join(adata.var[more])
        return adata.raw.X, var
    layer = where.removeprefix("layers/")
    if where.startswith("layers/") and layer in adata.layers:
        return adata.layers[layer], adata.var
    known = [*candidates(adata), *(f"layers/{name}" for name in adata.layers if name != "counts")]
    raise DataError(
        f"no matrix {where!r}",
        wanted="the place of the raw counts (data.counts)",
        where=path,
        fix=registry.did_you_mean(where, known) if known else "the file has no matrix at all",
    )


def examine(matrix: Any, *, where: str, cells: pd.Index, genes: pd.Index, rounding: Rounding = "error") -> Verdict:
    """Say what ``matrix`` (cells x genes, dense or sparse) holds.

    Every stored value is looked at, so one bad value among a billion is found and named. With ``rounding`` other than
    ``error`` counts that were corrected are counts, too; normalized values never are.

    Raises
    ------
    DataError
        Offsets or columns of a sparse matrix that point outside it.
    """
    shape = (int(matrix.shape[0]), int(matrix.shape[1]))
    if sparse.issparse(matrix):
        matrix = matrix if matrix.format in ("csr", "csc") else matrix.tocsr()
        refuse_damage(matrix, where=where, cells=cells, genes=genes)
        values = matrix.data
    else:
        matrix = np.asarray(matrix)
        values = matrix.reshape(-1)
    if values.dtype.kind not in "fiub":
        return Verdict(where, "not integers", f"values of type {values.dtype}, not numbers", shape, float("nan"))

    top, n_nonzero, n_broken, n_noise = 0.0, 0, 0, 0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        if block.dtype.kind == "f":
            for kind, bad in (
                ("nan", np.isnan(block)),
                ("infinite", np.isinf(block)),
            ):
                if bad.any():
                    at = start + int(np.argmax(bad))
                    word = "NaN" if kind == "nan" else "an infinite value"
                    return Verdict(where, kind, f"{word} at {_place(matrix, at, cells, genes)}", shape, float("nan"))  # type: ignore[arg-type]
        if (bad := block < (-NOISE if block.dtype.kind == "f" and rounding != "accept" else 0)).any():
            at = start + int(np.argmax(bad))
            found = f"the negative value {values[at]:g} at {_place(matrix, at, cells, genes)}"
            return Verdict(where, "negative", found, shape, float(values.max()))
        nonzero = block[block != 0]
        n_nonzero += nonzero.size
        if nonzero.size:
            top = max(top, float(nonzero.max()))
            if block.dtype.kind == "f":
                off = np.abs(nonzero - np.rint(nonzero))
                n_noise += int(np.count_nonzero(off))
                n_broken += int(np.count_nonzero(off > np.clip(np.abs(nonzero) * NOISE, NOISE, MOST_NOISE)))
    if n_nonzero == 0 or (top < NOISE and not n_broken):
        return Verdict(where, "empty", "no value but zero", shape, 0.0)
    if n_broken:
        share = n_broken / n_nonzero
        kind = looks_like(matrix)
        look = ", as corrected counts look (SoupX, CellBender, alevin)" if kind == "corrected" else ""
        look = ", as log-normalized values look" if kind != "corrected" and top < 20 and share > 0.5 else look
        found = f"{share:.1%} of the {n_nonzero:,} non-zero values are no integers (max {top:.4g}){look}"
        if rounding == "error" or kind == "normalized":
            return Verdict(where, "not integers", found, shape, top, kind)
        if top < _INTEGERS_OF_FLOAT32:
            done = "they are rounded" if rounding == "round" else "they are taken as they are"
            return Verdict(where, "counts", f"{found}; {done} (data.counts_rounding)", shape, top, kind)
    if top >= _INTEGERS_OF_FLOAT32:
        return Verdict(where, "too large", f"the count {top:.0f}, beyond what float32 holds exactly", shape, top)
    if why := rounded_normalized(matrix):
        return Verdict(where, "not counts", f"whole numbers up to {top:.0f}, but {why}", shape, top, "normalized")
    noise = f"; {n_noise:,} miss them by float noise and are rounded" if n_noise else ""
    return Verdict(where, "counts", f"non-negative integers (max {top:.0f}){noise}", shape, top)


def _place(matrix: Any, at: int, cells: pd.Index, genes: pd.Index) -> str:
    """Cell and gene of the stored value number ``at``."""
    if sparse.issparse(matrix):
        major = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
        minor = int(matrix.indices[at])
        row, column = (major, minor) if matrix.format == "csr" else (minor, major)
    else:
        row, column = divmod(at, matrix.shape[1])
    return f"cell {cells[row]!r}, gene {genes[column]!r}"


def choose(adata: Any, where: str, *, path: object, rounding: Rounding = "error") -> str:
    """Name of the matrix with raw counts.

    Parameters
    ----------
    adata
        The file, read.
    where
        ``auto``, or the place that must hold counts: ``X``, ``raw.X``, ``layers/<name>``.
    path
        How to call the file in an error.
    rounding
        See `examine`.

    Raises
    ------
    CountsError
        The matrix, or with ``auto`` every candidate, is something else; each is named with the reason.
    """
    names = candidates(adata) if where == "auto" else [where]
    verdicts = []
    for name in names:
        matrix, var = matrix_of(adata, name, path=path)
        verdict = examine(matrix, where=name, cells=adata.obs_names, genes=var.index, rounding=rounding)
        if verdict.ok:
            if "rounded" in verdict.found:
                _log.warning("%s: %s holds %s", path, name, verdict.found)
            return name
        verdicts.append(verdict)
    if not verdicts:
        raise CountsError("no matrix at all", wanted="raw counts", where=path, fix="write counts to X")
    raise CountsError(
        "; ".join(f"{verdict.where} holds {verdict.found}" for verdict in verdicts),
        wanted="raw counts: non-negative integers",
        where=path,
        fix=_advice(adata, verdicts),
    )


def _advice(adata: Any, verdicts: list[Verdict]) -> str:
    tried = {verdict.where for verdict in verdicts}
    others = [*candidates(adata), *(f"layers/{name}" for name in adata.layers if name != "counts")]
    for name in others:
        if name in tried:
            continue
        matrix, var = matrix_of(adata, name)
        if examine(matrix, where=name, cells=adata.obs_names, genes=var.index).ok:
            return f"{name} holds integers: if these are the raw counts, set data.counts: {name}"
    if all(verdict.kind in ("nan", "infinite", "negative") for verdict in verdicts):
        return "correct or remove the cell, or go back to the file with raw counts"
    if corrected := [verdict.where for verdict in verdicts if verdict.look == "corrected"]:
        return corrected_advice(corrected[0])
    return "go back to the file with raw counts; normalized values cannot be used in their place"


def corrected_advice(where: str) -> str:
    """What to do with corrected counts."""
    return (
        f"if {where} holds corrected counts, set data.counts_rounding: round (or accept to take fractions as they are);"
        " or go back to the file with raw counts"
    )


def canonical(matrix: Any, *, rounding: Rounding = "error") -> sparse.csr_matrix:
    """Copy as CSR float32 with sorted indices, without duplicates and without stored zeros.

    Integers with float noise become integers; other values stay as they are, unless ``rounding`` is ``round``.
    """
    if sparse.issparse(matrix) and matrix.dtype in (np.float16, np.bool_):
        matrix = matrix.copy()
        matrix.data = matrix.data.astype(np.float32)
    elif not sparse.issparse(matrix):
        matrix = np.asarray(matrix, dtype=np.float32)
    result = sparse.csr_matrix(matrix, dtype=np.float32, copy=True)
    near = np.rint(result.data)
    off = np.abs(result.data - near)
    if off.any() and (rounding == "round" or _is_noise(off, near)):
        result.data = near
    result.sum_duplicates()
    result.eliminate_zeros()
    result.sort_indices()
    return result


def _is_noise(off: np.ndarray, near: np.ndarray) -> bool:
    return bool((off <= np.clip(np.abs(near) * NOISE, NOISE, MOST_NOISE)).all() and near.any())


def from_log1p_cp10k(
    matrix: Any, depth: np.ndarray, *, decimals: int, where: object, cells: pd.Index, genes: pd.Index
) -> sparse.csr_matrix:
    """Counts from ``log(1 + count / depth * 10,000)`` rounded to ``decimals``.

    Each value is put back as ``expm1(value) * depth / 10,000`` and must be an integer within what the
    rounding allows, ``(count + depth / 10,000) * expm1(half a unit of the last decimal)``.

    Parameters
    ----------
    matrix
        Log-normalized values, cells x genes.
    depth
        Total count of each cell over all genes, also those not in ``matrix``.
    decimals
        Decimals to which the values were rounded.
    where
        How to call the file in an error.
    cells, genes
        Names for the error.

    Raises
    ------
    CountsError
        A value is not an integer, or the rounding is so coarse that anything would pass.
    """
    values = sparse.csr_matrix(matrix, dtype=np.float64, copy=True)
    scale = np.repeat(np.asarray(depth, dtype=np.float64) / 1e4, np.diff(values.indptr))
    counts = np.expm1(values.data) * scale
    half_unit = 0.5 * 10.0**-decimals + np.abs(values.data) * np.finfo(np.float32).eps
    allowed = (counts + scale) * np.expm1(half_unit)
    wrong = ~(np.abs(counts - np.rint(counts)) <= allowed)
    coarse = ~(allowed < 0.25)
    for bad, what in ((wrong, "no integer"), (coarse, "no better known than to +-0.25")):
        if bad.any():
            at = int(np.argmax(bad))
            raise CountsError(
                f"the count {counts[at]:.3f}, {what}, at {_place(values, at, cells, genes)} "
                f"({int(bad.sum())} of {counts.size} values)",
                wanted=f"integers, recovered from log1p of counts per 10,000 rounded to {decimals} decimals",
                where=where,
                fix="the card's `derive` does not describe this file; use a file with raw counts",
            )
    values.data = np.rint(counts)
    return canonical(values)
