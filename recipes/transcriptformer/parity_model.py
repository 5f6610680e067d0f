"""Parity of the network: our tensors against those the official TranscriptFormer code wrote.

Lives here: `cases`, which walks a folder of reference files, runs our model (``match_official``) on the recorded inputs
and weights and compares every recorded output, and `notes`, which lists what is left out and why. Lives elsewhere:
parity of tokens (``parity_tokens.py``), the verdict over all cases (``scmf reproduce --tier parity``).

Layout of the folder: ``model/<variant>/`` with ``config.json`` (whole, or what it changes), ``weights.safetensors``
(else those of the variant that has some), ``outputs.safetensors`` and ``grads_<loss>.safetensors``; inputs and
``cge.npz``, ``esm2ce.npz`` beside the variants; ``out/cli/<input>_<what>.h5ad``, end to end from ``input/*.h5ad`` with
the official checkpoint that lies in the folder. No name of a case is known here; a file or tensor that is not
understood is a failed case.

Differences are relative: the largest absolute difference over the largest magnitude of the reference tensor. Positions
of padding hold no meaning and are left out. NaN must be NaN. What is added to all genes alike has no gradient but
rounding error, so a gradient is measured against its own magnitude plus a thousandth of the largest gradient.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoModel

from scmf.core.errors import ScmfError
from scmf.models.autoregressive_transformer import END, IGNORED, next_genes, sample_counts
from scmf.models.published import transcriptformer as convert
from scmf.models.published.pull import pull
from scmf.results.parity import ParityCase
from scmf.tokenizers.continuous import ContinuousTokenizer

TOLERANCE = 1e-5
MU_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-4

SAMPLED_RATES = (0.1, 0.5, 1.0, 3.0, 10.0, 29.0)
"""Rates that counts were drawn with for ``sample_ztp_seed<n>``; they were not recorded with the draws."""

OUT_OF_SCOPE = {
    "model/info.json": "describes the run; the tensors it speaks of are compared where they were recorded",
    "model/surgery": "the vectors of the other species were not recorded; `--genes` is tested by itself",
}

_UNREADABLE = (ValueError, KeyError, IndexError, RuntimeError, OSError, TypeError, SafetensorError, ScmfError)
_Ours = tuple[Tensor, Tensor | None]  # our tensor, and which positions are real (None: all)


def cases(folder: Path, *, data_dir: Path | None = None) -> Iterator[ParityCase]:
    """Compare our network with every reference file below ``folder``: one case a tensor, a file of gradients, a table.

    Parameters
    ----------
    folder
        The reference folder, or the folder ``transcriptformer`` in it; without such a folder there is no case.
    data_dir
        Published tables, which other parity walks need; the network needs none.
    """
    root = _root(folder)
    if root is None:
        return
    model = root / "model"
    weights = next(iter(sorted(model.glob("*/weights.safetensors"))), None)
    for path in sorted(model.glob("*")):
        if path.relative_to(root).as_posix() in OUT_OF_SCOPE or path.name == "inputs.safetensors":
            continue
        if weights is None:
            yield _failed(f"model/{path.name}", "could not be compared", "no variant has weights.safetensors")
        elif path.is_dir():
            yield from _Variant(path, weights).cases()
        else:
            yield from _guarded(f"model/{path.name}", _table, path, _Variant(weights.parent, weights))
    checkpoint = next(iter(sorted(path.parent for path in root.glob("*/model_weights.pt"))), None)
    for path in sorted((root / "out" / "cli").glob("*")):
        yield from _guarded(f"cli/{path.name}", _cli, root, path, checkpoint)


def notes(folder: Path) -> list[str]:
    """What lies in the reference folder and is not compared, with the reason, one line each."""
    root = _root(folder)
    return [] if root is None else [f"{name}: {why}" for name, why in OUT_OF_SCOPE.items() if (root / name).exists()]


def _root(folder: Path) -> Path | None:
    return next((path for path in (folder / "transcriptformer", folder) if (path / "model").is_dir()), None)


class _Variant:
    """One official model with what was recorded of it."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder, self.base = folder, weights.parent
        self._outs: dict[str, Any] = {}
        self.weights = own if (own := folder / weights.name).is_file() else weights

    def cases(self) -> Iterator[ParityCase]:
        """Every file of the folder."""
        for path in sorted(self.folder.iterdir()):
            name = f"model/{self.folder.name}/{path.name}"
            if path.name == "outputs.safetensors":
                yield from self._outputs(path)
            elif path.name.startswith("grads_"):
                yield from _guarded(name, self._gradients, path)
            elif path.name == self.weights.name:
                yield from _guarded(name, self._names)
            elif path.name not in ("config.json", "inputs.safetensors"):
                yield _failed(name, "a file", "no rule reads this kind of file")

    # --- what was recorded ---

    @cached_property
    def official(self) -> dict[str, Any]:
        """The configuration of the variant that has the weights, with what this one changes."""
        whole = json.loads((self.base / "config.json").read_text(encoding="utf-8"))
        own = self.folder / "config.json"
        changes = json.loads(own.read_text(encoding="utf-8")) if self.folder != self.base and own.is_file() else {}
        sections = ("model_config", "loss_config")
        for section in sections:
            whole[section] |= changes.pop(section, {})
        for key, value in changes.items():
            known = [(section, name) for section in sections for name in whole[section] if key in name]
            if key in whole or key == "note":
                whole[key] = value
            elif len(known) == 1:  # a part of the name is enough: link for mu_link_fn
                whole[known[0][0]][known[0][1]] = value
            else:
                raise ValueError(f"setting {key!r} is not understood")
        return whole

    @cached_property
    def model(self) -> Any:
        state, official = load_file(self.weights), self.official
        config = convert.config_of(
            official["model_config"], official["loss_config"], state, special=official["special_tokens"],
            clip=official["data_config"]["clip_counts"], match_official=True, where=self.folder,
        )  # fmt: skip
        return convert.build_model(state, config, where=self.weights)

    @cached_property
    def batch(self) -> dict[str, Tensor]:
        own = self.folder / "inputs.safetensors"
        tensors = load_file(own if own.is_file() else self.base.parent / "inputs.safetensors")
        ids = tensors["gene_token_indices"]
        mask = torch.ne(ids, self.model.config.pad_token_id).long()
        assays = tensors["aux_token_indices"][:, 0]
        return {"input_ids": ids, "attention_mask": mask, "values": tensors["gene_counts"], "assay_ids": assays}

    def labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        longest = self.model.config.max_positions
        return next_genes(batch["input_ids"], batch["attention_mask"].bool(), longest=longest, match_official=True)

    # --- whole files ---

    def _names(self, name: str) -> ParityCase:
        return ParityCase(name, f"names of {len(self.model.state_dict())} tensors", True, 0, 0)

    def _gradients(self, name: str, path: Path) -> ParityCase:
        recorded = load_file(self.folder / "outputs.safetensors")
        key = next(key for key in recorded if key.startswith(path.stem.replace("grads_", "grad_")))
        self.model.zero_grad()
        self.loss(key.partition("cells_")[2]).backward()
        reference = load_file(path)
        ours = {key: p.grad for key, p in self.model.named_parameters() if p.grad is not None}
        if ours.keys() != reference.keys():
            return _failed(name, "names of gradients", str(sorted(ours.keys() ^ reference.keys())))
        floor = 1e-3 * max(float(g.abs().max()) for g in reference.values())
        relative = {
            key: float((ours[key] - g).abs().max()) / (float(g.abs().max()) + floor) for key, g in reference.items()
        }
        worst = max(relative, key=lambda key: relative[key])
        return _judged(name, f"{len(ours)} gradients", relative[worst], GRADIENT_TOLERANCE, f"largest at {worst}")

    # --- tensors, one by one ---

    def _outputs(self, path: Path) -> Iterator[ParityCase]:
        try:
            tensors = load_file(path)
        except _UNREADABLE as error:
            yield _failed(f"model/{self.folder.name}/{path.name}", "could not be read", str(error))
            return
        for key, reference in sorted(tensors.items()):
            yield from _guarded(f"model/{self.folder.name}/{key}", self._tensor, key, reference)

    def _tensor(self, name: str, key: str, reference: Tensor) -> ParityCase:
        """Find the rule for a tensor by its name, compute ours, compare."""
        for pattern, rule in _RULES.items():
            if match := re.fullmatch(pattern, key):
                ours, real = rule(self, *match.groups())
                tolerance = MU_TOLERANCE if key.endswith(".mu") else TOLERANCE
                return _compared(name, ours, reference, real=real, tolerance=tolerance)
        return _failed(name, f"tensor {tuple(reference.shape)}", "no rule computes a tensor of this name")

    def out(self, mode: str) -> Any:
        if mode not in self._outs:
            with torch.no_grad():
                self._outs[mode] = self.model(
                    **self.batch, labels=self.labels(self.batch), return_logits=True, output_hidden_states=True,
                    own_count=mode == "embed",
                )  # fmt: skip
        return self._outs[mode]

    def hidden(self, mode: str, which: str, layer: str | None) -> _Ours:
        states = self.out(mode).hidden_states
        mask_BL = self.batch["attention_mask"].bool()
        read = pad(mask_BL, (states[0].shape[1] - mask_BL.shape[1], 0), value=True)  # assay and START in front
        return states[{"enc_input": 0, "hidden": -1}.get(which, int(layer or 0) + 1)], read

    def plain(self, mode: str, which: str) -> _Ours:
        """Tensors that the model gives under a name of its own."""
        out, real = self.out(mode), self.batch["attention_mask"].bool()
        if which.endswith("loss"):
            return getattr(out, which).reshape(1), None
        shares = which == "mu" and self.model.config.count_link == "softmax"  # 0 at padding, NaN without genes
        return getattr(out, {"gene_logit": "logits"}.get(which, which)), None if shares else real

    def likelihood(self, mode: str, which: str) -> _Ours:
        """Losses a cell or a gene; ``inference<n>`` ran the first n cells."""
        of, pooling = ("counts", "cell") if which.startswith("llh") else ("genes", "gene")
        own_count = mode != "train"
        return self.model.log_likelihood(**self.first(mode), of=of, pooling=pooling, own_count=own_count), None

    def embedded(self, mode: str) -> _Ours:
        return self.model.embed(**self.first(mode)), None

    def first(self, mode: str) -> dict[str, Tensor]:
        cells = int(mode.removeprefix("inference")) if mode.startswith("inference") else None
        return {key: tensor[:cells] for key, tensor in self.batch.items()}

    def targets(self, mode: str, which: str) -> _Ours:
        labels = self.labels(self.batch)[:, :-1]
        if which == "mask":
            return (labels == IGNORED).to(torch.uint8), None
        ends = labels == END
        if which == "input_counts":
            return self.batch["values"].masked_fill(ends, 1.0), labels != IGNORED
        return torch.where(ends, self.model.config.end_row, labels), labels != IGNORED

    def loss(self, rows: str) -> Tensor:
        """Total loss of some cells."""
        batch = {key: tensor[[int(row) for row in rows.split("_")]] for key, tensor in self.batch.items()}
        weight = self.official["loss_config"]["gene_id_loss_weight"]
        return self.model(**batch, labels=self.labels(batch), gene_loss_weight=weight).loss

    def loss_of_cells(self, rows: str) -> _Ours:
        return self.loss(rows).reshape(1), None

    def sampled(self, seed: str) -> _Ours:
        torch.manual_seed(int(seed))
        return sample_counts(torch.tensor(SAMPLED_RATES).expand(2000, -1)), None


