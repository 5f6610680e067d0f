"""Frozen splits: no cell twice, none missing, no donor on both sides, the same file for the same content."""

import gzip

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from scmf.core.errors import ChecksumError, ConfigError, DataError
from scmf.data.cards.card import list_cards, load_card
from scmf.data.splits import read as splits
from scmf.data.splits.read import (
    SPLITS,
    is_path,
    read_codes,
    read_split,
    read_table,
    shared_groups,
    split_file,
    write_split,
)
from scmf.data.stores.cell_ids import unique_ids
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore

FROZEN = [(card, name) for card in list_cards(kind="cells") for name in card.splits]


@pytest.mark.parametrize(("card", "name"), FROZEN, ids=lambda value: getattr(value, "name", value))
def test_a_shipped_split_has_every_cell_once_and_something_to_learn_and_to_test(card, name):
    table = read_table(split_file(card, name))
    assert len(table) == card.n_cells and table.index.is_unique
    assert {"train", "test"} <= set(table) <= set(SPLITS)
    assert table.index.is_monotonic_increasing


@pytest.mark.parametrize(("card", "name"), FROZEN, ids=lambda value: getattr(value, "name", value))
def test_a_shipped_split_carries_no_time_stamp(card, name):
    header = split_file(card, name).read_bytes()[:10]
    assert header[3] == 0 and header[4:8] == b"\0\0\0\0", "neither file name nor time in the gzip header"


def test_parts_come_in_the_order_of_the_cells(tmp_path):
    path = tmp_path / "s.tsv"
    path.write_text("cell_id\tpart\nNA\ttest\nb\ttrain\n1\tvalid\nextra\ttrain\n")
    parts = read_split(None, str(path), cell_ids=["1", "NA", "b"])
    assert parts.tolist() == ["valid", "test", "train"] and parts.index.tolist() == ["1", "NA", "b"]
    assert parts.cat.categories.tolist() == list(SPLITS) and parts.cat.ordered


ids = st.text("abcXYZ019_-:. ", min_size=1, max_size=12).filter(lambda text: text == text.strip())


@given(st.dictionaries(ids, st.sampled_from(SPLITS), min_size=1, max_size=30))
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
        ("cell_id\tpart\na\ttrain\nb\tTest\n", "split 'Test' in row 3"),
        ("cell_id\tsplit\na\ttrain\nb\tTest\n", "split 'Test' in row 3"),
        ("cell\tpart\na\ttrain\n", "cell_id and split"),
        ("", "not a readable TSV"),
    ],
)
def test_a_wrong_split_file_is_refused(tmp_path, text, message):
    path = tmp_path / "s.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(path)


@pytest.mark.parametrize("column", ["split", "part"])
def test_both_names_of_the_column_are_read(tmp_path, column):
    write_split(tmp_path / "s.tsv.gz", {"a": "train", "b": "test"}, column=column)
    assert gzip.decompress((tmp_path / "s.tsv.gz").read_bytes()).startswith(f"cell_id\t{column}\n".encode())
    table = read_table(tmp_path / "s.tsv.gz")
    assert table.to_dict() == {"a": "train", "b": "test"} and table.name == "split"


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


def test_an_unknown_split_is_not_written(tmp_path):
    with pytest.raises(DataError, match="split 'dev'"):
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


# --- splits of a corpus ---------------------------------------------------------------------------


def store_of(names, uri):
    n = len(names)
    x = sp.csr_matrix(np.ones((n, 3), np.float32))
    cells = ad.AnnData(
        x, obs=pd.DataFrame(index=list(names)), var=pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(3)])
    )
    return MemoryStore(cells, name=uri)


def test_parts_of_a_corpus_equal_those_read_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "_ROWS", 7)  # many sorted runs, many chunks
    names = [f"cell {i}" for i in np.random.default_rng(0).permutation(100)]
    corpus = Corpus([store_of(names[:60], "a.h5ad"), store_of(names[60:90], "b.h5ad")])
    parts = {name: SPLITS[i % 3] for i, name in enumerate(names)}
    write_split(tmp_path / "s.tsv.gz", parts)
    codes = read_codes(tmp_path / "s.tsv.gz", corpus)
    assert codes.dtype == np.uint8 and [SPLITS[c] for c in codes] == [parts[name] for name in names[:90]]


def test_blocks_and_a_mapping_make_the_same_file_whatever_the_runs(tmp_path, monkeypatch):
    names = np.array([f"c\x01{i}" if i % 7 == 0 else f"cé{i}" for i in range(50)] + ["c", "c0 "], dtype=object)
    codes = np.arange(52) % 3
    one = write_split(tmp_path / "a.tsv.gz", {n: SPLITS[c] for n, c in zip(names, codes, strict=True)})
    monkeypatch.setattr(splits, "_ROWS", 5)
    two = write_split(tmp_path / "b.tsv.gz", [(names[:30], codes[:30]), (names[30:], codes[30:])])
    assert one == two
    assert read_table(tmp_path / "b.tsv.gz").index.tolist() == sorted(names)


@pytest.mark.parametrize(("card", "name"), FROZEN, ids=lambda value: getattr(value, "name", value))
def test_a_shipped_split_written_again_is_the_same_file(card, name, tmp_path):
    table = read_table(split_file(card, name))
    write_split(tmp_path / "s.tsv.gz", table.to_dict(), column="part")
    text = gzip.decompress((tmp_path / "s.tsv.gz").read_bytes())
    assert text == gzip.decompress(split_file(card, name).read_bytes())


