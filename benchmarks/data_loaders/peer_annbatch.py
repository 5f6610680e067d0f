"""annbatch on its own store: a pre-shuffled zarr v3 collection written by its writer, read through zarrs (Python 3.12).

Settings. ``own``: its defaults, 32 slices of 512 cells. ``mixed``: 256 slices of 64 cells, the mixing of all others.
The rows are the positions in the collection. The cells of the collection were shuffled when it was written, so
``own`` mixes the *original* cells better than the entropy of source blocks of the store says.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import BLOCK, BLOCKS_IN_BUFFER, Loader, main
from token_rows import Csr

SETTINGS = {"own": (512, 32), "mixed": (BLOCK, BLOCKS_IN_BUFFER)}


def prepare(options: argparse.Namespace) -> None:
    """Write the collection with annbatch: its chunks, shards and codec, shuffled over four data sets."""
    import anndata as ad
    from annbatch import DatasetCollection

    shutil.rmtree(options.store, ignore_errors=True)  # what a stopped run left would be added to
    files = sorted((options.corpus / "h5ad").glob("*.h5ad"))
    n_cells = sum(ad.read_h5ad(path, backed="r").n_obs for path in files)
    DatasetCollection(options.store, mode="a").add_adatas(
        files, dataset_size=-(-n_cells // 4), shuffle_chunk_size=min(1_000, n_cells // 8), rng=np.random.default_rng(0)
    )


def make(options: argparse.Namespace) -> Loader:
    """Open the collection."""
    import anndata as ad
    import zarr
    from annbatch import DatasetCollection
    from annbatch import Loader as Annbatch

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})  # as its documentation asks for
    chunk_size, preload = SETTINGS[options.setting]

    def counts_alone(group: Any) -> Any:
        return ad.AnnData(X=ad.io.sparse_dataset(group["X"]))

    def epoch(seed: int) -> Iterator[tuple[np.ndarray, Any]]:
        loader = Annbatch(
            batch_size=options.batch, chunk_size=chunk_size, preload_nchunks=preload, shuffle=True,
            return_index=True, preload_to_gpu=False, rng=np.random.default_rng(seed),
        )  # fmt: skip
        loader.use_collection(DatasetCollection(options.store, mode="r"), load_adata=counts_alone)
        for batch in loader:
            yield batch["index"], batch["X"]

    def csr(batch: Any) -> Csr:
        return Csr(batch.indptr, batch.indices, batch.data)

    facts = {"chunk_size": chunk_size, "preload_nchunks": preload, "codec_pipeline": "zarrs"}
    return Loader(("annbatch", "zarrs", "zarr", "anndata"), epoch, csr=csr, facts=facts)


if __name__ == "__main__":
    main(make, prepare)
