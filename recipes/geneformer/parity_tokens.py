"""Parity of tokens: ours against those the official Geneformer tokenizer wrote.

Lives here: `cases`, which walks a folder of reference files, tokenizes the recorded inputs as the official code did
(``match_official=True``) and compares cell for cell. Lives elsewhere: parity of the network (``parity_model.py``), the
verdict over all cases (``scmf reproduce --tier parity``).

Layout of the folder: ``inputs/<input>.h5ad`` and ``tok*/<input>[.<mode>].<V1|V2>[.<cpu>].parquet``, beside them
``summary*.json`` with the settings of each run. No name of a case is known here; a file or a setting that is not
understood is a failed case. Runs that raised have no parquet file, and so nothing to compare.

Compared for each cell: its name and place (cells without a token are removed), its length, the cropped ids, and
where the file holds them all ids, the ranked values (to the bit) and the counts a 10,000 (to the bit). Equal values
have no official order: such a run of tokens is compared as a set, and where the crop falls inside one, what is kept
of it must come from it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.errors import MissingExtraError
from scmf.data.genes.vocabulary import GeneTables, load_vocabulary
from scmf.results.parity import ParityCase
from scmf.tokenizers.rank_value import RankValueTokenizer

VERSIONS = {"V1": ("geneformer-v1", 2048, False), "V2": ("geneformer-v2", 4096, True)}
"""What the official code means by ``model_version``: vocabulary, longest sequence, special tokens."""

_NAME = re.compile(r"(?P<input>[^.]+)(?:\.(?P<mode>[a-z_]+))?\.(?P<version>V\d+)(?:\.(?P<cpu>[a-z0-9_]+))?")
_MODES = (None, "keep_counts", "no_attrs")  # no_attrs: no obs column is carried along, which moves no token
_SETTINGS = ("keep_counts",)
_COLUMNS = {
    "cell_name", "input_ids", "length", "n_tokens_before_crop",
    "uncropped_ids", "sorted_values", "counts", "n_tied_pairs",
}  # fmt: skip


def cases(
    folder: Path, data_dir: Path | None = None, *, tables: Mapping[str, GeneTables] | None = None
) -> Iterator[ParityCase]:
    """Compare every token file found.

    Parameters
    ----------
    folder
        Outputs of the official code: a folder with ``geneformer/`` in it, or that folder itself.
    data_dir
        Mirror with the official dictionaries; None for ``SCMF_DATA_DIR`` or, without it, their publisher.
    tables
        Dictionaries to use instead of the official ones, by version (``"V1"``, ``"V2"``).

    Yields
    ------
    ParityCase
        One for each file; ``difference`` is the number of cells that differ.

    Raises
    ------
    SourceError, ChecksumError
        The official dictionaries cannot be had.
    """
    root = next((path for path in (folder / "geneformer", folder) if any(path.glob("tok*"))), None)
    if root is None:
        return
    settings = _settings(root)

    @cache
    def tokenizer(version: str) -> RankValueTokenizer:
        vocabulary, longest, special = VERSIONS[version]
        official = tables[version] if tables else _official(vocabulary, data_dir)
        return RankValueTokenizer.from_tables(
            official.token_ids, official.medians, official.aliases,
            max_length=longest, special_tokens=special, match_official=True,
        )  # fmt: skip

    for path in sorted(path for path in root.glob("tok*/*") if not path.name.startswith("summary")):
        name = path.relative_to(root).as_posix().removesuffix(".parquet")
        if path.suffix == ".json":  # remarks about the run, no tokens
            continue
        parts = _NAME.fullmatch(path.stem)
        if path.suffix != ".parquet" or parts is None or parts["version"] not in VERSIONS:
            yield _failed(name, "the name is not <input>[.<mode>].<V1|V2>[.<cpu>].parquet")
        elif parts["mode"] not in _MODES:
            yield _failed(name, f"unknown mode {parts['mode']!r}")
        elif unknown := [key for key in settings.get(path.stem, {}) if key not in _SETTINGS]:
            yield _failed(name, f"unknown settings {unknown} in the summary")
        else:
            ours = tokenizer(parts["version"])  # an error here is not the fault of one file
            try:
                recorded = _read_parquet(path)
                yield _compare(name, ours, _read_input(root / "inputs" / f"{parts['input']}.h5ad"), recorded)
            except (OSError, ValueError, KeyError) as error:
                yield _failed(name, f"{type(error).__name__}: {error}")


@dataclass
class _Input:
    """One recorded AnnData: counts, gene ids, totals and names of the cells the official code looks at."""

    counts: Any
    genes: list[str]
    n_counts: np.ndarray
    names: np.ndarray


def _read_input(path: Path) -> _Input:
    import anndata

    cells = anndata.read_h5ad(path)
    if "filter_pass" in cells.obs:
        cells = cells[(cells.obs["filter_pass"] == 1).to_numpy()].copy()
    genes = cells.var["ensembl_id"].astype(str).tolist()
    return _Input(cells.X, genes, cells.obs["n_counts"].to_numpy(), cells.obs_names.to_numpy().astype(str))


def _read_parquet(path: Path) -> dict[str, Any]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data", needed_for="reading recorded tokens") from error
    recorded = pyarrow.parquet.read_table(path).to_pydict()
    if unknown := sorted(set(recorded) - _COLUMNS):
        raise ValueError(f"columns {unknown} are not compared")
    return recorded


def _settings(root: Path) -> dict[str, dict[str, Any]]:
    """Keyword arguments of each run, by the stem of its file; empty where no summary is."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(root.glob("tok*/summary*.json")):
        for stem, run in json.loads(path.read_text(encoding="utf-8")).get("runs", {}).items():
            found[stem] = run.get("kwargs") or {}
    return found


