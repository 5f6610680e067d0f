"""What the machine allows: each half of the work alone, without any loader.

Settings. ``memcpy``: copies of as many bytes as a cell has in CSR (float32 and int32). ``decompress``: every chunk of
the zarr shards decoded by blosc in two threads, nothing else. ``tokenize``: batches that lie in memory.
``raw``: a memory-mapped CSR of uint16, rows gathered in the mixed order and tokenized in two threads; no format of
AnnData, and the ceiling of all loaders of counts.
"""

from __future__ import annotations

import argparse
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
from measure import Loader, main
from peer_bionemo_scdl import block_shuffled
from token_rows import Csr

IN_MEMORY = 16_384
LARGEST_CHUNK = 1 << 20
"""Elements of an inner chunk, at most; annbatch makes them of 64 cells."""


@numba.njit(cache=True, nogil=True)
def gather(indptr: Any, indices: Any, data: Any, rows: Any, out_indptr: Any, out_indices: Any, out_data: Any) -> None:
    """Copy rows of a mapped CSR behind each other, counts as float32."""
    at = 0
    out_indptr[0] = 0
    for i in range(rows.size):
        start, stop = indptr[rows[i]], indptr[rows[i] + 1]
        for j in range(start, stop):
            out_indices[at] = indices[j]
            out_data[at] = data[j]
            at += 1
        out_indptr[i + 1] = at


class RawCsr:
    """The mapped arrays of the corpus."""

    def __init__(self, folder: Path) -> None:
        self.indptr = np.load(folder / "indptr.npy")
        self.indices, self.data = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("indices", "data"))

    def __len__(self) -> int:
        return self.indptr.size - 1

    def rows(self, rows: np.ndarray) -> Csr:
        """Some rows, in their order."""
        room = int((self.indptr[rows + 1] - self.indptr[rows]).sum())
        out = Csr(np.empty(rows.size + 1, np.int64), np.empty(room, np.uint16), np.empty(room, np.float32))
        gather(self.indptr, self.indices, self.data, rows, *out)
        return out


def chunks_of(store: Path) -> list[tuple[Path, int, int]]:
    """File, offset and size of every inner chunk of the sharded ``X/data`` and ``X/indices``."""
    import json

    found = []
    for meta in sorted(store.glob("dataset_*/X/*/zarr.json")):
        if meta.parent.name not in ("data", "indices"):
            continue
        described = json.loads(meta.read_text())
        shard = described["chunk_grid"]["configuration"]["chunk_shape"][0]
        inner = described["codecs"][0]["configuration"]["chunk_shape"][0]
        for path in sorted((meta.parent / "c").iterdir()):
            with path.open("rb") as handle:
                handle.seek(-(16 * (shard // inner) + 4), 2)  # offset and size of each chunk, then a crc32c
                index = np.frombuffer(handle.read(16 * (shard // inner)), "<u8").reshape(-1, 2)
            found += [(path, int(at), int(size)) for at, size in index if size != 2**64 - 1]
    return found


def decompress(store: Path, n_cells: int) -> Callable[[int], Iterator[tuple[np.ndarray, None]]]:
    """Decode all chunks in two threads."""
    from numcodecs import blosc

    blosc.set_nthreads(1)
    chunks = chunks_of(store)
    opened = {path: np.memmap(path, np.uint8, "r") for path in {path for path, _, _ in chunks}}
    own = threading.local()

    def one(chunk: tuple[Path, int, int]) -> None:
        path, at, size = chunk
        if not hasattr(own, "room"):
            own.room = np.empty(4 * LARGEST_CHUNK, np.uint8)
        encoded = opened[path][at : at + size]
        blosc.decompress(encoded, own.room[: int(encoded[4:8].view("<u4")[0])])  # the header of blosc says how long

    def epoch(seed: int) -> Iterator[tuple[np.ndarray, None]]:
        # A chunk is one array of two: the cells of the corpus spread evenly over them.
        edges = np.linspace(0, n_cells, len(chunks) + 1).astype(np.int64)
        with ThreadPoolExecutor(2) as pool:
            ahead: deque[Future[None]] = deque()
            number = 0
            for chunk in chunks:
                ahead.append(pool.submit(one, chunk))
                if len(ahead) > 16:
                    ahead.popleft().result()
                    yield np.arange(edges[number], edges[number + 1]), None
                    number += 1
            while ahead:
                ahead.popleft().result()
                yield np.arange(edges[number], edges[number + 1]), None
                number += 1

    return epoch


def make(options: argparse.Namespace) -> Loader:
    """One of the limits as a loader."""
    raw = RawCsr(options.corpus / "raw")

    def batches(order: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, order.size, options.batch):
            yield order[start : start + options.batch]

    if options.setting == "decompress":
        return Loader(("numcodecs",), decompress(options.store, len(raw)))
    if options.setting == "memcpy":
        bytes_a_cell = int(8 * raw.indptr[-1] / len(raw)) + 8
        source = np.ones(options.batch * bytes_a_cell * 64, np.uint8).reshape(64, -1)
        target = np.zeros_like(source)
        target[:] = source

        def copies(seed: int) -> Iterator[tuple[np.ndarray, None]]:
            for number, rows in enumerate(batches(np.arange(len(raw)))):
                target[number % 64] = source[number % 64]
                yield rows, None

        return Loader((), copies, facts={"bytes_a_cell": bytes_a_cell})
    if options.setting == "tokenize":
        held = [(rows, raw.rows(rows)) for rows in batches(np.arange(min(IN_MEMORY, len(raw))))]
        return Loader((), lambda seed: iter(held), csr=lambda batch: batch, facts={"threads": options.token_threads})

    def mixed(seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in batches(block_shuffled(len(raw), seed)):
            yield rows, rows

    return Loader((), mixed, csr=raw.rows, facts={"threads": options.token_threads})


if __name__ == "__main__":
    main(make)
