"""Batches of tokens for the loop, and the order in which a run visits its cells.

The order is a pure function of (seed, epoch): a resumed run asks for the same epoch again, skips what it has done and
sees the same batches. No iterator holds state.

Lives here: what the loop asks of batches, batches of cells in memory, length grouping, the share of each rank. Lives
elsewhere: ragged storage and padding (stores.ragged), batches of a stream (scmf.training.stream_batches), tokenizing
(scmf.tokenizers), masking (objectives), the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from scmf.core.errors import TrainingError
from scmf.data.stores.ragged import Ragged


class Batches(Protocol):
    """Batches of one rank, for any epoch and from any batch on."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches of this rank in an epoch, the same on every rank and in every epoch."""

    @property
    def batches_of_all_ranks(self) -> int:
        """Batches of an epoch over all ranks, which are the same on any number of ranks.

        Rank r takes batch ``i * world_size + r`` as its i-th; past the last one it is given any, which does not count.
        """

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch from batch ``start`` on: ``input_ids``, ``attention_mask`` (B, L) and others."""

    def wait_share(self) -> float | None:
        """Share of the time that was spent waiting for batches; None when they lie in memory."""


BatchesOf = Callable[[int, int, int], Batches]
"""``batches(rank, world_size, lanes)``: the share of one process of a stream with so many lanes."""


def padded_tensors(cells: Ragged, rows: np.ndarray) -> dict[str, Tensor]:
    """The cells ``rows`` as a model takes them: `Ragged.pad` as tensors that share its memory."""
    return {name: torch.from_numpy(values) for name, values in cells.pad(rows).items()}


@dataclass(frozen=True)
class PerEpochTokens:
    """Cells in memory whose tokens are drawn anew each epoch (tied values, genes kept of a long cell, random order).

    Parameters
    ----------
    draw
        ``draw(epoch)``: the tokens of that epoch, the same for the same epoch and of the same lengths in all.
    """

    draw: Callable[[int], Ragged]


def length_grouped_indices(lengths: np.ndarray, batch_size: int, *, seed: int) -> list[int]:
    """Shuffle, then sort by length inside mega-batches; the longest cell comes first.

    This is ``transformers.trainer_pt_utils.get_length_grouped_indices``, the sampler that Geneformer
    was pretrained with.

    Parameters
    ----------
    lengths
        Tokens of each cell (N,).
    batch_size
        Cells in a batch; a mega-batch holds up to 50 batches, at least four mega-batches an epoch.
    seed
        Seed of the shuffle (torch.Generator).
    """
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(seed)
    return get_length_grouped_indices(lengths.tolist(), batch_size, generator=generator)


@dataclass(frozen=True)
class BatchOrder:
    """Which cells are in which batch, for any epoch.

    Parameters
    ----------
    lengths
        Tokens of each cell (N,).
    batch_size
        Cells in a batch on one rank.
    group_by_length
        Group cells of similar length, else shuffle plainly.
    seed
        Seed of the run.
    world_size, rank
        Number of processes and which one this is. Every rank makes the same number of steps; in a last round that is
        not full some ranks get a batch from the start of the epoch, which the loop does not count.
    """

    lengths: np.ndarray
    batch_size: int
    group_by_length: bool
    seed: int
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if len(self.lengths) == 0:
            raise TrainingError("no training cells", wanted="at least one cell", fix="check data.split")

    @property
    def batches_of_all_ranks(self) -> int:
        """Batches in one epoch."""
        return -(-len(self.lengths) // self.batch_size)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of each rank in one epoch."""
        return -(-self.batches_of_all_ranks // self.world_size)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[np.ndarray]:
        """Yield the cell indices of each batch of this rank, from batch ``start`` on."""
        seed = int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint32)[0])
        if self.group_by_length:
            order = np.array(length_grouped_indices(self.lengths, self.batch_size, seed=seed))
        else:
            order = torch.randperm(len(self.lengths), generator=torch.Generator().manual_seed(seed)).numpy()
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        for step in range(start, self.batches_per_epoch):
            yield batches[(step * self.world_size + self.rank) % len(batches)]


@dataclass(frozen=True)
class MemoryBatches:
    """Padded batches of cells in memory, in the order of a `BatchOrder`."""

    cells: Ragged | PerEpochTokens
    order: BatchOrder

    @property
    def batches_per_epoch(self) -> int:
        """See `Batches`."""
        return self.order.batches_per_epoch

    @property
    def batches_of_all_ranks(self) -> int:
        """See `Batches`."""
        return self.order.batches_of_all_ranks

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """See `Batches`."""
        cells = self.cells.draw(epoch) if isinstance(self.cells, PerEpochTokens) else self.cells
        for rows in self.order.epoch(epoch, start=start):
            yield padded_tensors(cells, rows)

    def wait_share(self) -> float | None:
        """None: the cells lie in memory."""
        return None


def in_order(cells: Ragged, *, batch_size: int) -> Iterator[np.ndarray]:
    """Batches for inference, longest cells first; every cell exactly once."""
    order = np.argsort(-cells.lengths, kind="stable")
    for i in range(0, len(order), batch_size):
        yield order[i : i + batch_size]
