"""Which cells are in which batch of an epoch: a pure function of (seed, epoch, rank), nothing is read.

The cells of every store are cut into blocks of neighbors. An epoch permutes the blocks and lays them in a row; each
rank takes one stretch of the row (so every cell comes exactly once), cuts it into batches (as many as every other
rank) and takes its batches in fetches. A fetch is what is read together and shuffled cell by cell. A resumed run asks
for the same epoch again and starts at any batch.

Lives here: blocks, ranks, batches, fetches. Lives elsewhere: how often a cell comes (sampling), the order inside a
fetch (arrange), reading (reader).

Legend: K blocks, P places of a fetch (a cell that comes twice has two places), S spans.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scmf.core.errors import ConfigError, DataError
from scmf.data.stream.sampling import Sampler


class Piece(NamedTuple):
    """Cells of one store that are read and encoded together.

    Parameters
    ----------
    store
        Number of the store.
    spans
        Rows of the store, int64 (S, 2).
    """

    store: int
    spans: np.ndarray

    @property
    def n_cells(self) -> int:
        """Cells of all spans."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())


class Fetch(NamedTuple):
    """What is read together and shuffled together.

    Parameters
    ----------
    number
        Number of the fetch in this epoch and on this rank.
    pieces
        What to read, in the order of the rows that `rows` counts.
    rows
        For each place the row among all cells read, int64 (P,).
    cells
        For each place the number of the cell in the corpus, int64 (P,).
    edges
        Batch i of the fetch has the places ``edges[i]:edges[i + 1]`` of the arranged fetch.
    """

    number: int
    pieces: list[Piece]
    rows: np.ndarray
    cells: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class Shape:
    """Sizes of a stream.

    Parameters
    ----------
    batch_size
        Cells in a batch.
    block_cells
        Neighboring cells that are read together. More is faster on a disk and mixes less.
    buffer_blocks
        Blocks that are shuffled together, at least. More mixes better and takes more memory.
    shuffle
        Whether to permute blocks, and cells within a fetch; False keeps the order of the corpus.
    """

    batch_size: int = 64
    block_cells: int = 64
    buffer_blocks: int = 256
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "block_cells", "buffer_blocks"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)}", wanted="1 or more", where="the stream", fix="raise it"
                )

    @property
    def batches_per_fetch(self) -> int:
        """Batches that one fetch holds."""
        return max(1, self.block_cells * self.buffer_blocks // self.batch_size)


class StreamPlan:
    """The plan of all epochs for one rank.

    Parameters
    ----------
    offsets
        Cells before each store, int64 (number of stores + 1,), as `Corpus.offsets`.
    shape
        Sizes.
    seed
        Seed of all orders.
    sampler
        How often each cell comes in an epoch; None for once.
    rank, world_size
        Which share this is, of how many. Worker processes of a rank are shares too.
    """

    def __init__(
        self,
        offsets: np.ndarray,
        shape: Shape,
        *,
        seed: int = 0,
        sampler: Sampler | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size}", wanted="0 <= rank < world_size", where="the stream")
        self.offsets, self.shape, self.seed = np.asarray(offsets, np.int64), shape, seed
        self.sampler, self.rank, self.world_size = sampler, rank, world_size
        starts = [np.arange(a, b, shape.block_cells) for a, b in zip(self.offsets, self.offsets[1:], strict=False)]
        self.blocks = np.append(np.concatenate(starts), self.offsets[-1]).astype(np.int64)
        """First cell of each block, and the number of cells, int64 (K + 1,)."""

    def epoch(self, epoch: int) -> EpochPlan:
        """The plan of one epoch."""
        times = None if self.sampler is None else self.sampler(epoch)
        places_K = np.diff(self.blocks)
        if times is not None:
            places_K = np.add.reduceat(times, self.blocks[:-1], dtype=np.int64)
        order_K = np.flatnonzero(places_K)
        if self.shape.shuffle:
            order_K = np.random.Generator(np.random.Philox(key=[self.seed, epoch])).permutation(order_K)
        ends_K = np.concatenate([[0], np.cumsum(places_K[order_K])])
        return EpochPlan(self, epoch, order_K, ends_K, times)


class EpochPlan:
    """One epoch of a `StreamPlan`; made by `StreamPlan.epoch`.

    Parameters
    ----------
    plan
        The plan.
    epoch
        Number of the epoch.
    order_K
        Blocks in the order of this epoch, those without a place left out.
    ends_K
        Places before each of them in the row, int64 (K + 1,).
    times
        How often each cell comes, or None.
    """

    def __init__(
        self, plan: StreamPlan, epoch: int, order_K: np.ndarray, ends_K: np.ndarray, times: np.ndarray | None
    ) -> None:
        self.plan, self.epoch = plan, epoch
        self._order_K, self._ends_K, self._times = order_K, ends_K, times
        self.n_places = int(ends_K[-1])
        """Cells of the epoch on all ranks, repeated ones as often as they come."""
        rank, world = plan.rank, plan.world_size
        if self.n_places < world:
            raise DataError(
                f"{self.n_places} cells in an epoch for {world} processes or workers",
                wanted="at least one each",
                where="the stream",
                fix="use fewer processes, a smaller training.gradient_accumulation, or more cells",
            )
        self._first = rank * self.n_places // world
        places = (rank + 1) * self.n_places // world - self._first
        steps = min(math.ceil(math.ceil(self.n_places / world) / plan.shape.batch_size), self.n_places // world)
        self._edges = _batch_edges(places, steps, plan.shape.batch_size)

    @property
    def n_batches(self) -> int:
        """Batches of this rank, the same on every rank."""
        return len(self._edges) - 1

    @property
    def n_fetches(self) -> int:
        """Fetches of this rank."""
        return math.ceil(self.n_batches / self.plan.shape.batches_per_fetch)

    def fetch(self, number: int) -> Fetch:
        """What fetch ``number`` reads, and its batches."""
        per_fetch = self.plan.shape.batches_per_fetch
        edges = self._edges[number * per_fetch : (number + 1) * per_fetch + 1]
        start, stop = self._first + int(edges[0]), self._first + int(edges[-1])
        first = int(np.searchsorted(self._ends_K, start, side="right")) - 1
        last = int(np.searchsorted(self._ends_K, stop, side="left"))
        # Read in the order of the disk and store by store; the order inside a fetch is drawn afterwards.
        at_K = np.arange(first, last)
        at_K = at_K[np.argsort(self._order_K[at_K], kind="stable")]
        block_K = self._order_K[at_K]
        begin_K, end_K = self.plan.blocks[block_K], self.plan.blocks[block_K + 1]
        skip_K = np.maximum(start - self._ends_K[at_K], 0)
        upto_K = np.minimum(stop, self._ends_K[at_K + 1]) - self._ends_K[at_K]
        if self._times is None:
            spans = np.stack([begin_K + skip_K, begin_K + upto_K], axis=1)
            cells = _ranges(spans)
            rows = np.arange(len(cells))
        else:
            parts = [
                np.repeat(np.arange(begin, end), self._times[begin:end])[skip:upto]
                for begin, end, skip, upto in zip(begin_K, end_K, skip_K, upto_K, strict=True)
            ]
            cells = np.concatenate(parts)
            distinct, rows = np.unique(cells, return_inverse=True)
            edges_of = np.flatnonzero(np.diff(distinct) > 1) + 1
            edges_of = np.union1d(edges_of, np.searchsorted(distinct, self.plan.offsets[1:-1]))
            edges_of = np.concatenate([[0], edges_of[(edges_of > 0) & (edges_of < len(distinct))], [len(distinct)]])
            spans = np.stack([distinct[edges_of[:-1]], distinct[edges_of[1:] - 1] + 1], axis=1)
        return Fetch(number, self._pieces(spans), rows, cells, edges - edges[0])

    def _pieces(self, spans: np.ndarray, *, cells_per_piece: int = 2048) -> list[Piece]:
        """Spans of corpus cells as pieces of one store each, no larger than is good for the caches."""
        offsets = self.plan.offsets
        store_S = np.searchsorted(offsets, spans[:, 0], side="right") - 1
        pieces: list[Piece] = []
        first, size = 0, 0
        for i in range(len(spans) + 1):
            whole = i == len(spans) or store_S[i] != store_S[first] or size >= cells_per_piece
            if whole and i > first:
                number = int(store_S[first])
                pieces.append(Piece(number, spans[first:i] - offsets[number]))
                first, size = i, 0
            if i < len(spans):
                size += int(spans[i, 1] - spans[i, 0])
        return pieces


def _ranges(spans: np.ndarray) -> np.ndarray:
    """All numbers of the spans, one span behind the other."""
    sizes = spans[:, 1] - spans[:, 0]
    ends = np.cumsum(sizes)
    return np.arange(ends[-1]) + np.repeat(spans[:, 0] - (ends - sizes), sizes)


def _batch_edges(places: int, n_batches: int, batch_size: int) -> np.ndarray:
    """Edges of ``n_batches`` batches over ``places``.

    All are full but the last, which gives up cells to the one before when it would be empty, and takes one more when
    batches of one cell do not divide evenly. So ranks whose shares differ by one cell make the same number of steps.
    """
    edges = np.minimum(np.arange(n_batches + 1, dtype=np.int64) * batch_size, places)
    edges[-1] = places
    return np.minimum(edges, places - np.arange(n_batches, -1, -1))