def _compare(name: str, tokenizer: RankValueTokenizer, cells: _Input, recorded: dict[str, Any]) -> ParityCase:
    given: Any = {"n_counts": cells.n_counts, "empty": "keep"}
    every = tokenizer.rank(cells.counts, cells.genes, crop=False, values="scaled", **given)
    cropped = tokenizer.rank(cells.counts, cells.genes, **given)
    rates = None
    if "counts" in recorded:
        rates = tokenizer.rank(cells.counts, cells.genes, crop=False, values="per_10k", **given).values
    kept = np.flatnonzero(every.lengths)
    n_special = 2 if tokenizer.special_tokens else 0
    compared = f"{len(recorded['cell_name'])} cells, {sum(map(len, recorded['input_ids'])):,} tokens"
    if cells.names[kept].tolist() != recorded["cell_name"]:
        missing = sorted(set(recorded["cell_name"]) ^ set(cells.names[kept]))
        return _failed(name, f"other cells or another order: {missing[:5]}", compared)
    differing, first, n_tied = 0, "", 0
    for at, row in enumerate(kept):
        span = slice(every.offsets[row], every.offsets[row + 1])
        ids, values = every.ids[span], np.asarray(every.values)[span]
        run = _runs(values)
        n_tied += int(run.size - run[-1] - 1)
        of = {key: np.array(column[at]) for key, column in recorded.items() if column[at] is not None}
        mine = cropped.ids[cropped.offsets[row] : cropped.offsets[row + 1]]
        wrong = _same_cropped(mine, of["input_ids"], ids, run, n_special)
        if of["length"] != mine.size or of["n_tokens_before_crop"] != ids.size:
            wrong = f"length {mine.size} of {ids.size}, official {of['length']} of {of['n_tokens_before_crop']}"
        if not wrong and "uncropped_ids" in of and not _same_by_run(of["uncropped_ids"], ids, run):
            wrong = "uncropped ids"
        if not wrong and "sorted_values" in of and not _same_values(of["sorted_values"], values):
            wrong = "ranked values"
        if not wrong and "counts" in of and rates is not None:
            wrong = _same_counts(of["counts"], rates[span], run, mine.size, n_special)
        if wrong:
            differing += 1
            first = first or f"cell {cells.names[row]}: {wrong}"
    detail = first or (f"{n_tied:,} exact ties compared as sets" if n_tied else "")
    return ParityCase(name, compared, differing == 0, float(differing), 0.0, detail)


