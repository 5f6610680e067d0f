"""Tokens made before, in a Hugging Face dataset (Arrow), read in random order: no counts, no tokenizing.

Settings. ``torch``: tensors of each batch through ``with_format("torch")`` and torch's padding. ``arrow``: through
Arrow buffers, padded by numba, its fastest way. ``lists``: the python lists of its default format, padded one by one,
as the collator of the official Geneformer gets them. Rows are drawn at random in all, so a batch is as mixed as can
be.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import Loader, main
from token_rows import pad_rows


def make(options: argparse.Namespace) -> Loader:
    """Open the dataset."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    import datasets

    torch.set_num_threads(1)  # a second thread costs CPU time here and gains nothing
    dataset = datasets.load_from_disk(str(options.store))
    shown = dataset.with_format({"torch": "torch", "arrow": "arrow", "lists": None}[options.setting])

    def epoch(seed: int) -> Iterator[tuple[np.ndarray, Any]]:
        order = np.random.default_rng(seed).permutation(len(dataset))
        for start in range(0, order.size, options.batch):
            rows = order[start : start + options.batch]
            yield rows, ids(shown[rows.tolist()])

    def ids(batch: Any) -> np.ndarray:
        if options.setting == "torch":
            return pad_sequence(batch["input_ids"], batch_first=True).to(torch.int32).numpy()
        if options.setting == "arrow":
            lists = batch.column("input_ids").combine_chunks()
            offsets = lists.offsets.to_numpy().astype(np.int64)
            out_BL = np.empty((len(lists), int(np.diff(offsets).max())), np.int32)
            pad_rows(lists.values.to_numpy(), offsets, out_BL)
            return out_BL
        longest = max(len(cell) for cell in batch["input_ids"])
        return np.array([cell + [0] * (longest - len(cell)) for cell in batch["input_ids"]], np.int32)

    return Loader(("datasets", "pyarrow", "torch"), epoch, ids=lambda batch: batch, facts={"format": options.setting})


if __name__ == "__main__":
    main(make)
