"""Vocabularies: the official dictionaries, and that their pickles cannot run code."""

import hashlib
import json
import os
import pickle  # noqa: TID251  (to write what must be refused)
from datetime import date

import numpy as np
import pytest
import yaml

from scmf.core.errors import ChecksumError, DataError
from scmf.core.paths import cache_dir, data_dir
from scmf.data.cards.card import load_card
from scmf.data.genes.human_names import HumanNames
from scmf.data.genes.vocabulary import (
    SCFOUNDATION_TOKENS,
    SCGPT_TOKENS,
    TRANSCRIPTFORMER_TOKENS,
    GeneTables,
    load_vocabulary,
    read_pickle,
    read_tokens,
)


class Harmful:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def vocabulary_card(folder, tokens, medians, aliases):
    files = []
    for role, value in (("tokens", tokens), ("medians", medians), ("aliases", aliases)):
        data = write(folder / f"{role}.pkl", value).read_bytes()
        source = {"kind": "mirror", "path": f"{role}.pkl"}
        files.append(
            {"name": f"{role}.pkl", "role": role, "sha256": hashlib.sha256(data).hexdigest(), "sources": [source]}
        )
    card = {
        "name": "mini", "title": "t", "kind": "vocabulary", "organism": "o", "license": "l", "citation": "c",
        "files": files,
    }  # fmt: skip
    path = folder / "mini.yaml"
    path.write_text(yaml.safe_dump(card))
    return path


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_numbers_of_numpy_become_numbers_of_python(tmp_path, protocol):
    value = {"a": np.int16(7), "b": np.float64(0.1), "c": np.float32(2.5), "d": 3, "e": "x"}
    read = read_pickle(write(tmp_path / "f.pkl", value, protocol))
    assert read == value
    assert [type(v) for v in read.values()] == [int, float, float, int, str]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": date(2020, 1, 1)}, "asks for datetime.date"),
        ({"a": np.zeros(3)}, "asks for numpy"),
        ({"a": np.datetime64("2020-01-01")}, "no number"),
        ({"a": print}, "asks for builtins.print"),
        ([1, 2], "a list"),
    ],
    ids=["date", "array", "datetime64", "function", "list"],
)
def test_anything_but_names_and_numbers_is_refused(tmp_path, value, says):
    with pytest.raises(DataError, match=says):
        read_pickle(write(tmp_path / "f.pkl", value))


def test_a_harmful_pickle_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    with pytest.raises(DataError, match="asks for posix.system"):
        read_pickle(write(tmp_path / "f.pkl", {"a": Harmful(f"touch {mark}")}))
    assert not mark.exists()


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x80\x04\x95"])
def test_a_file_that_is_no_pickle_is_one_clear_error(tmp_path, data):
    path = tmp_path / "f.pkl"
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a pickle"):
        read_pickle(path)


def test_a_vocabulary_of_ones_own_is_read_by_path(tmp_path):
    card = vocabulary_card(tmp_path, {"<pad>": 0, "B": 2, "A": 1}, {"A": np.float64(2), "B": 1}, {"X": "A", "Y": "Q"})
    tables = load_vocabulary(card)
    assert tables.genes == ["A", "B"]
    assert tables.medians == {"A": 2.0, "B": 1.0}
    assert tables.aliases == {"X": "A", "Y": "Q"}, "aliases of genes without a token stay"
    assert tables.gene_map().map(["X", "Y", "B", "b"])[0].tolist() == ["A", "", "B", ""]


def test_a_table_with_the_wrong_role_is_refused(tmp_path):
    card = vocabulary_card(tmp_path, {"A": "ENSG"}, {"A": 2.0}, {"X": "A"})
    with pytest.raises(DataError, match="(?s)entry 'A'.*a name and a int"):
        load_vocabulary(card)


def test_a_changed_median_is_another_file(tmp_path):
    card = vocabulary_card(tmp_path, {"A": 0}, {"A": 2.0}, {"X": "A"})
    write(tmp_path / "medians.pkl", {"A": 2.0000001})
    with pytest.raises(ChecksumError, match=r"medians\.pkl"):
        load_vocabulary(card)


@pytest.fixture(scope="module", params=["geneformer-v1", "geneformer-v2"])
def official(request):
    card = load_card(request.param)
    cached = [cache_dir() / card.name / f"{file.sha256[:12]}-{file.name}" for file in card.files]
    if data_dir() is None and not all(path.is_file() for path in cached):
        pytest.skip(f"SCMF_DATA_DIR is not set and the files of {card.name} are not in the cache")
    return card.name, load_vocabulary(card)


def test_the_official_dictionaries_have_their_known_sizes(official):
    name, tables = official
    tokens, medians, aliases, specials = {
        "geneformer-v1": (25_426, 25_424, 25_424, ["<pad>", "<mask>"]),
        "geneformer-v2": (20_275, 42_005, 173_697, ["<pad>", "<mask>", "<cls>", "<eos>"]),
    }[name]
    assert (len(tables.token_ids), len(tables.medians), len(tables.aliases)) == (tokens, medians, aliases)
    assert [tables.token_ids[special] for special in specials] == list(range(len(specials)))
    assert tables.genes == sorted(tables.genes), "token ids follow the order of the Ensembl ids"
    assert [tables.token_ids[gene] for gene in tables.genes] == list(range(len(specials), tokens))
    assert set(tables.genes) <= set(tables.medians)


