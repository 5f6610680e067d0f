"""Frozen splits: no cell twice, none missing, no donor on both sides, the same file for the same content."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.data.cards import list_cards, load_card
from scmf.data.splits import PARTS, read_split, read_table, shared_groups, split_file, write_split
from scmf.errors import ChecksumError, ConfigError, DataError

SPLITS = [(card, name) for card in list_cards(kind="cells") for name in card.splits]


@pytest.mark.parametrize(("card", "name"), SPLITS, ids=lambda value: getattr(value, "name", value))
def test_a_shipped_split_has_every_cell_once_and_all_parts(card, name):
    table = read_table(split_file(card, name))
    assert len(table) == card.n_cells and table.index.is_unique
    assert set(table) == set(PARTS)
    assert table.index.is_monotonic_increasing


@pytest.mark.parametrize(("card", "name"), SPLITS, ids=lambda value: getattr(value, "name", value))
def test_a_shipped_split_carries_no_time_stamp(card, name):
    header = split_file(card, name).read_bytes()[:10]
    assert header[3] == 0 and header[4:8] == b"\0\0\0\0", "neither file name nor time in the gzip header"


def test_parts_come_in_the_order_of_the_cells(tmp_path):
    path = tmp_path / "s.tsv"
    path.write_text("cell_id\tpart\nNA\ttest\nb\ttrain\n1\tvalid\nextra\ttrain\n")
    parts = read_split(None, str(path), cell_ids=["1", "NA", "b"])
    assert parts.tolist() == ["valid", "test", "train"] and parts.index.tolist() == ["1", "NA", "b"]
    assert parts.cat.categories.tolist() == list(PARTS) and parts.cat.ordered


ids = st.text("abcXYZ019_-:. ", min_size=1, max_size=12).filter(lambda text: text == text.strip())


@given(st.dictionaries(ids, st.sampled_from(PARTS), min_size=1, max_size=30))
def test_a_written_split_is_read_back_and_does_not_depend_on_the_order(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("split")
    one = write_split(folder / "a.tsv.gz", parts)
    two = write_split(folder / "b.tsv.gz", dict(reversed(parts.items())))
    assert one == two
    read = read_split(None, str(folder / "a.tsv.gz"), cell_ids=list(parts))
    assert read.tolist() == list(parts.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cell_id\tpart\na\ttrain\na\ttest\n", "(?s)cell 'a' stands twice.*leak"),
        ("cell_id\tpart\na\ttrain\nb\tTest\n", "part 'Test' in row 3"),
        ("cell\tpart\na\ttrain\n", "cell_id and part"),
        ("", "not a readable TSV"),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path, text, message):
    path = tmp_path / "s.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(path)


def test_a_broken_gzip_is_one_clear_error(tmp_path):
    path = tmp_path / "s.tsv.gz"
    path.write_bytes(gzip.compress(b"cell_id\tpart\n" + b"a\ttrain\n" * 999)[:-20])
    with pytest.raises(DataError, match="not a readable TSV"):
        read_table(path)


def test_a_cell_that_the_split_does_not_know_is_named(tmp_path):
    write_split(tmp_path / "s.tsv.gz", {"a": "train"})
    with pytest.raises(DataError, match="2 of 3 cells are not in the split, the first is 'c'"):
        read_split(None, str(tmp_path / "s.tsv.gz"), cell_ids=["a", "c", "d"])


def test_a_cell_that_is_given_twice_is_named(tmp_path):
    write_split(tmp_path / "s.tsv.gz", {"a": "train"})
    with pytest.raises(DataError, match="cell id 'a' belongs to two cells"):
        read_split(None, str(tmp_path / "s.tsv.gz"), cell_ids=["a", "a"])


def test_an_unknown_part_is_not_written(tmp_path):
    with pytest.raises(DataError, match="part 'dev'"):
        write_split(tmp_path / "s.tsv.gz", {"a": "dev"})
    assert not (tmp_path / "s.tsv.gz").exists()


def test_a_changed_split_file_is_refused(tmp_path):
    shipped = load_card("pancreas")
    (tmp_path / "splits").mkdir()
    (tmp_path / "pancreas.yaml").write_bytes(shipped.path.read_bytes())
    card = load_card(tmp_path / "pancreas.yaml")
    table = read_table(split_file(shipped, "donor"))
    table.iloc[0] = "test" if table.iloc[0] == "train" else "train"
    write_split(tmp_path / "splits" / "pancreas.donor.tsv.gz", table.to_dict())
    with pytest.raises(ChecksumError, match=r"pancreas\.donor\.tsv\.gz"):
        split_file(card, "donor")
    with pytest.raises(DataError, match="no such file"):
        split_file(card, "study")


def test_files_without_a_card_need_a_path():
    with pytest.raises(ConfigError, match="a path to a TSV"):
        split_file(None, "donor")
    with pytest.raises(DataError, match="no such file"):
        split_file(None, "no/such.tsv")


def test_a_donor_on_both_sides_is_found():
    parts = pd.Series(["train", "train", "test", "test"])
    assert shared_groups(parts, np.array(["d1", "d2", "d2", "d3"])) == {"d2": ["test", "train"]}
    assert shared_groups(parts, np.array(["d1", "d1", "d2", "d3"])) == {}
