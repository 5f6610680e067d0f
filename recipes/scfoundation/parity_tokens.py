"""Parity of tokens: ours against the sequences that scFoundation's ``get_embedding.py`` fed to its encoder.

Lives here: `cases`, which walks a folder of reference files, tokenizes the recorded inputs as the official script did
(``match_official=True``) and compares ids, values and depth. Lives elsewhere: parity of the network
(``parity_model.py``),
the verdict over all cases (``scmf reproduce --tier parity``).

Layout of the folder: ``meta_*.json``, where a run has its arguments (under ``runs``) or where its key is
``<case>[|<option>]`` with default arguments and facts of the sequence of its first cell; ``input/<stem>.*`` or
``input/adv/<case>.h5ad``; ``out/<run>.npz`` or ``out/adv_<case>[__<option>].npz``. No name of a case is known here; a
file, an argument or an array that is not understood is a failed case.

Compared: ids (identical), values (`VALUES`), T and S, and the dense vector before zeros were dropped. A run that died
behind its tokens is compared like the others; where it died before, ours must refuse the cells. Official values are
float64, or float32 where no column was missing; both are compared as the float32 that the network is given.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from scmf.data.cards.card import file_of, load_card
from scmf.data.cards.sources import fetch_file
from scmf.data.genes.vocabulary import read_tokens
from scmf.results.parity import ParityCase
from scmf.tokenizers.continuous import ContinuousTokenizer
from scmf.tokenizers.encoded import EncodedCells

VALUES = 1e-6
"""Largest difference of a value relative to it; a float32 has 6e-8, its logarithm differs between libraries."""

_DEPTH = re.compile(r"[tfa]-?[0-9.]+")
_IGNORED = {
    "output_type": ("cell", "gene", "gene_batch", "gene_expression"), "pool_type": ("all", "max"),
    "version": ("ce", "rde", "noversion"), "save_path": None, "task_name": None, "model_path": None, "ckpt_name": None,
}  # fmt: skip
"""Arguments that do not touch a token, and the values known of them (None: any)."""
_COMPARED = {"enc_values", "enc_positions", "offsets", "T_S", "gene_x", "value_dtype", "embedding"}
"""Arrays that are understood; ``embedding`` belongs to the parity of the network."""
_FACTS = {"error", "shape", "n_tokens", "T_S", "nan", "last_positions", "value_dtype"}


Empty = Literal["error", "keep"]
Pair = tuple[str, Any, Any]
"""What is compared, official and ours."""


class Run(NamedTuple):
    """One run of the official script.

    Parameters
    ----------
    name, path, input
        Its key, the file of its arrays, the file of its cells (None where neither was found).
    args
        Arguments.
    facts
        What the meta file says of the outcome.
    first
        Only the first cell was recorded.
    row
        Name of the one cell of the input that it is about; None for all.
    """

    name: str
    path: Path | None
    input: Path | None
    args: Mapping[str, Any]
    facts: Mapping[str, Any]
    first: bool
    row: str | None = None


class Cells(NamedTuple):
    """Cells as the script sees them."""

    matrix: Any
    genes: list[str]
    names: list[str]


def cases(
    folder: Path, data_dir: Path | None = None, *, token_ids: Mapping[str, int] | None = None, **changed: Any
) -> Iterator[ParityCase]:
    """Compare every recorded run.

    Parameters
    ----------
    folder
        Outputs of the official code: a folder with ``scfoundation/`` in it, or that folder itself.
    data_dir
        Mirror with the published gene list; None for ``SCMF_DATA_DIR`` or, without it, its publisher.
    token_ids
        Vocabulary to use instead of the published one.
    changed
        Options of the tokenizer that are set whatever the run says: something of this must be seen.

    Yields
    ------
    ParityCase
        One for each run; ``difference`` is the largest relative difference of a value, infinite where ids differ.

    Raises
    ------
    SourceError, ChecksumError
        The gene list cannot be had.
    """
    root = _root(folder)
    if root is None:
        return
    known = dict(token_ids) if token_ids else _published(data_dir)
    seen: set[Path] = set()
    for run in _runs(root):
        if run.path is not None:
            seen.add(run.path)
        if not _has_tokens(run):
            continue
        try:
            yield _compare(run, known, changed)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            yield _failed(run.name, f"{type(error).__name__}: {error}")
    for path in sorted((root / "out").glob("*")):
        if path not in seen:
            yield _failed(f"out/{path.name}", "no meta file says how it was made")


def notes(folder: Path) -> list[str]:
    """What was recorded and is not compared here, with the reason."""
    root = _root(folder)
    absent = [run.name for run in _runs(root) if not _has_tokens(run)] if root else []
    found = ["embeddings, gene embeddings and expression: parity of the network"] if root else []
    return found + ([f"no tokens were recorded of {', '.join(absent)}"] if absent else [])


# --- what was recorded ----------------------------------------------------------------------------------------


def _root(folder: Path) -> Path | None:
    return next((path for path in (folder / "scfoundation", folder) if any(path.glob("meta_*.json"))), None)


def _has_tokens(run: Run) -> bool:
    """Whether anything of the tokens was recorded: arrays, facts, or an error; unreadable arrays count."""
    if {"n_tokens", "T_S", "last_positions"} & set(run.facts) or run.facts.get("error") is not None:
        return True
    if run.path is None:
        return False
    try:
        with np.load(run.path, allow_pickle=False) as arrays:
            return set(arrays.files) != {"embedding"}
    except (OSError, ValueError, zipfile.BadZipFile):
        return True


def _runs(root: Path) -> Iterator[Run]:
    for meta in sorted(root.glob("meta_*.json")):
        content = json.loads(meta.read_text(encoding="utf-8"))
        if "runs" in content:
            for name, facts in content["runs"].items():
                path, cells = root / "out" / f"{name}.npz", root / "input" / Path(facts["args"]["data_path"]).name
                yield Run(f"tokens/{name}", _there(path), _there(cells), facts["args"], facts, first=False)
        else:
            for key, facts in content.items():
                case, _, option = key.partition("|")
                path = root / "out" / (f"adv_{case}__{option}.npz" if option else f"adv_{case}.npz")
                cells = root / "input" / "adv" / f"{case}.h5ad"
                row = None if cells.is_file() else case
                cells = cells if cells.is_file() else root / "input" / "adversarial.h5ad"
                args = {"tgthighres": option} if _DEPTH.fullmatch(option) else {"output_type": option or "cell"}
                args = {"pool_type": option} if option in (_IGNORED["pool_type"] or ()) else args
                yield Run(
                    f"tokens/adversarial/{key.replace('|', '.')}",
                    _there(path),
                    _there(cells),
                    args,
                    facts,
                    first=True,
                    row=row,
                )


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _read_cells(path: Path) -> Cells:
    """Cells of a file as the script reads it: symbols from ``gene_name`` of an h5ad file, else the names of columns."""
    import pandas as pd

    if path.suffix == ".h5ad":
        import anndata

        cells = anndata.read_h5ad(path)
        genes = cells.var.get("gene_name", cells.var_names)
        return Cells(cells.X, [str(gene) for gene in genes], cells.obs_names.astype(str).tolist())
    if path.suffix == ".npy":
        matrix = np.load(path)
        return Cells(matrix, [str(i) for i in range(matrix.shape[1])], [str(i) for i in range(len(matrix))])
    if path.suffix != ".csv":
        raise ValueError(f"cells in {path.suffix} are not understood")
    table = pd.read_csv(path, index_col=0)
    return Cells(table.to_numpy(), [str(gene) for gene in table.columns], [str(cell) for cell in table.index])


def _cells_of(run: Run) -> Cells:
    if run.input is None:
        raise ValueError("the cells are not there")
    cells = _read_cells(run.input)
    if run.row is not None:
        at = cells.names.index(run.row)
        return Cells(cells.matrix[[at]], cells.genes, [run.row])
    if run.args.get("demo"):
        return Cells(cells.matrix[:10], cells.genes, cells.names[:10])
    return cells


# --- ours -----------------------------------------------------------------------------------------------------


def _encode(run: Run, known: Mapping[str, int], changed: Mapping[str, Any], *, empty: Empty = "keep") -> EncodedCells:
    """The cells of a run as the match_official tokenizer gives them."""
    args = dict(run.args)
    input_type, normalized = args.pop("input_type", "singlecell"), args.pop("pre_normalized", "F")
    depth = args.pop("tgthighres", "t4")
    args.pop("data_path", None)
    args.pop("demo", None)
    for key, value in args.items():
        if key not in _IGNORED or value not in (_IGNORED[key] or (value,)):
            raise ValueError(f"argument {key}={value!r} is not understood")
    if input_type not in ("singlecell", "bulk") or normalized not in ("F", "T", "A") or not _DEPTH.fullmatch(depth):
        raise ValueError(f"arguments {input_type}, {normalized}, {depth} are not understood")
    cells, totals = _cells_of(run), None
    matrix, genes = cells.matrix, cells.genes
    options: dict[str, Any] = {"transform": "log1p_10k" if normalized == "F" else "as_given", "target_depth": depth}
    if normalized == "A":
        matrix = matrix.tocsc() if hasattr(matrix, "tocsc") else matrix
        last = matrix[:, [matrix.shape[1] - 1]]
        totals = np.asarray(last.toarray() if hasattr(last, "toarray") else last).ravel()
        matrix, genes = matrix[:, :-1], genes[:-1]
    if input_type == "bulk":
        if normalized == "A":
            raise ValueError("bulk samples with totals behind are not understood")
        options |= {
            "target_depth": "f1",
            "depth_of": "values",
            "depth_scale": "log10" if normalized == "F" else "linear",
        }
        if normalized == "F":
            options["target_sum"] = _median_total(known, matrix, genes)
    return _tokenizer(known, options | dict(changed)).encode_cells(matrix, genes, n_counts=totals, empty=empty)


def _tokenizer(known: Mapping[str, int], options: Mapping[str, Any]) -> ContinuousTokenizer:
    given: dict[str, Any] = {
        "max_length": 1_000_000,
        "depth_tokens": True,
        "order": "vocabulary",
        "match_official": True,
    }
    return ContinuousTokenizer.from_tables(known, **(given | dict(options)))


def _median_total(known: Mapping[str, int], matrix: Any, genes: list[str]) -> float:
    """Median of the totals above 0, which bulk samples are scaled to: a total is S of values as they are."""
    options = {"transform": "as_given", "depth_of": "values", "depth_scale": "linear", "target_depth": "f1"}
    totals = _tokenizer(known, options).encode_cells(matrix, genes, empty="keep").cells["depth"][:, 1]
    return float(np.median(totals[totals > 0]))


# --- the comparison -------------------------------------------------------------------------------------------


def _compare(run: Run, known: Mapping[str, int], changed: Mapping[str, Any]) -> ParityCase:
    if unknown := sorted(set(run.facts) - _FACTS - {"args", "seconds", "dtype", "keys"}):
        raise ValueError(f"facts {unknown} are not understood")
    died = run.facts.get("error")
    if died and run.path is None and run.facts.get("n_tokens") is None:
        try:
            _encode(run, known, changed, empty="error")
        except ValueError as error:
            return ParityCase(run.name, "cells that both refuse", True, 0.0, 0.0, str(error).splitlines()[0])
        return _failed(run.name, f"ours takes cells that the script dies of: {died}")
    ours = _encode(run, known, changed)
    if run.first:
        end = int(ours.offsets[1])
        ours = EncodedCells(
            ours.offsets[:2], {name: x[:end] for name, x in ours.columns.items()},
            {name: x[:1] for name, x in ours.cells.items()},
        )  # fmt: skip
    largest, wrong = 0.0, list[str]()
    if run.path is not None:
        with np.load(run.path, allow_pickle=False) as arrays:
            recorded = {name: arrays[name] for name in arrays.files}
        if unknown := sorted(set(recorded) - _COMPARED):
            raise ValueError(f"arrays {unknown} are not compared")
        largest, wrong = _arrays(ours, recorded, known)
    larger, more = _facts(ours, run.facts)
    largest, wrong = max(largest, larger), wrong + more
    compared = f"{ours.lengths.size} cells, {ours.columns['input_ids'].size:,} tokens"
    detail = f"the script died behind its tokens: {died.split(':')[0]}" if died else ""
    passed = not wrong and largest <= VALUES
    detail = detail if passed else "; ".join(wrong) or "values, or T and S"
    return ParityCase(run.name, compared, passed, np.inf if wrong else largest, VALUES, detail)


def _arrays(
    ours: EncodedCells, recorded: Mapping[str, np.ndarray], known: Mapping[str, int]
) -> tuple[float, list[str]]:
    """Largest relative difference of a value, and what else differs."""
    ids, values, depth = ours.columns["input_ids"], ours.columns["values"], ours.cells["depth"]
    pairs: list[Pair] = []
    wrong: list[str] = []
    if "enc_positions" in recorded:
        official, offsets = recorded["enc_positions"].ravel(), recorded.get("offsets", np.array([0, ids.size]))
        if not np.array_equal(offsets, ours.offsets):
            different = np.diff(offsets).size != ours.lengths.size or np.diff(offsets) != ours.lengths
            wrong.append(f"{np.count_nonzero(different)} cell(s) of another length")
        if not np.array_equal(official, ids):
            wrong.append("ids")
        pairs.append(("values", recorded["enc_values"].ravel(), values))
    if "gene_x" in recorded:
        dense = recorded["gene_x"].ravel()
        there = np.flatnonzero(dense > 0)
        expected = np.array([*sorted(i for name, i in known.items() if name != "<pad>")])
        expected = np.concatenate([expected, np.full(max(0, dense.size - expected.size), 103)])[there]
        if not np.array_equal(expected, ids):
            wrong.append("ids of the dense vector")
        pairs.append(("values of the dense vector", dense[there], values))
    if "T_S" in recorded:
        pairs.append(("T and S", recorded["T_S"].reshape(-1, 2), depth))
    return _differences(pairs, wrong)


def _facts(ours: EncodedCells, facts: Mapping[str, Any]) -> tuple[float, list[str]]:
    """The same for what a meta file says of the sequence of the first cell."""
    ids, pairs = ours.columns["input_ids"], list[Pair]()
    wrong: list[str] = []
    if facts.get("n_tokens", ids.size) != ids.size:
        wrong.append(f"{ids.size} tokens, official {facts['n_tokens']}")
    if "last_positions" in facts and facts["last_positions"] != ids[max(0, ids.size - 3) :].tolist():
        wrong.append(f"last ids, official {facts['last_positions']}")
    if "T_S" in facts:
        pairs.append(("T and S", np.array(facts["T_S"], float).reshape(1, 2), ours.cells["depth"]))
    return _differences(pairs, wrong)


def _differences(pairs: list[Pair], wrong: list[str]) -> tuple[float, list[str]]:
    """Largest difference of finite numbers relative to the official one; infinite and missing ones must agree."""
    largest = 0.0
    for what, official, mine in pairs:
        official, mine = official.astype(np.float32).astype(float), mine.astype(float)
        if official.shape != mine.shape or not np.array_equal(np.isfinite(official), np.isfinite(mine)):
            wrong.append(what)
            continue
        finite = np.isfinite(official)
        if not np.array_equal(official[~finite], mine[~finite], equal_nan=True):
            wrong.append(what)
        scale = np.maximum(np.abs(official[finite]), 1e-30)
        largest = max(largest, float((np.abs(official[finite] - mine[finite]) / scale).max(initial=0)))
    return largest, wrong


def _published(data_dir: Path | None) -> dict[str, int]:
    card = load_card("scfoundation")
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


def _failed(name: str, why: str) -> ParityCase:
    return ParityCase(name, "", passed=False, difference=1.0, tolerance=0.0, detail=why)
