"""`scmf.embed` on an AnnData: what `scmf embed` writes for its file, to the bit; the AnnData stays as it was."""

import json

import anndata as ad
import numpy as np
import pytest

import scmf
from scmf.core.errors import ConfigError, DataError
from scmf.core.python_words import python_words
from tests.cli.test_in_python import refused
from tests.cli.test_predict import other_genes
from tests.conftest import synthetic_cells
from tests.fixtures.adata_forms import FORMS, state
from tests.fixtures.commands import scmf as command
from tests.fixtures.tiny_runs import tiny  # noqa: F401  (fixture)

KEY = "X_transformer_encoder"


@pytest.fixture(scope="module")
def adata():
    return synthetic_cells(60)


@pytest.fixture(scope="module")
def written(tiny):  # noqa: F811
    """The file that `scmf embed` writes for some cells."""

    def call(file, *words, family="transformer_encoder"):
        out = file.with_name(f"{file.stem}.out.h5ad")
        assert command("embed", file, "--model", tiny(family), "-o", out, "--quiet", *words) == 0
        return ad.read_h5ad(out)

    return call


@pytest.fixture(scope="module")
def embedded(tiny, written):  # noqa: F811
    return written(tiny.cells)


def same_vectors(found, wanted, key=KEY):
    assert np.asarray(found.obsm[key]).tobytes() == np.asarray(wanted.obsm[key]).tobytes()
    assert dict(found.uns["scmf"][key]) == dict(wanted.uns["scmf"][key])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_cells_gives_what_the_command_writes(form, adata, tiny, embedded, tmp_path):  # noqa: F811
    given = FORMS[form](adata, tmp_path)
    before = state(given)
    found = scmf.embed(given, tiny())
    same_vectors(found, embedded)
    assert state(given) == before and found is not given and not found.isbacked and not found.is_view
    assert list(found.obs_names) == list(adata.obs_names) and list(found.obs) == list(adata.obs)


@pytest.mark.parametrize("genes", ["permuted and added up", "missing"])
def test_other_genes_are_read_as_in_a_file(genes, adata, tiny, written, tmp_path):  # noqa: F811
    file = tmp_path / "other.h5ad"
    if genes == "missing":
        adata[:, 10:].copy().write_h5ad(file)
    else:
        other_genes(adata, file)
    same_vectors(scmf.embed(ad.read_h5ad(file), tiny()), written(file))


def test_options_are_those_of_the_command(adata, tiny, written, tmp_path):  # noqa: F811
    odd = adata.copy()
    odd.layers["spliced"], odd.var["id"], odd.X = odd.X.copy(), odd.var_names, None
    odd.var_names = [f"probe{i}" for i in range(odd.n_vars)]
    odd.write_h5ad(tmp_path / "odd.h5ad")
    words = ("--layer", 0, "--pooling", "cell", "--key", "X_mine", "--counts", "layers/spliced", "--gene-ids", "id")
    wanted = written(tmp_path / "odd.h5ad", *words)
    options = {"layer": 0, "pooling": "cell", "key": "X_mine", "counts": "layers/spliced", "gene_ids": "id"}
    found = scmf.embed(odd, tiny(), **options)
    same_vectors(found, wanted, "X_mine")
    with pytest.raises(ConfigError, match="bf16-mixed"):
        scmf.embed(odd, tiny(), precision="bf16", **options)
    assert found.uns["scmf"]["X_mine"]["layer"] == 0 and len(found.uns["scmf"]["X_mine"]["model_sha256"]) == 64


@pytest.mark.parametrize("what", ["genes", "cells", "normalized", "unknown"])
def test_what_a_file_is_refused_for_an_anndata_is_refused_for(what, adata, tiny, tmp_path, capsys):  # noqa: F811
    bad = refused(adata)[what]
    with pytest.raises(DataError) as told:
        scmf.embed(bad, tiny())
    bad.write_h5ad(tmp_path / "bad.h5ad")
    capsys.readouterr()
    code = command("embed", tmp_path / "bad.h5ad", "--model", tiny(), "-o", tmp_path / "x.h5ad", "--json", "--quiet")
    said = json.loads(capsys.readouterr().out)
    assert (code, said["error"]) == (told.value.exit_code, type(told.value).__name__)
    assert said["found"] == told.value.found and python_words(said["do"]) == told.value.fix


def test_in_place(adata, tiny, embedded, tmp_path, caplog):  # noqa: F811
    mine = adata.copy()
    assert scmf.embed(mine, tiny(), inplace=True) is mine
    same_vectors(mine, embedded)
    scmf.embed(mine, tiny(), inplace=True, key="X_other")
    assert {KEY, "X_other"} == set(mine.obsm) == set(mine.uns["scmf"])
    mine.uns["scmf"] = "a word of the user"
    caplog.clear()
    scmf.embed(mine, tiny(), inplace=True)
    assert mine.uns["scmf"] == "a word of the user" and "is not recorded" in caplog.text
    assert "in place of the one that was there" in caplog.text
    backed = FORMS["backed"](adata, tmp_path)
    scmf.embed(backed, tiny(), inplace=True)
    assert backed.isbacked and backed.obsm[KEY].tobytes() == embedded.obsm[KEY].tobytes()
    with pytest.raises(ConfigError, match="a view of an AnnData that is backed"):
        scmf.embed(backed[:5], tiny(), inplace=True)


def test_what_embed_returns_is_written_and_read(adata, tiny, tmp_path):  # noqa: F811
    found = scmf.embed(adata, tiny())
    found.write_h5ad(tmp_path / "out.h5ad")
    same_vectors(ad.read_h5ad(tmp_path / "out.h5ad"), found)


def test_a_word_of_the_user_in_a_file_stays(adata, tiny, written, tmp_path, caplog):  # noqa: F811
    other = adata.copy()
    other.uns["scmf"] = "mine"
    other.write_h5ad(tmp_path / "cells.h5ad")
    found = written(tmp_path / "cells.h5ad")
    assert found.uns["scmf"] == "mine" and KEY in found.obsm


@pytest.mark.parametrize("ending", [".zarr", " in place", " vectors"])
def test_every_output_of_the_command_has_the_record(ending, adata, tiny, tmp_path):  # noqa: F811
    file, read = tmp_path / "cells.zarr", ad.read_zarr
    adata.write_zarr(file)
    words = {".zarr": ("-o", tmp_path / "o.zarr"), " in place": ("--in-place",), " vectors": ("--vectors-only",)}
    assert command("embed", file, "--model", tiny(), *words[ending], "--quiet") == 0
    out = {".zarr": tmp_path / "o.zarr", " in place": file, " vectors": None}[ending]
    if out is None:
        out, read = next(tmp_path.glob("*.vectors.h5ad")), ad.read_h5ad
    assert dict(read(out).uns["scmf"][KEY])["pooling"] == "cell"
