"""Builds a small CELLxGENE Census with tiledbsoma: 1,200 cells, two organisms, the layout and columns of the real one.

Two traps of tiledbsoma 2.3: data written through the handle of ``add_new_dataframe`` loses its enumerations (string
filters then find nothing), so each table is closed and opened again before it is written; and TileDB does not survive
a fork, so tests that use this must not fork.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

N_CELLS, N_GENES = 1200, 300


@dataclass(frozen=True)
class MiniCensus:
    """The Census at ``uri`` and what it holds: the truth that tests compare with."""

    uri: str
    obs: pd.DataFrame
    var: pd.DataFrame
    counts: sp.csr_matrix  # (cells, genes)

    @property
    def human(self) -> str:
        return f"{self.uri}/census_data/homo_sapiens"


def human_cells(seed=0):
    """Cells, genes and counts as pandas and scipy."""
    rng = np.random.default_rng(seed)

    def text(values):
        return pd.Categorical(rng.choice(values, N_CELLS))

    obs = pd.DataFrame(
        {
            "dataset_id": pd.Categorical(np.repeat(["d1", "d2", "d3"], N_CELLS // 3)),
            "assay": text(["10x 3' v2", "10x 3' v3"]),
            "cell_type": text(["B cell", "T cell", "monocyte"]),
            "tissue_general": text(["blood", "lung"]),
            "disease": text(["normal"]),
            "donor_id": text([f"p{i}" for i in range(6)]),
            "is_primary_data": rng.random(N_CELLS) < 0.8,
            "observation_joinid": [f"id-{i:05x}" for i in rng.permutation(N_CELLS)],
        }
    )
    counts = sp.random(N_CELLS, N_GENES, 0.1, format="csr", random_state=seed, data_rvs=lambda k: rng.poisson(3, k) + 1)
    counts = sp.csr_matrix(counts.astype(np.float32))
    counts.data[counts.indptr[7] : counts.indptr[8]] = 0  # a cell without counts
    counts.eliminate_zeros()
    obs["raw_sum"] = np.asarray(counts.sum(axis=1)).ravel().astype(np.float64)
    obs["nnz"] = np.diff(counts.indptr).astype(np.int64)
    obs["n_measured_vars"] = np.int64(N_GENES)
    var = pd.DataFrame(
        {
            "feature_id": [f"ENSG{i:011d}" for i in range(1, N_GENES + 1)],
            "feature_name": [f"G{i}" for i in range(1, N_GENES + 1)],
            "feature_type": pd.Categorical(np.where(np.arange(N_GENES) % 4, "protein_coding", "lncRNA")),
            "feature_length": rng.integers(300, 5000, N_GENES),
        }
    )
    return obs, var, counts


def build(folder: Path, *, seed=0, spoil=None) -> MiniCensus:
    """Write a Census below ``folder``; ``spoil`` changes the counts after ``obs`` was made from them."""
    import tiledbsoma as soma

    obs, var, counts = human_cells(seed)
    counts = spoil(counts) if spoil else counts
    uri = str(folder)
    with soma.Collection.create(uri) as root:
        info, data = root.add_new_collection("census_info"), root.add_new_collection("census_data")
        summary = {"census_schema_version": "2.1.0", "census_build_date": "2026-01-01", "total_cell_count": "1200"}
        _table(info, "summary", pd.DataFrame({"label": list(summary), "value": list(summary.values())}))
        _experiment(data, "homo_sapiens", obs, var, counts)
        mouse = var.assign(feature_id=[f"ENSMUSG{i:011d}" for i in range(N_GENES)])
        _experiment(data, "mus_musculus", obs.iloc[:50], mouse, counts[:50])
        info.close()
        data.close()
    return MiniCensus(uri, obs, var, counts)


def add_layer(census: MiniCensus, name: str, counts: sp.csr_matrix) -> None:
    """Put one more layer beside ``raw``."""
    import tiledbsoma as soma

    with soma.open(f"{census.human}/ms/RNA/X", "w") as layers:
        _matrix(layers, name, counts)


def _experiment(data, organism, obs, var, counts):
    import tiledbsoma as soma

    experiment = data.add_new_collection(organism, soma.Experiment)
    _table(experiment, "obs", obs)
    measurements = experiment.add_new_collection("ms")
    rna = measurements.add_new_collection("RNA", soma.Measurement)
    _table(rna, "var", var)
    layers = rna.add_new_collection("X")
    _matrix(layers, "raw", counts)
    for collection in (layers, rna, measurements, experiment):
        collection.close()


def _table(collection, name, table):
    import pyarrow as pa
    import tiledbsoma as soma

    table = table.reset_index(drop=True)
    table.insert(0, "soma_joinid", np.arange(len(table), dtype=np.int64))
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    made = collection.add_new_dataframe(
        name, schema=arrow.schema, index_column_names=["soma_joinid"], domain=[[0, len(table) - 1]]
    )
    made.close()
    with soma.DataFrame.open(made.uri, "w") as again:
        again.write(arrow)


def _matrix(layers, name, counts):
    import pyarrow as pa

    array = layers.add_new_sparse_ndarray(name, type=pa.from_numpy_dtype(counts.dtype), shape=counts.shape)
    array.write(pa.SparseCOOTensor.from_scipy(counts.tocoo()))
    array.close()
