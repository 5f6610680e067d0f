"""`scmf embed` of files of any size: pieces, parts, going on, and where the vectors are written."""

import errno
import json
import os
import shutil
import signal
import stat

import anndata as ad
import numpy as np
import pytest
import zarr

from scmf.core.config.run import DataConfig
from scmf.data.loading.load import load_cells
from scmf.data.stores.adata_added import Vectors, add_vectors
from scmf.evaluation import embed_file, embed_job, embed_pieces
from scmf.models.checkpoint import load_run_model
from scmf.models.embed import embed_tokens
from scmf.models.run_folder import RunFolder
from scmf.tokenizers.build import tokenize
from tests.cli.test_cli import command  # noqa: F401  (fixture)
from tests.cli.test_outputs_cli import folder, made  # noqa: F401  (fixtures)
from tests.fixtures.commands import everything, scmf
from tests.fixtures.tiny_runs import FAMILIES, tiny  # noqa: F401  (fixture)

WORDS = ("embed", "cells.h5ad", "--model", "run", "--layer", "0", "--quiet")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(embed_file, "PIECE", 10)


@pytest.fixture
def embed(folder, command):  # noqa: F811
    """Run `scmf embed` with more options: its answer."""

    def run(*more, words=WORDS):
        code, out, err = command(*words, *more, "--json")
        assert code == 0, err
        return json.loads(out)

    return run


def vectors(path, key="X_config"):
    return np.asarray(ad.read_h5ad(path).obsm[key])


def hidden(folder):  # noqa: F811
    return [name for name in names_in(folder) if name.startswith(".")]


def names_in(folder):  # noqa: F811
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_give_what_cells_in_memory_give(tiny, tmp_path, family):  # noqa: F811
    run, out = tiny(family), tmp_path / "out.h5ad"
    assert scmf("embed", tiny.cells, "--model", run, "-o", out, "--quiet") == 0
    network, tokenizer = load_run_model(run)
    tokens = tokenize(tokenizer, load_cells(DataConfig(files=[tiny.cells])))
    wanted = embed_tokens(network, tokens, settings=RunFolder.at(run).config.eval)
    found = vectors(out, f"X_{family}")
    assert found.std(axis=0).min() > 0
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-5)


def test_pieces_give_what_one_pass_gives(folder, embed, monkeypatch):  # noqa: F811
    embed("-o", "pieces.h5ad")
    monkeypatch.setattr(embed_file, "PIECE", 4096)
    embed("-o", "whole.h5ad")
    np.testing.assert_allclose(vectors("pieces.h5ad"), vectors("whole.h5ad"), atol=1e-5)
    assert hidden(folder) == []


def test_a_stopped_embedding_goes_on_where_it_was(folder, embed, command, monkeypatch):  # noqa: F811
    calls, works = [], embed_job.embed_tokens

    def counted(*arguments, **options):
        calls.append(options["first"])
        if stop and len(calls) == 4:
            raise KeyboardInterrupt
        return works(*arguments, **options)

    monkeypatch.setattr(embed_job, "embed_tokens", counted)
    stop = True
    assert command(*WORDS, "-o", "out.h5ad")[0] == 130
    assert hidden(folder) == [".out.h5ad.scmf-embed"] and not (folder / "out.h5ad").exists()
    stop, calls[:] = False, []
    embed("-o", "out.h5ad")
    assert calls == [30, 40] and hidden(folder) == []
    embed("-o", "whole.h5ad")
    np.testing.assert_array_equal(vectors("out.h5ad"), vectors("whole.h5ad"))


def test_pieces_of_another_model_are_not_gone_on_with(folder, embed, command, monkeypatch):  # noqa: F811
    wrong = embed_pieces.Pieces(5, folder / ".out.h5ad.scmf-embed")
    wrong.open({"model": "another"}, shared=False)
    for number in range(5):
        wrong.put(number, np.zeros((10 if number < 4 else 8, 8), np.float32))
    code, _, err = command(*WORDS, "-o", "out.h5ad", "--part", "1/2")
    assert code == 2 and "parts of another embedding" in err and "model" in err
    embed("-o", "out.h5ad")
    assert vectors("out.h5ad").any(axis=1).all() and hidden(folder) == []