_MODE = r"(train|embed)\."
_RULES: dict[str, Callable[..., _Ours]] = {
    _MODE + r"(enc_input|hidden|layer(\d+))": _Variant.hidden,
    _MODE + r"(mu|gene_logit|count_loss|gene_loss)": _Variant.plain,
    _MODE + r"(llh_eval|gene_ce_unreduced)": _Variant.likelihood,
    _MODE + r"(mask|input_counts|input_gene_token_indices)": _Variant.targets,
    r"(inference\d+)\.(llh|gene_llh)": _Variant.likelihood,
    r"(embed|inference\d+)\.embeddings": _Variant.embedded,
    r"grad_total_loss_cells_([\d_]+)": _Variant.loss_of_cells,
    r"sample_ztp_seed(\d+)": _Variant.sampled,
}


# --- tables beside the variants, and the command line -------------------------------------------------


def _table(name: str, path: Path, variant: _Variant) -> ParityCase:
    """Contextual genes (``cell``, ``gene``, ``embedding``) or mean vectors (``embeddings``) of the recorded inputs."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    tokens = {i: gene for gene, i in variant.official["vocab"].items()}
    return _embeddings(name, arrays, variant.model, variant.batch, tokens)


def _embeddings(
    name: str, arrays: dict[str, Any], model: Any, batch: Mapping[str, Tensor], tokens: Mapping[int, str]
) -> ParityCase:
    """Embeddings of cells, of genes in cells (with cell, gene and place of each), or of their vectors."""
    key = next(key for key in ("embedding", "embeddings") if key in arrays)
    reference = torch.from_numpy(np.asarray(arrays.pop(key), np.float32))
    if "cell" not in arrays:
        pooling = "vector" if reference.shape[1] == model.config.gene_vector_dim else "cell"
        return _compared(name, model.embed(**batch, pooling=pooling), reference)
    at_BL = batch["attention_mask"].bool()
    cells, places = at_BL.nonzero(as_tuple=True)
    genes = [tokens[i] for i in batch["input_ids"][at_BL].tolist()]
    wanted = {"cell": cells.tolist(), "gene": genes, "position": places.tolist()}
    for what, values in arrays.items():
        if np.asarray(values).tolist() != wanted[what]:
            return _failed(name, f"{len(values):,} genes", f"{what} differs")
    return _compared(name, model.embed(**batch, pooling="gene")[at_BL], reference)


@cache
def _converted(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of an official checkpoint, converted and loaded."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "converted"
        pull("transcriptformer@own", source=folder, out=out, unverified=True, match_official=True)
        return AutoModel.from_pretrained(out), ContinuousTokenizer.from_pretrained(out)


def _cli(name: str, root: Path, path: Path, checkpoint: Path | None) -> ParityCase:
    """What the command line wrote for an input, from counts to embeddings or likelihoods."""
    import anndata

    if checkpoint is None:
        return _failed(name, "could not be compared", "no folder with model_weights.pt")
    written = anndata.read_h5ad(path)
    cells = _input_of(root, path.stem, written)
    model, tokenizer = _converted(checkpoint)
    source = cells.raw.to_adata() if cells.raw is not None else cells
    encoded = tokenizer.encode_cells(source.X, source.var["ensembl_id"].astype(str).tolist(), empty="keep")
    obs = {column: cells.obs[column].astype(str).tolist() for column in tokenizer.obs_columns}
    tensors = dict(tokenizer.batch(encoded)) | tokenizer.cell_tensors(obs)
    names = ("input_ids", "attention_mask", "values", "assay_ids")
    batch = {name: torch.as_tensor(tensors[name]) for name in names if name in tensors}
    found = {key.removeprefix("cge_"): written.uns[key] for key in written.uns if key.startswith("cge_")}
    if found:
        words = {"embeddings": "embedding", "cell_indices": "cell", "gene_names": "gene"}
        tokens = {i: gene for gene, i in tokenizer.get_vocab().items()}
        return _embeddings(name, {words[key]: value for key, value in found.items()}, model, batch, tokens)
    if set(written.obsm) == {"llh"}:
        reference = torch.from_numpy(np.asarray(written.obsm["llh"], np.float32))[:, 0]
        return _compared(name, model.log_likelihood(**batch), reference)
    return _embeddings(name, {key: written.obsm[key] for key in written.obsm}, model, batch, {})


def _input_of(root: Path, stem: str, written: Any) -> Any:
    """The input whose cells these are: of equal obs, and of a name that begins alike."""
    import anndata

    def alike(path: Path) -> int:
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path.stem, stem, strict=False)))

    for path in sorted((root / "input").glob("*.h5ad"), key=alike, reverse=True):
        cells = anndata.read_h5ad(path)
        columns = list(written.obs)
        if cells.n_obs == written.n_obs and set(columns) <= set(cells.obs):
            ours, theirs = (frame[columns].astype(str).to_numpy() for frame in (cells.obs, written.obs))
            if (ours == theirs).all():
                return cells
    raise ValueError(f"no input has the {written.n_obs} cells of {stem}")


# --- judging ------------------------------------------------------------------------------------------


def _guarded(name: str, compare: Callable[..., ParityCase], *arguments: Any) -> Iterator[ParityCase]:
    try:
        yield compare(name, *arguments)
    except (*_UNREADABLE, StopIteration) as error:
        yield _failed(name, "could not be compared", f"{type(error).__name__}: {error}")


def _failed(name: str, compared: str, why: str) -> ParityCase:
    return ParityCase(name, compared, passed=False, difference=1.0, tolerance=0.0, detail=why)


def _judged(name: str, compared: str, difference: float, tolerance: float, detail: str = "") -> ParityCase:
    return ParityCase(name, compared, difference <= tolerance, difference, tolerance, detail)


def _compared(
    name: str, ours: Tensor, reference: Tensor, *, real: Tensor | None = None, tolerance: float = TOLERANCE
) -> ParityCase:
    """Compare two tensors at real positions; a smaller reference is the leading corner of ours."""
    compared, corner = f"tensor {tuple(reference.shape)}", tuple(slice(size) for size in reference.shape)
    if ours.ndim != reference.ndim or any(o < r for o, r in zip(ours.shape, reference.shape, strict=True)):
        return _failed(name, compared, f"ours has shape {tuple(ours.shape)}")
    ours = ours.detach()[corner]
    if real is not None:
        real = real[corner[: real.ndim]]
        ours, reference = ours[real], reference[real]
    if not reference.is_floating_point():
        return _judged(name, compared, int((ours != reference).sum()), 0)
    missing = reference.isnan()
    if not torch.equal(ours.isnan(), missing):
        return _failed(name, compared, "not a number elsewhere than officially")
    ours, reference = ours[~missing], reference[~missing]
    scale = float(reference.abs().max()) if reference.numel() else 1.0
    difference = float((ours - reference).abs().max()) if reference.numel() else 0.0
    return _judged(name, compared, difference / (scale or 1.0), tolerance)
