"""Species and ids through the command line: mouse cells, orthologs, other names, files that name genes differently."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scmf.cli import main as cli
from scmf.data.genes import gene_sets, joining, orthologs, species
from scmf.data.genes.ids import GeneMap
from scmf.evaluation.as_in_run import _read_as_well
from scmf.models.checkpoint import load_run_model
from tests.cli.test_labels_and_genes import GENES, cells, config, split_of

MOUSE_IDS = [gene.replace("ENSG", "ENSMUSG") for gene in GENES]
SYMBOLS = [f"HUM{i}" for i in range(len(GENES))]
MOUSE_SYMBOLS = [f"Hum{(i + 1) % len(GENES)}" for i in range(len(GENES))]
"""In upper case each is the symbol of the next human gene, as Gpi1 of the mouse is an alias of PIGQ."""


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    """Annotations and orthologs of two made-up species."""
    human = GeneMap(GENES, dict(zip(SYMBOLS, GENES, strict=True)))
    mouse = GeneMap(MOUSE_IDS, dict(zip(MOUSE_SYMBOLS, MOUSE_IDS, strict=True)))
    pairs = pd.DataFrame({"human": GENES, "mouse": MOUSE_IDS, "type": "ortholog_one2one", "confidence": 1})[:50]
    known = {species.HUMAN: frozenset(SYMBOLS), species.MOUSE: frozenset(MOUSE_SYMBOLS)}
    for module in (gene_sets, joining):
        monkeypatch.setattr(module, "human_genes", lambda: human)
        monkeypatch.setattr(module, "mouse_genes", lambda: mouse)
    monkeypatch.setattr(orthologs, "mouse_genes", lambda: mouse)
    monkeypatch.setattr(orthologs, "read_orthologs", lambda: pairs)
    monkeypatch.setattr(species, "_symbols", lambda: known)


def scmf(*arguments):
    """Run a command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["scmf", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return stopped.value.code or 0


@pytest.fixture
def said(capsys):
    """What was printed on stderr since the last time, in one line."""
    return lambda: " ".join(capsys.readouterr().err.split())


def named(names, path, **columns):
    """The same cells with other names of genes."""
    adata = cells()
    adata.var_names = list(names)
    for column, values in columns.items():
        adata.var[column] = values
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def human(tmp_path_factory):
    """A model of human cells."""
    folder = tmp_path_factory.mktemp("human")
    yaml = config(folder / "a.yaml", named(GENES, folder / "a.h5ad"), benchmarks="")
    assert scmf("train", "--config", yaml, "--out", folder / "run", "--quiet") == 0
    return folder


NAMES = {
    "ids": (MOUSE_IDS, {}),
    "symbols": (MOUSE_SYMBOLS, {}),
    "symbols beside ids": (MOUSE_SYMBOLS, {"gene_ids": MOUSE_IDS}),
    "symbols in upper case beside ids": ([name.upper() for name in MOUSE_SYMBOLS], {"gene_ids": MOUSE_IDS}),
}


@pytest.mark.parametrize("how", NAMES)
def test_mouse_cells_are_refused_by_a_human_model_in_every_verb(how, human, tmp_path, said):
    names, columns = NAMES[how]
    file, gene_ids = named(names, tmp_path / "m.h5ad", **columns), "var_names" if "symbols" in how else "auto"
    model = human / "run"
    assert scmf("embed", file, "--model", model, "--gene-ids", gene_ids, "--allow-low-coverage", "--quiet") == 3
    assert "genes of Mus musculus" in (text := said()) and "data.orthologs: one2one" in text
    by_columns = ad.read_h5ad(file)
    by_columns.X = sparse.csc_matrix(by_columns.X)
    by_columns.write_h5ad(tmp_path / "c.h5ad")
    assert scmf("embed", tmp_path / "c.h5ad", "--model", model, "--gene-ids", gene_ids, "--quiet") == 3
    assert "genes of Mus musculus" in said()
    assert scmf("check", file, "--vocabulary", model / "model") == 1
    said()
    common = ("--vocabulary", model / "model", "--max-length", "32", "--gene-ids", gene_ids, "--quiet")
    assert scmf("data", "tokenize", file, "--out", tmp_path / "t", *common) == 3
    assert "genes of Mus musculus" in said()
    for data in (f", gene_ids: {gene_ids}", f", gene_ids: {gene_ids}, stream: {{block_cells: 8}}"):
        yaml = config(tmp_path / "m.yaml", file, vocabulary=model / "model", benchmarks="", data=data[2:])
        assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet") == 3
        assert "genes of Mus musculus" in said()
    code = scmf("evaluate", model, "--set", f"data.files=[{file}]", "--set", f"data.gene_ids={gene_ids}", "--quiet")
    assert code == 3 and "genes of Mus musculus" in said()


@pytest.mark.parametrize("others", [MOUSE_SYMBOLS, GENES, SYMBOLS], ids=["symbols", "human", "human symbols"])
def test_mouse_cells_among_several_files_are_refused_by_a_human_model(others, human, tmp_path, said):
    (tmp_path / "many").mkdir()
    named(MOUSE_IDS, tmp_path / "many/a.h5ad")
    named(others, tmp_path / "many/b.h5ad")
    words = ("--model", human / "run", "-o", tmp_path / "out.h5ad", "--allow-low-coverage", "--quiet")
    assert scmf("embed", tmp_path / "many", *words) == 3
    assert "Mus musculus" in said() and not (tmp_path / "out.h5ad").exists()


def test_symbols_that_no_annotation_knows_are_of_no_species(tmp_path, capsys):
    for names in (["FOO1", *[f"gene_{i}" for i in range(59)]], [name.lower() for name in SYMBOLS]):
        assert scmf("check", named(names, tmp_path / "x.h5ad"), "--json") in (0, 1)
        report = json.loads(capsys.readouterr().out)
        assert report["facts"]["genes"]["species"] == "" and "Homo sapiens" not in json.dumps(report)


@pytest.mark.parametrize("names", [MOUSE_IDS, MOUSE_SYMBOLS], ids=["ids", "symbols"])
@pytest.mark.parametrize("streamed", [False, True], ids=["memory", "stream"])
def test_a_model_trained_through_orthologs_embeds_and_evaluates_its_mouse_cells(names, streamed, tmp_path, said):
    file = named(names, tmp_path / "m.h5ad")
    split_of(cells(), tmp_path / "split.tsv")
    (tmp_path / "genes.txt").write_text("".join(f"{gene}\n" for gene in GENES))
    data = f"gene_set: {tmp_path / 'genes.txt'}, orthologs: one2one, label_key: cell_type, batch_key: batch"
    data += f", split: {tmp_path / 'split.tsv'}" + (", stream: {block_cells: 8}" if streamed else "")
    yaml = config(tmp_path / "m.yaml", file, data=data)
    assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet") == 0, said()
    saved = json.loads((tmp_path / "run/model/gene_orthologs.json").read_text())
    assert saved[MOUSE_IDS[0]] == saved[MOUSE_SYMBOLS[0].upper()] == GENES[0]
    (tmp_path / "genes.txt").unlink()  # what embeds and tokenizes is saved with the model
    assert scmf("embed", file, "--model", tmp_path / "run", "-o", tmp_path / "mouse.h5ad", "--quiet") == 0, said()
    (mouse,) = ad.read_h5ad(tmp_path / "mouse.h5ad").obsm.values()
    human = cells()
    human.var_names = [gene if i < 50 else f"OTHER{i}" for i, gene in enumerate(GENES)]
    human.write_h5ad(tmp_path / "h.h5ad")
    assert scmf("embed", tmp_path / "h.h5ad", "--model", tmp_path / "run", "-o", tmp_path / "o.h5ad", "--quiet") == 0
    (same,) = ad.read_h5ad(tmp_path / "o.h5ad").obsm.values()
    np.testing.assert_array_equal(mouse, same)
    (tmp_path / "many").mkdir()
    for number, others in enumerate((MOUSE_IDS, MOUSE_SYMBOLS)):
        named(others, tmp_path / f"many/{number}.h5ad")
    words = ("--model", tmp_path / "run", "-o", tmp_path / "both.h5ad", "--quiet")
    assert scmf("embed", tmp_path / "many", *words) == 0, said()
    (both,) = ad.read_h5ad(tmp_path / "both.h5ad").obsm.values()
    np.testing.assert_array_equal(both, np.concatenate([mouse, mouse]))
    out = ("data", "tokenize", file, "--vocabulary", tmp_path / "run/model", "--max-length", "32", "--quiet", "--out")
    assert scmf(*out, tmp_path / "tokens") == 0, said()
    (tmp_path / "genes.txt").write_text("".join(f"{gene}\n" for gene in GENES))
    assert scmf("evaluate", tmp_path / "run", "--quiet") == 0, said()
    tune = ("finetune", "--base-model", tmp_path / "run", "--data", file, "--epochs", "1", "--quiet")
    genes = ("--set", f"data.gene_set={tmp_path / 'genes.txt'}", "--set", "data.orthologs=one2one")
    assert scmf(*tune, *genes, "--out", tmp_path / "tuned") == 0, said()
    assert scmf("predict", tmp_path / "tuned", file, "--out", tmp_path / "labels.h5ad", "--quiet") == 0, said()
    assert scmf("predict", tmp_path / "tuned", tmp_path / "h.h5ad", "--out", tmp_path / "l.h5ad", "--quiet") == 0
    one, other = (ad.read_h5ad(tmp_path / name).obsm["predicted_cell_type"] for name in ("labels.h5ad", "l.h5ad"))
    np.testing.assert_array_equal(one, other)


def test_a_human_classifier_says_nothing_of_mouse_cells(human, tmp_path, said):
    words = ("--base-model", human / "run", "--data", human / "a.h5ad", "--label-key", "cell_type", "--epochs", "1")
    assert scmf("finetune", *words, "--out", tmp_path / "tuned", "--quiet") == 0, said()
    file = named(SYMBOLS, tmp_path / "m.h5ad", gene_ids=MOUSE_IDS)
    out = tmp_path / "labels.h5ad"
    assert scmf("predict", tmp_path / "tuned", file, "--out", out, "--allow-low-coverage", "--quiet") == 3
    assert "genes of Mus musculus" in said() and not out.exists()


MIXED = {
    "ids and symbols": (GENES, SYMBOLS),
    "symbols and ids": (SYMBOLS, GENES),
    "both mixed": ([*GENES[:30], *SYMBOLS[30:]], [*SYMBOLS[:20], *GENES[20:]]),
}


@pytest.mark.parametrize("how", MIXED)
def test_files_that_name_genes_differently_are_joined(how, tmp_path, said):
    one, two = (named(names, tmp_path / f"{i}.h5ad") for i, names in enumerate(MIXED[how]))
    plain, same = named(GENES, tmp_path / "p.h5ad"), named(GENES, tmp_path / "q.h5ad")
    logs = []
    for name, files in (("joined", f"{one}, {two}"), ("plain", f"{plain}, {same}")):
        for data in ("", "stream: {block_cells: 8}"):
            out = tmp_path / f"{name}{len(data)}"
            yaml = config(tmp_path / "j.yaml", files, benchmarks="", data=data or "counts: auto")
            assert scmf("train", "--config", yaml, "--out", out, "--quiet") == 0, said()
            lines = [json.loads(line) for line in (out / "pretraining/log.jsonl").read_text().splitlines()]
            logs.append([line["loss"] for line in lines if "loss" in line])
            vocabulary = json.loads((out / "model/vocab.json").read_text())
            assert {gene for gene in vocabulary if not gene.startswith("<")} <= set(GENES)
            if name == "joined":
                for file in (one, two):
                    assert scmf("embed", file, "--model", out, "-o", tmp_path / "e.h5ad", "--quiet") == 0, said()
    assert logs[0] == logs[2] and logs[1] == logs[3] and logs[0]


@pytest.mark.parametrize("stream", ["", ", stream: {block_cells: 8}"], ids=["memory", "stream"])
def test_a_run_on_joined_files_evaluates_their_cells(stream, tmp_path, said):
    files = [named(names, tmp_path / f"{name}.h5ad") for name, names in (("a", SYMBOLS), ("b", GENES))]
    parts = [cells(), cells()]
    for name, part in zip("ab", parts, strict=True):
        part.obs_names = [f"{name}:{cell}" for cell in part.obs_names]
    split_of(ad.concat(parts), tmp_path / "split.tsv")
    data = f"split: {tmp_path / 'split.tsv'}, label_key: cell_type{stream}"
    yaml = config(tmp_path / "j.yaml", ", ".join(map(str, files)), data=data)
    assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet") == 0, said()
    assert scmf("evaluate", tmp_path / "run", "--quiet") == 0, said()


def test_a_file_with_ids_and_symbols_names_those_of_another(tmp_path, monkeypatch, said):
    monkeypatch.setattr(joining, "human_genes", lambda: pytest.fail("no annotation is needed"))
    one = named(GENES, tmp_path / "a.h5ad", feature_name=SYMBOLS)
    two = named(SYMBOLS, tmp_path / "b.h5ad")
    yaml = config(tmp_path / "j.yaml", f"{one}, {two}", benchmarks="")
    assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet") == 0, said()
    assert len(json.loads((tmp_path / "run/model/vocab.json").read_text())) == 62


def test_files_of_two_species_are_not_joined(tmp_path, said):
    one, two = named(GENES, tmp_path / "a.h5ad"), named(MOUSE_SYMBOLS, tmp_path / "b.h5ad")
    for data in ("counts: auto", "stream: {block_cells: 8}"):
        yaml = config(tmp_path / "j.yaml", f"{one}, {two}", benchmarks="", data=data)
        assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet") == 3
        assert "Mus musculus" in said()


def test_embed_reads_the_ids_that_the_run_has_read_where_its_vocabulary_knows_them(human, tmp_path, said):
    file = named(SYMBOLS, tmp_path / "s.h5ad", gene_ids=GENES)
    yaml = config(tmp_path / "s.yaml", file, benchmarks="", data="gene_ids: var_names")
    assert scmf("train", "--config", yaml, "--out", tmp_path / "run", "--quiet") == 0, said()
    assert set(SYMBOLS) <= json.loads((tmp_path / "run/model/vocab.json").read_text()).keys()
    assert scmf("embed", file, "--model", tmp_path / "run", "-o", tmp_path / "o.h5ad", "--quiet") == 0, said()
    assert scmf("embed", file, "--model", human / "run", "-o", tmp_path / "p.h5ad", "--quiet") == 0, said()
    _, tokenizer = load_run_model(human / "run")
    assert not _read_as_well(tokenizer, ad.read_h5ad(file).var, "var_names")
    assert _read_as_well(tokenizer, ad.read_h5ad(file).var, "gene_ids")
