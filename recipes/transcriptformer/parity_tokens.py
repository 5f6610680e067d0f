"""Parity of tokens: ours against those of TranscriptFormer's ``AnnDataset`` and ``AnnDatasetOOM``.

Lives here: `cases`, which walks a folder of reference files, tokenizes the recorded inputs as the official loader did
(``match_official=True``) and compares ids, counts and assays. Lives elsewhere: parity of the network
(``parity_model.py``),
the verdict over all cases (``scmf reproduce --tier parity``).

Layout of the folder: ``meta_data.json`` with facts or the error of each run, ``out/data_<run>.npz``, ``input/*.h5ad``,
``*_vocab.json`` (genes) and ``assay_vocab.json`` somewhere below. The name of a run says what was set, in the words of
`_SETTINGS`; what is left of it names the input, in full, shortened or in more words. No name of a case is known here; a
file, a word or an array that is not understood is a failed case.

Compared: ids (identical), counts (to the bit; with a scale `SCALED`), assays. Where no arrays were recorded: the facts.
Equal counts have no official order: such a run of tokens is compared as a set, and where the cut falls inside one, what
is kept must come from it. A random order is that of torch; where the generator stood elsewhere, the genes of a cell are
compared as a set and the case says so. Runs that died must be refused by ours.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scmf.results.parity import ParityCase
from scmf.tokenizers.continuous import ContinuousTokenizer
from scmf.tokenizers.encoded import EncodedCells

SCALED = 1e-6
"""Largest difference of a scaled count relative to it: the order of a float32 sum is not that of torch."""

LONGEST = 2047
"""Sequence length unless the name says another."""

_GENES, _ASSAY = "ensembl_id", "assay"
_COMPARED = {"gene_token_indices", "gene_counts", "aux_token_indices"}
_FACTS = {"shape", "dtypes", "n_nonpad", "max_count", "error"}

_SETTINGS: dict[str, Callable[[re.Match[str]], dict[str, Any]]] = {
    r"default|oom|error": lambda m: {},
    r"sort": lambda m: {"order": "value"},
    r"random_seed(\d+)": lambda m: {"torch_seed": int(m[1])},
    r"scale([\d.e]+)": lambda m: {"target_sum": float(m[1])},
    r"clip([\d.e]+)": lambda m: {"clip": float(m[1])},
    r"len(\d+)": lambda m: {"max_length": int(m[1])},
    r"nofilter": lambda m: {"unknown_genes": "token"},
    r"nopadzeros": lambda m: {"keep_zeros": True},
    r"noaux": lambda m: {"assay_key": None},
    r"removed": lambda m: {"duplicate_genes": "first"},
    r"min(\d+)genes": lambda m: {"min_genes": int(m[1])},
    r"outlier([\d.]+)sd": lambda m: {"outlier_sd": float(m[1])},
    r"use_raw_(auto|None|True|False)": lambda m: {"use_raw": m[1]},
}
"""Words of a name and what they set: options of the tokenizer, or how the cells are read and chosen."""


class Cells(NamedTuple):
    """Cells as the loader sees them."""

    matrix: Any
    genes: list[str]
    obs: dict[str, list[str]]


def cases(folder: Path, data_dir: Path | None = None, **changed: Any) -> Iterator[ParityCase]:
    """Compare every recorded run.

    Parameters
    ----------
    folder
        Outputs of the official code: a folder with ``transcriptformer/`` in it, or that folder itself.
    data_dir
        Not used: the vocabularies lie beside the outputs.
    changed
        Options of the tokenizer that are set whatever the run says: something of this must be seen.

    Yields
    ------
    ParityCase
        One for each run; ``difference`` is the number of cells that differ, or with a scale the largest relative
        difference of a count.
    """
    root = _root(folder)
    if root is None:
        return
    facts = json.loads((root / "meta_data.json").read_text(encoding="utf-8"))
    files = {path.stem.removeprefix("data_"): path for path in sorted((root / "out").glob("data_*"))}
    read = cache(_read)
    for name in [*facts, *(name for name in files if name not in facts)]:
        try:
            yield _compare(root, name, files.get(name), facts.get(name), changed, read)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            yield _failed(name, f"{type(error).__name__}: {error}")


def notes(folder: Path) -> list[str]:
    """What was recorded and is not compared here, with the reason."""
    root = _root(folder)
    if root is None:
        return []
    facts = json.loads((root / "meta_data.json").read_text(encoding="utf-8"))
    bare = [name for name in facts if "error" not in facts[name] and not (root / "out" / f"data_{name}.npz").is_file()]
    found = ["embeddings, likelihoods, losses: parity of the network"]
    return found + ([f"facts only, no arrays, were recorded of {', '.join(bare)}"] if bare else [])


def _root(folder: Path) -> Path | None:
    return next((path for path in (folder / "transcriptformer", folder) if (path / "meta_data.json").is_file()), None)


# --- what was recorded ----------------------------------------------------------------------------------------


def _settings(name: str) -> tuple[str, dict[str, Any]]:
    """What is left of a name, and what it sets."""
    found: dict[str, Any] = {}
    for words, meaning in _SETTINGS.items():
        while match := re.search(rf"_(?:{words})(?=_|$)", name):
            found |= meaning(match)
            name = name[: match.start()] + name[match.end() :]
    return name, found


def _input(root: Path, rest: str) -> Path:
    """The input that the rest of a name means: itself, one whose words are some of its words, or one it shortens."""
    stems = {path.stem: path for path in (root / "input").glob("*.h5ad")}
    wanted, letters = rest.replace("_", ""), rest.rstrip("0123456789")
    plain = {stem: stem.replace("_", "") for stem in stems}
    found = [stem for stem in stems if plain[stem] == wanted]
    if not found:
        first, last = rest.split("_")[0], rest.split("_")[-1]
        inside = [stem for stem in stems if plain[stem].startswith(first) and plain[stem].endswith(last)]
        inside = [stem for stem in inside if _in_order(plain[stem], wanted)]
        found = [stem for stem in inside if len(plain[stem]) == max(len(plain[other]) for other in inside)]
    if not found:
        found = [stem for stem in stems if stem.startswith(letters)]
        found = [stem for stem in found if len(found) == 1 or stem.split("_")[0] != letters]
    if len(found) != 1:
        raise ValueError(f"{rest!r} is neither an input nor a setting that is understood")
    return stems[found[0]]


def _in_order(short: str, long: str) -> bool:
    letters = iter(long)
    return all(letter in letters for letter in short)


def _read(path: Path, use_raw: str) -> Cells:
    """Counts, ids and obs of a file as the loader reads them: of ``raw`` where there is one and it is allowed."""
    import anndata

    cells = anndata.read_h5ad(path)
    of = cells.raw if cells.raw is not None and use_raw != "False" else cells
    # With "auto" the loader takes the names of X beside the counts of raw.
    var = cells.var if use_raw == "auto" else of.var
    if _GENES not in var:
        raise ValueError(f"no column {_GENES!r} in var")
    obs = {column: cells.obs[column].astype(str).tolist() for column in cells.obs}
    return Cells(of.X, var[_GENES].astype(str).tolist(), obs)


def _vocabulary(root: Path, genes: list[str]) -> dict[str, int]:
    """The gene vocabulary that knows most of the genes."""
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(root.glob("*_vocab.json"))]
    names = {gene.split(".")[0] for gene in genes}
    return dict(max((table for table in tables if "[PAD]" in table), key=lambda table: len(names & set(table))))


def _assays(root: Path) -> dict[str, int] | None:
    path = next(iter(sorted(root.rglob("assay_vocab.json"))), None)
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def _chosen(cells: Cells, known: Mapping[str, int] | None, min_genes: int, outlier_sd: float | None) -> Cells:
    """Cells that pass the loader's filters, which look at the genes that it keeps."""
    matrix = cells.matrix.toarray() if hasattr(cells.matrix, "toarray") else np.asarray(cells.matrix)
    if known is not None:
        matrix = matrix[:, [gene.split(".")[0] in known for gene in cells.genes]]
    keep = (matrix > 0).sum(axis=1) >= min_genes
    if outlier_sd is not None:
        totals = matrix.sum(axis=1)
        keep &= np.abs(totals - totals.mean()) < outlier_sd * totals.std()
    obs = {
        name: [value for value, kept in zip(column, keep, strict=True) if kept] for name, column in cells.obs.items()
    }
    return Cells(cells.matrix[np.flatnonzero(keep)], cells.genes, obs)