def test_ids_that_clash_between_stores_bear_the_name_of_their_store(tmp_path):
    corpus = Corpus([store_of("abc", "one.h5ad"), store_of("cd", "deep/two.zarr")])
    assert [ids.tolist() for ids in unique_ids(corpus)] == [["one:a", "one:b", "one:c"], ["two:c", "two:d"]]
    twins = Corpus([store_of("ab", "x/one.h5ad"), store_of("b", "y/one.h5ad")])
    assert [ids.tolist() for ids in unique_ids(twins)] == [["one-0:a", "one-0:b"], ["one-1:b"]]
    apart = Corpus([store_of("ab", "one.h5ad"), store_of("cd", "two.h5ad")])
    assert [ids.tolist() for ids in unique_ids(apart)] == [["a", "b"], ["c", "d"]]
    parts = {"one:c": "train", "two:c": "test", "one:a": "train", "one:b": "valid", "two:d": "test"}
    write_split(tmp_path / "s.tsv.gz", parts)
    assert read_codes(tmp_path / "s.tsv.gz", corpus).tolist() == [0, 1, 0, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cell_id\tpart\na\ttrain\nb\ttrain\na\ttest\n", "(?s)cell 'a' stands twice.*leak"),
        ("cell_id\tpart\na\ttrain\nb\tTest\n", "split 'Test' in row 3"),
        ("cell_id\tsplit\na\ttrain\nb\tTest\n", "split 'Test' in row 3"),
        ("cell\tpart\na\ttrain\n", "cell_id and split"),
        ("cell_id\tpart\nb\ttrain\nzz\ttrain\n", "2 of 3 cells are not in the split, the first is 'a'"),
        ("cell_id\tpart\n", "3 of 3 cells are not in the split"),
        ("", "not a readable TSV"),
    ],
)
def test_a_wrong_split_file_of_a_corpus_is_refused(tmp_path, text, message):
    (tmp_path / "s.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_codes(tmp_path / "s.tsv", Corpus([store_of("abc", "a.h5ad")]))


def test_two_ids_with_one_hash_are_an_error_and_not_a_wrong_part(tmp_path, monkeypatch):
    monkeypatch.setattr(
        splits, "hash_ids", lambda ids: np.array([len(name) for name in ids], np.uint64) << np.uint64(2)
    )
    (tmp_path / "s.tsv").write_text("cell_id\tpart\naa\ttrain\nbb\ttest\n")
    with pytest.raises(DataError, match="cells 'aa' and 'bb' have one hash"):
        read_codes(tmp_path / "s.tsv", Corpus([store_of(["aa"], "a.h5ad")]))
    (tmp_path / "s.tsv").write_text("cell_id\tpart\naa\ttrain\nc\ttest\n")
    with pytest.raises(DataError, match="two cells have ids with one hash"):
        read_codes(tmp_path / "s.tsv", Corpus([store_of(["aa", "bb"], "a.h5ad")]))


def test_an_id_that_breaks_a_row_is_not_written(tmp_path):
    for bad in ("a\tb", "a\nb", "a\rb"):
        with pytest.raises(DataError, match="no tab and no end of line"):
            write_split(tmp_path / "s.tsv.gz", {bad: "train"})
    with pytest.raises(DataError, match="'a' stands twice"):
        write_split(tmp_path / "s.tsv.gz", [(np.array(["a", "b", "a"], object), np.array([0, 1, 2]))])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "packed"), [("s.tsv", False), ("s.tsv.gz", True), ("s.txt", False), ("s.gz", True)])
def test_a_split_is_packed_as_its_name_says_and_read_again(tmp_path, name, packed):
    parts = {"b": "test", "a": "train", '"quoted"': "valid", "NA": "train", "c, d": "test"}
    write_split(tmp_path / name, parts)
    raw = (tmp_path / name).read_bytes()
    assert raw.startswith(b"\x1f\x8b") == packed and (packed or raw.startswith(b"cell_id\tsplit\n"))
    assert read_table(tmp_path / name).to_dict() == parts


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["s.tsv", "s.tsv.gz", "s.csv"])
@pytest.mark.parametrize("how", ["quoted", "csv", "csv quoted", "row names", "bom"])
def test_tables_of_others_are_read(tmp_path, name, packed, how):
    rows = [("cell_id", "part"), ("a", "train"), ("b, 1", "valid"), ("NA", "test")]
    if how in ("quoted", "row names"):  # R: write.table(sep = "\t"), with and without row.names
        lines = ['"' + '"\t"'.join(row) + '"' for row in rows]
        lines = lines if how == "quoted" else [lines[0], *(f'"{i}"\t{line}' for i, line in enumerate(lines[1:], 1))]
    elif how == "bom":
        lines = ["\ufeff" + "\t".join(rows[0]), *("\t".join(row) for row in rows[1:])]
    else:
        lines = [",".join(f'"{one}"' if "," in one or how == "csv quoted" else one for one in row) for row in rows]
    raw = "\n".join([*lines, ""]).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if packed else raw)
    assert read_table(tmp_path / name).to_dict() == dict(rows[1:])
    assert is_path(name)


def test_damaged_gzip_is_one_error(tmp_path):
    write_split(tmp_path / "s.tsv.gz", {f"cell{i}": "train" for i in range(500)})
    raw = (tmp_path / "s.tsv.gz").read_bytes()
    for damaged in (raw[:60], raw[:80] + bytes([raw[80] ^ 255]) + raw[81:], b"\x1f\x8b", b"", b"\xff\xfe\x00"):
        (tmp_path / "x.tsv.gz").write_bytes(damaged)
        with pytest.raises(DataError):
            read_table(tmp_path / "x.tsv.gz")
