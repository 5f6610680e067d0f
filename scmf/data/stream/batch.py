"""A batch of a stream, and how long its consumer waited for batches.

Lives here: `Batch`, `Waiting`. Lives elsewhere: making batches (reader), numpy to torch (scmf.training.stream_batches).

Legend: B cells of a batch, L longest row of a batch, N entries of all its cells.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from scmf.data.stores.ragged import Ragged, offsets_of
from scmf.data.stores.store import CountBlock


@dataclass(frozen=True)
class Batch:
    """Cells of one step.

    Parameters
    ----------
    cells
        Numbers of the cells in the corpus, int64 (B,).
    lengths
        Entries of each row, int64 (B,).
    columns
        Ragged (N,) or padded (B, L) arrays by name, as the encoder calls them.
    cell_tensors
        One value a cell (B,) or a few (B, k) by name: those of the encoder and the codes of ``obs`` columns that were
        asked for.
    """

    cells: np.ndarray
    lengths: np.ndarray
    columns: dict[str, np.ndarray]
    cell_tensors: dict[str, np.ndarray]

    @property
    def offsets(self) -> np.ndarray:
        """Where ragged rows begin, int64 (B+1,)."""
        return offsets_of(self.lengths)

    def ragged(self, pad_values: Mapping[str, float]) -> Ragged:
        """The rows of a ragged batch."""
        return Ragged(self.offsets, self.columns, self.cell_tensors, pad_values)

    def counts(self, n_genes: int) -> CountBlock:
        """The counts of a ragged batch that the encoder left as they are."""
        return CountBlock(self.offsets, self.columns["indices"], self.columns["data"], n_genes)


@dataclass
class Waiting:
    """How long the consumer waited for batches, in seconds, and how many cells it was given.

    Parameters
    ----------
    seconds
        Spent inside ``next()`` of the stream.
    since
        Clock (``time.perf_counter``) when counting began.
    cells, batches
        Given so far.
    """

    seconds: float = 0.0
    since: float = field(default_factory=time.perf_counter)
    cells: int = 0
    batches: int = 0

    @property
    def share(self) -> float:
        """Share of the time since then that was spent waiting for data."""
        return self.seconds / max(time.perf_counter() - self.since, 1e-9)
