"""Parity of in-silico perturbation: our cosines and shifts against those that the official ``InSilicoPerturber`` wrote.

Lives here: `cases`, which takes the recorded cells, genes and weights, perturbs as `scmf perturb` does and compares
every number. Lives elsewhere: parity of the network (parity_model), the maths (scmf.evaluation.in_silico).

Layout of the folder: ``<name>.in_silico_perturbation.json`` beside ``<name>_model/`` or ``<name>/``, its
``io.safetensors`` (cells, vectors of the states) and ``token_dictionary.pkl``. The file holds one object a run,
``<kind>.<genes>.<goal|nogoal>``, with the content of the official pickles. It does not say which cells it had: those of
a run over all genes are known by their genes, and the other runs had the same.

Differences are absolute: of a cosine, or of a difference of two, in float32.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from scmf.core.errors import ScmfError
from scmf.data.genes.vocabulary import read_tokens
from scmf.data.stores.ragged import Ragged, offsets_of
from scmf.evaluation.in_silico.edits import Frame, RankEditor
from scmf.evaluation.in_silico.plan import Targets
from scmf.evaluation.in_silico.shifts import Measure, Shifts, measure
from scmf.models.configuration_transformer_encoder import TransformerEncoderConfig
from scmf.models.transformer_encoder import TransformerEncoderForMaskedLM
from scmf.results.parity import ParityCase

TOLERANCE = 1e-6
SUFFIX = ".in_silico_perturbation.json"

_RUN = re.compile(r"(delete|overexpress)\.\w+\.(goal|nogoal)")
_PICKLE = re.compile(r"_(\d+)batch(-?\d+)_raw")
_UNREADABLE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    SyntaxError,
    RuntimeError,
    OSError,
    SafetensorError,
    ScmfError,
)
_Values = Mapping[str, Mapping[tuple[int, ...], list[float]]]
"""State (empty without states) -> genes -> value of each cell."""


def cases(folder: Path, *, data_dir: Path | None = None) -> Iterator[ParityCase]:
    """Compare every recorded run of the official perturber.

    Parameters
    ----------
    folder
        The reference folder; the files lie in ``geneformer/model`` or ``model`` below it.
    data_dir
        Not used; other walks need published tables.

    Yields
    ------
    ParityCase
        One a run; nothing if there is no such folder or file.
    """
    root = next((path for path in (folder / "geneformer" / "model", folder / "model") if path.is_dir()), None)
    for path in sorted(root.glob(f"*{SUFFIX}")) if root is not None else ():
        name = path.name.removesuffix(SUFFIX)
        try:
            runs = json.loads(path.read_text())
            recorded = _Recorded(path.parent, name, runs)
            if not runs:
                raise ValueError("no run in it")
        except _UNREADABLE as error:
            yield _failed(f"perturbation/{name}", f"could not be read: {type(error).__name__}: {error}")
            continue
        for run in sorted(runs):
            try:
                yield recorded.compared(run)
            except _UNREADABLE as error:
                yield _failed(f"perturbation/{name}/{run}", f"could not be compared: {type(error).__name__}: {error}")


class _Recorded:
    """The official model, its cells and what was recorded."""

    def __init__(self, root: Path, name: str, runs: dict[str, Any]) -> None:
        self.name, self.runs = name, runs
        folder = next((path for path in (root / f"{name}_model", root / name) if path.is_dir()), None)
        if folder is None:
            raise ValueError("no model folder of this name")
        beside = {kind: path for kind in ("io.safetensors", "token_dictionary.pkl")
                  for path in (root / f"{name}.{kind}", folder / kind) if path.is_file()}  # fmt: skip
        tokens = read_tokens(beside["token_dictionary.pkl"]) if "token_dictionary.pkl" in beside else {}
        self.cls, self.eos = tokens.get("<cls>"), tokens.get("<eos>")
        settings = json.loads((folder / "config.json").read_text())
        for key in ("model_type", "architectures", "transformers_version", "torch_dtype", "output_hidden_states"):
            settings.pop(key, None)
        config = TransformerEncoderConfig(**settings, cls_token_id=self.cls, eos_token_id=self.eos)
        self.model = TransformerEncoderForMaskedLM.from_pretrained(folder, config=config).eval()
        io = load_file(beside["io.safetensors"])
        ids, lengths = io["input_ids"].numpy(), io["attention_mask"].sum(1).numpy()
        self.cells = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        self.states = {key.removeprefix("state_embs."): io[key].numpy() for key in io if key.startswith("state_embs.")}

    def compared(self, run: str) -> ParityCase:
        kind, goal = self._parts(run)
        official = _by_genes(self.runs[run]["out"])
        genes = self.runs[run]["genes"]
        rows = self._cells_of(goal)
        vocabulary = sorted({int(token) for row in rows for token in self._genes(row)})
        every = genes == "all"
        targets = Targets(tuple((token,) for token in vocabulary) if every else (tuple(map(int, genes)),), every=every)
        specials = tuple(token for token in (self.cls, self.eos) if token is not None)
        frame = Frame(self.model.config.max_position_embeddings, *((1, 1) if specials else (0, 0)))
        cells = [self.cells[row] for row in rows]
        tokens = Ragged(offsets_of(np.array([len(c) for c in cells])), {"input_ids": np.concatenate(cells)})
        editor = RankEditor(tokens, targets, kind, frame, match_official=True)  # type: ignore[arg-type]
        how = Measure(-1, "cls" if specials else "cell", by_gene=not specials, special_ids=specials)
        states = self.states if goal else {}
        ours = _as_recorded(measure(self.model, editor, editor.plan(), targets, how, states=states), targets)
        return _judged(f"perturbation/{self.name}/{run}", ours, official)

    def _parts(self, run: str) -> tuple[str, bool]:
        found = _RUN.fullmatch(run)
        if found is None:
            raise ValueError(f"run {run!r} is of no known kind")
        return found[1], found[2] == "goal"

    def _genes(self, row: int) -> np.ndarray:
        ids = self.cells[row]
        return ids[~np.isin(ids, [token for token in (self.cls, self.eos) if token is not None])]

    def _cells_of(self, goal: bool) -> list[int]:
        """Rows of the cells that the runs with a goal, or without, had, in their order."""
        for run in sorted(self.runs):
            kind, has_goal = self._parts(run)
            if self.runs[run]["genes"] != "all" or has_goal != goal:
                continue
            skipped = 1 if kind == "overexpress" else 0  # the first gene stands in front already
            genes = [self._genes(row)[skipped:].tolist() for row in range(len(self.cells))]
            return [genes.index(mine) for mine in _cells_in(self.runs[run]["out"])]
        raise ValueError(f"no run over all genes {'with' if goal else 'without'} a goal, which would tell the cells")


def _states_of(pickle: Mapping[str, Any]) -> Mapping[str, Mapping[str, list[float]]]:
    """State -> key -> values of one official pickle; the state is empty where there is none."""
    return pickle if any(isinstance(value, dict) for value in pickle.values()) else {"": pickle}


def _token_of(key: str) -> tuple[int, ...]:
    tokens, kind = ast.literal_eval(key)
    if kind != "cell_emb":
        raise ValueError(f"shift of {kind!r}, which is no cell")
    return tuple(tokens) if isinstance(tokens, tuple) else (int(tokens),)


def _in_order(out: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Cell and name of each pickle, as they were written."""
    named = {name: _PICKLE.search(name) for name in out}
    return [
        (int(found[1]) if found else 0, name)
        for name, found in sorted(named.items(), key=lambda one: (int(one[1][1]), int(one[1][2])) if one[1] else (0, 0))
    ]


