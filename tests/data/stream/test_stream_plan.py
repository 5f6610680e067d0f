"""The plan of a stream: every cell once an epoch, equal steps on all ranks, a pure function of (seed, epoch)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, DataError
from scmf.data.stream.plan import Shape, StreamPlan


def cells_of(plan, epoch=0):
    """Cells of a rank's epoch, batch by batch, in the order of the plan."""
    epoch_plan = plan.epoch(epoch)
    batches = []
    for number in range(epoch_plan.n_fetches):
        fetch = epoch_plan.fetch(number)
        assert fetch.edges[0] == 0
        assert fetch.edges[-1] == len(fetch.cells) == len(fetch.rows)
        batches += np.split(fetch.cells, fetch.edges[1:-1])
    assert len(batches) == epoch_plan.n_batches
    return batches


def read_order(plan, fetch):
    """Corpus numbers of the rows that the pieces of a fetch read."""
    rows = [np.arange(a, b) + plan.offsets[piece.store] for piece in fetch.pieces for a, b in piece.spans]
    return np.concatenate(rows)


stores = st.lists(st.integers(0, 70), min_size=1, max_size=4).filter(lambda sizes: sum(sizes) > 0)
shapes = st.builds(Shape, st.integers(1, 20), st.integers(1, 16), st.integers(1, 8), st.booleans())


@settings(max_examples=200, deadline=None)
@given(stores, shapes, st.integers(1, 5), st.integers(0, 3))
def test_every_cell_comes_once_and_every_rank_makes_the_same_steps(sizes, shape, world, epoch):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    if offsets[-1] < world:
        return
    seen, steps = [], set()
    for rank in range(world):
        batches = cells_of(StreamPlan(offsets, shape, rank=rank, world_size=world), epoch)
        steps.add(len(batches))
        assert all(0 < len(batch) <= shape.batch_size + (shape.batch_size == 1) for batch in batches)
        seen += batches
    assert sorted(np.concatenate(seen).tolist()) == list(range(offsets[-1]))
    assert len(steps) == 1


@settings(max_examples=100, deadline=None)
@given(stores, shapes, st.integers(1, 3), st.data())
def test_copies_come_as_often_as_asked_and_are_read_once_a_fetch(sizes, shape, world, data):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    copies = np.array(data.draw(st.lists(st.integers(0, 3), min_size=sum(sizes), max_size=sum(sizes))), np.uint8)
    if copies.sum() < world:
        return
    seen = []
    for rank in range(world):
        plan = StreamPlan(offsets, shape, sampler=lambda epoch: copies, rank=rank, world_size=world)
        seen += cells_of(plan)
        epoch = plan.epoch(0)
        for number in range(epoch.n_fetches):
            fetch = epoch.fetch(number)
            assert (read_order(plan, fetch)[fetch.rows] == fetch.cells).all()
    assert (np.bincount(np.concatenate(seen), minlength=offsets[-1]) == copies).all()


@settings(max_examples=50, deadline=None)
@given(stores, shapes)
def test_pieces_lie_inside_their_store(sizes, shape):
    plan = StreamPlan(np.concatenate([[0], np.cumsum(sizes)]), shape)
    epoch = plan.epoch(0)
    for number in range(epoch.n_fetches):
        for piece in epoch.fetch(number).pieces:
            assert piece.spans.min() >= 0
            assert piece.spans.max() <= sizes[piece.store]


def test_the_order_depends_on_seed_and_epoch_alone():
    offsets, shape = np.array([0, 500, 1300]), Shape(16, 8, 10)

    def order(seed, epoch):
        return np.concatenate(cells_of(StreamPlan(offsets, shape, seed=seed), epoch)).tolist()

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_without_shuffle_the_cells_come_in_their_order():
    plan = StreamPlan(np.array([0, 30, 100]), Shape(16, 8, 2, shuffle=False))
    assert np.concatenate(cells_of(plan)).tolist() == list(range(100))


def test_a_plan_of_a_hundred_million_cells_is_small_and_quick():
    plan = StreamPlan(np.arange(0, 100_000_001, 1_000_000), Shape(64, 64, 256), rank=3, world_size=8)
    epoch = plan.epoch(0)
    assert epoch.n_batches == 195_313
    assert len(epoch.fetch(epoch.n_fetches - 1).cells) > 0


def test_more_processes_than_cells_is_an_error():
    with pytest.raises(DataError, match="2 cells in an epoch for 3 processes"):
        StreamPlan(np.array([0, 2]), Shape(), rank=0, world_size=3).epoch(0)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"block_cells": 0}, {"buffer_blocks": -1}])
def test_a_size_below_one_is_an_error(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Shape(**wrong)
