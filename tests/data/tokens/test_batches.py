"""Order of cells and padding."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import TrainingError
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import BatchOrder, in_order, length_grouped_indices, padded_tensors


def ragged(lengths, *, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(4, 90, size=offsets[-1]).astype(np.int32)
    return Ragged(offsets, {"input_ids": ids, "values": ids / np.float32(8)}, {}, {"input_ids": 0, "values": -2})


lengths_of_cells = st.lists(st.integers(1, 9), min_size=1, max_size=60).map(np.array)


@given(lengths_of_cells, st.integers(1, 7), st.integers(1, 4), st.booleans(), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_ranks_make_equal_steps_and_visit_every_cell(lengths, batch_size, world, grouped, epoch):
    orders = [BatchOrder(lengths, batch_size, grouped, 5, world_size=world, rank=rank) for rank in range(world)]
    rows = [list(order.epoch(epoch)) for order in orders]
    assert {len(batches) for batches in rows} == {orders[0].batches_per_epoch}
    seen = np.concatenate([batch for batches in rows for batch in batches])
    assert set(seen) == set(range(len(lengths)))
    if world == 1:
        assert len(seen) == len(lengths)


@given(lengths_of_cells, st.integers(1, 5), st.booleans(), st.data())
@settings(deadline=None, max_examples=40)
def test_an_epoch_resumed_midway_goes_on_as_it_would_have(lengths, batch_size, grouped, data):
    order = BatchOrder(lengths, batch_size, grouped, 3)
    whole = list(order.epoch(2))
    start = data.draw(st.integers(0, len(whole)))
    for ours, theirs in zip(order.epoch(2, start=start), whole[start:], strict=True):
        assert (ours == theirs).all()


def test_epochs_and_seeds_differ_and_repeat():
    lengths = np.arange(1, 101)
    one = np.concatenate(list(BatchOrder(lengths, 8, True, 1).epoch(0)))
    assert (one == np.concatenate(list(BatchOrder(lengths, 8, True, 1).epoch(0)))).all()
    assert (one != np.concatenate(list(BatchOrder(lengths, 8, True, 1).epoch(1)))).any()
    assert (one != np.concatenate(list(BatchOrder(lengths, 8, True, 2).epoch(0)))).any()


@given(lengths_of_cells, st.data())
@settings(deadline=None, max_examples=40)
def test_select_and_pad_give_each_cell_its_own_tokens(lengths, data):
    cells = ragged(lengths)
    rows = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=20)))
    chosen, batch = cells.select(rows), padded_tensors(cells, rows)
    for i, row in enumerate(rows):
        own = cells.columns["input_ids"][cells.offsets[row] : cells.offsets[row + 1]]
        assert (chosen.columns["input_ids"][chosen.offsets[i] : chosen.offsets[i + 1]] == own).all()
        assert (batch["values"][i, : len(own)].numpy() == own / np.float32(8)).all()
        assert (batch["values"][i, len(own) :] == -2).all()
        assert (batch["input_ids"][i, : len(own)].numpy() == own).all()
        assert batch["input_ids"][i, len(own) :].sum() == 0
        assert int(batch["attention_mask"][i].sum()) == len(own)


def test_labels_travel_with_their_cells():
    cells = ragged([2, 3, 1]).with_cell_tensors(labels=np.array([7, 8, 9]))
    assert cells.select(np.array([2, 0])).cell_tensors["labels"].tolist() == [9, 7]
    assert cells.select(np.array([False, True, True])).cell_tensors["labels"].tolist() == [8, 9]
    assert padded_tensors(cells, np.array([1]))["labels"].tolist() == [8]


def test_inference_order_is_longest_first_and_complete():
    cells = ragged([3, 9, 1, 9, 4])
    order = np.concatenate(list(in_order(cells, batch_size=2)))
    assert order.tolist() == [1, 3, 4, 0, 2]


def test_no_training_cells_is_an_error():
    with pytest.raises(TrainingError, match="no training cells"):
        BatchOrder(np.array([], dtype=np.int64), 4, True, 0)


def test_length_grouping_equals_the_official_sampler(oracle):
    from safetensors.numpy import load_file

    files = sorted((oracle / "model").glob("*.io.safetensors"))
    checked = 0
    for path in files:
        tensors = load_file(path)
        for name, indices in tensors.items():
            if name.startswith("sampler.indices_"):
                batch, seed = map(int, re.fullmatch(r".*_bs(\d+)_seed(\d+)", name).groups())
                ours = length_grouped_indices(tensors["sampler.lengths"], batch, seed=seed)
                assert ours == indices.tolist()
                checked += 1
    if not checked:
        pytest.skip("the oracle holds no sampler indices")