# --- the comparison -------------------------------------------------------------------------------------------


def _compare(
    root: Path, name: str, path: Path | None, facts: Mapping[str, Any] | None, changed: Mapping[str, Any],
    read: Callable[[Path, str], Cells]
) -> ParityCase:  # fmt: skip
    if facts is None:
        raise ValueError("meta_data.json does not name the run")
    if unknown := sorted(set(facts) - _FACTS):
        raise ValueError(f"facts {unknown} are not understood")
    rest, settings = _settings(name)
    source = _input(root, rest)
    if "error" in facts:
        try:
            _Run(root, source, settings, changed, read)
        except ValueError as error:
            return ParityCase(f"tokens/{name}", "refused by both", True, 0.0, 0.0, str(error).splitlines()[0])
        return _failed(name, f"ours takes what the loader dies of: {facts['error']}")
    run = _Run(root, source, settings, changed, read)
    compared = f"{run.ids_BL.shape[0]:,} cells, {int(run.full.lengths.sum()):,} tokens"
    wrong, difference = run.facts(facts), 0.0
    remark = "" if path else "facts only"
    if path is not None:
        with np.load(path, allow_pickle=False) as arrays:
            recorded = {key: arrays[key] for key in arrays.files}
        if unknown := sorted(set(recorded) - _COMPARED):
            raise ValueError(f"arrays {unknown} are not compared")
        more, difference, remark = run.arrays(recorded)
        wrong += more
    tolerance = SCALED if "target_sum" in settings else 0.0
    passed = not wrong and difference <= tolerance
    return ParityCase(f"tokens/{name}", compared, passed, difference, tolerance, "; ".join(wrong) or remark)


