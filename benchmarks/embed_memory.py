"""Memory and speed of `scmf embed` on synthetic cells of growing number.

Usage: ``python benchmarks/embed_memory.py [20000 200000 2000000] [--device cuda] [--out benchmarks/embed_memory.json]``

Each size runs in a process of its own: a file of so many cells with 100 genes each, a network of one layer with random
weights. Printed and written: the largest resident memory of the process, seconds, cells a second. The cells are made
block by block, so that this script needs no more memory than what it measures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from scmf.core import registry
from scmf.models.checkpoint import save_model
from scmf.models.configuration_transformer_encoder import TransformerEncoderConfig
from scmf.models.transformer_encoder import TransformerEncoderForMaskedLM

GENES, PER_CELL, BLOCK = 2000, 100, 50_000


def make_model(folder: Path) -> None:
    """A network of one layer with random weights, and a tokenizer of all genes."""
    genes = [f"ENSG{i:011d}" for i in range(GENES)]
    token_ids = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3} | {gene: i + 4 for i, gene in enumerate(genes)}
    tokenizer = registry.resolve("tokenizers", "rank_value").from_tables(
        token_ids, dict.fromkeys(genes, 1.0), {}, max_length=64, special_tokens=True
    )
    torch.manual_seed(0)
    config = TransformerEncoderConfig(
        vocab_size=len(token_ids), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, cls_token_id=2, eos_token_id=3,
    )  # fmt: skip
    save_model(TransformerEncoderForMaskedLM(config), tokenizer, folder)


def make_cells(path: Path, n_cells: int) -> None:
    """An .h5ad file of counts, written a block at a time."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = file.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n_cells, GENES)})
        data = matrix.create_dataset("data", (n_cells * PER_CELL,), np.float32)
        indices = matrix.create_dataset("indices", (n_cells * PER_CELL,), np.int32)
        matrix["indptr"] = np.arange(n_cells + 1, dtype=np.int64) * PER_CELL
        for start in range(0, n_cells, BLOCK):
            size = min(BLOCK, n_cells - start)
            steps = rng.integers(1, GENES // PER_CELL + 1, (size, PER_CELL), dtype=np.int32)
            at = slice(start * PER_CELL, (start + size) * PER_CELL)
            indices[at] = (np.cumsum(steps, axis=1, dtype=np.int32) - 1).ravel()
            data[at] = rng.integers(1, 20, size * PER_CELL).astype(np.float32)
        for name, ids in (("obs", [f"c{i}" for i in range(n_cells)]), ("var", [f"ENSG{i:011d}" for i in range(GENES)])):
            frame = file.create_group(name)
            order = np.array([], dtype=h5py.string_dtype())
            frame.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
            frame.attrs["column-order"] = order
            frame.create_dataset("_index", data=ids, dtype=h5py.string_dtype())
            frame["_index"].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})


def measure(cells: Path, model: Path, device: str) -> None:
    """In a process of its own: embed, and print what it took."""
    from scmf.evaluation.embed_file import embed_to_file

    began = time.perf_counter()
    answer = embed_to_file(cells, model, vectors_only=True, device=device, batch_size=256)
    seconds = time.perf_counter() - began
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # ru_maxrss of a child holds that of its parent
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    row = {"cells": answer["cells"], "peak_mib": round(peak), "seconds": round(seconds, 1)}
    print(json.dumps({**row, "cells_per_s": round(answer["cells"] / seconds)}))


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[20_000, 200_000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(*options.measure, options.device)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder) / "model")
        for size in options.sizes:
            cells = Path(folder) / f"{size}.h5ad"
            make_cells(cells, size)
            command = [sys.executable, __file__, "--device", options.device, "--measure", str(cells), f"{folder}/model"]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ})
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
            cells.unlink()
    if options.out is not None:
        options.out.write_text(json.dumps({"device": options.device, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
