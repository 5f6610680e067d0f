"""Counts stored by columns, read by cells: against scipy, and through a conversion from files."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scmf.core.errors import CountsError, DataError
from scmf.data.convert.by_columns import open_for_conversion
from scmf.data.convert.convert import convert
from tests.conftest import synthetic_cells


def write(cells, path, kind):
    cells = cells.copy()
    cells.X = {"csc": sp.csc_matrix, "csr": sp.csr_matrix, "dense": lambda matrix: matrix.toarray()}[kind](cells.X)
    cells.write_h5ad(path) if path.suffix == ".h5ad" else cells.write_zarr(path)
    return path


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("memory", [1 << 28, 20_000])
def test_rows_of_a_csc_matrix_are_those_of_scipy(tmp_path, suffix, memory):
    cells = synthetic_cells(200)
    (store,) = open_for_conversion([write(cells, tmp_path / f"a{suffix}", "csc")], memory=memory)
    wanted = sp.csr_matrix(cells.X)
    np.testing.assert_array_equal(store.lengths, np.diff(sp.csr_matrix(sp.csc_matrix(cells.X)).indptr))
    for spans in ([[0, 200]], [[150, 170], [3, 4], [3, 40]], [[0, 0]]):
        rows = np.concatenate([np.arange(a, b) for a, b in spans])
        block = store.read(np.array(spans))
        np.testing.assert_array_equal(block.csr().toarray(), wanted[rows].toarray())
    store.close()


def test_reading_in_order_passes_over_the_file_once_a_window(tmp_path):
    (store,) = open_for_conversion([write(synthetic_cells(400), tmp_path / "a.h5ad", "csc")], memory=40_000)
    transposed = store._data.matrix
    for start in range(0, 400, 10):
        store.read(np.array([[start, start + 10]]))
    windows = len(transposed._edges) - 1
    assert windows > 5
    assert transposed.passes == windows
    store.close()


@pytest.mark.parametrize("shuffle", [True, False])
def test_files_of_all_layouts_become_one_collection(tmp_path, shuffle):
    paths, inputs = [], []
    for i, (kind, suffix) in enumerate([("csc", ".h5ad"), ("csr", ".h5ad"), ("dense", ".h5ad"), ("csc", ".zarr")]):
        inputs.append(synthetic_cells(60 + i, seed=i))
        paths.append(write(inputs[-1], tmp_path / f"{i}{suffix}", kind))
    report = convert(paths, tmp_path / "o", shuffle=shuffle, cells_per_dataset=100, memory=100_000)
    every = ad.concat([ad.read_zarr(tmp_path / "o" / f"dataset_{i}") for i in range(report.datasets)])
    assert every.n_obs == report.cells == 246
    for path, cells in zip(paths, inputs, strict=True):
        part = every[(every.obs["source"] == path.name).to_numpy()]
        part = part[np.argsort(part.obs["source_row"].to_numpy())]
        np.testing.assert_array_equal(part.X.toarray(), cells.X.toarray())
        assert part.obs["donor_id"].tolist() == cells.obs["donor_id"].tolist()


def test_normalised_values_by_columns_are_refused(tmp_path):
    cells = synthetic_cells(50)
    cells.X = sp.csr_matrix(cells.X.multiply(0.37))
    with pytest.raises(CountsError, match="no integers"):
        open_for_conversion([write(cells, tmp_path / "a.h5ad", "csc")])


def test_a_truncated_csc_matrix_is_refused(tmp_path):
    import h5py

    path = write(synthetic_cells(50), tmp_path / "a.h5ad", "csc")
    with h5py.File(path, "r+") as file:
        data = file["X/data"][:-5]
        del file["X/data"]
        file["X/data"] = data
    with pytest.raises(DataError, match="rising offsets"):
        open_for_conversion([path])
