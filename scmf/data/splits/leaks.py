"""Whether train, valid and test share what they must not: cells, donors, copies of cells.

Lives here: the audit of a split, one pass over the counts and, for cells that may be similar, their rows once more;
memory of some bytes a cell, hashes in a temporary file.
Lives elsewhere: hashes of cells (duplicates), similar cells (near_duplicates), checks of files and cards that run the
audit (checks.file, checks.cards).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scmf.core.errors import DataError
from scmf.data.splits.conditions import CONTROLS, genes_of, one_code
from scmf.data.splits.duplicates import Signatures, gene_keys, row_hashes
from scmf.data.splits.findings import Finding
from scmf.data.splits.groups import COLUMNS, ObsColumns, tabulate
from scmf.data.splits.near_duplicates import BANDS, BLIND, GeneOrder, similarities, threshold
from scmf.data.splits.read import SPLITS
from scmf.data.stores.cell_ids import hash_ids
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore

_MOST_IN_RUN = 64
"""Cells of one part that are compared of those that share a key."""
_MOST_PAIRS = 1_000_000
"""Pairs of cells that are compared exactly."""


def audit_leaks(
    cells: AnnData | Corpus,
    parts: pd.Series | np.ndarray,
    *,
    by: str | Sequence[str] = (),
    donor_key: str | None = None,
    batch_key: str | None = None,
    study_key: str | None = None,
    conditions: Mapping[str, Any] | None = None,
    near_duplicates: bool = True,
    min_genes: int = 20,
    what: str = "leaks",
) -> list[Finding]:
    """Look for what lies on both sides of a split.

    Parameters
    ----------
    cells
        Raw counts. The counts of an AnnData are found as for a recipe.
    parts
        Part of each cell in the order of the cells: names, or indices into `scmf.data.splits.read.SPLITS`.
    by
        Columns that the split claims to keep whole: a value in two parts is then an error.
    donor_key, batch_key, study_key
        Columns to look at besides: a donor in two parts is a warning, a batch or study only said.
    conditions
        ``separator`` and ``controls`` of conditions of perturbations, as `scmf.data.splits.make` reads them; default:
        ``+`` and the usual names. In columns of conditions, spellings of one condition must lie together.
    near_duplicates
        Look for nearly equal cells, too. Needs a sample of the counts more, and 144 bytes a cell of temporary disk in
        place of 16.
    min_genes
        Equal cells with fewer detected genes can be equal by chance: they are said and no error.
    what
        First word of each finding.

    Returns
    -------
    list of Finding
        At least one; an ``error`` for a leak.
    """
    corpus = cells if isinstance(cells, Corpus) else Corpus([MemoryStore(cells)])
    codes = _codes(parts, corpus.n_cells)
    said = [
        _cell_ids(corpus, codes, what),
        *_groups(ObsColumns(cells), codes, [by] if isinstance(by, str) else by, donor_key, batch_key, study_key, what),
        *_conditions(ObsColumns(cells), codes, [by] if isinstance(by, str) else by, conditions, what),
    ]
    with tempfile.TemporaryDirectory(prefix="scmf-leaks-") as folder:
        order = GeneOrder(corpus) if near_duplicates else None
        audit = _Counts(corpus, codes, Path(folder), order)
        said.append(audit.identical(min_genes, what))
        if order is not None:
            said.append(audit.similar(order, what))
        audit.close()
    return said


def _codes(parts: pd.Series | np.ndarray, n_cells: int) -> np.ndarray:
    values = np.asarray(parts)
    if values.dtype.kind not in "iu":
        values = pd.Categorical(values.astype(str), categories=list(SPLITS)).codes
    if len(values) != n_cells or values.min(initial=0) < 0 or values.max(initial=0) >= len(SPLITS):
        raise DataError(
            f"parts of {len(values)} cells, values {sorted(set(np.asarray(parts).tolist()), key=str)[:4]}",
            wanted=f"one of {', '.join(SPLITS)} for each of {n_cells} cells",
            where="audit_leaks",
            fix="read the split for these cells",
        )
    return values.astype(np.uint8)


def _cell_ids(corpus: Corpus, codes: np.ndarray, what: str) -> Finding:
    """Ids that lie in two parts; between stores ids such as barcodes may repeat."""
    keys = np.empty(corpus.n_cells, np.uint64)
    for store, start, stop in zip(corpus.stores, corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        keys[start:stop] = hash_ids(store.cell_ids()) & ~np.uint64(3)
    keys |= codes
    keys.sort()
    same = (keys[1:] >> np.uint64(2)) == (keys[:-1] >> np.uint64(2))
    apart = int((same & (keys[1:] != keys[:-1])).sum())
    if not apart:
        return Finding("ok", what, f"no cell id in two parts ({corpus.n_cells:,} cells)")
    if len(corpus.stores) == 1:
        return Finding("error", what, f"{apart:,} cell ids lie in two parts", "make the ids unique and split again")
    found = f"{apart:,} cell ids of different files lie in two parts"
    return Finding("warning", what, found, "see that they are other cells: identical counts are looked for below")


def _groups(
    obs: ObsColumns,
    codes: np.ndarray,
    by: Sequence[str],
    donor_key: str | None,
    batch_key: str | None,
    study_key: str | None,
    what: str,
) -> list[Finding]:
    """Values of the columns that lie in several parts."""
    asked = [(donor_key, "warning"), (batch_key, "ok"), (study_key, "ok"), *((name, "error") for name in by)]
    roles = {obs.column(name): level for name, level in asked if name is not None}
    said = []
    for column in roles:
        known, values, names = obs.known_codes(column)
        if lost := int((~known).sum()):
            found = f"{lost:,} of {len(codes):,} cells have no {column!r} and are not looked at"
            said.append(Finding("warning", what, found, "fill it in: a cell without a value may belong to any"))
        n_parts = (tabulate(values, len(names), codes[known], len(SPLITS)) > 0).sum(axis=1)
        shared = np.flatnonzero(n_parts > 1)
        if not len(shared):
            said.append(Finding("ok", what, f"each of {len(names):,} values of {column!r} lies in one part"))
            continue
        found = f"{len(shared):,} of {len(names):,} values of {column!r} lie in several parts"
        found += f", such as {names[shared[0]]!r}"
        level = roles[column]
        if level == "error":
            said.append(Finding("error", what, found, "the split claims to keep them whole: make it again"))
        elif level == "warning":
            said.append(Finding("warning", what, found, f"prefer a split by {column}"))
        else:
            said.append(Finding("ok", what, found))
    return said


def _conditions(
    obs: ObsColumns, codes: np.ndarray, by: Sequence[str], how: Mapping[str, Any] | None, what: str
) -> list[Finding]:
    """Spellings of one condition in two parts, and controls outside train, where conditions are kept whole."""
    claimed = {obs.column(name) for name in by}
    columns = [name for name in COLUMNS["perturbation"] if name in obs.columns]
    columns += sorted(claimed - set(columns)) if how else []
    how = dict(how) if how else {"separator": "+", "controls": CONTROLS}
    said = []
    for column in columns:
        known, values, names = obs.known_codes(column)
        part_of = codes[known]
        there = tabulate(values, len(names), part_of, len(SPLITS)) > 0
        control = np.array([not genes_of(name, **how) for name in names])
        if column not in claimed and (there[~control].sum(axis=1) > 1).any():
            continue  # the split does not go by this column
        merged, kept, first = one_code(values, names, **how)
        in_parts = tabulate(merged, len(kept), part_of, len(SPLITS)) > 0
        cut = [name for name, some in zip(kept, in_parts, strict=True) if some.sum() > 1 and genes_of(name, **how)]
        cut = [name for name in cut if sum(one == name for one in first.values()) > 1]
        if cut:
            spellings = sorted(name for name, one in first.items() if one == cut[0])
            found = f"{len(cut):,} conditions of {column!r} lie in several parts in other spellings"
            found += f", such as {' and '.join(map(repr, spellings))}"
            said.append(Finding("error", what, found, "the same genes were perturbed: put them into one part"))
        outside = [
            name for name, some in zip(names, there, strict=True) if some[1:].any() and not genes_of(name, **how)
        ]
        if outside and column in claimed:
            found = f"the control {outside[0]!r} of {column!r} lies outside train"
            said.append(Finding("error", what, found, "put the controls into train: make the split again"))
    return said


class _Counts:
    """Hashes and keys of all cells in a temporary file, and what they say."""

    def __init__(self, corpus: Corpus, codes: np.ndarray, folder: Path, order: GeneOrder | None) -> None:
        self._corpus, self._codes = corpus, codes
        n_keys = 0 if order is None else BANDS
        self._signatures = Signatures(folder / "signatures", corpus.n_cells, 2 + n_keys)
        self._detected = np.empty(corpus.n_cells, np.uint16)
        keys = [gene_keys(store.genes) for store in corpus.stores]
        for store, numbers, counts in corpus.scan():
            hashes, detected = row_hashes(counts, keys[store])
            self._detected[numbers] = np.minimum(detected, np.iinfo(np.uint16).max)
            more = [] if order is None else [order.band_keys(counts, store)]
            self._signatures.put(numbers, np.hstack([hashes, *more]))

    def close(self) -> None:
        """Let go of the file, so that its folder can be removed."""
        del self._signatures

    def identical(self, min_genes: int, what: str) -> Finding:
        """Cells with the counts of a cell of another part."""
        copies, small, within, example = 0, 0, 0, ""
        for cells, edges in self._signatures.equal(0):
            other = self._signatures.of(1, cells)
            for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                run = cells[start:stop][other[start:stop] == other[start]]
                parts = self._codes[run]
                if len(run) < 2 or self._detected[run[0]] < min_genes:
                    small += len(run) > 1 and bool((parts != parts[0]).any())
                elif (parts != parts[0]).any():
                    copies += len(run)
                    example = example or self._names(run[0], run[int(np.argmax(parts != parts[0]))])
                else:
                    within += len(run)
        rest = f"; {within:,} cells have a copy within their part" if within else ""
        rest += f"; {small:,} pairs of fewer than {min_genes} genes are not counted" if small else ""
        if copies:
            found = f"{copies:,} cells have the same counts as a cell of another part, such as {example}{rest}"
            return Finding("error", what, found, "remove the copies, or put them into one part")
        return Finding("ok", what, f"no cell has the same counts as a cell of another part{rest}")

    def similar(self, order: GeneOrder, what: str) -> Finding:
        """Cells that are nearly equal to a cell of another part."""
        least, usual = threshold(self._corpus, order)
        if usual > BLIND:
            found = f"nearly equal cells were not looked for: of {len(order.keys):,} genes these cells detect the same"
            return Finding("warning", what, f"{found} (usual similarity {usual:.2f})")
        pairs, skipped = self._candidates()
        jaccard, cosine = similarities(self._corpus, order, pairs)
        takes = BANDS * order.depth
        near = (jaccard >= least) & (self._detected[pairs] >= takes // 2).all(axis=1)
        notes = (
            f"; {int((self._detected >= takes).sum()):,} of {len(self._codes):,} cells have the {takes} genes it takes"
        )
        notes += f"; {skipped:,} pairs were left out" if skipped else ""
        if near.any():
            n = len(np.unique(pairs[near]))
            best = int(np.argmax(jaccard))
            found = f"{n:,} cells are nearly equal to a cell of another part, such as {self._names(*pairs[best])}"
            found += f": similarity {jaccard[best]:.2f} (from {least:.2f} on)"
            found += f", cosine of log counts {cosine[best]:.2f}{notes}"
            return Finding("error", what, found, "are they subsamples or re-aligned copies? remove one of each pair")
        highest = f", highest similarity {jaccard.max():.2f}" if len(pairs) else ""
        found = (
            f"no nearly equal cells in two parts: {len(pairs):,} pairs compared{highest}; from {least:.2f} on{notes}"
        )
        return Finding("warning" if skipped else "ok", what, found, "remove identical cells first" if skipped else "")

    def _candidates(self) -> tuple[np.ndarray, int]:
        """Pairs of cells of different parts that share a key and are not identical (n, 2); how many were left out."""
        found, skipped = np.empty(0, np.int64), 0
        n_cells = np.int64(len(self._codes))
        for band in range(BANDS):
            new = []
            for cells, edges in self._signatures.equal(2 + band):
                parts = self._codes[cells]
                for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                    if (parts[start:stop] == parts[start]).all():
                        continue
                    a, b, left = _across(cells[start:stop], parts[start:stop])
                    skipped += left
                    apart = self._signatures.of(0, a) != self._signatures.of(0, b)
                    new.append(np.minimum(a, b)[apart] * n_cells + np.maximum(a, b)[apart])
            found = np.unique(np.concatenate([found, *new]))
            if len(found) > _MOST_PAIRS:
                skipped += len(found) - _MOST_PAIRS
                found = found[:_MOST_PAIRS]
        return np.stack(np.divmod(found, n_cells), axis=1), skipped

    def _names(self, *cells: int) -> str:
        names = []
        for cell in cells:
            store = int(np.searchsorted(self._corpus.offsets, cell, side="right")) - 1
            name = self._corpus.stores[store].cell_ids()[cell - self._corpus.offsets[store]]
            names.append(f"{name!r} ({SPLITS[self._codes[cell]]})")
        return " and ".join(names)


def _across(cells: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of cells of different parts, at most `_MOST_IN_RUN` cells of each; pairs left out."""
    ours, theirs, left = [], [], 0
    for first in range(len(SPLITS)):
        for second in range(first + 1, len(SPLITS)):
            a, b = cells[parts == first], cells[parts == second]
            left += len(a) * len(b) - min(len(a), _MOST_IN_RUN) * min(len(b), _MOST_IN_RUN)
            a, b = a[:_MOST_IN_RUN], b[:_MOST_IN_RUN]
            ours.append(np.repeat(a, len(b)))
            theirs.append(np.tile(b, len(a)))
    return np.concatenate(ours), np.concatenate(theirs), left
