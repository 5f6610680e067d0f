"""BioNeMo SCDL: its memory-mapped store, read row by row through a torch DataLoader with its own collate function.

Settings. ``own``: shuffled rows, as its page shows; a batch is as mixed as can be. ``mixed``: the same loader with
a sampler of ours that shuffles 256 blocks of 64 cells, the order of all others (mapped pages are read together).
For ``tokens`` rows come from ``get_row``, as its page shows for tokenizers, without the tensors of ``collate``.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import BLOCK, BLOCKS_IN_BUFFER, Loader, main
from token_rows import Csr


def prepare(options: argparse.Namespace) -> None:
    """Write its store with its own converter: every h5ad file, then joined to one."""
    from bionemo.scdl.io.single_cell_collection import SingleCellCollection

    parts = options.store.with_name(options.store.name + ".parts")
    for folder in (parts, options.store):
        shutil.rmtree(folder, ignore_errors=True)
    collection = SingleCellCollection(str(parts))
    collection.load_h5ad_multi(str(options.corpus / "h5ad"), max_workers=1, use_X_not_raw=True)
    collection.flatten(str(options.store), destroy_on_copy=True)


def block_shuffled(n_cells: int, seed: int) -> np.ndarray:
    """Rows in the order of shuffled blocks, shuffled again within `BLOCKS_IN_BUFFER` of them."""
    rng = np.random.default_rng(seed)
    blocks = np.array_split(np.arange(n_cells), range(BLOCK, n_cells, BLOCK))
    rows = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
    size = BLOCK * BLOCKS_IN_BUFFER
    return np.concatenate([rng.permutation(rows[start : start + size]) for start in range(0, n_cells, size)])


class Rows:
    """The data set through ``get_row``: columns and values of a cell as numpy arrays."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        (values, columns), *_ = self.dataset.get_row(row)
        return columns, values


def collate_rows(cells: list[tuple[np.ndarray, np.ndarray]]) -> Csr:
    """Rows behind each other."""
    indptr = np.zeros(len(cells) + 1, np.int64)
    np.cumsum([columns.size for columns, _ in cells], out=indptr[1:])
    return Csr(indptr, np.concatenate([c for c, _ in cells]), np.concatenate([v for _, v in cells]))


def make(options: argparse.Namespace) -> Loader:
    """Open the store."""
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
    from bionemo.scdl.util.torch_dataloader_utils import collate_sparse_matrix_batch
    from torch.utils.data import DataLoader

    dataset = SingleCellMemMapDataset(str(options.store))
    native = options.output == "native"

    def epoch(seed: int) -> Iterator[tuple[np.ndarray, Any]]:
        mixed = options.setting == "mixed"
        order = block_shuffled(len(dataset), seed) if mixed else np.random.default_rng(seed).permutation(len(dataset))
        loader = DataLoader(
            dataset if native else Rows(dataset),  # type: ignore[arg-type]
            batch_size=options.batch, sampler=order.tolist(), num_workers=options.workers,
            collate_fn=collate_sparse_matrix_batch if native else collate_rows,
        )  # fmt: skip
        for number, batch in enumerate(loader):
            yield order[number * options.batch : (number + 1) * options.batch], batch

    return Loader(
        ("bionemo-scdl", "torch"), epoch, csr=lambda batch: batch, facts={"workers": options.workers, "rows": "get_row"}
    )


if __name__ == "__main__":
    main(make, prepare)