def test_the_official_tables_hold_plain_numbers(official):
    _, tables = official
    assert {type(value) for value in tables.token_ids.values()} == {int}
    assert {type(value) for value in tables.medians.values()} == {float}
    assert min(tables.medians.values()) > 0


def test_the_imputed_medians_of_v2_are_as_described_in_its_card(official):
    name, tables = official
    imputed = [gene for gene, median in tables.medians.items() if median == 1.105969024047805]
    if name == "geneformer-v2":
        assert len(imputed) == 2995
        assert len(set(imputed) & set(tables.genes)) == 72


def test_v2_knows_symbols_and_v1_does_not(official):
    name, tables = official
    mapped = tables.gene_map().map(["TP53", "tp53", "ENSG00000141510.18"])[0].tolist()
    known = "ENSG00000141510"
    assert mapped == [known if name == "geneformer-v2" else "", "", known]


# --- JSON and TSV, as scGPT and scFoundation write them -------------------------------------------


def text(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def test_scgpt_gets_its_special_tokens_behind_its_genes(tmp_path):
    assert read_tokens(text(tmp_path / "v.json", '{"B": 1, "A": 0}')) == {
        "A": 0, "B": 1, "<pad>": 2, "<cls>": 3, "<eoc>": 4,
    }  # fmt: skip


def test_special_tokens_that_are_there_stay_where_they_are(tmp_path):
    given = {"<cls>": 0, "A": 1, "<pad>": 2}
    assert read_tokens(text(tmp_path / "v.json", json.dumps(given))) == given | {"<eoc>": 3}
    given = {token: i for i, token in enumerate([*TRANSCRIPTFORMER_TOKENS, "ENSG00000000003"])}
    read = read_tokens(text(tmp_path / "t.json", json.dumps(given)))
    assert read == given
    assert GeneTables(read, {}, {}).genes == ["ENSG00000000003"]


def test_scfoundation_gets_depth_tokens_and_padding_behind_its_genes(tmp_path):
    read = read_tokens(text(tmp_path / "g.tsv", "gene_name\tindex\nA1BG\t0\nNAT1\t1\n"))
    assert read == {"A1BG": 0, "NAT1": 1, "<T>": 2, "<S>": 3, "<pad>": 4}
    assert GeneTables(read, {}, {}).genes == ["A1BG", "NAT1"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("v.json", "[1]", "a JSON list"),
        ("v.json", "{", "not readable"),
        ("v.json", '{"A": 0, "A": 1}', "stands twice: 'A'"),
        ("v.json", '{"A": "x"}', "entry 'A'"),
        ("v.json", '{"A": 0.5}', "entry 'A'"),
        ("v.json", '{"A": true}', "entry 'A'"),
        ("v.json", '{"A": 0, "B": 0}', "1 ids given twice"),
        ("v.json", '{"A": -1}', "lowest id -1"),
        ("v.json", "{}", "0 tokens"),
        ("g.tsv", "", "header"),
        ("g.tsv", "gene\tid\nA\t0\n", "header"),
        ("g.tsv", "gene_name\tindex\nA\t0\nB\tx\n", "line 3"),
        ("g.tsv", "gene_name\tindex\nA\n", "line 2"),
        ("g.tsv", "gene_name\tindex\nA\t0\nA\t1\n", "a gene stands twice"),
        ("g.tsv", "gene_name\tindex\nA\t0\nB\t0\n", "1 ids given twice"),
    ],
)
def test_a_damaged_token_table_is_one_clear_error(tmp_path, name, content, says):
    with pytest.raises(DataError, match=says) as caught:
        read_tokens(text(tmp_path / name, content))
    assert caught.value.wanted and caught.value.fix and caught.value.where


# --- other names of a vocabulary of symbols -------------------------------------------------------

IDS = [f"ENSG{i:011d}" for i in range(8)]
APPROVED, SYMBOL, PREVIOUS, ALIAS = 0, 1, 3, 4


def names(*levels, written=None):
    return HumanNames(tuple(IDS), tuple({**dict.fromkeys(()), **level} for level in levels), written or {})


NAMES = names(
    {"MARCHF1": {IDS[0]}, "TP53": {IDS[1]}, "FIRRM": {IDS[2]}, "SIGLEC5": {IDS[3]}},
    {"Y_RNA": {IDS[4], IDS[5]}, "CLONE.1": {IDS[6]}},
    {"TRB": set()},
    {"MARCH1": {IDS[0]}, "C1ORF112": {IDS[2]}, "OLD": {IDS[1], IDS[2]}},
    {"P53": {IDS[1]}, "TRB": {IDS[1]}, "FAR": {IDS[4], IDS[5]}},
    written={"C1ORF112": "C1orf112"},
)