def _runs(values: np.ndarray) -> np.ndarray:
    """Number of the run of equal values each position belongs to; NaN equals NaN."""
    same = (values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))
    return np.concatenate([[0], np.cumsum(~same)])


def _same_by_run(official: np.ndarray, ids: np.ndarray, run: np.ndarray) -> bool:
    """True if ``official``, which may be shorter, holds in each run tokens of that run, as often as there."""
    n = official.size
    if n > ids.size:
        return False
    # Up to the last run that is complete, sorting within runs makes the two equal; what is left must be a part.
    whole = n if n == ids.size or (n and run[n - 1] != run[n]) else int(np.searchsorted(run, run[n - 1])) if n else 0
    order_a = np.lexsort((official[:whole], run[:whole]))
    order_b = np.lexsort((ids[:whole], run[:whole]))
    if not np.array_equal(official[:whole][order_a], ids[:whole][order_b]):
        return False
    rest, times = np.unique(official[whole:], return_counts=True)
    return all(times[i] <= np.count_nonzero(ids[run == run[n - 1]] == token) for i, token in enumerate(rest))


def _same_cropped(mine: np.ndarray, official: np.ndarray, ids: np.ndarray, run: np.ndarray, n_special: int) -> str:
    """What differs in the cropped sequence, or nothing."""
    edge = n_special // 2
    for which, sequence in (("ours", mine), ("official", official)):
        genes = sequence[edge : sequence.size - edge]
        if not _same_by_run(genes, ids, run):
            at = int(np.argmax(genes != ids[: genes.size])) if genes.size <= ids.size else ids.size
            return f"ids at rank {at} ({which})"
    if edge and (official[0] != mine[0] or official[-1] != mine[-1]):
        return "special tokens"
    return ""


def _same_values(official: np.ndarray, values: np.ndarray) -> bool:
    # A missing value is NaN, which the recorder sorted to the front; argsort puts it behind.
    official = official.astype(float)
    official = np.concatenate([official[~np.isnan(official)], official[np.isnan(official)]])
    return np.array_equal(official, values, equal_nan=True)


def _same_counts(official: np.ndarray, rates: np.ndarray, run: np.ndarray, length: int, n_special: int) -> str:
    """Counts a 10,000 of the cropped sequence: 0 at special tokens; runs of ties in any order."""
    edge = n_special // 2
    inner = official[edge : official.size - edge].astype(float)
    if official.size != length or (edge and (official[0] != 0 or official[-1] != 0)):
        return "length or special tokens of counts"
    return "" if _same_by_run(inner, rates, run) else "counts"


def _official(vocabulary: str, data_dir: Path | None) -> GeneTables:
    with _mirror(data_dir):
        return load_vocabulary(vocabulary)


@contextmanager
def _mirror(data_dir: Path | None) -> Iterator[None]:
    """``SCMF_DATA_DIR`` set to a folder for a while."""
    before = os.environ.get("SCMF_DATA_DIR")
    if data_dir is not None:
        os.environ["SCMF_DATA_DIR"] = str(data_dir)
    try:
        yield
    finally:
        if before is not None:
            os.environ["SCMF_DATA_DIR"] = before
        elif data_dir is not None:
            del os.environ["SCMF_DATA_DIR"]


def _failed(name: str, why: str, compared: str = "") -> ParityCase:
    return ParityCase(name, compared, passed=False, difference=1.0, tolerance=0.0, detail=why)
