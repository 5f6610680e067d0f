"""Vocabularies: the official dictionaries, and that their pickles cannot run code."""

import hashlib
import os
import pickle  # noqa: TID251  (to write what must be refused)
from datetime import date

import numpy as np
import pytest
import yaml

from scmf.data.cards import load_card
from scmf.data.vocabulary import load_vocabulary, read_pickle
from scmf.errors import ChecksumError, DataError
from scmf.files import cache_dir, data_dir


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
        "name": "mini", "title": "t", "kind": "vocabulary", "organism": "o", "licence": "l", "citation": "c",
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
    assert tables.gene_map().map(["x", "y", "b"])[0].tolist() == ["A", "", "B"]


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
    return card.name, load_vocabulary(card, progress=False)


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
    assert mapped == ([known] * 3 if name == "geneformer-v2" else ["", "", known])
