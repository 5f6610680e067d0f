"""scDataset over backed h5ad files: shuffled blocks, many of them fetched at once, batches cut from the fetch.

Settings. ``mixed``: blocks of 64 cells, 256 of them a fetch. ``own``: blocks of 64, 64 of them a fetch, its fastest
of the sizes tried. ``dense``: its documented AnnCollection with ``adata_to_mindex``, which makes dense arrays.
The first two read CSR through its ``fetch_callback``: for each run of rows one slice of the backed matrix.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from measure import BLOCK, BLOCKS_IN_BUFFER, Loader, main
from token_rows import Csr

SETTINGS = {"own": (BLOCK, 64), "mixed": (BLOCK, BLOCKS_IN_BUFFER), "dense": (BLOCK, 16)}


class BackedFiles:
    """Several backed h5ad files as one collection of rows."""

    def __init__(self, paths: list[Any]) -> None:
        import anndata as ad

        self.parts = [ad.read_h5ad(path, backed="r").X for path in paths]
        self.ends = np.cumsum([part.shape[0] for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, rows: np.ndarray) -> tuple[np.ndarray, Any]:
        """Sorted rows and their counts, CSR."""
        import scipy.sparse as sp

        edges = np.flatnonzero(np.diff(rows) != 1) + 1
        found = []
        for run in np.split(rows, edges):
            start, stop = int(run[0]), int(run[-1]) + 1
            while start < stop:  # a run may go on in the next file
                number = int(np.searchsorted(self.ends, start, side="right"))
                first = int(self.ends[number - 1]) if number else 0
                end = min(stop, int(self.ends[number]))
                found.append(self.parts[number][start - first : end - first])
                start = end
        return rows, sp.vstack(found, format="csr")


def fetch(collection: BackedFiles, rows: np.ndarray) -> tuple[np.ndarray, Any]:
    """The ``fetch_callback``."""
    return collection[rows]


def cut(fetched: tuple[np.ndarray, Any], chosen: np.ndarray) -> tuple[np.ndarray, Any]:
    """The ``batch_callback``."""
    return fetched[0][chosen], fetched[1][chosen]


def make(options: argparse.Namespace) -> Loader:
    """Open the files."""
    import anndata as ad
    from anndata.experimental import AnnCollection
    from scdataset import BlockShuffling, scDataset
    from scdataset.transforms import adata_to_mindex
    from torch.utils.data import DataLoader

    block, factor = SETTINGS[options.setting]
    paths = sorted(options.store.glob("*.h5ad"))
    how: dict[str, Any]
    collection: Any
    if options.setting == "dense":
        collection = AnnCollection([ad.read_h5ad(path, backed="r") for path in paths], join_obs="inner")
        how = {"fetch_transform": partial(adata_to_mindex, columns=["row"])}
    else:
        collection = BackedFiles(paths)
        how = {"fetch_callback": fetch, "batch_callback": cut}

    def epoch(seed: int) -> Iterator[tuple[np.ndarray, Any]]:
        dataset = scDataset(
            collection,
            BlockShuffling(block_size=block),
            batch_size=options.batch,
            fetch_factor=factor,
            seed=seed,
            **how,
        )
        several = {"num_workers": options.workers, "prefetch_factor": factor + 1} if options.workers else {}
        for batch in DataLoader(dataset, batch_size=None, **several):
            if options.setting == "dense":
                yield np.asarray(batch["row"]), batch["X"]
            else:
                yield np.asarray(batch[0]), batch[1]

    def csr(batch: Any) -> Csr:
        if options.setting == "dense":
            import scipy.sparse as sp

            batch = sp.csr_matrix(np.asarray(batch))
        return Csr(batch.indptr, batch.indices, batch.data)

    facts = {"block_size": block, "fetch_factor": factor, "workers": options.workers}
    return Loader(("scdataset", "anndata", "torch", "h5py"), epoch, csr=csr, facts=facts)


if __name__ == "__main__":
    main(make)
