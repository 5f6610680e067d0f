"""What a path may be: a file, a group, a collection, a folder, a pattern; and what it may not."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import zarr

from scmf.core.errors import CountsError, DataError
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.h5ad_store import H5adStore
from scmf.data.stores.open import open_stores
from scmf.data.stores.zarr_store import ZarrStore
from tests.conftest import synthetic_cells
from tests.data.stores.test_zarr_store import write_zarr


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(130)


@pytest.fixture
def folder(cells, tmp_path):
    """Stores ``part2`` and ``part10`` as h5ad and ``part3`` as zarr, and a file that is none."""
    cells[:50].copy().write_h5ad(tmp_path / "part10.h5ad")
    cells[50:90].copy().write_h5ad(tmp_path / "part2.h5ad")
    write_zarr(cells[90:].copy(), tmp_path / "part3.zarr")
    (tmp_path / "README.txt").write_text("cells")
    return tmp_path


def n_cells(stores):
    return [store.n_cells for store in stores]


def test_files_and_groups_open_in_the_order_given(folder):
    stores = open_stores([folder / "part3.zarr", str(folder / "part10.h5ad")])
    assert [type(store) for store in stores] == [ZarrStore, H5adStore]
    assert n_cells(stores) == [40, 50]


def test_a_folder_and_a_pattern_open_in_the_order_of_the_numbers(folder):
    assert n_cells(open_stores([folder])) == [40, 40, 50]
    assert n_cells(open_stores([f"{folder}/*.h5ad"])) == [40, 50]
    assert n_cells(open_stores([f"file://{folder}/part*.zarr"])) == [40]


def test_a_collection_of_annbatch_opens_as_its_datasets(cells, tmp_path):
    group = zarr.open_group(tmp_path / "collection.zarr", mode="w", zarr_format=3)
    group.attrs.update({"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"})
    with ad.settings.override(zarr_write_format=3):
        for i in range(11):
            ad.io.write_elem(group, f"dataset_{i}", cells[i * 10 : i * 10 + 10 - (i == 10)].copy())
    for consolidated in (False, True):
        if consolidated:
            zarr.consolidate_metadata(group.store)
        corpus = Corpus(open_stores([tmp_path / "collection.zarr"]))
        assert n_cells(corpus.stores) == [10] * 10 + [9]
        assert corpus.cell_ids().tolist() == cells.obs_names[:109].tolist()
        read = np.concatenate([block.counts.csr().toarray() for block in corpus.scan(cells_per_block=7)])
        np.testing.assert_array_equal(read, cells.X[:109].toarray())


def test_an_address_of_another_protocol_opens_without_a_copy(cells, folder):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/cells", recursive=True)
    try:
        stores = open_stores(["memory://cells"])
        assert n_cells(stores) == [40, 40, 50]
        whole = np.concatenate([store.read(np.array([[0, store.n_cells]])).csr().toarray() for store in stores])
        np.testing.assert_array_equal(whole, cells.X[np.r_[50:90, 90:130, :50]].toarray())
        assert stores[0].obs(["study"])["study"].tolist() == cells.obs["study"][50:90].tolist()
        assert stores[1].obs(["study"])["study"].tolist() == cells.obs["study"][90:].tolist()
        assert n_cells(open_stores(["memory://cells/part2.h5ad", "memory://cells/part3.zarr"])) == [40, 40]
    finally:
        memory.rm("/cells", recursive=True)


def test_counts_and_gene_ids_reach_every_store(folder):
    with pytest.raises(DataError, match=r"no matrix 'layers/spliced'(.|\n)*part10.h5ad"):
        open_stores([folder / "part10.h5ad"], counts="layers/spliced")
    with pytest.raises(DataError, match="no column 'symbols' in var"):
        open_stores([folder / "part3.zarr"], gene_ids="symbols")


def test_nothing_there_is_said(folder):
    (folder / "empty").mkdir()
    for uri in ("absent.h5ad", "absent.zarr", "absent/", "*.loom"):
        with pytest.raises(DataError, match="nothing there"):
            open_stores([folder / uri])
    with pytest.raises(DataError, match="neither a store nor a folder of stores"):
        open_stores([folder / "empty"])
    with pytest.raises(DataError, match="neither a store nor a folder of stores"):
        open_stores([folder / "README.txt"])
    zarr.open_group(folder / "other.zarr", mode="w").create_array("counts", shape=(3,), dtype="i4")
    with pytest.raises(DataError, match="a zarr group of counts"):
        open_stores([folder / "other.zarr"])


def test_a_store_that_fails_closes_those_before_it(folder, cells):
    normal = cells.copy()
    normal.X = normal.X * 0.3
    normal.write_h5ad(folder / "part4.h5ad")
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("only Linux lists open files")
    before = len(list(descriptors.iterdir()))
    with pytest.raises(CountsError, match=r"part4.h5ad"):
        open_stores([folder])
    assert len(list(descriptors.iterdir())) <= before