def test_every_name_of_a_gene_leads_to_the_symbol_of_the_vocabulary():
    found = NAMES.of_symbols(["MARCH1", "TP53", "FIRRM", "unheard.of"])
    assert found.aliases == {
        "UNHEARD.OF": "unheard.of", IDS[0]: "MARCH1", "MARCHF1": "MARCH1", IDS[1]: "TP53", "P53": "TP53",
        IDS[2]: "FIRRM", "C1ORF112": "FIRRM", "C1orf112": "FIRRM",
    }  # fmt: skip
    assert found.ids == {"MARCH1": IDS[0], "TP53": IDS[1], "FIRRM": IDS[2]}


def test_a_name_of_several_genes_is_left_out_and_reported_where_the_vocabulary_has_one_of_them():
    found = NAMES.of_symbols(["TP53", "FIRRM"])
    assert found.ambiguous == {"OLD"}, "Y_RNA and FAR stand for genes that the vocabulary does not have"
    assert "OLD" not in found.aliases and "TRB" not in found.aliases


def test_of_two_genes_that_are_one_the_more_trusted_name_is_led_to():
    found = NAMES.of_symbols(["MARCH1", "MARCHF1"])
    assert found.aliases == {IDS[0]: "MARCHF1"}, "names of the vocabulary stay their own"
    assert found.ids == {"MARCHF1": IDS[0]}


def test_two_genes_that_are_one_at_the_same_level_are_led_to_by_nothing():
    found = names({}, {}, {}, {"A": {IDS[0]}, "B": {IDS[0]}, "C": {IDS[0]}}, {}).of_symbols(["A", "B"])
    assert (found.aliases, found.ids, found.ambiguous) == ({}, {}, {IDS[0], "C"})


def test_an_ensembl_id_in_a_name_is_believed():
    found = NAMES.of_symbols([f"SIGLEC5_{IDS[7]}", "SIGLEC5", f"{IDS[6]}.2", f"{IDS[5]}.1", IDS[5]])
    assert found.ids == {f"SIGLEC5_{IDS[7]}": IDS[7], "SIGLEC5": IDS[3], f"{IDS[6]}.2": IDS[6], IDS[5]: IDS[5]}
    assert (found.aliases[IDS[7]], found.aliases[IDS[6]]) == (f"SIGLEC5_{IDS[7]}", f"{IDS[6]}.2")
    assert found.aliases["CLONE.1"] == f"{IDS[6]}.2"


# --- the published ones ---------------------------------------------------------------------------


def published(name):
    if data_dir() is None:
        pytest.skip("SCMF_DATA_DIR is not set")
    return load_vocabulary(name)


@pytest.mark.parametrize(
    ("name", "n_genes", "special", "with_id"),
    [
        ("scgpt-human", 60_694, SCGPT_TOKENS, 41_275),
        ("scgpt-default", 48_292, SCGPT_TOKENS, 40_343),
        ("scfoundation", 19_264, SCFOUNDATION_TOKENS, 19_202),
    ],
)
def test_the_published_symbol_vocabularies_have_their_known_sizes(name, n_genes, special, with_id):
    tables = published(name)
    assert (len(tables.genes), tables.medians) == (n_genes, {})
    assert [tables.token_ids[token] for token in special] == list(range(n_genes, n_genes + 3))
    assert [tables.token_ids[gene] for gene in tables.genes] == list(range(n_genes))
    ids = {name for name in tables.aliases if name.startswith("ENSG") and len(name) == 15}
    assert len(ids | {gene for gene in tables.genes if gene.startswith("ENSG") and len(gene) == 15}) == with_id
    assert not {gene.upper() for gene in tables.genes} & tables.ambiguous
    assert not set(tables.aliases) & set(tables.genes)
    assert set(tables.aliases.values()) <= set(tables.genes)


def test_the_vocabulary_of_scgpt_is_that_of_its_checkpoint():
    tables = published("scgpt-human")
    checkpoint = data_dir() / "scgpt_vocab" / "scgenept_pretrained_scgpt_vocab.json"
    if not checkpoint.is_file():
        pytest.skip("the vocabulary of the checkpoint is not in SCMF_DATA_DIR")
    assert tables.token_ids == json.loads(checkpoint.read_text())


@pytest.mark.parametrize("name", ["scgpt-human", "scfoundation"])
def test_files_with_ensembl_ids_or_old_symbols_find_the_symbols(name):
    tables = published(name)
    given = ["ENSG00000141510.18", "TP53", "ENSG00000145416", "MARCH1", "MARCHF1", "C1orf112", "C1ORF112", "P53"]
    wanted = ["TP53", "TP53", "MARCHF1", "MARCHF1", "MARCHF1", "FIRRM", "FIRRM", "TP53"]
    mapped, report = tables.gene_map().map(given)
    own = {gene.upper() for gene in tables.genes}  # both have C1orf112, and one of them FIRRM besides
    assert mapped.tolist() == [
        gene.upper() if gene.upper() in own else new for gene, new in zip(given, wanted, strict=True)
    ]
    assert report.unknown == report.ambiguous == 0
    assert tables.gene_map().map(["A20"])[1].ambiguous == 1
