"""Token datasets on disk: what datasets reads back, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from scmf.core.errors import DataError
from scmf.data.tokens import arrow as tokens
from scmf.data.tokens.arrow import TokenDatasetWriter, write_token_dataset

datasets = pytest.importorskip("datasets")

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(0, 30, 2500)
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
IDS = RNG.integers(0, 20_000, OFFSETS[-1]).astype(np.int32)


def cells(path):
    """Tokens of every cell, by the library."""
    return [row.tolist() for row in datasets.load_from_disk(str(path)).with_format("numpy")[:]["input_ids"]]


EXPECTED = [part.tolist() for part in np.split(IDS, OFFSETS[1:-1])]


def test_the_library_reads_back_every_cell_its_length_and_further_columns(tmp_path):
    columns = {"cell": [f"c{i}" for i in range(2500)], "weight": RNG.random(2500), "type": pd.Series(["a", "b"] * 1250)}
    path = write_token_dataset(tmp_path / "tokens", IDS, OFFSETS, columns)
    found = datasets.load_from_disk(str(path))
    assert cells(path) == EXPECTED
    assert found["length"][:] == LENGTHS.tolist() and found["cell"][:] == columns["cell"]
    assert found["weight"][:] == columns["weight"].tolist() and set(found["type"][:]) == {"a", "b"}
    assert found.features["input_ids"].feature.dtype == "int32"
    assert found.map(lambda row: {"twice": 2 * row["length"]})[7]["twice"] == 2 * LENGTHS[7]


def test_a_corpus_of_many_files_written_in_blocks_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "_TOKENS_PER_FILE", 5000)
    with TokenDatasetWriter(tmp_path / "blocks") as writer:
        for start in range(0, 2500, 700):
            writer.add(IDS, OFFSETS[start : start + 701])
    names = sorted(path.name for path in (tmp_path / "blocks").glob("*.arrow"))
    assert len(names) > 5 and names[0] == f"data-00000-of-{len(names):05d}.arrow"
    assert cells(tmp_path / "blocks") == EXPECTED


def test_ids_are_stored_in_a_smaller_type_or_refused(tmp_path):
    path = write_token_dataset(tmp_path / "small", IDS, OFFSETS, dtype=np.int16)
    assert datasets.load_from_disk(str(path)).features["input_ids"].feature.dtype == "int16" and cells(path) == EXPECTED
    with pytest.raises(DataError, match="fit int8"):
        write_token_dataset(tmp_path / "smaller", IDS, OFFSETS, dtype=np.int8)


def test_no_cells_are_a_dataset_of_no_rows(tmp_path):
    with TokenDatasetWriter(tmp_path / "none"):
        pass
    assert len(datasets.load_from_disk(str(write_token_dataset(tmp_path / "empty", IDS[:0], OFFSETS[:1])))) == 0
    assert len(datasets.load_from_disk(str(tmp_path / "none"))) == 0


def test_a_stopped_run_leaves_nothing_and_keeps_what_was_there(tmp_path):
    write_token_dataset(tmp_path / "tokens", IDS, OFFSETS)
    with pytest.raises(KeyboardInterrupt), TokenDatasetWriter(tmp_path / "tokens", overwrite=True) as writer:
        writer.add(IDS, OFFSETS)
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), TokenDatasetWriter(tmp_path / "others") as writer:
        writer.add(IDS, OFFSETS)
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"] and cells(tmp_path / "tokens") == EXPECTED


def test_equal_content_has_an_equal_fingerprint_and_other_content_another(tmp_path):
    other = IDS.copy()
    other[0] += 1
    prints = [
        json.loads((write_token_dataset(tmp_path / f"{i}", ids, OFFSETS) / "state.json").read_text())["_fingerprint"]
        for i, ids in enumerate((IDS, IDS, other))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_folder_is_replaced_only_when_told_so(tmp_path):
    path = write_token_dataset(tmp_path / "tokens", IDS, OFFSETS)
    with pytest.raises(DataError, match="there already"):
        write_token_dataset(path, IDS[:5], [0, 5])
    write_token_dataset(path, IDS[:5], [0, 5], overwrite=True)
    assert cells(path) == [IDS[:5].tolist()]


@pytest.mark.parametrize(
    ("ids", "offsets", "columns", "says"),
    [
        (IDS[:5].astype(float), [0, 5], None, "of type float64"),
        (IDS[:5], [0, 6], None, "5 ids"),
        (IDS[:5], [0, 4, 3], None, "5 ids"),
        (IDS[:5], [], None, "0 offsets"),
        (IDS[:5], [0, 5], {"cell": ["a", "b"]}, "column 'cell' with 2 values"),
        (IDS[:5], [0, 5], {"cell": [["a"]]}, r"of shape \(1, 1\)"),
        (IDS[:5], [0, 5], {"input_ids": [1]}, "column 'input_ids'"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(tmp_path, ids, offsets, columns, says):
    with pytest.raises(DataError, match=says):
        write_token_dataset(tmp_path / "tokens", ids, offsets, columns)
    assert not list(tmp_path.iterdir())


def test_blocks_with_other_columns_are_refused(tmp_path):
    with pytest.raises(DataError, match="those of the first block"), TokenDatasetWriter(tmp_path / "tokens") as writer:
        writer.add(IDS[:5], [0, 5], {"cell": ["a"]})
        writer.add(IDS[:5], [0, 5])
