"""Parity of tokens: our sequences, batches and masks against those that the official scGPT code made.

Lives here: `cases`, which walks a folder of reference files and makes the same tokens with `BinnedTokenizer`, and
`notes`, which lists what is left out and why. Lives elsewhere: parity of the bins and of odd counts
(``parity_binning.py``), of the network (``parity_model.py``), the verdict (``scmf reproduce --tier parity``).

Layout of the folder: ``tok/summary.json`` (seeds, arguments); ``tok/<data>.tokenize.<setting>.npz``, sequences and
masks of the cells of ``tok/<data>.<layer>.npz``; ``tok/collator_<version>.<setting>.npz`` of the cells of
``tok/collator_inputs.npz``; ``embed_data/`` with ``input.h5ad``, ``model_dir/vocab.json``, ``summary.json`` and
``embed.<setting>.safetensors``. No name of a case is known here; a file, an array or a setting that is not understood
is a failed case. Everything is compared for identity, under the official seeds.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from scmf.results.parity import ParityCase
from scmf.tokenizers.binned import BinnedTokenizer
from scmf.tokenizers.binned_draws import OfficialDraws
from scmf.training.objectives.masked_value import official_mask

N_BINS = 51
"""Bins of every official program that does not name another number."""

_COLLATOR_ARGUMENTS = {
    "do_padding", "pad_token_id", "pad_value", "mask_value", "do_binning", "sampling", "keep_first_n_tokens",
    "do_mlm", "mlm_probability", "max_length",
}  # fmt: skip


def cases(
    folder: Path, data_dir: Path | None = None, *, tokenizer: type[BinnedTokenizer] = BinnedTokenizer
) -> Iterator[ParityCase]:
    """Compare every file found.

    Parameters
    ----------
    folder
        Outputs of the official code: a folder with ``scgpt/`` in it, or that folder itself.
    data_dir
        Not used: ids and names of the genes stand in the files.
    tokenizer
        Class to compare instead of the product's (for a negative control).

    Yields
    ------
    ParityCase
        ``difference`` is the number of positions that differ.
    """
    root = next((path for path in (folder / "scgpt", folder) if (path / "tok" / "summary.json").is_file()), None)
    if root is None:
        return
    walk = _Walk(root, tokenizer)
    for path in sorted((root / "tok").iterdir()):
        if path.name not in ("summary.json", "collator_inputs.npz"):
            yield from _guarded(walk, path)
    for path in sorted((root / "embed_data").glob("*.safetensors")):
        yield from _guarded(walk, path)


def notes(folder: Path) -> list[str]:
    """What is not compared, and why."""
    return [
        "tok/summary.json, SubsetsBatchSampler.*: order of cells in training, not tokens",
        "embed_data/*, X_scGPT: parity of the network",
        "embed_data/*, which genes a long cell keeps: drawn after draws of the official program that are not recorded, "
        "so taken as recorded; the same sampling is compared in tok/collator_*",
    ]


def _guarded(walk: _Walk, path: Path) -> Iterator[ParityCase]:
    name = path.relative_to(walk.root).with_suffix("").as_posix()
    try:
        yield from walk.file(path, name)
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        yield ParityCase(
            name, "", passed=False, difference=1.0, tolerance=0.0, detail=f"{type(error).__name__}: {error}"
        )


class CollatorDraws(OfficialDraws):
    """Digits from numpy's generator, samples from torch's, as in the official collator."""

    def __init__(self, numpy_seed: int, torch_seed: int) -> None:
        super().__init__(numpy_seed)
        self.torch = torch.Generator().manual_seed(torch_seed)

    def choose(self, n: int, k: int) -> np.ndarray:
        """The first ``k`` of a permutation."""
        return torch.randperm(n, generator=self.torch)[:k].numpy()

    def masked(self, values_BL: np.ndarray, share: float, pad_value: float, keep_first: int) -> np.ndarray:
        """Positions that the collator hides: each by itself with probability ``share``, bool (B, L)."""
        chance_BL = torch.full(values_BL.shape, share)
        chance_BL[torch.from_numpy(values_BL == pad_value)] = 0
        chance_BL[:, :keep_first] = 0
        return torch.bernoulli(chance_BL, generator=self.torch).bool().numpy()


class _RecordedSamples(OfficialDraws):
    """Digits of a seed; samples as recorded, for they follow draws of the official program that nothing records.

    Parameters
    ----------
    seed
        Seed of the digits.
    samples
        For each cell that is too long the ids that the official program kept, and all ids of the cell.
    """

    def __init__(self, seed: int, samples: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        super().__init__(seed)
        self._samples = samples

    def choose(self, n: int, k: int) -> np.ndarray:
        kept, cell = next(self._samples)
        place = {token: i for i, token in enumerate(cell.tolist())}
        if len(place) != n or np.unique(kept).size != k or not set(kept.tolist()) <= set(place):
            raise ValueError(f"a recorded sample of {kept.size} that is none of {k} of the {n} genes of the cell")
        return np.array([place[token] for token in kept.tolist()])


class _TokenizerDraws(OfficialDraws):
    """Digits of one seed and samples of another, as where preprocessing and tokenization are two programs."""

    def __init__(self, digits_seed: int, sample_seed: int) -> None:
        super().__init__(digits_seed)
        self._sample = OfficialDraws(sample_seed)

    def choose(self, n: int, k: int) -> np.ndarray:
        return self._sample.choose(n, k)


class _Walk:
    """The files of one folder, and what of them is shared by several cases."""

    def __init__(self, root: Path, tokenizer: type[BinnedTokenizer]) -> None:
        self.root, self.kind = root, tokenizer
        self.summary: dict[str, Any] = json.loads((root / "tok" / "summary.json").read_text(encoding="utf-8"))

    def file(self, path: Path, name: str) -> Iterator[ParityCase]:
        """Cases of one file; none of those that parity_binning compares."""
        if path.suffix == ".safetensors":
            yield from self.embedded(path, name)
            return
        arrays = _read_npz(path)
        if {"values", "genes"} <= set(arrays):
            yield from self.tokenized(name, path.name.split(".")[0], arrays)
        elif {"gene", "expr"} <= set(arrays):
            yield from self.collated(name, path.stem, arrays)
        elif "binned_data" not in arrays and not {"X", "names"} <= set(arrays):
            raise ValueError(f"arrays {sorted(arrays)} are not understood")

    def tokenized(self, name: str, data: str, arrays: Mapping[str, np.ndarray]) -> Iterator[ParityCase]:
        """Sequences of ``tokenize_and_pad_batch`` and masks of ``random_mask_value``."""
        run, ids_BL, values_BL = self.summary[name.removeprefix("tok/")], arrays["genes"], arrays["values"]
        pad, cls = (int(self.summary["vocab"][key]) for key in ("pad", "cls"))
        has_cls = bool(np.all(ids_BL[:, 0] == cls))
        genes_BL, genes = ids_BL[:, int(has_cls) :], None
        zeros = bool(np.any((values_BL[:, int(has_cls) :] == 0) & (genes_BL != pad)))
        layers = [_read_npz(path) for path in sorted((self.root / "tok").glob(f"{data}.*.npz"))]
        layers = [layer for layer in layers if "log1p_data" in layer]
        for layer in sorted(layers, key=lambda layer: layer["gene_ids"].size):
            if set(np.unique(genes_BL[genes_BL != pad])) <= set(layer["gene_ids"].tolist()):
                genes = layer
                break
        if genes is None:
            raise ValueError(f"no layer of {data} has these genes")
        longest = re.search(r"maxlen(\d+)", name)
        pad_value = float(values_BL[ids_BL == pad][0]) if np.any(ids_BL == pad) else -2.0
        table = dict(zip(genes["genes"].tolist(), genes["gene_ids"].tolist(), strict=True))
        tokenizer = self.kind.from_tables(
            {**table, "<pad>": pad, "<cls>": cls}, special_tokens=has_cls,
            max_length=int(longest[1]) if longest else ids_BL.shape[1],
            match_official=True, include_zero_genes=zeros, cls_value="zero", pad_value=pad_value,
        )  # fmt: skip
        parts = (genes["log1p_data"], genes["log1p_indices"], genes["log1p_indptr"])
        counts = sp.csr_matrix(parts, shape=tuple(genes["shape"]))
        digits_seed = next(int(of["seed"]) for key, of in self.summary.items()
                           if key.startswith(f"{data}.") and isinstance(of, dict) and "seed" in of)  # fmt: skip
        draws = _TokenizerDraws(digits_seed, int(run["seed_tokenize"]))
        mine = tokenizer(counts[: len(ids_BL)], genes["genes"].tolist(), empty="keep", draws=draws)
        compared = f"{len(ids_BL)} cells, {ids_BL.size:,} positions"
        yield _case(name, compared, [("ids", ids_BL, mine["input_ids"]), ("values", values_BL, mine["values"])])
        for key, masked_BL in arrays.items():
            if key in ("genes", "values"):
                continue
            ratio = float(key.removeprefix("masked_"))
            random = np.random.RandomState(int(run["seed_mask"]))
            hidden = official_mask(torch.from_numpy(mine["values"]), ratio, pad_value, random).numpy()
            ours = np.where(hidden, np.float32(tokenizer.mask_value), mine["values"])
            yield _case(f"{name}.{key}", compared, [("masked values", masked_BL, ours)])

    def collated(self, name: str, stem: str, arrays: Mapping[str, np.ndarray]) -> Iterator[ParityCase]:
        """Batches of the collator: digits, samples and masks under its seeds."""
        run, inputs = self.summary[stem], _read_npz(self.root / "tok" / "collator_inputs.npz")
        args = {key: _plain(value) for key, value in run["args"].items()}
        if unknown := sorted(set(args) - _COLLATOR_ARGUMENTS) + sorted(set(arrays) - {"gene", "expr", "masked_expr"}):
            raise ValueError(f"{unknown} are not understood")
        if args["keep_first_n_tokens"] != 1 or not args["do_padding"]:
            raise ValueError("only padded cells that begin with <cls> are compared")
        draws = CollatorDraws(int(run["np_seed"]), int(run["torch_seed"]))
        ends = np.cumsum(inputs["lengths"])
        cells = [
            (inputs["genes"][end - n : end], inputs["expressions"][end - n : end])
            for end, n in zip(ends, inputs["lengths"], strict=True)
        ]
        names = {f"gene {i}": int(i) for i in np.unique(np.concatenate([ids[1:] for ids, _ in cells]))}
        cls_id, cls_value = int(cells[0][0][0]), float(cells[0][1][0])
        tokenizer = self.kind.from_tables(
            {**names, "<pad>": int(args["pad_token_id"]), "<cls>": cls_id},
            max_length=int(args["max_length"]), special_tokens=True, match_official=True,
            n_bins=N_BINS if args["do_binning"] else 0, include_zero_genes=True,
            cls_value="pad" if cls_value == args["pad_value"] else "zero", pad_value=float(args["pad_value"]),
            mask_value=float(args["mask_value"]), long_cells="sample" if args["sampling"] else "first",
        )  # fmt: skip
        rows = []
        for ids, expressions in cells:  # each with a gene list of its own: the order of its genes
            panel = tuple(f"gene {i}" for i in ids[1:])
            rows.append(tokenizer.encode_cells(expressions[None, 1:], panel, empty="keep", draws=draws).columns)
        ids_BL = _padded([row["input_ids"] for row in rows], tokenizer.pad_values["input_ids"])
        values_BL = _padded([row["values"] for row in rows], tokenizer.pad_values["values"])
        compared = f"{len(cells)} cells, {arrays['gene'].size:,} positions"
        yield _case(name, compared, [("ids", arrays["gene"], ids_BL), ("values", arrays["expr"], values_BL)])
        if "masked_expr" in arrays:
            masked_BL = values_BL
            if args["do_mlm"]:
                hidden = draws.masked(values_BL, args["mlm_probability"], tokenizer.pad_value, 1)
                masked_BL = np.where(hidden, np.float32(tokenizer.mask_value), values_BL)
            yield _case(f"{name}.masked", compared, [("masked values", arrays["masked_expr"], masked_BL)])

    def embedded(self, path: Path, name: str) -> Iterator[ParityCase]:
        """Batches that ``embed_data`` gave to the network."""
        import anndata
        from safetensors.numpy import load_file

        run = json.loads((path.parent / "summary.json").read_text(encoding="utf-8"))[path.stem.removeprefix("embed.")]
        known = json.loads((path.parent / "model_dir" / "vocab.json").read_text(encoding="utf-8"))
        settings = json.loads((path.parent / "model_dir" / "args.json").read_text(encoding="utf-8"))
        recorded = load_file(path)
        batches = sorted({key.split(".")[0] for key in recorded if "." in key}, key=lambda key: int(key[5:]))
        if unknown := set(recorded) - {"X_scGPT", *(f"{b}.{part}" for b in batches for part in ("gene", "expr"))}:
            raise ValueError(f"tensors {sorted(unknown)} are not understood")
        cells = anndata.read_h5ad(path.parent / "input.h5ad")[: int(run["n_cells"])]
        column = max(cells.var.columns, key=lambda c: int(cells.var[c].astype(str).isin(known).sum()))
        names = cells.var[column].astype(str).to_numpy()
        there = np.array([gene in known for gene in names])  # the official program keeps the genes it knows
        counts, names = sp.csr_matrix(cells.X)[:, there], names[there].tolist()
        longest = max(recorded[f"{b}.gene"].shape[1] for b in batches)
        asked = re.search(r"maxlen(\d+)", path.stem)
        tokenizer = self.kind.from_tables(
            known, max_length=int(asked[1]) if asked else longest, special_tokens=True, match_official=True,
            n_bins=int(settings["n_bins"]), pad_value=float(settings["pad_value"]),
        )  # fmt: skip
        ids_C, start, pairs = np.array([known[gene] for gene in names]), 0, []
        kept = (row[1:] for batch in batches for row in recorded[f"{batch}.gene"])
        every = (ids_C[counts[i].nonzero()[1]] for i in range(counts.shape[0]))
        long = ((mine, cell) for mine, cell in zip(kept, every, strict=False) if cell.size >= tokenizer.max_length)
        draws = _RecordedSamples(int(run["np_seed"]), long)
        for batch in batches:
            ids_BL = recorded[f"{batch}.gene"]
            mine = tokenizer(counts[start : start + len(ids_BL)], names, draws=draws, empty="keep")
            start += len(ids_BL)
            pairs += [(f"ids of {batch}", ids_BL, mine["input_ids"]),
                      (f"values of {batch}", recorded[f"{batch}.expr"], mine["values"])]  # fmt: skip
        if start != counts.shape[0]:
            raise ValueError(f"batches of {start} cells, the input has {counts.shape[0]}")
        yield _case(name, f"{start} cells in {len(batches)} batches, samples as recorded", pairs)


def _padded(rows: list[np.ndarray], fill: float) -> np.ndarray:
    """Rows side by side, filled on the right."""
    widest = max(row.size for row in rows)
    return np.stack([np.concatenate([row, np.full(widest - row.size, fill, row.dtype)]) for row in rows])


def _plain(text: Any) -> Any:
    """What an argument written as text was: a number or a truth value."""
    return json.loads(str(text).lower())


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if path.suffix != ".npz":
        raise ValueError("not a .npz file")
    with np.load(path) as saved:
        return {key: saved[key] for key in saved.files}


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
