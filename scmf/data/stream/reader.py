"""The stream: fetches read and encoded by threads, ahead of the consumer, and cut into batches.

::

    plan ── pieces ──► threads: Store.read, encode ──► a fetch of ragged rows ── threads: arrange, pad ──► batches
                       (next fetch, read ahead)         (this fetch)                                  (a few ahead)

Two fetches are alive at a time, so memory does not depend on the corpus. The threads run compiled code and system
calls that release the GIL; the result does not depend on their number.

Lives here: threads, memory, cutting batches. Lives elsewhere: which cells (plan), their order (arrange), the compiled
copy (stores.ragged), the batch (batch).

Legend: B cells of a batch, L longest row of a batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, Literal

import numpy as np

from scmf.core.errors import ConfigError, DataError
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.ragged import BadRows, Encoder, Ragged, RawCounts, copy_rows
from scmf.data.stream.arrange import Arrangement, arrange
from scmf.data.stream.batch import Batch, Waiting
from scmf.data.stream.plan import EpochPlan, Fetch, Piece, Shape, StreamPlan
from scmf.data.stream.sampling import EachOnceSampler, Sampler

_BATCHES_CUT = 16
"""Batches that are cut in one go: handing them over one by one would cost more than making them."""
_CUTS_AHEAD = 3


class CellStream:
    """Shuffled batches of encoded cells from a corpus of any size.

    Deterministic given seed, epoch, rank and sizes; it holds no state between epochs, so ``epoch(e, start=b)``
    resumes exactly where an interrupted run stopped.

    Parameters
    ----------
    corpus
        Cells.
    encode
        What turns counts into rows; default: the counts themselves.
    shape
        Batch size, block length, blocks shuffled together.
    seed
        Seed of all orders.
    rank, world_size
        Which share of the cells this process (or worker) takes, of how many.
    sampler
        How often each cell comes in an epoch, see `scmf.data.stream.sampling`; None for once.
    how
        Order inside a fetch, see `scmf.data.stream.arrange.Arrangement`.
    groups
        Group of each cell as integer codes (n_cells,), for ``how="group"`` and ``"stratify"``.
    cell_tensors
        Name -> array (n_cells,) whose values travel with the cells, such as label codes.
    layout
        ``padded``: rectangles (B, L); ``ragged``: rows behind one another.
    length
        Pad to this length; default: to the longest row of the batch.
    dtypes
        Type of a column in a batch, by name, where it is not that of the encoder (which may be narrower).
    threads
        Threads that read and encode.
    """

    def __init__(
        self,
        corpus: Corpus,
        encode: Encoder | None = None,
        *,
        shape: Shape | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        sampler: Sampler | None = None,
        how: Arrangement = "shuffle",
        groups: np.ndarray | None = None,
        cell_tensors: Mapping[str, np.ndarray] | None = None,
        layout: Literal["padded", "ragged"] = "padded",
        length: int | None = None,
        dtypes: Mapping[str, Any] | None = None,
        threads: int = 2,
    ) -> None:
        self.corpus, self.encode = corpus, RawCounts() if encode is None else encode
        self.plan = StreamPlan(
            corpus.offsets, shape or Shape(), seed=seed, sampler=sampler, rank=rank, world_size=world_size
        )
        self.how, self.groups, self.cell_tensors = how, groups, dict(cell_tensors or {})
        self.layout, self.length, self.threads = layout, length, max(1, threads)
        self.dtypes = {name: np.dtype(dtype) for name, dtype in (dtypes or {}).items()}
        self.waiting = Waiting()
        if how in ("group", "stratify") and groups is None:
            raise ConfigError(f"how={how!r} without groups", wanted="a code for each cell", where="the stream")
        if encode is None and len({id(store.genes) for store in corpus.stores}) > 1:
            panels = {store.genes for store in corpus.stores}
            if len(panels) > 1:
                raise ConfigError(
                    f"{len(panels)} gene panels",
                    wanted="one, since raw counts of different columns cannot stand in one batch",
                    where=corpus.name,
                    fix="give encode=AlignedCounts(aligner, ...), see scmf.data.stream.aligned",
                )

    # --- what can be asked ---------------------------------------------------------------------------

    @cached_property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch on this rank, the same on every rank."""
        return self.plan.epoch(0).n_batches

    def epoch(self, epoch: int, *, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch from batch ``start`` on; fetches before it are not read."""
        plan = self.plan.epoch(epoch)
        if not 0 <= start <= plan.n_batches:
            raise ConfigError(f"batch {start}", wanted=f"0 to {plan.n_batches}", where=f"epoch {epoch} of the stream")
        made = self._batches(plan, start)
        try:
            while True:
                began = time.perf_counter()
                batch = next(made, None)
                self.waiting.seconds += time.perf_counter() - began
                if batch is None:
                    return
                self.waiting.cells += len(batch.cells)
                self.waiting.batches += 1
                yield batch
        finally:
            made.close()

    # --- threads -------------------------------------------------------------------------------------

    def _batches(self, plan: EpochPlan, start: int) -> Generator[Batch, None, None]:
        per_fetch = self.plan.shape.batches_per_fetch
        numbers = iter(range(start // per_fetch, plan.n_fetches))
        readers = ThreadPoolExecutor(self.threads, thread_name_prefix="read")
        cutters = ThreadPoolExecutor(self.threads, thread_name_prefix="cut")
        try:
            following = self._begin(plan, next(numbers, None), readers)
            ready: deque[Future[list[Batch]]] = deque()
            while following is not None:
                fetch, parts = following
                # Its pieces stand behind those of this fetch, so that no thread is idle while the last of them is read.
                following = self._begin(plan, next(numbers, None), readers)
                encoded = [part.result() for part in parts]
                rows = FetchedRows(fetch, encoded, self.how, self._rng(plan, fetch), self.groups, self.dtypes)
                del parts, encoded
                first = max(0, start - fetch.number * per_fetch)
                last = len(fetch.edges) - 1
                for i in range(first, last, _BATCHES_CUT):
                    ready.append(cutters.submit(self._cut, rows, range(i, min(i + _BATCHES_CUT, last))))
                    if len(ready) > _CUTS_AHEAD:
                        yield from ready.popleft().result()
                del rows, fetch
            while ready:
                yield from ready.popleft().result()
        finally:
            cutters.shutdown(wait=True, cancel_futures=True)
            readers.shutdown(wait=True, cancel_futures=True)

    def _begin(
        self, plan: EpochPlan, number: int | None, readers: ThreadPoolExecutor
    ) -> tuple[Fetch, list[Future[Ragged]]] | None:
        """Hand the pieces of a fetch to the readers."""
        if number is None:
            return None
        fetch = plan.fetch(number)
        encode = self.encode.at_epoch(plan.epoch) if hasattr(self.encode, "at_epoch") else self.encode
        return fetch, [readers.submit(self._read, piece, encode) for piece in fetch.pieces]

    def _read(self, piece: Piece, encode: Encoder) -> Ragged:
        store = self.corpus.stores[piece.store]
        try:
            return encode(store.read(piece.spans), store.genes)
        except BadRows as error:
            rows = np.concatenate([np.arange(start, stop) for start, stop in piece.spans])[error.rows]
            named = ", ".join(f"{row:,}" for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
            raise DataError(
                error.found, wanted=error.wanted, where=f"{store.uri}, cells number {named}", fix=error.fix
            ) from error

    def _rng(self, plan: EpochPlan, fetch: Fetch) -> np.random.Generator | None:
        if not self.plan.shape.shuffle and self.how == "shuffle":
            return None
        return np.random.default_rng([self.plan.seed, plan.epoch, self.plan.rank, fetch.number, 1])

    def _cut(self, rows: FetchedRows, numbers: range) -> list[Batch]:
        edges = rows.fetch.edges[numbers.start : numbers.stop + 1]
        made = rows.take(edges, self.encode.pad_values, padded=self.layout == "padded", length=self.length)
        for batch in made:
            batch.cell_tensors.update({name: values[batch.cells] for name, values in self.cell_tensors.items()})
        return made


class FetchedRows:
    """The encoded rows of one fetch, in parts, and the order in which they are taken.

    Parameters
    ----------
    fetch
        The plan of it.
    parts
        What its pieces became.
    how, groups, dtypes
        See `CellStream`.
    rng
        Random numbers of the order; None keeps the order of the plan.
    """

    def __init__(
        self,
        fetch: Fetch,
        parts: list[Ragged],
        how: Arrangement,
        rng: np.random.Generator | None,
        groups: np.ndarray | None,
        dtypes: Mapping[str, np.dtype],
    ) -> None:
        self.fetch, self.parts = fetch, parts
        self._starts = np.concatenate([[0], np.cumsum([len(part.offsets) - 1 for part in parts])])
        self._dtypes = {
            name: dtypes.get(name) or np.result_type(*{part.columns[name].dtype for part in parts})
            for name in parts[0].columns
        }
        self._lengths = np.concatenate([part.lengths for part in parts])[fetch.rows]
        if rng is None:
            self.order = np.arange(len(fetch.rows))
        else:
            inside = None if groups is None else groups[fetch.cells]
            self.order = arrange(fetch.edges, rng, how=how, lengths=self._lengths, groups=inside)

    def take(
        self, edges: np.ndarray, pad_values: Mapping[str, float], *, padded: bool, length: int | None
    ) -> list[Batch]:
        """The batches between ``edges`` of the arranged fetch.

        They share memory: one piece for each column, filled by one compiled call for each part of the fetch.
        """
        places = self.order[edges[0] : edges[-1]]
        rows, lengths = self.fetch.rows[places], self._lengths[places]
        inner = edges - edges[0]
        sizes = np.diff(inner)
        longest = np.maximum.reduceat(lengths, inner[:-1]) if length is None else np.full(len(sizes), length)
        widths = np.repeat(longest, sizes) if padded else lengths
        begins = np.concatenate([[0], np.cumsum(widths)])
        # The rows of each part one after the other, so that every part is copied by one call.
        inside = np.argsort(rows, kind="stable")
        sorted_rows = rows[inside]
        bounds = np.searchsorted(sorted_rows, self._starts).tolist()
        columns = {name: np.empty(int(begins[-1]), dtype) for name, dtype in self._dtypes.items()}
        cell_tensors = {
            name: np.empty((len(places), *values.shape[1:]), values.dtype)
            for name, values in self.parts[0].cell_tensors.items()
        }
        for number, part in enumerate(self.parts):
            low, high = bounds[number], bounds[number + 1]
            if low == high:
                continue
            local, to = sorted_rows[low:high] - self._starts[number], inside[low:high]
            for name, out in columns.items():
                value = out.dtype.type(pad_values[name])
                copy_rows(part.columns[name], part.offsets, local, begins[to], widths[to], out, value)
            for name, values in cell_tensors.items():
                values[to] = part.cell_tensors[name][local]
        batches = []
        for first, last, width in zip(inner[:-1].tolist(), inner[1:].tolist(), longest.tolist(), strict=True):
            one = slice(first, last)
            part_of = {name: out[begins[first] : begins[last]] for name, out in columns.items()}
            if padded:
                part_of = {name: out.reshape(last - first, width) for name, out in part_of.items()}
            values_of = {name: values[one] for name, values in cell_tensors.items()}
            batches.append(Batch(self.fetch.cells[places[one]], lengths[one], part_of, values_of))
        return batches


def in_order(corpus: Corpus, encode: Encoder, keep: np.ndarray | None = None, *, threads: int = 2) -> Iterator[Batch]:
    """Every cell (of ``keep``, boolean) once in the order of the corpus, encoded by threads, in ragged batches."""
    shape = Shape(batch_size=4096, block_cells=4096, buffer_blocks=1, shuffle=False)
    sampler = None if keep is None else EachOnceSampler(keep)
    return CellStream(corpus, encode, shape=shape, sampler=sampler, layout="ragged", threads=threads).epoch(0)
