"""Parity of bins: our digits, their bounds and edges against those that the official scGPT code made of counts.

Lives here: `cases`, which walks the binned layers and the odd rows of a folder of reference files and bins the same
counts with `BinnedTokenizer`, and `notes`, which lists what is left out and why. Lives elsewhere: parity of whole
sequences and masks (``parity_tokens.py``), of the network (``parity_model.py``), the verdict (``scmf reproduce --tier
parity``).

Layout of the folder: ``tok/summary.json`` (seeds, errors, special tokens); ``tok/<data>.<layer>.npz``, the digits of a
layer with their bounds and edges; ``tok/adversarial_binning.npz``, rows and what several functions made of them. No
name of a case is known here; an array that is not understood is a failed case.

Two kinds of draws are compared. With the official seed and ``match_official=True`` digits are identical. The default
draws are another generator, so each of their digits must lie within the bounds that `np.digitize` leaves;
genes are compared in the order of their ids, in which they stand by default.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from scmf.data.cards.card import file_of, load_card
from scmf.data.cards.sources import fetch_file
from scmf.data.genes.vocabulary import read_tokens
from scmf.results.parity import ParityCase
from scmf.tokenizers.binned import BinnedTokenizer
from scmf.tokenizers.binned_draws import OfficialDraws, digit_bounds
from scmf.tokenizers.gene_columns import as_floats

N_BINS = 51
"""Bins of every official program that does not name another number."""

_LAYER = {"binned_data", "binned_indices", "binned_indptr", "shape", "genes", "gene_ids", "bin_edges", "cells",
          "log1p_data", "log1p_indices", "log1p_indptr", "digit_lo", "digit_hi"}  # fmt: skip
_EACH_ROW = re.compile(r"binning_(?P<kind>float32|float64)_seed(?P<seed>\d+)\+i")
_ONE_ROW = re.compile(r"binning_(?P<row>\w+)_nbins(?P<n_bins>\d+)_seed(?P<seed>\d+)")
_ONE_STREAM = re.compile(r"preprocessor_binned_seed(?P<seed>\d+)_one_stream")
_BAD = {"negative": -1.0, "nan": np.nan, "inf": np.inf}


def cases(
    folder: Path,
    data_dir: Path | None = None,
    *,
    tokens: Mapping[str, int] | None = None,
    tokenizer: type[BinnedTokenizer] = BinnedTokenizer,
) -> Iterator[ParityCase]:
    """Compare every binned layer and every odd row found.

    Parameters
    ----------
    folder
        Outputs of the official code: a folder with ``scgpt/`` in it, or that folder itself.
    data_dir
        Mirror with the official vocabulary; None for ``SCMF_DATA_DIR`` or, without it, its publisher.
    tokens
        Vocabulary to use instead of the official one.
    tokenizer
        Class to compare instead of the product's (for a negative control).

    Yields
    ------
    ParityCase
        ``difference`` is the number of digits that differ.

    Raises
    ------
    SourceError, ChecksumError
        The official vocabulary cannot be had.
    """
    root = next((path for path in (folder / "scgpt", folder) if (path / "tok" / "summary.json").is_file()), None)
    if root is None:
        return
    walk = _Walk(root, _official_tokens(data_dir) if tokens is None else tokens, tokenizer)
    for path in sorted((root / "tok").glob("*.npz")):
        try:
            with np.load(path) as saved:
                mine = {"binned_data": walk.layer, "names": walk.adversarial}
                compare = next((function for key, function in mine.items() if key in saved.files), None)
        except (OSError, ValueError, zipfile.BadZipFile):
            continue  # reported by parity_tokens, which goes over every file
        if compare is not None:
            yield from _guarded(walk, path, compare)
    yield from walk.vocabulary()
    yield from walk.errors()


def notes(folder: Path) -> list[str]:
    """What is not compared, and why."""
    return [
        "tok/summary.json, vocab_from_list*: order of a vocabulary made from a list; ours is sorted by name",
        "tok/summary.json, binning.* and Preprocessor.nan, .inf: the official code bins negative, NaN and infinite "
        "counts silently or dies at zeros; ours refuses such counts and keeps zeros (also when match_official)",
    ]


def _guarded(walk: _Walk, path: Path, compare: Callable[..., Iterator[ParityCase]]) -> Iterator[ParityCase]:
    name = path.relative_to(walk.root).with_suffix("").as_posix()
    try:
        yield from compare(name, _read_npz(path))
    except (OSError, ValueError, KeyError, IndexError) as error:
        detail = f"{type(error).__name__}: {error}"
        yield ParityCase(name, "", passed=False, difference=1.0, tolerance=0.0, detail=detail)


class _Walk:
    """The files of one folder, and what of them is shared by several cases."""

    def __init__(self, root: Path, tokens: Mapping[str, int], tokenizer: type[BinnedTokenizer]) -> None:
        self.root, self.tokens, self.kind = root, tokens, tokenizer
        self.summary: dict[str, Any] = json.loads((root / "tok" / "summary.json").read_text(encoding="utf-8"))

    # --- digits of a layer -------------------------------------------------------------------------------

    def layer(self, name: str, arrays: Mapping[str, np.ndarray]) -> Iterator[ParityCase]:
        """Digits under the official seed, their bounds and edges, and our own draws within the bounds."""
        if unknown := sorted(set(arrays) - _LAYER):
            raise ValueError(f"arrays {unknown} are not understood")
        run = self.summary[name.removeprefix("tok/")]
        seed, genes, ids = int(run["seed"]), arrays["genes"].tolist(), arrays["gene_ids"]
        indptr, indices, digits = arrays["binned_indptr"], arrays["binned_indices"], arrays["binned_data"]
        counts, source = self.counts(name.removeprefix("tok/").split(".")[0], arrays)
        compared = f"{counts.shape[0]} cells, {digits.size:,} tokens, {source}"
        given: dict[str, Any] = {"max_length": len(genes), "seed": seed}
        mine = self.kind.from_tables(self.tokens, **given, match_official=True).encode_cells(
            counts, genes, empty="keep"
        )
        yield _case(name, compared, [
            ("cells", indptr, mine.offsets),
            ("ids", ids[indices], mine.columns["input_ids"]),
            ("digits", digits, mine.columns["values"]),
        ])  # fmt: skip
        bounds = digit_bounds(mine.offsets, as_floats(counts.data), N_BINS)
        zero = np.zeros((counts.shape[0], 1))  # the official code puts a 0 in front
        yield _case(f"{name}.bounds", compared, [
            ("lowest digit", arrays["digit_lo"], bounds.low),
            ("highest digit", arrays["digit_hi"], bounds.top),
            ("edges", arrays["bin_edges"], np.hstack([zero, bounds.edges])),
        ])  # fmt: skip
        own = self.kind.from_tables(self.tokens, **given).encode_cells(counts, genes, empty="keep")
        drawn = own.columns["values"]
        if drawn.shape != digits.shape:
            raise ValueError(f"{drawn.size} tokens by default, official {digits.size}")
        cell_N, official = np.repeat(np.arange(counts.shape[0]), np.diff(indptr)), ids[indices]
        order = np.lexsort((official, cell_N))  # by default genes stand in the order of their ids
        outside = (drawn < arrays["digit_lo"][order]) | (drawn > arrays["digit_hi"][order])
        yield _case(f"{name}.default_draws", compared, [
            ("cells", indptr, own.offsets),
            ("ids", official[order], own.columns["input_ids"]),
            ("digits out of bounds", np.zeros(outside.shape, bool), outside),
        ])  # fmt: skip

    def counts(self, data: str, arrays: Mapping[str, np.ndarray]) -> tuple[sp.csr_matrix, str]:
        """What was binned: the layer beside the digits, else the raw counts of these cells and genes."""
        shape = tuple(int(n) for n in arrays["shape"])
        if "log1p_data" in arrays:
            parts = (arrays["log1p_data"], arrays["log1p_indices"], arrays["log1p_indptr"])
            return sp.csr_matrix(parts, shape=shape), "log1p layer"
        for path in sorted(self.root.parent.glob(f"*/input*/{data}.h5ad")):
            found = _raw_counts(path, arrays["cells"], arrays["genes"])
            if found is not None:
                return found, "raw counts"
        for path in sorted((self.root / "tok").glob(f"{data}.*.npz")):
            other = _read_npz(path)
            if "log1p_data" in other and np.array_equal(other["genes"], arrays["genes"]):
                return _restored(self.counts(data, other)[0]), "raw counts restored from the log1p layer"
        raise ValueError(f"no counts of {data} in the folder")

    # --- odd input ---------------------------------------------------------------------------------------

    def adversarial(self, name: str, arrays: Mapping[str, np.ndarray]) -> Iterator[ParityCase]:
        """Digits of odd rows: each row with a seed of its own, all rows with one, other numbers of bins."""
        rows, names = arrays["X"], arrays["names"].tolist()
        genes = [f"g{i}" for i in range(rows.shape[1])]
        table = {gene: i for i, gene in enumerate(genes)}

        def digits(part: np.ndarray, seed: int, n_bins: int = N_BINS) -> np.ndarray:
            tokenizer = self.kind.from_tables(
                table, max_length=len(genes), match_official=True, include_zero_genes=True, n_bins=n_bins
            )
            return tokenizer(part, genes, empty="keep", draws=OfficialDraws(seed))["values"]

        for key, recorded in arrays.items():
            compared = f"{recorded.size:,} values"
            if found := _EACH_ROW.fullmatch(key):
                typed = rows.astype(found["kind"])
                mine = [digits(typed[i : i + 1], int(found["seed"]) + i) for i in range(len(rows))]
                yield _case(f"{name}.{key}", compared, [("digits", recorded, np.concatenate(mine))])
            elif found := _ONE_STREAM.fullmatch(key):
                options = [digits(rows.astype(kind), int(found["seed"])) for kind in ("float32", "float64")]
                yield _either(f"{name}.{key}", compared, recorded, options)
            elif found := _ONE_ROW.fullmatch(key):
                row = next(i for i, given in enumerate(names) if found["row"] in given)
                options = [
                    digits(rows[row : row + 1].astype(kind), int(found["seed"]), int(found["n_bins"]))[0]
                    for kind in ("float32", "float64")
                ]
                yield _either(f"{name}.{key}", compared, recorded, options)
            elif key == "preprocessor_edges":
                options = []
                for kind in ("float32", "float64"):
                    matrix = sp.csr_matrix(rows.astype(kind))
                    edges = digit_bounds(matrix.indptr.astype(np.int64), matrix.data, N_BINS).edges
                    options.append(np.hstack([np.zeros((len(rows), 1)), edges]))
                yield _either(f"{name}.{key}", compared, recorded, options)
            elif key not in ("X", "names"):
                raise ValueError(f"array {key!r} is not understood")

    def vocabulary(self) -> Iterator[ParityCase]:
        """Size of the vocabulary and ids of the special tokens."""
        if "vocab" not in self.summary:
            return
        tokenizer = self.kind.from_tables(self.tokens, max_length=10)
        mine = {
            "size": tokenizer.vocab_size, "pad": tokenizer.pad_token_id, "cls": tokenizer.cls_token_id,
            "eoc": tokenizer.eos_token_id, "oov_maps_to": tokenizer.pad_token_id,
        }  # fmt: skip
        official = self.summary["vocab"]
        yield _case("tok/summary.vocab", "size and special tokens", [
            (key, np.array(official[key]), np.array(mine[key])) for key in official
        ])  # fmt: skip

    def errors(self) -> Iterator[ParityCase]:
        """Counts at which the official preprocessing raises must be refused by ours."""
        tokenizer = self.kind.from_tables({"a": 0, "b": 1}, max_length=2, match_official=True)
        for key, outcome in self.summary.items():
            program, _, what = key.partition(".")
            if program == "Preprocessor" and str(outcome).startswith("raises"):
                try:
                    tokenizer(np.array([[1.0, _BAD[what]]]), ["a", "b"])
                except ValueError:
                    yield _case(f"tok/summary.{key}", "an error", [])
                else:
                    yield _case(f"tok/summary.{key}", "an error", [("error", np.array(1), np.array(0))])


# --- files -------------------------------------------------------------------------------------------------


def _raw_counts(path: Path, cells: np.ndarray, genes: np.ndarray) -> sp.csr_matrix | None:
    """Counts of these cells and genes from a file, or None if it has others."""
    import anndata

    found = anndata.read_h5ad(path)
    rows = found.obs_names.get_indexer(cells.astype(str))
    for column in found.var.columns:
        names = {name: place for place, name in reversed(list(enumerate(found.var[column].astype(str))))}
        if (rows >= 0).all() and all(gene in names for gene in genes.tolist()):
            return sp.csr_matrix(sp.csr_matrix(found.X)[rows][:, [names[gene] for gene in genes.tolist()]])
    return None


def _restored(layer: sp.csr_matrix) -> sp.csr_matrix:
    """Raw counts of which log1p of a scaled row was taken, given that each row holds a 1."""
    counts = layer.astype(np.float64)
    for start, stop in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
        rates = np.expm1(counts.data[start:stop])
        whole = np.rint(rates / rates.min(initial=np.inf))
        if not np.allclose(rates, whole * rates.min(initial=np.inf), rtol=1e-3):
            raise ValueError("the log1p layer is not that of whole counts")
        counts.data[start:stop] = whole
    return counts.astype(np.float32)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as saved:
        return {key: saved[key] for key in saved.files}


def _either(name: str, compared: str, recorded: np.ndarray, options: list[np.ndarray]) -> ParityCase:
    """The better of two comparisons, where the file does not say in which type the rows were."""
    found = [_case(name, compared, [("digits or edges", recorded, mine)]) for mine in options]
    return min(found, key=lambda case: case.difference)


def _case(name: str, compared: str, pairs: list[tuple[str, np.ndarray, np.ndarray]]) -> ParityCase:
    differing, first = 0, ""
    for what, official, mine in pairs:
        if official.shape != mine.shape:
            differing += max(official.size, mine.size)
            first = first or f"{what}: shape {mine.shape}, official {official.shape}"
        elif not np.array_equal(official, mine):
            wrong = np.argwhere(official != mine)
            differing += len(wrong)
            at = tuple(int(i) for i in wrong[0])
            first = first or f"{what} at {at}: {mine[at]}, official {official[at]}"
    return ParityCase(name, compared, differing == 0, float(differing), 0.0, first)


def _official_tokens(data_dir: Path | None) -> dict[str, int]:
    card = load_card("scgpt-human")
    with _mirror(data_dir):
        return read_tokens(fetch_file(card, file_of(card, "tokens")))


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
