"""A stream through torch's DataLoader: workers share the cells, and a loop goes on where the consumer stopped."""

from functools import partial

import numpy as np
import pytest
from torch.utils.data import DataLoader

from scmf.core.errors import TrainingError
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from scmf.data.stream.plan import Shape
from scmf.data.stream.reader import CellStream
from scmf.training.stream_batches import StreamDataset, to_tensors
from tests.conftest import synthetic_cells


def stream_of(corpus, rank, world_size):
    return CellStream(corpus, shape=Shape(16, 4, 8), rank=rank, world_size=world_size, threads=1)


@pytest.fixture(scope="module")
def corpus():
    return Corpus([MemoryStore(synthetic_cells(333))])


def cells_of(loader):
    return [batch["cells"].tolist() for batch in loader]


def loader(corpus, workers, *, rank=0, world_size=1, start=0):
    dataset = StreamDataset(partial(stream_of, corpus), rank=rank, world_size=world_size)
    dataset.load_state_dict({"epoch": 1, "taken": start, "rank": rank, "world_size": world_size})
    return DataLoader(dataset, batch_size=None, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_cell_comes_once_over_workers_and_ranks(corpus, workers):
    seen = [
        cell
        for rank in range(2)
        for batch in cells_of(loader(corpus, workers, rank=rank, world_size=2))
        for cell in batch
    ]
    assert sorted(seen) == list(range(333))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_goes_on_with_the_batch_after_the_last_that_was_taken(corpus, workers):
    whole = cells_of(loader(corpus, workers))
    for taken in (1, 2, 5, 7):
        assert cells_of(loader(corpus, workers, start=taken)) == whole[taken:]


def test_a_state_of_another_share_is_refused(corpus):
    dataset = StreamDataset(partial(stream_of, corpus), rank=1, world_size=2)
    assert dataset.state_dict(3) == {"epoch": 0, "taken": 3, "rank": 1, "world_size": 2}
    with pytest.raises(TrainingError, match='"world_size": 1'):
        dataset.load_state_dict({"epoch": 0, "taken": 3, "rank": 0, "world_size": 1})


def test_tensors_are_what_a_model_takes(corpus):
    batch = next(stream_of(corpus, 0, 1).epoch(0))
    tensors = to_tensors(batch)
    assert tensors["indices"].dtype == tensors["attention_mask"].dtype
    assert (tensors["attention_mask"].sum(dim=1).numpy() == batch.lengths).all()
    assert np.array_equal(tensors["n_counts"].numpy(), batch.cell_tensors["n_counts"])
