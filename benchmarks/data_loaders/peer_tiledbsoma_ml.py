"""tiledbsoma-ml on a SOMA experiment on disk, as CELLxGENE Census is: shuffled chunks, read as IO batches.

Settings. ``own``: its defaults, chunks of 64 cells in IO batches of 65,536. ``mixed``: IO batches of 16,384, the
buffer of all others. CSR is asked for in both; eager fetch is on, as by default.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from measure import BLOCK, BLOCKS_IN_BUFFER, Loader, main
from token_rows import Csr

SETTINGS = {"own": (BLOCK, 65_536), "mixed": (BLOCK, BLOCK * BLOCKS_IN_BUFFER)}


def prepare(options: argparse.Namespace) -> None:
    """Write the experiment with tiledbsoma.io from the h5ad files, one after the other."""
    import anndata as ad
    import tiledbsoma.io

    shutil.rmtree(options.store, ignore_errors=True)
    paths = [str(path) for path in sorted((options.corpus / "h5ad").glob("*.h5ad"))]
    uri = str(options.store)
    first = ad.read_h5ad(paths[0])
    tiledbsoma.io.from_anndata(uri, first, measurement_name="RNA", X_layer_name="raw")
    del first
    if len(paths) > 1:
        mapping = tiledbsoma.io.register_h5ads(
            uri, paths[1:], measurement_name="RNA", obs_field_name="obs_id", var_field_name="var_id"
        )
        mapping.prepare_experiment(uri)
        for path in paths[1:]:
            tiledbsoma.io.from_h5ad(uri, path, measurement_name="RNA", X_layer_name="raw", registration_mapping=mapping)


def make(options: argparse.Namespace) -> Loader:
    """Open the experiment."""
    import tiledbsoma
    from tiledbsoma_ml import ExperimentDataset, experiment_dataloader

    chunk, io_batch = SETTINGS[options.setting]

    def epoch(seed: int) -> Iterator[tuple[np.ndarray, Any]]:
        with (
            tiledbsoma.Experiment.open(str(options.store)) as experiment,
            experiment.axis_query("RNA") as query,
        ):
            dataset = ExperimentDataset(
                query, layer_name="raw", batch_size=options.batch, shuffle=True, seed=seed,
                shuffle_chunk_size=chunk, io_batch_size=io_batch, return_sparse_X=True,
            )  # fmt: skip
            for counts, obs in experiment_dataloader(dataset):
                yield obs["soma_joinid"].to_numpy(), counts

    def csr(batch: Any) -> Csr:
        return Csr(batch.indptr, batch.indices, batch.data)

    facts = {"shuffle_chunk_size": chunk, "io_batch_size": io_batch}
    return Loader(("tiledbsoma", "tiledbsoma-ml", "torch"), epoch, csr=csr, facts=facts)


if __name__ == "__main__":
    main(make, prepare)
