"""The Census: a release is resolved to a date, cells that stand twice are left out, errors say what to do."""

import json
from pathlib import Path

import numpy as np
import pytest

from scmf.core.errors import ConfigError, DataError

pytest.importorskip("tiledbsoma", reason="tiledbsoma is not installed")

from scmf.data.stores.soma.census import open_census
from tests.fixtures.mini_census import build


@pytest.fixture(scope="module")
def census(tmp_path_factory):
    return build(tmp_path_factory.mktemp("releases") / "cell-census" / "2026-01-01" / "soma")


@pytest.fixture
def releases(census, http_files, monkeypatch):
    """The release directory of the real Census, on loopback; ``stable`` is the mini Census."""
    client = pytest.importorskip("cellxgene_census", reason="cellxgene-census is not installed")
    directory = client._release_directory
    build = {"release_date": None, "release_build": "2026-01-01", "flags": {"lts": True, "retracted": False}}
    build["soma"] = build["h5ads"] = {"relative_uri": "cell-census/2026-01-01/soma/"}
    bad = {"flags": {"lts": True, "retracted": True}, "retraction": {"reason": "wrong ids", "replaced_by": "stable"}}
    names = {"stable": "2026-01-01", "latest": "2026-01-01", "2026-01-01": build, "2025-07-01": {**build, **bad}}
    root = str(Path(census.uri).parents[2])
    mirrors = {"default": "here", "here": {"provider": "file", "base_uri": f"{root}/", "region": None}}
    http_files.files.update({"release.json": json.dumps(names).encode(), "mirrors.json": json.dumps(mirrors).encode()})
    monkeypatch.setattr(directory, "CELL_CENSUS_RELEASE_DIRECTORY_URL", f"{http_files.url}/release.json")
    monkeypatch.setattr(directory, "CELL_CENSUS_MIRRORS_DIRECTORY_URL", f"{http_files.url}/mirrors.json")
    return http_files


def same(store, truth):
    block = store.read(np.array([[0, store.n_cells]]))
    assert (block.csr() != truth).nnz == 0


def test_primary_cells_alone_unless_asked_otherwise(census):
    primary = census.obs["is_primary_data"].to_numpy()
    store = open_census(uri=census.uri)
    assert store.n_cells == primary.sum() < len(primary)
    same(store, census.counts[primary])
    assert open_census(uri=census.uri, primary_only=False).n_cells == len(primary)
    store.close()


def test_a_filter_is_taken_together_with_the_primary_one(census):
    store = open_census(uri=census.uri, value_filter="cell_type == 'B cell' or donor_id == 'p1'")
    obs = census.obs
    chosen = ((obs["cell_type"] == "B cell") | (obs["donor_id"] == "p1")) & obs["is_primary_data"]
    same(store, census.counts[chosen.to_numpy()])


@pytest.mark.parametrize("organism", ["homo_sapiens", "Homo sapiens", "homo sapiens", "Mus musculus"])
def test_organisms_by_the_names_that_census_takes(census, organism):
    store = open_census(uri=census.uri, organism=organism, primary_only=False)
    assert store.genes[0].startswith("ENSMUSG" if organism == "Mus musculus" else "ENSG")


def test_a_copy_knows_its_build_date(census):
    assert open_census(uri=census.uri).version == "2026-01-01"
    assert open_census(uri=census.uri, version="2026-01-01").version == "2026-01-01"
    with pytest.raises(DataError, match="copy is of the Census of 2026-01-01"):
        open_census(uri=census.uri, version="2025-01-30")


def test_a_copy_on_s3(census, s3):
    s3.put_folder(Path(census.uri), "soma")
    store = open_census(uri=f"{s3.url}/soma", value_filter="nnz > 30", storage_options=s3.options)
    chosen = census.obs["is_primary_data"] & (census.obs["nnz"] > 30)
    same(store, census.counts[chosen.to_numpy()])


@pytest.mark.parametrize("version", ["stable", "latest", "2026-01-01"])
def test_a_release_is_resolved_to_its_date(census, releases, version):
    store = open_census(version=version, gene_filter="feature_type == 'lncRNA'")
    assert store.version == "2026-01-01"
    kept = (census.var["feature_type"] == "lncRNA").to_numpy()
    same(store, census.counts[census.obs["is_primary_data"].to_numpy()][:, kept])
    assert store.fingerprint == open_census(version="stable", gene_filter="feature_type == 'lncRNA'").fingerprint


def test_an_unknown_release_a_retracted_one_and_no_network(releases):
    with pytest.raises(DataError, match="no release '2026-01-02'") as caught:
        open_census(version="2026-01-02")
    assert "did you mean '2026-01-01'" in caught.value.fix and "2025-07-01" not in caught.value.wanted
    with pytest.raises(DataError, match="was retracted: wrong ids") as caught:
        open_census(version="2025-07-01")
    assert caught.value.fix == "take stable"
    releases.status = 503
    with pytest.raises(DataError, match="cannot be reached"):
        open_census()


@pytest.mark.parametrize(
    ("options", "kind", "found", "hint"),
    [
        ({"organism": "homo sapien"}, DataError, "no organism 'homo sapien'", "homo_sapiens"),
        ({"value_filter": "tissue_genral == 'lung'"}, DataError, "column 'tissue_genral'", "tissue_general"),
        ({"value_filter": "tissue_general == 'lungs'"}, DataError, "no cells", "did you mean 'lung'"),
        ({"value_filter": "tissue_general = 'lung'"}, ConfigError, "cannot be read", "=="),
    ],
)
def test_errors_say_what_to_do(census, options, kind, found, hint):
    with pytest.raises(kind) as caught:
        open_census(uri=census.uri, **options)
    assert found in caught.value.found and hint in caught.value.fix


def test_what_is_no_census(census, tmp_path):
    for uri in (str(tmp_path / "none"), census.human):
        with pytest.raises(DataError, match="no Census|without census_info"):
            open_census(uri=uri)
