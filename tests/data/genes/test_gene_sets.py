"""Gene sets by name, by card and from files."""

import hashlib
import json

import pytest

from scmf.core.errors import ConfigError, DataError, GeneError, SourceError
from scmf.core.paths import data_dir
from scmf.data.cards.card import load_card
from scmf.data.genes.gene_sets import GeneSet, load_gene_set
from scmf.data.genes.ids import GeneMap
from scmf.data.genes.vocabulary import annotation, human_genes, mouse_genes

TP53, TSPAN6, MT_CO1 = "ENSG00000141510", "ENSG00000000003", "ENSG00000198804"


def load(name):
    try:
        return load_gene_set(name)
    except SourceError as error:
        pytest.skip(f"{name} cannot be fetched here: {error.found.splitlines()[0]}")


# --- the annotation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n", "species"),
    [
        ("human_protein_coding", 20_120, "Homo sapiens"),
        ("human_all", 78_894, "Homo sapiens"),
        ("mouse_protein_coding", 21_807, "Mus musculus"),
        ("mouse_all", 78_317, "Mus musculus"),
    ],
)
def test_the_named_sets_have_their_size_and_are_sorted(name, n, species):
    genes = load(name)
    assert (len(genes), genes.species) == (n, species)
    assert list(genes.genes) == sorted(set(genes.genes))
    assert genes.to_json()["sha256"] == genes.sha256


def test_human_protein_coding_holds_the_mitochondrial_genes_and_no_receptor_segments():
    table = annotation("human-genes") if load("human_protein_coding") else None
    genes = set(load("human_protein_coding").genes)
    assert {TP53, TSPAN6, MT_CO1} <= genes
    mitochondrial = table[table["symbol"].str.startswith("MT-") & table["gene"].isin(genes)]
    assert len(mitochondrial) == 13
    assert not genes & set(table["gene"][table["biotype"].isin(["IG_V_gene", "TR_V_gene", "Mt_rRNA", "lncRNA"])])


def test_human_protein_coding_is_nearly_that_of_geneformer():
    if data_dir() is None:
        pytest.skip("SCMF_DATA_DIR is not set; the Hub is not asked by tests")
    ours, theirs = load("human_protein_coding"), load("geneformer-v2")
    assert len(theirs) == 20_271
    assert len(set(ours.genes) & set(theirs.genes)) == 20_030
    assert theirs.gene_map().map(["TP53", "tp53", "Trp53"])[0].tolist() == [TP53, "", ""]


def test_a_set_of_the_annotation_knows_symbols_of_its_species():
    assert load("human_protein_coding").gene_map().map(["TP53", "P53"])[0].tolist() == [TP53, TP53]
    names = load("mouse_protein_coding").gene_map()
    assert names.map(["Trp53", "ENSMUSG00000059552.15"])[0].tolist() == ["ENSMUSG00000059552"] * 2


def test_an_approved_symbol_without_annotated_gene_is_not_taken_for_an_alias():
    load("human_all")
    genes = human_genes()  # TRB is the locus of a receptor; it is an alias of THRB too
    assert genes.map(["TRB", "THRB"])[0].tolist() == ["", "ENSG00000151090"]


def test_a_symbol_of_several_mouse_genes_is_ambiguous():
    load("mouse_all")
    table = annotation("mouse-genes")
    twice = table["symbol"][table["symbol"].duplicated()].iloc[0]
    mapped, report = mouse_genes().map([twice])
    assert (mapped.tolist(), report.ambiguous) == ([""], 1)


def test_a_wrong_name_gets_a_hint():
    with pytest.raises(ConfigError, match="did you mean 'human_protein_coding'"):
        load_gene_set("human_protein_codin")
    with pytest.raises(ConfigError, match="gene set 'pancreas'"):
        load_gene_set("pancreas")


@pytest.mark.parametrize("name", ["mouse-genes", "human-mouse-orthologs"])
def test_the_new_cards_are_vocabularies_with_public_sources(name):
    card = load_card(name)
    assert card.kind == "vocabulary"
    assert all(any(source.kind == "index" for source in file.sources) for file in card.files)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", f"# my genes\n{TP53}\n\n {TSPAN6}  # the first\n"),
        ("a.tsv", f"index\tgene_id\n0\t{TP53}\n1\t{TSPAN6}\n"),
        ("a.tsv", f"first\tsecond\n{TP53}\tx\n{TSPAN6}\ty\n"),
        ("a.csv", f"gene_name,ensembl_id\nx,{TP53}\ny,{TSPAN6}\n"),
        ("a.json", json.dumps([TP53, TSPAN6])),
        ("a.json", json.dumps({"<pad>": 0, TSPAN6: 2, TP53: 1})),
    ],
    ids=["txt", "tsv", "tsv without known column", "csv", "json list", "json token ids"],
)
def test_a_file_of_genes_is_read_in_its_order(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    genes = load_gene_set(path)
    assert (genes.name, genes.genes, genes.species) == ("a", (TP53, TSPAN6), "Homo sapiens")
    assert load_gene_set(str(path)) == genes


def test_a_set_written_and_read_is_the_same_and_its_digest_is_that_of_the_file(tmp_path):
    genes = GeneSet("mine", (TSPAN6, TP53), "Homo sapiens", "here")
    path = genes.write(tmp_path / "mine.txt")
    assert load_gene_set(path).genes == genes.genes
    assert genes.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert genes.sha256 != GeneSet("mine", (TP53, TSPAN6), "Homo sapiens", "here").sha256


@pytest.mark.parametrize(
    ("name", "text", "error", "says"),
    [
        ("a.txt", "", DataError, "no genes"),
        ("a.txt", "A\nB\nA\n", GeneError, "the first is 'A'"),
        ("a.tsv", "", DataError, "not readable"),
        ("a.json", "{", DataError, "not readable"),
        ("a.json", '{"a": "b"}', DataError, "a JSON dict"),
        ("a.json", "[1, 2]", DataError, "a JSON list"),
    ],
)
def test_a_file_without_genes_is_one_clear_error(tmp_path, name, text, error, says):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(error, match=says):
        load_gene_set(path)


def test_a_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_gene_set(tmp_path / "none.txt")


def test_ids_of_no_known_species_have_no_other_names():
    assert isinstance(GeneSet("flies", ("FBgn0000001",), "", "here").gene_map(), GeneMap)