def test_a_cell_that_cannot_be_embedded_leaves_nothing(folder, command):  # noqa: F811
    cells = ad.read_h5ad("cells.h5ad")
    dense = cells.X.toarray()
    dense[33] = 0
    cells.X = dense
    cells.write_h5ad("cells.h5ad")
    code, _, err = command(*WORDS, "-o", "out.h5ad")
    assert code == 3 and "'cell33'" in err and "remove these cells" in err
    assert hidden(folder) == [] and not (folder / "out.h5ad").exists()


@pytest.mark.parametrize("n", [3, 7])
def test_parts_make_the_file_together_in_any_order(folder, embed, n):  # noqa: F811
    embed("-o", "whole.h5ad")
    for number in range(n, 0, -1):
        answer = embed("-o", "out.h5ad", "--part", f"{number}/{n}")
        assert (answer["left"] == 0) == (number == 1) == (folder / "out.h5ad").exists()
    assert answer["dimensions"] == 8 and answer["cells"] == 48 and hidden(folder) == []
    np.testing.assert_allclose(vectors("out.h5ad"), vectors("whole.h5ad"), atol=1e-5)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_one_error(folder, command, part):  # noqa: F811
    code, _, err = command(*WORDS, f"--part={part}")
    assert code == 2 and "--part" in err


def test_in_place_adds_to_the_file_and_to_nothing_else(folder, embed, command):  # noqa: F811
    embed("-o", "copy.h5ad")
    (folder / "cells.h5ad").chmod(0o640)
    (folder / "link.h5ad").symlink_to("cells.h5ad")
    words = ("embed", "link.h5ad", *WORDS[2:])
    answer = embed("--in-place", words=words)
    assert answer["file"] == str(folder / "cells.h5ad") and (folder / "link.h5ad").is_symlink()
    assert stat.S_IMODE((folder / "cells.h5ad").stat().st_mode) == 0o640
    np.testing.assert_array_equal(vectors("cells.h5ad"), vectors("copy.h5ad"))
    code, _, err = command(*WORDS, "--in-place")
    assert code == 0 and "obsm['X_config'] in place of" in err and hidden(folder) == []
    for more in (("-o", "new.h5ad"), ("--vectors-only",)):
        assert command(*WORDS, "--in-place", *more)[0] == 2


@pytest.mark.parametrize(("error", "code"), [(OSError(errno.ENOSPC, "No space left"), 8), (KeyboardInterrupt(), 130)])
@pytest.mark.parametrize("file", ["cells.h5ad", "cells.zarr"])
def test_what_stops_the_writing_in_place_leaves_the_file_as_it_was(folder, command, monkeypatch, file, error, code):  # noqa: F811
    words = ("embed", file, *WORDS[2:], "--in-place", "--key", "X_mine")
    assert command(*words)[0] == 0
    before, reads = everything(folder), embed_pieces.Pieces.read

    def stops(pieces):
        yield next(reads(pieces))
        if begun:
            raise error
        begun.append(pieces.width)
        yield from list(reads(pieces))[1:3]
        raise error

    begun = []
    monkeypatch.setattr(embed_pieces.Pieces, "read", stops)
    assert command(*words)[0] == code
    pieces = f".{file}.scmf-embed"
    assert {path: held for path, held in everything(folder).items() if path.parts[0] != pieces} == before
    monkeypatch.setattr(embed_pieces.Pieces, "read", reads)
    monkeypatch.setattr(embed_job, "embed_tokens", lambda *_, **__: pytest.fail("all pieces are there"))
    assert command(*words)[0] == 0
    assert {path: held for path, held in everything(folder).items() if file not in path.parts} == {
        path: held for path, held in before.items() if file not in path.parts
    }


