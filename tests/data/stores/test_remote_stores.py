"""AnnData far away: zarr and h5ad on S3, HTTP and fsspec hold the cells that the file on disk holds, through faults."""

from collections import Counter

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scmf.core.errors import DataError
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.files.retries import Retries
from scmf.data.stores.open import open_stores
from tests.conftest import synthetic_cells
from tests.fixtures.servers import serve

pytest.importorskip("obstore", reason="obstore is not installed")

KINDS = ("plain.h5ad", "gzip.h5ad", "two.zarr", "three.zarr")
N_CELLS = 600


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(N_CELLS)


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory):
    """The same cells in four files."""
    root = tmp_path_factory.mktemp("files")
    cells.write_h5ad(root / "plain.h5ad")
    cells.write_h5ad(root / "gzip.h5ad", compression="gzip")
    for name, version in (("two.zarr", 2), ("three.zarr", 3)):
        with ad.settings.override(zarr_write_format=version):
            cells.write_zarr(root / name, chunks=(1000,))
    return root


def place(folder, kind, where, request):
    """Put a file or folder where it is read from; its address and options."""
    path = folder / kind
    if where == "http":
        return serve(folder, kind, request.getfixturevalue("http_files")), None
    if where == "s3":
        s3 = request.getfixturevalue("s3")
        if path.is_dir():
            s3.put_folder(path, f"cells/{kind}")
        else:
            s3.put(f"cells/{kind}", path.read_bytes())
        return f"{s3.url}/cells/{kind}", s3.options
    memory = request.getfixturevalue("memory")
    memory.put(str(path), f"/cells/{kind}", recursive=True)
    return f"memory://cells/{kind}", None


def same(store, cells):
    """Every cell once through a scan with two threads, and spans in any order, against the AnnData."""
    truth = sp.csr_matrix(cells.X)
    seen = Counter()
    parts = []
    for block in Corpus([store]).scan(cells_per_block=97, threads=2):
        seen.update(block.cells.tolist())
        parts.append(block.counts.csr())
    assert seen == Counter(range(cells.n_obs))
    assert (sp.vstack(parts) != truth).nnz == 0
    spans = np.array([[500, 520], [3, 90], [599, 600], [0, 4]])
    rows = np.concatenate([np.arange(a, b) for a, b in spans])
    assert (store.read(spans).csr() != truth[rows]).nnz == 0


@pytest.mark.parametrize("where", ["s3", "http", "memory"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_remote_file_holds_the_cells_of_the_local_one(folder, cells, kind, where, request):
    uri, options = place(folder, kind, where, request)
    (store,) = open_stores([uri], storage_options=options)
    same(store, cells)
    assert store.genes == tuple(cells.var_names)
    assert store.cell_ids().tolist() == cells.obs_names.tolist()
    assert store.obs(["donor_id"])["donor_id"].tolist() == cells.obs["donor_id"].tolist()
    assert store.uri == uri
    store.close()


def test_a_folder_on_s3_gives_every_store_in_it(folder, cells, s3):
    s3.put_folder(folder, "cells")
    stores = open_stores([f"{s3.url}/cells"], storage_options=s3.options)
    assert [store.uri.rpartition("/")[2] for store in stores] == sorted(KINDS)
    assert Corpus(stores).n_cells == len(KINDS) * N_CELLS
    assert len({store.fingerprint for store in stores}) == len(KINDS)
    again = open_stores([f"{s3.url}/cells/two.zarr"], storage_options=s3.options)[0]
    assert again.fingerprint in {store.fingerprint for store in stores}


@pytest.mark.parametrize("kind", KINDS)
def test_faults_on_the_way_lose_no_cell(folder, cells, kind, http_files, monkeypatch):
    monkeypatch.setitem(Retries.__init__.__kwdefaults__, "first_wait_s", 0.001)
    uri = serve(folder, kind, http_files)
    rng = np.random.default_rng(0)
    http_files.faults = [str(one) if one else None for one in rng.choice([None, None, None, "drop", "503"], 200)]
    (store,) = open_stores([uri])
    same(store, cells)
    faults = sum(count for fault, count in http_files.injected.items() if fault)
    assert faults > 0 and store._source.retries == faults


@pytest.mark.parametrize("kind", ["plain.h5ad", "three.zarr"])
def test_a_file_replaced_under_the_reader_is_an_error(folder, cells, kind, s3):
    key = f"cells/{kind}"
    if (folder / kind).is_dir():
        s3.put_folder(folder / kind, key)
    else:
        s3.put(key, (folder / kind).read_bytes())
    (store,) = open_stores([f"{s3.url}/{key}"], storage_options=s3.options)
    same(store, cells)
    for item in s3.client.list_objects_v2(Bucket=s3.bucket, Prefix=key)["Contents"]:
        body = s3.client.get_object(Bucket=s3.bucket, Key=item["Key"])["Body"].read()
        s3.put(item["Key"], body[::-1])
    with pytest.raises(DataError, match="replaced or written to while it was being read"):
        for _ in Corpus([store]).scan():
            pass


@pytest.mark.parametrize("kind", ["plain.h5ad", "three.zarr"])
def test_a_remote_read_brings_its_cells_and_little_more(folder, kind, http_files):
    (store,) = open_stores([serve(folder, kind, http_files)])
    store.read(np.array([[0, 4]]))
    before = len(http_files.sent("GET"))
    store.read(np.array([[300, 310]]))
    assert len(http_files.sent("GET")) - before <= 4


@pytest.mark.parametrize("uri", ["none.h5ad", "none.zarr", "cells"])
def test_what_is_not_there_is_one_clear_error(s3, uri):
    with pytest.raises(DataError) as caught:
        open_stores([f"{s3.url}/{uri}"], storage_options=s3.options)
    assert f"{s3.url}/{uri}" in str(caught.value.where) and caught.value.fix
