"""Batches of a stream for the loop, or for a loop of your own through torch's DataLoader.

Lives here: numpy to torch, the attention mask, worker processes. Lives elsewhere: the stream (data.stream), the loop.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from scmf.core.errors import TrainingError
from scmf.data.stores.ragged import attention_mask
from scmf.data.stream.batch import Batch, Waiting
from scmf.data.stream.reader import CellStream


def to_tensors(batch: Batch) -> dict[str, Tensor]:
    """A padded batch as a model takes it.

    Returns
    -------
    dict
        ``input_ids`` int64 (B, L) and the encoder's other columns, ``attention_mask`` int64 (B, L), and what travels
        with the cells, such as ``labels`` (B,).
    """
    tensors = {
        name: torch.from_numpy(values).long() if values.dtype.kind in "iu" else torch.from_numpy(values)
        for name, values in batch.columns.items()
    }
    longest = next(iter(batch.columns.values())).shape[1]
    tensors["attention_mask"] = torch.from_numpy(attention_mask(batch.lengths, longest))
    for name, values in batch.cell_tensors.items():
        tensors[name] = torch.from_numpy(np.ascontiguousarray(values))
    return tensors


class StreamBatches:
    """`scmf.data.tokens.tokens.Batches` of a stream, the same on any number of processes.

    An epoch is cut into lanes, stretches that are read side by side: its batch n is batch ``n // lanes`` of lane
    ``n % lanes``. A process opens the lanes that its batches lie in, which are one where there are as many lanes as
    processes.

    Parameters
    ----------
    lane_of
        ``lane_of(lane)`` makes the stream of a lane, padded.
    lanes
        Number of lanes.
    rank, world_size
        Process and number of processes.
    """

    def __init__(
        self, lane_of: Callable[[int], CellStream], *, lanes: int = 1, rank: int = 0, world_size: int = 1
    ) -> None:
        self.lanes, self.rank, self.world_size = lanes, rank, world_size
        self.streams = {lane: lane_of(lane) for lane in own_lanes(lanes, rank=rank, world_size=world_size)}
        self._waiting = Waiting()
        for stream in self.streams.values():
            stream.waiting = self._waiting

    @property
    def batches_of_all_ranks(self) -> int:
        """Batches in one epoch; every lane has as many."""
        return self.lanes * next(iter(self.streams.values())).batches_per_epoch

    @property
    def batches_per_epoch(self) -> int:
        """Batches of this rank in an epoch."""
        return -(-self.batches_of_all_ranks // self.world_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """See `scmf.data.tokens.tokens.Batches`."""
        last, every = self.batches_of_all_ranks, self.world_size // math.gcd(self.lanes, self.world_size)
        taken: dict[int, Iterator[Batch]] = {}
        batch: Batch | None = None
        with ExitStack() as opened:
            for i in range(start, self.batches_per_epoch):
                number = i * self.world_size + self.rank
                if number < last or batch is None:
                    place, lane = divmod(number % last, self.lanes)
                    if lane not in taken:
                        batches = opened.enter_context(closing(self.streams[lane].epoch(epoch, start=place)))
                        taken[lane] = islice(batches, 0, None, every)
                    batch = next(taken[lane])
                yield to_tensors(batch)

    def wait_share(self) -> float | None:
        """Share of the time since the streams were opened that was spent waiting for them."""
        return self._waiting.share


def own_lanes(lanes: int, *, rank: int, world_size: int) -> range:
    """The lanes that the batches of a process lie in."""
    return range(rank % math.gcd(lanes, world_size), lanes, math.gcd(lanes, world_size))


class StreamDataset(IterableDataset[dict[str, Any]]):
    """A stream for ``torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=n)``.

    Every worker takes a share of its own, so each cell comes once an epoch whatever the number of workers. It shards
    itself by rank: do not give the loader to ``accelerator.prepare``. Threads (the default of a stream) are faster
    than workers where memory is short; workers must be spawned when a store holds native threads (SOMA).

    Exact resume: `state_dict` counts the batches that the consumer took, not those made ahead.

    Parameters
    ----------
    stream_of
        ``stream_of(rank, world_size)`` makes the stream of one share; it must be picklable for spawned workers.
    rank, world_size
        Process and number of processes.
    """

    def __init__(self, stream_of: Callable[[int, int], CellStream], *, rank: int = 0, world_size: int = 1) -> None:
        self._stream_of, self._rank, self._world_size = stream_of, rank, world_size
        self._epoch = self._taken = 0

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """The epoch that the next loop gives, from batch ``start`` (over all workers) on."""
        self._epoch, self._taken = epoch, start

    def state_dict(self, taken: int) -> dict[str, int]:
        """Where the consumer stands, after it ``taken`` batches of this epoch in all."""
        return {"epoch": self._epoch, "taken": taken, "rank": self._rank, "world_size": self._world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from `state_dict`; `TrainingError` if it is of another share."""
        here = {"rank": self._rank, "world_size": self._world_size}
        there = {name: state[name] for name in here}
        if here != there:
            raise TrainingError(
                f"a state of {json.dumps(there)}",
                wanted=json.dumps(here),
                where="StreamDataset.load_state_dict",
                fix="go on with as many processes as before, or begin the epoch anew",
            )
        self.set_epoch(state["epoch"], start=state["taken"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches of this worker; torch takes one from each worker in turn."""
        info = get_worker_info()
        worker, n_workers = (info.id, info.num_workers) if info else (0, 1)
        # torch begins with worker 0: let it be the one whose turn it is. Each share gave every n-th batch so far.
        share = (worker + self._taken) % n_workers
        start = (self._taken - share + n_workers - 1) // n_workers
        stream = self._stream_of(self._rank * n_workers + share, self._world_size * n_workers)
        for batch in stream.epoch(self._epoch, start=start):
            yield {**to_tensors(batch), "cells": torch.from_numpy(batch.cells)}