@pytest.mark.parametrize("file", ["cells.h5ad", "cells.zarr"])
def test_a_kill_while_vectors_are_added_in_place_loses_nothing(folder, file):  # noqa: F811
    x_ND = np.arange(96, dtype=np.float32).reshape(48, 2)
    add_vectors(file, file, "X_mine", Vectors(x_ND.shape, lambda: [x_ND]))
    before, names = everything(folder), names_in(folder)

    def dies():
        yield -x_ND[:20]
        os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        add_vectors(file, file, "X_mine", Vectors(x_ND.shape, dies))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert {path: held for path, held in everything(folder).items() if path.parts[0] in names} == before
    add_vectors(file, file, "X_mine", Vectors(x_ND.shape, lambda: [-x_ND]))
    assert names_in(folder) == names  # what the killed process left is gone
    read = ad.read_zarr if file.endswith("zarr") else ad.read_h5ad
    np.testing.assert_array_equal(read(file).obsm["X_mine"], -x_ND)


def test_cells_that_the_model_hardly_knows_are_refused_before_any_is_embedded(folder, embed, command, monkeypatch):  # noqa: F811
    cells = ad.read_h5ad("cells.h5ad")
    cells.var_names = [*cells.var_names[:5], *(f"ENSG{90_000_000_000 + i}" for i in range(cells.n_vars - 5))]
    (folder / "many").mkdir()
    cells.write_h5ad("many/a.h5ad")
    shutil.copy("cells.h5ad", "many/b.h5ad")
    works = embed_job.embed_tokens
    monkeypatch.setattr(embed_job, "embed_tokens", lambda *_, **__: pytest.fail("embedded"))
    for word, more in (("many/a.h5ad", ()), ("many/a.h5ad", ("--in-place",)), ("many", ("-o", "out.h5ad"))):
        code, _, err = command("embed", word, *WORDS[2:], *more)
        assert code == 3 and "--allow-low-coverage" in err and "a.h5ad" in err, err
    assert names_in(folder / "many") == ["a.h5ad", "b.h5ad"] and hidden(folder) == []
    monkeypatch.setattr(embed_job, "embed_tokens", works)
    embed("--allow-low-coverage", "-o", "out.h5ad", words=("embed", "many/b.h5ad", *WORDS[2:]))


def test_in_place_of_a_zarr_group(folder, embed):  # noqa: F811
    embed("-o", "copy.h5ad")
    words = ("embed", "cells.zarr", *WORDS[2:])
    other = np.ones((48, 2), np.float32)
    add_vectors("cells.zarr", "cells.zarr", "X_other", Vectors(other.shape, lambda: [other]))
    zarr.consolidate_metadata("cells.zarr")
    for _ in range(2):
        embed("--in-place", words=words)
        np.testing.assert_array_equal(ad.read_zarr("cells.zarr").obsm["X_config"], vectors("copy.h5ad"))
        np.testing.assert_array_equal(ad.read_zarr("cells.zarr").obsm["X_other"], other)


def test_vectors_alone_are_a_small_file_that_evaluate_takes(folder, embed, command):  # noqa: F811
    embed("-o", "copy.h5ad")
    answer = embed("--vectors-only")
    assert answer["file"] == "cells.config.vectors.h5ad"
    small, whole = ad.read_h5ad(answer["file"]), ad.read_h5ad("cells.h5ad")
    assert small.X is None and list(small.obs_names) == list(whole.obs_names)
    np.testing.assert_array_equal(small.obsm["X_config"], vectors("copy.h5ad"))
    words = ("evaluate", answer["file"], "--obsm", "X_config", "--tasks", "all", "--suite", "suite.yaml", "--quiet")
    code, _, err = command(*words, "--as", "mine/one")
    assert code == 0, err


