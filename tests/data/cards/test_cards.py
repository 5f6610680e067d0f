"""Dataset cards: the shipped ones are complete, a wrong one is refused with a hint."""

import re

import pytest
import yaml

from scmf.core.config.run import json_schema
from scmf.core.errors import ConfigError, DataError
from scmf.core.paths import shipped
from scmf.data.cards.card import Card, HubSource, IndexSource, file_of, list_cards, load_card

SUM = "0" * 64


def write_card(folder, **over):
    card = {
        "name": "liver",
        "title": "A liver",
        "kind": "cells",
        "organism": "Homo sapiens",
        "license": "CC-BY-4.0",
        "citation": "Somebody 2020",
        "files": [{"name": "liver.h5ad", "sha256": SUM, "sources": [{"kind": "mirror", "path": "liver.h5ad"}]}],
        **over,
    }
    path = folder / f"{card['name']}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in card.items() if value is not None}))
    return path


def test_every_file_in_the_shipped_folder_is_a_card_that_loads():
    names = [card.name for card in list_cards()]
    assert names == sorted(path.stem for path in shipped("datasets").glob("*.yaml"))
    assert {"pancreas", "pbmc68k_reduced", "geneformer-v1", "geneformer-v2", "human-genes"} <= set(names)


def test_cards_are_listed_by_kind():
    assert {card.kind for card in list_cards(kind="vocabulary")} == {"vocabulary"}
    cells = {card.name for card in list_cards(kind="cells")}
    assert {"pancreas", "kang_ifnb", "lung", "norman", "sinoatrial", "vcc_h1"} <= cells
    assert {card.name for card in list_cards(kind="network")} == {
        "collectri", "dorothea", "encode-chipseq", "lambert-tfs", "trrust",
    }  # fmt: skip


@pytest.mark.parametrize("card", list_cards(), ids=lambda card: card.name)
def test_a_shipped_card_says_whose_it_is_and_pins_everything(card):
    assert card.citation and card.license and card.doi and card.url and card.description
    assert card.n_genes or card.needs_download or card.kind == "network"
    for file in card.files:
        assert file.size, file.name
        for source in file.sources:
            if isinstance(source, IndexSource):
                assert source.version in source.artifact
            if isinstance(source, HubSource):
                assert len(source.revision) == 40
    for split in card.splits.values():
        assert (card.folder / split.file).is_file()
    if card.kind == "cells" and not card.needs_download:
        assert card.n_cells and card.splits and (card.label_key or card.perturbation) and card.authenticity
        assert not card.label_key or card.labels
    if card.kind == "cells":
        assert card.part_of == "unknown" or all(mark.reason for mark in card.part_of)


def test_a_shipped_card_can_be_had_without_the_local_mirror_or_says_so():
    for card in list_cards():
        if "put it into SCMF_DATA_DIR" in card.description or "put the file into SCMF_DATA_DIR" in card.description:
            continue
        for file in card.files:
            assert {source.kind for source in file.sources} - {"mirror"}, f"{card.name}: {file.name}"


def test_pancreas_parts_name_each_donor_once():
    for split in load_card("pancreas").splits.values():
        donors = [donor for part in split.parts.values() for donor in part]
        assert len(donors) == len(set(donors)) == 20


def test_a_path_works_wherever_a_name_works(tmp_path):
    path = write_card(tmp_path)
    for given in (path, str(path)):
        card = load_card(given)
        assert (card.name, card.path, card.folder, card.is_shipped) == ("liver", path, tmp_path, False)
    assert load_card("pancreas").is_shipped


def test_an_unknown_name_gets_a_did_you_mean():
    with pytest.raises(ConfigError, match="did you mean 'pancreas'"):
        load_card("pancrea")


def test_an_unknown_split_gets_a_did_you_mean():
    with pytest.raises(ConfigError, match="did you mean 'donor'"):
        load_card("pancreas").split("doner")


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"titel": "x"}, "unknown key 'titel': did you mean 'title'"),
        ({"kind": "cell"}, "did you mean 'cells'"),
        ({"files": []}, "at least one file"),
        ({"files": [{"name": "a", "sha256": "abc", "sources": []}]}, "sha256"),
        ({"labels": ["a", "b", "a"]}, "names a label twice"),
        ({"citation": None}, "key 'citation' is missing"),
        ({"kind": "vocabulary", "labels": ["a"]}, "neither"),
        ({"kind": "vectors", "labels": ["a"]}, "neither"),
        ({"needs_download": "by hand"}, "for cells and gene vectors without"),
        ({"kind": "vectors", "files": []}, "at least one file"),
        (
            {"files": [{"name": "a", "sha256": SUM, "sources": [{"kind": "mirror", "pth": "a"}]}]},
            re.escape("unknown key 'files.0.sources.0.mirror.pth': did you mean 'path'"),
        ),
        (
            {"files": [{"name": "a", "sha256": SUM, "sources": [
                {"kind": "hub", "repo": "a/b", "path": "c", "revision": "main"}]}]},
            "revision",
        ),
        ({"derive": {"method": "log1p_cp10k", "depth_key": "n"}}, "`decimals` belongs to log1p_cp10k"),
        (
            {"derive": {"method": "log1p_cp10k_unknown_depth", "depth_key": "n", "decimals": 3}},
            "`decimals` belongs to log1p_cp10k",
        ),
        ({"cells": {"annotations": [{"file": "labels.h5ad"}]}}, "'labels.h5ad', which is no file with that role"),
        ({"expression": "counts"}, "log1p"),
        ({"files": [{"name": "../a", "sha256": SUM, "sources": [{"kind": "mirror", "path": "a"}]}]}, "files.0.name"),
    ],
)  # fmt: skip
def test_a_wrong_card_is_refused_with_the_key(tmp_path, over, message):
    with pytest.raises(ConfigError, match=message):
        load_card(write_card(tmp_path, **over))


def test_the_name_of_a_card_is_the_name_of_its_file(tmp_path):
    path = write_card(tmp_path).rename(tmp_path / "other.yaml")
    with pytest.raises(ConfigError, match="name: liver"):
        load_card(path)


def test_a_missing_path_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_card(tmp_path / "no.yaml")


def test_file_of_wants_exactly_one_file_of_a_role():
    assert file_of(load_card("geneformer-v2"), "tokens").name == "token_dictionary_gc104M.pkl"
    with pytest.raises(DataError, match="0 files with role 'tokens'"):
        file_of(load_card("human-genes"), "tokens")


def test_the_schema_for_editors_covers_cards():
    schema = json_schema(Card)
    assert {"files", "splits", "part_of"} <= set(schema["properties"])
