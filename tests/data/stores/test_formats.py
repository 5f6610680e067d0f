"""Files that are no AnnData are named, with a command that can be followed."""

import gzip
import re

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from scmf.core.errors import DataError
from scmf.data.stores.formats import foreign
from scmf.data.stores.open import open_stores
from tests.conftest import synthetic_cells


@pytest.fixture(scope="module")
def cells():
    return synthetic_cells(12)


def tenx(path, cells):
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(cells.X, name)
        group["data"][...] = cells.X.data
        group["shape"] = np.array(cells.shape[::-1])
        group["barcodes"] = np.array(cells.obs_names, "S")
        table = group.create_group("features")
        table["id"] = table["name"] = np.array(cells.var_names, "S")
        table["feature_type"] = np.array(["Gene Expression"] * cells.n_vars, "S")
        table["genome"] = np.array(["GRCh38"] * cells.n_vars, "S")


def loom(path, cells):
    with h5py.File(path, "w") as file:
        file["matrix"] = cells.X.T.toarray()
        file.create_group("row_attrs")["Gene"] = np.array(cells.var_names, "S")
        file.create_group("col_attrs")["CellID"] = np.array(cells.obs_names, "S")
        file.create_group("layers")


def mudata(path, cells):
    with h5py.File(path, "w") as file:
        file.create_group("mod/rna")
        file.attrs["encoding-type"] = "MuData"


def text(content):
    return lambda path, cells: path.write_bytes(content)


def packed(path, cells):
    cells.write_h5ad(path.with_suffix(".raw"))
    path.write_bytes(gzip.compress(path.with_suffix(".raw").read_bytes()))


def table(path, cells):
    cells.to_df().to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("m.h5", tenx, "read_10x_h5"),
        ("m.h5ad", tenx, "read_10x_h5"),
        ("m.loom", loom, "read_loom"),
        ("m.h5mu", mudata, r"MuData file with rna(.|\n)*read_h5mu"),
        ("m.h5ad.gz", packed, "gunzip -k"),
        ("m.csv", table, "read_csv"),
        ("m.tsv", table, "read_csv"),
        ("m.h5ad", text(b""), "an empty file"),
        ("m.h5ad", text(b"version https://git-lfs.github.com/spec/v1\noid x"), "git lfs pull"),
        ("m.h5ad", text(b"<!DOCTYPE html><html>"), "web page"),
        ("m.rds", text(gzip.compress(b"X\n\0\0\0\3" + bytes(99))), "zellkonverter"),
        ("m.parquet", text(b"PAR1" + bytes(99)), "Parquet"),
        ("m.zip", text(b"PK\x03\x04" + bytes(99)), "unzip"),
        ("matrix.mtx", text(b"%%MatrixMarket matrix coordinate"), "read_10x_mtx"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, cells, name, write, words):
    write(tmp_path / name, cells)
    found = foreign(tmp_path / name)
    assert found is not None and re.search(words, str(found)), found
    with pytest.raises(DataError, match=words):
        open_stores([tmp_path / name])


def test_folders_of_another_kind_are_named(tmp_path, cells):
    (tmp_path / "mtx").mkdir()
    (tmp_path / "mtx" / "matrix.mtx.gz").write_bytes(b"")
    (tmp_path / "soma" / "__group").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "mu.zarr" / "mod").mkdir(parents=True)
    (tmp_path / "mu.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    cells.write_zarr(tmp_path / "mu.zarr" / "mod" / "rna")
    for name, words in (
        ("mtx", "read_10x_mtx"), ("soma", "data.census.uri"), ("model", "folder of a model"), ("mu.zarr", "mod/rna"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=words):
            open_stores([tmp_path / name])
    open_stores([tmp_path / "mu.zarr" / "mod" / "rna"])[0].close()


@pytest.mark.parametrize(("name", "write"), [("m.csv", table), ("m.tsv", table), ("m.h5", tenx)])
def test_the_command_can_be_followed(tmp_path, cells, name, write, monkeypatch):
    if name == "m.h5":
        pytest.importorskip("scanpy")
    write(tmp_path / name, cells)
    found = foreign(tmp_path / name)
    program = re.search(r'python -c "(.*)"', found.fix)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "the command", "exec"), {})
    made = ad.read_h5ad(tmp_path / "m.h5ad")
    assert made.shape == cells.shape and made.X.sum() == cells.X.sum()


def test_an_anndata_is_nothing_else_whatever_it_is_called(tmp_path, cells):
    cells.write_h5ad(tmp_path / "cells.h5mu")
    assert foreign(tmp_path / "cells.h5mu") is None
    store = open_stores([tmp_path / "cells.h5mu"])[0]
    assert store.n_cells == 12 and sp.issparse(cells.X)
    store.close()