def test_several_files_a_folder_and_a_pattern_become_one_file_of_vectors(folder, embed, command):  # noqa: F811
    (folder / "many").mkdir()
    shutil.copy("cells.h5ad", "many/a.h5ad")
    shutil.copy("few.h5ad", "many/b.h5ad")
    embed("-o", "copy.h5ad")
    for number, word in enumerate(("many", "many/*.h5ad")):
        embed("-o", f"out{number}.h5ad", words=("embed", word, *WORDS[2:]))
        made = ad.read_h5ad(f"out{number}.h5ad")  # noqa: F811
        assert made.n_obs == 68 and made.obs_names.is_unique and made.obs_names[48].startswith("b:")
        np.testing.assert_allclose(made.obsm["X_config"][:48], vectors("copy.h5ad"), atol=1e-5)
        np.testing.assert_allclose(made.obsm["X_config"][48:], vectors("copy.h5ad")[:20], atol=1e-5)
    code, _, err = command("embed", "many", *WORDS[2:], "-o", "many/b.h5ad")
    assert code == 2 and "output is the input" in err
    shutil.copy("cells.h5ad", "many/.a.config.h5ad.host-999999-abcdefgh.h5ad")  # of an embedding that was killed
    embed("-o", "out.h5ad", words=("embed", "many", *WORDS[2:]))
    assert ad.read_h5ad("out.h5ad").n_obs == 68


def test_an_output_in_the_zarr_group_that_is_read_is_refused(folder, command):  # noqa: F811
    ad.read_h5ad("cells.h5ad").write_zarr("cells.zarr")
    code, _, err = command("embed", "cells.zarr", *WORDS[2:], "-o", "cells.zarr/copy.zarr")
    assert code == 2 and "output lies in the input" in err and not (folder / "cells.zarr" / "copy.zarr").exists()


def test_files_that_the_run_would_read_in_two_ways_are_refused(folder, command, monkeypatch):  # noqa: F811
    run = RunFolder(folder / "run").config
    read = run.model_copy(update={"data": run.data.model_copy(update={"counts": "layers/umi"})})
    monkeypatch.setattr(RunFolder, "config", read)
    (folder / "many").mkdir()
    cells = ad.read_h5ad("cells.h5ad")
    cells.layers["umi"] = cells.X.copy()
    cells.write_h5ad("many/a.h5ad")
    shutil.copy("few.h5ad", "many/b.h5ad")
    code, _, err = command("embed", "many", *WORDS[2:], "-o", "out.h5ad")
    assert code == 2 and "others do not" in err and "b.h5ad" in err and "--counts" in err


def test_a_file_that_gets_other_cells_meanwhile_is_one_error(folder, command, monkeypatch):  # noqa: F811
    cells = ad.read_h5ad("cells.h5ad")
    cells.X = cells.X.tocsc()
    cells.write_h5ad("columns.h5ad")
    write = embed_file._write

    def late(*given):
        cells[:-3].write_h5ad("columns.h5ad")
        write(*given)

    monkeypatch.setattr(embed_file, "_write", late)
    code, _, err = command("embed", "columns.h5ad", *WORDS[2:], "-o", "out.h5ad")
    assert code == 3 and "45 cells, where 48 were embedded" in err and not (folder / "out.h5ad").exists()


def test_a_file_stored_by_columns_is_read_as_a_whole(folder, embed, command):  # noqa: F811
    embed("-o", "copy.h5ad")
    cells = ad.read_h5ad("cells.h5ad")
    cells.X = cells.X.tocsc()
    cells.write_h5ad("columns.h5ad")
    code, _, err = command("embed", "columns.h5ad", *WORDS[2:], "-o", "out.h5ad")
    assert code == 0 and "read into memory as a whole" in err and "CSC" in err
    code, _, err = command("embed", "cells.h5ad", *WORDS[2:], "-o", "no.h5ad", "--counts", "layers/typo")
    assert code == 3 and "layers/typo" in err and "as a whole" not in err
    np.testing.assert_allclose(vectors("out.h5ad"), vectors("copy.h5ad"), atol=1e-5)


def test_half_precision_is_near_and_a_wrong_word_is_one_error(folder, embed, command):  # noqa: F811
    embed("-o", "whole.h5ad")
    embed("-o", "half.h5ad", "--precision", "bf16-mixed")
    whole, half = vectors("whole.h5ad"), vectors("half.h5ad")
    assert 0 < np.abs(whole - half).max() < 0.1 * np.abs(whole).max()
    code, _, err = command(*WORDS, "--precision", "bf8")
    assert code == 2 and "bf16-mixed" in err
