"""The batches of a run are the same on any number of processes, in memory and streamed, also where it changes."""

import numpy as np
import pytest
import torch

from scmf.core.config.training import TrainingConfig
from scmf.core.errors import TrainingError
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from scmf.data.stream.plan import Shape
from scmf.data.stream.reader import CellStream
from scmf.data.tokens.tokens import BatchOrder
from scmf.training.checkpoints import RunPosition
from scmf.training.share import Share, lanes_of
from scmf.training.stream_batches import StreamBatches
from tests.conftest import synthetic_cells

BATCH, N = 4, 90


@pytest.fixture(scope="module")
def corpus():
    return Corpus([MemoryStore(synthetic_cells(N))])


def settings(accumulation=1):
    return TrainingConfig(batch_size=BATCH, gradient_accumulation=accumulation)


def source(share, corpus):
    """The numbers of the cells of each batch of a process: in memory, or of ``corpus``."""
    if corpus is None:
        order = BatchOrder(np.full(N, 5), BATCH, False, 0, share.world_size, share.rank)
        return order, lambda start: ({"input_ids": torch.as_tensor(cells)} for cells in order.epoch(1, start=start))

    def lane_of(lane):
        shape = Shape(BATCH, block_cells=3, buffer_blocks=4)
        numbers = {"number": np.arange(N)}
        return CellStream(corpus, shape=shape, rank=lane, world_size=share.lanes, cell_tensors=numbers, threads=1)

    stream = StreamBatches(lane_of, lanes=share.lanes, rank=share.rank, world_size=share.world_size)
    return stream, lambda start: ({"input_ids": batch["number"]} for batch in stream.epoch(1, start=start))


def steps(n_processes, corpus, *, accumulation=1, at=None, upto=None):
    """Sorted cells of each step over all processes; batches past the last one do not count, as in the loop."""
    found = {}
    for rank in range(n_processes):
        share = Share.of(settings(accumulation), rank=rank, world_size=n_processes, at=at)
        batches, epoch = source(share, corpus)
        for i, batch in enumerate(epoch(share.used), start=share.used):
            cells = found.setdefault(i // share.accumulation, [])
            if share.number(i) < batches.batches_of_all_ranks:
                cells.extend(share.cut(batch)["input_ids"].tolist())
    return [sorted(found[step]) for step in sorted(found)][:upto]


def position(n_processes, accumulation, n_steps):
    share = Share.of(settings(accumulation), rank=0, world_size=n_processes)
    return "run", RunPosition(
        n_steps, 1, n_steps * accumulation, "digest", share.world_size, share.batches_per_step, share.lanes
    )


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_steps_are_those_of_one_process_and_hold_every_cell_once(corpus, streamed, n_processes):
    cells = corpus if streamed else None
    found = steps(n_processes, cells, accumulation=4 // n_processes)
    assert found == steps(1, cells, accumulation=4)
    assert sorted(sum(found, [])) == list(range(N))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("begun", "goes_on"), [(2, 4), (2, 1), (2, 8), (1, 2), (1, 4), (4, 2), (4, 1)])
def test_a_run_goes_on_with_its_batches_on_another_number_of_processes(corpus, streamed, begun, goes_on):
    """Also where a step has fewer batches than there are processes, which take a part of one each."""
    cells = corpus if streamed else None
    whole = steps(begun, cells)
    for done in (1, 3):
        assert steps(goes_on, cells, at=position(begun, 1, done)) == whole[done:]


@pytest.mark.parametrize(("begun", "accumulation", "goes_on"), [(3, 2, 4), (2, 3, 4), (6, 1, 4)])
def test_also_where_neither_number_divides_the_other(corpus, begun, accumulation, goes_on):
    whole = steps(begun, corpus, accumulation=accumulation)
    assert steps(goes_on, corpus, accumulation=accumulation, at=position(begun, accumulation, 1)) == whole[1:]


def test_a_change_in_the_middle_of_an_epoch_may_come_again(corpus):
    whole = steps(2, corpus, accumulation=2)
    _, first = position(2, 2, 1)
    share = Share.of(settings(2), rank=0, world_size=8, at=("run", first))
    second = RunPosition(
        2, 1, share.used + share.accumulation, "digest", share.world_size, share.batches_per_step, share.lanes
    )
    assert share.parts == 2 and steps(1, corpus, accumulation=2, at=("run", second)) == whole[2:]


def test_a_position_of_before_goes_on_with_its_order(corpus):
    """It has neither the batches of a step nor lanes: each process read a stretch of its own."""
    before = "run", RunPosition(1, 1, 3, "digest", 2)
    share = Share.of(settings(3), rank=1, world_size=2, at=before)
    assert (share.accumulation, share.used, share.lanes, share.parts) == (3, 3, 2, 1)
    lane = list(CellStream(corpus, shape=Shape(BATCH, 3, 4), rank=1, world_size=2, threads=1).epoch(1, start=3))
    _, epoch = source(share, corpus)
    assert [batch["input_ids"].tolist() for batch in epoch(3)] == [batch.cells.tolist() for batch in lane]
    assert steps(3, corpus, accumulation=3, at=before) == steps(2, corpus, accumulation=3, at=before)


def test_a_number_that_does_not_divide_the_cells_of_a_step_is_one_error():
    with pytest.raises(TrainingError, match="3 processes, for a run whose steps are of 16 cells") as error:
        Share.of(settings(2), rank=0, world_size=3, at=position(2, 2, 1))
    assert "divides 16: 1, 2, 4, 8, 16" in str(error.value) and "resume with 2 process(es)" in str(error.value)


def test_one_process_without_accumulation_reads_one_lane(corpus):
    assert [lanes_of(n) for n in (1, 2, 12, 64, 96, 67)] == [1, 2, 12, 64, 48, 1]
    stream, _ = source(Share(), corpus)
    plain = CellStream(corpus, shape=Shape(BATCH, 3, 4), cell_tensors={"number": np.arange(N)}, threads=1)
    found = [batch["number"].tolist() for batch in stream.epoch(0)]
    assert found == [batch.cells.tolist() for batch in plain.epoch(0)]