class _Run:
    """Our tokens of one run: cut and padded as recorded, and whole without a clip."""

    def __init__(
        self, root: Path, source: Path, settings: Mapping[str, Any], changed: Mapping[str, Any],
        read: Callable[[Path, str], Cells]
    ) -> None:  # fmt: skip
        given = {"max_length": LONGEST, "assay_key": _ASSAY, "match_official": True, "transform": "clipped_counts"}
        options: dict[str, Any] = given | dict(settings) | dict(changed)
        seed, raw = options.pop("torch_seed", None), options.pop("use_raw", "None")
        min_genes, outlier_sd = options.pop("min_genes", 0), options.pop("outlier_sd", None)
        cells = read(source, raw)
        known = _vocabulary(root, cells.genes)
        if min_genes or outlier_sd is not None:
            kept = known if options.get("unknown_genes") != "token" else None
            cells = _chosen(cells, kept, min_genes, outlier_sd)
        self.scaled, self.random = "target_sum" in options, seed is not None
        self.by_value, self.clip = options.get("order") == "value", float(options.get("clip", 30))
        tokenizer = ContinuousTokenizer.from_tables(known, assays=_assays(root), **options)
        self.pad_id = tokenizer.pad_token_id
        tensors = tokenizer.cell_tensors(cells.obs)
        ours = tokenizer.encode_cells(cells.matrix, cells.genes, empty="keep", orders=_torch_orders(seed))
        batch = tokenizer.batch(ours, padding="max_length")
        self.ids_BL, self.values_BL = batch["input_ids"], batch["values"]
        self.assays_B, self.assays = tensors.get("assay_ids"), tokenizer.assays
        self.assay_names = cells.obs.get(_ASSAY, [])
        whole = ContinuousTokenizer.from_tables(known, **(options | {"max_length": 1_000_000, "clip": 3e38}))
        self.full: EncodedCells = whole.encode_cells(cells.matrix, cells.genes, empty="keep")

    def facts(self, facts: Mapping[str, Any]) -> list[str]:
        """What differs from a meta file: shape, tokens of the first cells, largest count."""
        wrong: list[str] = []
        if list(self.ids_BL.shape) != facts.get("shape", list(self.ids_BL.shape)):
            wrong.append(f"shape {list(self.ids_BL.shape)}, official {facts['shape']}")
        n_tokens = (self.ids_BL != self.pad_id).sum(axis=1)[: len(facts.get("n_nonpad", []))].tolist()
        if n_tokens != facts.get("n_nonpad", []):
            wrong.append(f"tokens {n_tokens}, official {facts['n_nonpad']}")
        largest = float(self.values_BL.max()) if self.values_BL.size else 0.0
        official = facts.get("max_count", largest)
        if not (largest == official or (np.isnan(largest) and np.isnan(official)) or self.scaled):
            wrong.append(f"largest count {largest}, official {official}")
        return wrong

    def arrays(self, recorded: Mapping[str, np.ndarray]) -> tuple[list[str], float, str]:
        """What differs from recorded arrays, how much, and a remark."""
        ids_BL, counts_BL = recorded["gene_token_indices"], recorded["gene_counts"]
        if ids_BL.shape != self.ids_BL.shape or counts_BL.shape != ids_BL.shape:
            return [f"shape {self.ids_BL.shape}, official {ids_BL.shape}"], np.inf, ""
        wrong: list[str] = []
        largest, cells, tied, moved = 0.0, 0, 0, 0
        for row in range(ids_BL.shape[0]):
            official, ids = ids_BL[row], self.ids_BL[row]
            counts, values = counts_BL[row], self.values_BL[row]
            if not np.array_equal(official, ids):
                ids, values, why = self._reordered(row, official, counts)
                tied, moved = tied + (why == "ties"), moved + (why == "random")
                if not why:
                    cells += 1
                    wrong = wrong or [f"ids of cell {row}"]
                    continue
            there = official != self.pad_id
            largest = max(largest, difference := _relative(counts[there], values[there]))
            rest = counts[~there]
            if difference > (SCALED if self.scaled else 0) or not (rest[~(np.isnan(rest) & self.scaled)] == 0).all():
                cells += 1
                wrong = wrong or [f"counts of cell {row}"]
        if not self._same_assays(recorded.get("aux_token_indices")):
            wrong.append("assays")
        remark = f"{tied} cells with equal counts in another order" if tied else ""
        remark = f"{moved} cells in another random order" if moved else remark
        return wrong, largest if self.scaled else float(cells), remark

    def _same_assays(self, official: np.ndarray | None) -> bool:
        """Whether assays agree; one that the table beside the outputs lacks may have one id behind those of the table.

        The table of a run is not recorded, and some runs had a longer one.
        """
        if official is None or self.assays_B is None:
            return official is None and self.assays_B is None
        others = official.ravel() != self.assays_B
        pairs = set(zip(np.array(self.assay_names)[others].tolist(), official.ravel()[others].tolist(), strict=True))
        news = {name: number for name, number in pairs if name not in self.assays and number >= len(self.assays)}
        return len(news) == len(pairs) == len(set(news.values()))

    def _reordered(self, row: int, official: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        """Our tokens in the official order, if that is one of those allowed; else no reason."""
        part = slice(self.full.offsets[row], self.full.offsets[row + 1])
        ids, values = self.full.columns["input_ids"][part], self.full.columns["values"][part]
        n = int(np.flatnonzero(self.ids_BL[row] != self.pad_id).max(initial=-1)) + 1
        if self.random and not self.scaled:
            chosen, why = official[:n], "random"
            fits = np.unique(chosen).size == n and bool(np.isin(chosen, ids).all())
        elif self.by_value:
            same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
            run = np.concatenate([[0], np.cumsum(~same)])[: ids.size]
            chosen, why = official[:n], "ties"
            fits = _same_by_run(chosen, ids, run)
        else:
            return ids, values, ""
        if not fits or (official[n:] != self.pad_id).any():
            return ids, values, ""
        if self.by_value:  # the counts at each place do not depend on the order of equal ones
            return official, self.values_BL[row], why
        value_of = dict(zip(ids.tolist(), values.tolist(), strict=True))
        mine = np.zeros(official.size, np.float32)
        mine[:n] = np.clip([value_of[token] for token in chosen.tolist()], 0, self.clip)
        return official, mine, why


def _same_by_run(official: np.ndarray, ids: np.ndarray, run: np.ndarray) -> bool:
    """True if ``official``, which may be shorter, holds in each run tokens of that run, as often as there."""
    n = official.size
    if n > ids.size:
        return False
    whole = n if n in (0, ids.size) or run[n - 1] != run[n] else int(np.searchsorted(run, run[n - 1]))
    order_a, order_b = np.lexsort((official[:whole], run[:whole])), np.lexsort((ids[:whole], run[:whole]))
    if not np.array_equal(official[:whole][order_a], ids[:whole][order_b]):
        return False
    rest, times = np.unique(official[whole:], return_counts=True)
    return all(times[i] <= np.count_nonzero(ids[run == run[n - 1]] == token) for i, token in enumerate(rest))


def _relative(official: np.ndarray, mine: np.ndarray) -> float:
    """Largest difference relative to the official number; missing ones must agree."""
    if not np.array_equal(np.isnan(official), np.isnan(mine)):
        return np.inf
    there = ~np.isnan(official)
    difference = np.abs(official[there].astype(float) - mine[there].astype(float))
    return float((difference / np.maximum(np.abs(official[there]), 1e-30)).max(initial=0))


def _torch_orders(seed: int | None) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]] | None:
    """The orders that the loader draws, expressed genes first and then the others, cell by cell."""
    if seed is None:
        return None
    import torch

    generator = torch.Generator().manual_seed(seed)

    def orders(n_expressed: int, n_others: int) -> tuple[np.ndarray, np.ndarray]:
        front = torch.randperm(n_expressed, generator=generator).numpy()
        return front, torch.randperm(n_others, generator=generator).numpy()

    return orders


def _failed(name: str, why: str) -> ParityCase:
    return ParityCase(f"tokens/{name}", "", passed=False, difference=1.0, tolerance=0.0, detail=why)