def _cells_in(out: Mapping[str, Any]) -> list[list[int]]:
    """Genes of each cell of a run over all genes, in their order."""
    cells: dict[int, list[int]] = {}
    for cell, name in _in_order(out):
        first = next(iter(_states_of(out[name]).values()))
        cells.setdefault(cell, []).extend(token for key in first for token in _token_of(key))
    return [cells[cell] for cell in sorted(cells)]


def _by_genes(out: Mapping[str, Any]) -> _Values:
    """All pickles of a run put together."""
    found: dict[str, dict[tuple[int, ...], list[float]]] = {}
    for _, name in _in_order(out):
        for state, values in _states_of(out[name]).items():
            for key, numbers in values.items():
                found.setdefault(state, {}).setdefault(_token_of(key), []).extend(numbers)
    return found


def _as_recorded(shifts: Shifts, targets: Targets) -> _Values:
    """Our numbers in the form of the official ones."""
    columns = dict(zip(shifts.states, shifts.shift_ES.T, strict=True)) or {"": shifts.cosine_E}
    found: dict[str, dict[tuple[int, ...], list[float]]] = {}
    for state, values in columns.items():
        for target, value in zip(shifts.target_E, values, strict=True):
            found.setdefault(state, {}).setdefault(targets.tokens[target], []).append(float(value))
    return found


def _judged(name: str, ours: _Values, official: _Values) -> ParityCase:
    """The largest difference over all states, genes and cells."""
    if {state: sorted(genes) for state, genes in ours.items()} != {s: sorted(g) for s, g in official.items()}:
        return _failed(name, f"ours has states {sorted(ours)} and other genes than the official {sorted(official)}")
    pairs = [(ours[state][genes], values) for state, table in official.items() for genes, values in table.items()]
    if any(len(mine) != len(values) for mine, values in pairs):
        return _failed(name, "another number of cells")
    mine, theirs = (np.concatenate([np.asarray(pair[side], float) for pair in pairs]) for side in (0, 1))
    largest = float(np.abs(mine - theirs).max())
    what = "shifts" if list(official) != [""] else "cosines"
    return ParityCase(name, f"{len(mine)} {what}", largest <= TOLERANCE, largest, TOLERANCE)


def _failed(name: str, why: str) -> ParityCase:
    return ParityCase(name, "cosines and shifts", passed=False, difference=1.0, tolerance=0.0, detail=why)
