"""Parity of the network: our tensors against those the official scFoundation code wrote.

Lives here: `cases`, which walks a folder of reference files, runs our model on the recorded tokens and weights and
compares every recorded output, and `notes`, which lists what is left out and why. Lives elsewhere: parity of tokens
(the other ``parity_*.py`` beside this file), the verdict over all cases (``scmf reproduce --tier parity``).

Layout of the folder: in ``model/`` a folder a small model (``config.json``, ``weights``, ``inputs``, ``outputs`` and
``grads_mask_mse.safetensors``), whole models as ``<name>_config.json`` with ``<name>_<key>.safetensors`` (keys
``cell``, ``rde``, ``gene`` as in the official file), tables ``<name>_shapes.json`` and ``<name>_info.json``; in
``out/`` one ``.npz`` a run of ``get_embedding.py``, whose arguments stand in ``meta_*.json``. No name of a case is
known here; a file or tensor that is not understood is a failed case.

Everything runs under ``match_official``. Differences are relative: the largest absolute difference over the largest
magnitude of the reference. Outputs of the encoder at padding hold no meaning and are left out. Biases of attention keys
have no gradient but rounding error, so a gradient is measured against its own magnitude plus a thousandth of the
largest one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scmf.core.paths import data_dir as tables_dir
from scmf.models.configuration_masked_autoencoder import MaskedAutoencoderConfig
from scmf.models.masked_autoencoder import MaskedAutoencoderModel
from scmf.results.parity import ParityCase

TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
MOST_CELLS = 60
"""Cells compared of a run, evenly spaced where it has more; each is a forward pass over some thousand tokens."""

GENE_LIST = "scfoundation_vocab/OS_scRNA_gene_index.19264.tsv"
_KNOWN_INPUTS = r"(mask\.)?(enc|dec)_(data|pos|pad|labels)|mask\.mask|x|raw"
# What a damaged, missing or unforeseen file leads to; each becomes a failed case, never an end of the walk.
_UNREADABLE = (ValueError, KeyError, IndexError, TypeError, RuntimeError, OSError, SafetensorError)


def cases(folder: Path, *, data_dir: Path | None = None) -> Iterator[ParityCase]:
    """Compare our network with every reference file below ``folder``.

    Parameters
    ----------
    folder
        The reference folder; the files lie in ``scfoundation/model`` or ``model`` below it, and in ``out`` beside that.
    data_dir
        Published tables: the gene list, for runs whose tokens were not recorded.

    Yields
    ------
    ParityCase
        One a tensor, one a file of gradients, one a run; nothing if there is no such folder.
    """
    root = _root(folder)
    if root is None:
        return
    whole = _whole_models(root / "model")
    for path in sorted((root / "model").iterdir()):
        if path.is_dir():
            yield from _Small(path, root / "model").cases()
        elif not any(path.name == f"{name}_config.json" for name in whole):
            yield from _table_or_weights(path, whole)
    for path in sorted((root / "out").glob("*")):
        yield from _Run(path, root, whole, data_dir).cases()


def notes(folder: Path) -> list[str]:
    """What lies in the reference folder and is not compared, with the reason, one line each."""
    root = _root(folder)
    if root is None:
        return []
    lines = []
    for path in sorted((root / "out").glob("*.npz")):
        run = _Run(path, root, {}, tables_dir())
        if why := run.left_out:
            lines.append(f"out/{path.name}: {why}")
        elif (n_cells := run.n_recorded) > MOST_CELLS:
            lines.append(f"out/{path.name}: {MOST_CELLS} of its {n_cells} cells are compared, evenly spaced")
    return lines


def _root(folder: Path) -> Path | None:
    return next((path for path in (folder / "scfoundation", folder) if (path / "model").is_dir()), None)


# --- small models: every tensor -----------------------------------------------------------------------


class _Small:
    """One small official model with what was recorded of it."""

    def __init__(self, folder: Path, beside: Path) -> None:
        self.folder, self.beside = folder, beside

    def cases(self) -> Iterator[ParityCase]:
        yield from _guarded(self._path("weights"), self._weights)
        for path in sorted(self.folder.iterdir()):
            if path.name == "grads_mask_mse.safetensors":
                yield from _guarded(self._path(path.stem), self._gradients, path)
            elif path.name in ("inputs.safetensors", "outputs.safetensors"):
                try:
                    tensors = load_file(path)
                except _UNREADABLE as error:
                    yield _failed(self._path(path.name), "could not be read", str(error))
                    continue
                if path.stem == "inputs":
                    yield from _guarded(self._path("inputs"), self._inputs)
                else:
                    for key, reference in sorted(tensors.items()):
                        yield from _guarded(self._path(key), self._tensor, key, reference)
            elif path.name not in ("config.json", "weights.safetensors"):
                yield _failed(self._path(path.name), "a file", "no rule reads this kind of file")

    def _path(self, part: str) -> str:
        return f"model/{self.folder.name}/{part}"

    @cached_property
    def io(self) -> dict[str, Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def model(self) -> MaskedAutoencoderModel:
        settings = json.loads((self.folder / "config.json").read_text())
        model = MaskedAutoencoderModel(MaskedAutoencoderConfig.from_official(settings, match_official=True)).eval()
        model.load_state_dict(load_file(self.folder / "weights.safetensors"))
        return model

    def _weights(self) -> ParityCase:
        return _compared_names(self._path("weights"), self.model, load_file(self.folder / "weights.safetensors"))

    def _inputs(self) -> ParityCase:
        """What the official decoder was given is what ours makes of tokens, masks and the two depths."""
        unknown = sorted(key for key in self.io if not re.fullmatch(_KNOWN_INPUTS, key))
        if unknown:
            return _failed(self._path("inputs"), "tensors", f"not understood: {', '.join(unknown)}")
        wrong = 0
        for kind in ("", "mask."):
            if f"{kind}dec_data" not in self.io:
                continue
            seen_BL, data_BV = ~self.io[f"{kind}enc_pad"], self.io[f"{kind}dec_data"]
            for row, ids_L, values_L, real_L in zip(
                data_BV, self.io[f"{kind}enc_pos"], self.io[f"{kind}enc_data"], seen_BL, strict=True
            ):
                ours_V = torch.zeros_like(row)
                ours_V[-2:] = row[-2:]
                ours_V[ids_L[real_L]] = values_L[real_L]
                ours_V[row == self.model.config.mask_value] = self.model.config.mask_value
                wrong += int((ours_V != row).sum())
            places = self.io.get(f"{kind}dec_pos")
            wrong += 0 if places is None else int((places != torch.arange(data_BV.shape[1])).sum())
        return _judged(self._path("inputs"), f"{len(self.io)} tensors of the decoder's input", wrong, 0)

    def _batch(self, kind: str = "", rows: slice = slice(None)) -> dict[str, Any]:
        """Tokens of ``rows``, padded no further than needed for one row."""
        ids, values, padding = (self.io[f"{kind}enc_{name}"][rows] for name in ("pos", "data", "pad"))
        if len(ids) == 1:
            ids, values, padding = ids[~padding][None], values[~padding][None], padding[~padding][None]
        depth = self.io["dec_data"][rows, -2:]
        return {"input_ids": ids, "attention_mask": (~padding).long(), "values": values, "depth": depth}

    def _targets(self) -> dict[str, Any]:
        mask_BV, true_BV = self.io["mask.mask"], self.io["x"]
        shape = (len(mask_BV), int(mask_BV.sum(1).max()))
        ids, values = torch.full(shape, -100), torch.zeros(shape)
        hidden = torch.zeros(shape, dtype=torch.bool)
        for row, masked in enumerate(mask_BV):
            places = masked.nonzero().flatten()
            ids[row, : len(places)], values[row, : len(places)] = places, true_BV[row, places]
            hidden[row, : len(places)] = self.io["mask.dec_data"][row, places] == self.model.config.mask_value
        return {"target_ids": ids, "target_values": values, "target_hidden": hidden}

    def _gradients(self, path: Path) -> ParityCase:
        reference = load_file(path)
        self.model.zero_grad()
        self.model(**self._batch("mask."), **self._targets()).loss.backward()
        ours = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        name = self._path(path.stem)
        if ours.keys() != reference.keys():
            return _failed(name, "names of gradients", str(sorted(ours.keys() ^ reference.keys())))
        floor = 1e-3 * max(float(g.abs().max()) for g in reference.values())
        relative = {
            key: float((ours[key] - g).abs().max()) / (float(g.abs().max()) + floor) for key, g in reference.items()
        }
        worst = max(relative, key=lambda key: relative[key])
        return _judged(name, f"{len(ours)} gradients", relative[worst], GRADIENT_TOLERANCE, f"largest at {worst}")

    def _tensor(self, key: str, reference: Tensor) -> ParityCase:
        """Compute ours by the name of the tensor, compare."""
        kind, _, what = key.partition(".")
        if (kind, what) == ("mask", "mse_masked"):
            ours = self.model(**self._batch("mask."), **self._targets()).loss.detach().reshape(reference.shape)
            return _compared(self._path(key), ours, reference)
        if (kind, what) == ("mask", "recon"):
            return _compared(self._path(key), self._decoded("mask.", what, **self._targets()), reference)
        if kind == "single":
            rows = [self._output(what, slice(row, row + 1)) for row in range(len(reference))]
            return _compared(self._path(key), torch.cat(rows), reference)
        if kind in ("grad", "nograd"):
            with torch.set_grad_enabled(kind == "grad"):
                ours = self._output(what).detach()
            real = ~self.io["enc_pad"] if what == "enc_hidden" else None
            return _compared(self._path(key), ours, reference, real=real)
        return _failed(self._path(key), f"tensor {tuple(reference.shape)}", "no rule computes a tensor of this name")

    def _output(self, what: str, rows: slice = slice(None)) -> Tensor:
        model, batch = self.model, self._batch(rows=rows)
        if pooling := {"cell_all": "all", "cell_max": "max"}.get(what):
            return model.embed(**batch, pooling=pooling)
        values, real = batch["values"], batch["attention_mask"].bool()
        if what == "bin_weight":
            return model.token_emb.weights(values)
        if what == "token_emb":
            special = model.config
            return model.token_emb(values, masked=values == special.mask_value, padding=values == special.pad_value)
        if what == "enc_hidden":
            return model.encode(batch["input_ids"], real, values)
        if what in ("gene_emb", "recon"):
            return self._decoded("", what, rows=rows)
        raise KeyError(f"no rule computes a tensor named {what}")

    def _decoded(self, kind: str, what: str, *, rows: slice = slice(None), **targets: Tensor) -> Tensor:
        batch = self._batch(kind, rows)
        real = batch["attention_mask"].bool()
        x_BLD = self.model.encode(batch["input_ids"], real, batch["values"])
        targets.pop("target_values", None)
        y_BVD = self.model.decode(x_BLD, batch["input_ids"], real, depth=batch["depth"], **targets)
        return (y_BVD if what == "gene_emb" else self.model.to_final(y_BVD).squeeze(-1)).detach()


# --- whole models: names of tensors, runs of get_embedding.py ------------------------------------------


def _whole_models(folder: Path) -> dict[str, Path]:
    """Name -> configuration file."""
    return {path.name.removesuffix("_config.json"): path for path in folder.glob("*_config.json")}


def _table_or_weights(path: Path, whole: dict[str, Path]) -> Iterator[ParityCase]:
    """One file of ``model/`` that is no folder and no configuration."""
    case = f"model/{path.stem}"
    if path.name.endswith("_info.json"):
        yield from _guarded_all(case, _infos, path)
    elif path.name.endswith("_shapes.json"):
        yield from _guarded(case, _shapes, path, whole)
    elif path.suffix == ".safetensors" and (owner := _owner(path, whole)):
        yield from _guarded(case, _whole_weights, path, whole[owner])
    else:
        yield _failed(case, "a file", f"belongs to no model of {sorted(whole)}")


def _owner(path: Path, whole: dict[str, Path]) -> str | None:
    return next((name for name in whole if path.name.startswith(f"{name}_")), None)


def _shapes(path: Path, whole: dict[str, Path]) -> ParityCase:
    """Names and shapes of all tensors; without a configuration beside it a table is that of the released one."""
    name = path.name.removesuffix("_shapes.json")
    config = _official_config(whole[name]) if name in whole else MaskedAutoencoderConfig()
    with torch.device("meta"):
        model = MaskedAutoencoderModel(config)
    reference = {key: torch.empty(shape, device="meta") for key, shape in json.loads(path.read_text()).items()}
    return _compared_names(f"model/{path.stem}", model, reference)


def _whole_weights(path: Path, config: Path) -> ParityCase:
    return _compared_names(f"model/{path.stem}", _loaded(config, path), load_file(path))


def _infos(path: Path) -> Iterator[ParityCase]:
    """Facts about small models: parameters and the loss, each where the folder of the model is there."""
    for name, facts in json.loads(path.read_text()).items():
        folder = path.parent / name
        if not folder.is_dir():
            continue
        small = _Small(folder, path.parent)
        n_parameters = sum(p.numel() for p in small.model.parameters())
        yield _judged(
            f"model/{name}/n_params", f"{facts['n_params']:,} parameters", n_parameters - facts["n_params"], 0
        )


def _official_config(path: Path) -> MaskedAutoencoderConfig:
    return MaskedAutoencoderConfig.from_official(json.loads(path.read_text()), match_official=True)


@cache
def _loaded(config: Path, weights: Path) -> MaskedAutoencoderModel:
    model = MaskedAutoencoderModel(_official_config(config)).eval()
    model.load_state_dict(load_file(weights))
    return model


class _Cell(NamedTuple):
    ids: Tensor
    values: Tensor


class _Run:
    """One run of the official ``get_embedding.py``."""

    def __init__(self, path: Path, root: Path, whole: dict[str, Path], data_dir: Path | None) -> None:
        self.path, self.root, self.whole, self.data_dir = path, root, whole, data_dir

    def cases(self) -> Iterator[ParityCase]:
        case = f"out/{self.path.stem}"
        if self.path.suffix != ".npz":
            yield _failed(case, "a file", "no rule reads this kind of file")
        elif not self.left_out:
            yield from _guarded(case, self._compare)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path) as file:
            return dict(file)

    @cached_property
    def facts(self) -> tuple[dict[str, str], str | None]:
        """Arguments of the run and the error it ended with."""
        name = self.path.stem
        for file in sorted(self.root.glob("meta_*.json")):
            table = json.loads(file.read_text())
            if name in table.get("runs", {}):
                return table["runs"][name]["args"], table["runs"][name]["error"]
            entry, _, change = name.removeprefix("adv_").partition("__")
            key = f"{entry}|{change}" if change else entry
            if name.startswith("adv_") and key in table:
                changed = {"gene": {"output_type": "gene"}, "max": {"pool_type": "max"}}.get(change, {})
                return _DEFAULTS | changed | ({"tgthighres": change} if change[:1] in "tfa" else {}), table[key][
                    "error"
                ]
        raise KeyError(f"no meta_*.json tells the arguments of {name}")

    @property
    def left_out(self) -> str | None:
        """Why there is nothing to compare, or None."""
        try:
            arguments, error = self.facts
            if error is not None and "embedding" not in self.arrays:
                return f"the official code died ({error}), so there is no output"
            if "enc_values" not in self.arrays and self._sibling is None and self.data_dir is None:
                return "its tokens were not recorded, and the gene list (SCMF_DATA_DIR) is not there to make them"
        except _UNREADABLE:
            return None  # told by the case
        return None

    @property
    def n_recorded(self) -> int:
        """Cells whose tokens were recorded in this run."""
        try:
            return len(self.arrays["offsets"]) - 1 if "offsets" in self.arrays else 0
        except _UNREADABLE:
            return 0  # told by the case

    def _compare(self) -> ParityCase:
        arguments, _ = self.facts
        output = arguments["output_type"]
        key = {"cell": {"ce": "cell"}.get(arguments.get("version", "ce"), arguments.get("version"))}.get(output, "gene")
        found = [p for name in self.whole for p in (self.root / "model").glob(f"{name}_{key}.safetensors")]
        if len(found) != 1:
            return _failed(f"out/{self.path.stem}", "a run", f"{len(found)} weight files for key {key!r}")
        model = _loaded(self.whole[_owner(found[0], self.whole) or ""], found[0])
        reference = torch.from_numpy(self.arrays["embedding"])
        cells = self.cells(model.config)
        one = 1 if output == "cell" else 2 if output in ("gene", "gene_batch") else 1
        reference = reference[None] if reference.ndim == one else reference
        n_official = len(reference)
        # Of runs that recorded the tokens of one cell, that is the first one.
        reference = reference[: len(cells)]
        rows = np.unique(np.linspace(0, len(cells) - 1, min(len(cells), MOST_CELLS)).astype(int))
        detail = "" if len(rows) == n_official else f"{len(rows)} of {n_official} cells"
        if output == "gene_batch":
            ours = _genes_together(model, cells)
        else:
            ours = torch.cat([_one(model, cells[row], output, arguments.get("pool_type", "all")) for row in rows])
            reference = reference[rows]
        return _compared(f"out/{self.path.stem}", ours, reference, detail=detail)

    def cells(self, config: MaskedAutoencoderConfig) -> list[_Cell]:
        """Tokens of each cell: recorded here, or in a run on the same cells, or by our tokenizer."""
        arrays = self.arrays if "enc_values" in self.arrays else self._sibling
        if arrays is None:
            return self._tokenized()
        values, ids = torch.from_numpy(arrays["enc_values"]).float(), torch.from_numpy(arrays["enc_positions"]).long()
        if "offsets" not in arrays:
            return [_Cell(*row) for row in zip(ids, values, strict=True)]
        ends = arrays["offsets"].tolist()
        return [_Cell(ids[start:end], values[start:end]) for start, end in zip(ends, ends[1:], strict=False)]

    @cached_property
    def _sibling(self) -> dict[str, np.ndarray] | None:
        """A run on the same cells with the same depth tokens, whose tokens were recorded."""
        same = ("data_path", "input_type", "pre_normalized", "tgthighres")
        mine, _ = self.facts
        for path in sorted(self.path.parent.glob("*.npz")) if "data_path" in mine else ():
            other = _Run(path, self.root, self.whole, self.data_dir)
            try:
                alike = all(other.facts[0].get(name) == mine.get(name) for name in same)
            except _UNREADABLE:
                continue
            if alike and "enc_values" in other.arrays:
                return other.arrays
        return None

    def _tokenized(self) -> list[_Cell]:
        from scmf.data.genes.vocabulary import read_tokens
        from scmf.tokenizers.continuous import ContinuousTokenizer

        arguments, _ = self.facts
        assert self.data_dir is not None
        if arguments["input_type"] != "singlecell":
            raise ValueError("tokens of bulk samples can only be taken from the recorded ones")
        tokens = read_tokens(self.data_dir / GENE_LIST)
        counts, genes = _matrix(self.root / "input" / Path(arguments["data_path"]).name, tokens)
        kind = arguments["pre_normalized"]
        options: dict[str, Any] = {"transform": "log1p_10k" if kind == "F" else "as_given"}
        totals = None
        if kind == "A":
            counts, totals = counts[:, :-1], counts[:, -1]
            genes = genes[: counts.shape[1]]
        elif kind == "T":
            options["depth_of"] = "values"
        tokenizer = ContinuousTokenizer.from_tables(
            tokens, max_length=len(tokens), match_official=True, depth_tokens=True,
            target_depth=arguments["tgthighres"],
            order="vocabulary", **options,
        )  # fmt: skip
        encoded = tokenizer.encode_cells(counts, genes, n_counts=totals)
        ids = torch.from_numpy(encoded.columns["input_ids"]).long()
        values = torch.from_numpy(encoded.columns["values"])
        ends = encoded.offsets.tolist()
        return [_Cell(ids[start:end], values[start:end]) for start, end in zip(ends, ends[1:], strict=False)]


_DEFAULTS = {"input_type": "singlecell", "output_type": "cell", "pool_type": "all", "version": "ce", "tgthighres": "t4"}
"""Arguments of the adversarial runs, but for what their name changes."""


def _matrix(path: Path, tokens: dict[str, int]) -> tuple[Any, list[str]]:
    """Cells x genes of an input file and the names of its columns; an array without names is in the official order."""
    if path.suffix == ".npy":
        return np.load(path), sorted(tokens, key=tokens.__getitem__)
    if path.suffix == ".csv":
        import pandas as pd

        table = pd.read_csv(path, index_col=0)
        return table.to_numpy(), [str(name) for name in table.columns]
    import anndata

    cells = anndata.read_h5ad(path)
    return cells.X, [str(name) for name in cells.var_names]


def _one(model: MaskedAutoencoderModel, cell: _Cell, output: str, pooling: str) -> Tensor:
    """One cell alone, as ``get_embedding.py`` does it."""
    batch: dict[str, Any] = {"input_ids": cell.ids[None], "values": cell.values[None]}
    if output == "cell":
        return model.embed(**batch, pooling=pooling)
    if output == "gene":
        return model.gene_embeddings(**batch)
    if output == "gene_expression":
        return model.gene_expression(**batch)
    raise KeyError(f"no rule computes the output {output!r}")


def _genes_together(model: MaskedAutoencoderModel, cells: list[_Cell]) -> Tensor:
    """All cells in one batch: under ``match_official`` they share the key maximum."""
    shape = (len(cells), max(len(cell.ids) for cell in cells))
    ids, values = torch.full(shape, model.config.pad_token_id or 0), torch.full(shape, float(model.config.pad_value))
    for row, cell in enumerate(cells):
        ids[row, : len(cell.ids)], values[row, : len(cell.ids)] = cell
    return model.gene_embeddings(ids, values != model.config.pad_value, values)


# --- comparing -------------------------------------------------------------------------------------------


def _guarded(name: str, rule: Callable[..., ParityCase], *arguments: Any) -> Iterator[ParityCase]:
    try:
        yield rule(*arguments)
    except _UNREADABLE as error:
        yield _failed(name, "could not be compared", f"{type(error).__name__}: {error}")


def _guarded_all(name: str, rule: Callable[..., Iterator[ParityCase]], *arguments: Any) -> Iterator[ParityCase]:
    try:
        yield from rule(*arguments)
    except _UNREADABLE as error:
        yield _failed(name, "could not be compared", f"{type(error).__name__}: {error}")


def _failed(name: str, compared: str, why: str) -> ParityCase:
    return ParityCase(name, compared, passed=False, difference=1.0, tolerance=0.0, detail=why)


def _judged(name: str, compared: str, difference: float, tolerance: float, detail: str = "") -> ParityCase:
    if difference != difference:
        return _failed(name, compared, f"{detail} not a number".strip())
    return ParityCase(name, compared, abs(difference) <= tolerance, abs(difference), tolerance, detail)


def _compared_names(name: str, model: MaskedAutoencoderModel, reference: dict[str, Tensor]) -> ParityCase:
    ours = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    theirs = {key: tuple(tensor.shape) for key, tensor in reference.items()}
    wrong = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
    return _judged(name, f"names and shapes of {len(theirs)} tensors", len(wrong), 0, ", ".join(wrong[:3]))


def _compared(
    name: str, ours: Tensor, reference: Tensor, *, real: Tensor | None = None, detail: str = ""
) -> ParityCase:
    """Compare two tensors at real positions."""
    compared = f"tensor {tuple(reference.shape)}"
    if ours.shape != reference.shape:
        return _failed(name, compared, f"ours has shape {tuple(ours.shape)}")
    if real is not None:
        ours, reference = ours[real], reference[real]
    scale = float(reference.abs().max()) or 1.0
    return _judged(name, compared, float((ours - reference).abs().max()) / scale, TOLERANCE, detail)
