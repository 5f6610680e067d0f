"""The steps of a conversion: decide, spool ``obs``, read, shuffle through the disk, write, read back, count.

Lives here: `Conversion`, which carries out what `scmf.data.convert.convert.convert` was asked for, and the report.
Lives elsewhere: the arguments and the folder (convert), what is decided before (plan).
"""

from __future__ import annotations

import logging
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scmf.core import progress
from scmf.core.errors import DataError
from scmf.core.files import sha256_json, write_json
from scmf.data.convert import plan, zarr_writer
from scmf.data.convert.obs import ObsSpool, columns_of
from scmf.data.convert.report import ConvertReport, describe_input, finished, publish
from scmf.data.convert.rows import Rows, Totals, conform, index_dtype, totals
from scmf.data.convert.runs import Cells, Runs, encoded_size, select
from scmf.data.stores.corpus import Corpus, ScannedBlock

log = logging.getLogger(__name__)

WORK = ".convert"
"""Folder in the collection with what a conversion has begun."""


class Conversion:
    """One conversion: what was decided, and the steps of carrying it out."""

    def __init__(
        self,
        corpus: Corpus,
        out: Path,
        *,
        shuffle: bool,
        seed: int,
        genes: Literal["union", "intersection"] | Sequence[str],
        cells_per_dataset: int,
        memory: int,
        obs_columns: Sequence[str] | None,
        keep: np.ndarray | None,
        threads: int,
        pool: ThreadPoolExecutor,
        bars: ExitStack,
    ) -> None:
        self.corpus, self.out, self.work, self.keep, self.pool = corpus, out, out / WORK, keep, pool
        self.shuffle, self.memory, self.threads = shuffle, memory, threads
        self._bars, self._bar_of = bars, dict[str, progress.Bar]()
        self.columns, self.filled = columns_of(corpus.stores, obs_columns)
        for column, uris in self.filled.items():
            some = f"{len(uris)} of {len(corpus.stores)} inputs, the first is {uris[0]}"
            log.warning(f"obs column {column!r} is missing in {some}: their cells have no value in it")
        self.aligner = plan.unite_genes(corpus.stores, genes)
        self.n_cells = corpus.n_cells if keep is None else int(np.count_nonzero(keep))
        self.places = plan.places(self.n_cells, seed=seed, shuffle=shuffle)
        names = [Path(store.uri.rstrip("/")).name for store in corpus.stores]
        self.sources = names if len(set(names)) == len(names) else [f"{name}-{i}" for i, name in enumerate(names)]
        self.settings: dict[str, Any] = {
            "inputs": [store.fingerprint for store in corpus.stores],
            "counts": [store.counts for store in corpus.stores],
            "seed": seed,
            "shuffle": shuffle,
            "order": plan.sha256_array(self.places),
            "genes": sha256_json(self.aligner.var.index.tolist()),
            "cells_per_dataset": cells_per_dataset,
            "obs_columns": self.columns,
            "keep": None if keep is None else plan.sha256_array(keep),
        }
        self.needed = 0

    # --- the steps --------------------------------------------------------------------------------

    def run(self) -> ConvertReport:
        """Carry it out, or resume it."""
        started = time.monotonic()
        if (self.out / "zarr.json").is_file():
            shutil.rmtree(self.work)
            return finished(self.out, self.settings)
        mean, most = plan.mean_length(self.corpus)
        width = index_dtype(len(self.aligner)).itemsize + 4
        self.per_block = int(np.clip(self.memory // 24 // (12 * max(most, 1)), 16, 16_384))
        self.needed = int(width * mean * self.n_cells)
        per_bucket = max(self.per_block, int(self.memory // 4 // (width * mean + 256)))
        chunk = zarr_writer.chunk_size(mean)
        shard = zarr_writer.shard_size(mean * min(self.n_cells, self.settings["cells_per_dataset"]), chunk)
        layout = {"cells_per_bucket": per_bucket, "chunk": chunk, "chunks_per_shard": shard}
        kept = plan.remember(self.work / "convert.json", self.settings, layout)
        self.chunk, self.chunks_per_shard = int(kept["chunk"]), int(kept["chunks_per_shard"])
        self.layout = plan.cut(
            self.n_cells,
            cells_per_dataset=self.settings["cells_per_dataset"],
            cells_per_bucket=kept["cells_per_bucket"],
        )
        self.n_datasets = len(self.layout.datasets) - 1
        self.spool = ObsSpool(self.work / "obs", self.corpus, self.columns, sources=self.sources)
        self._check_space(mean)
        of_inputs = self._shuffled() if self.shuffle else self._straight()
        return self._publish(of_inputs, started)

    def _check_space(self, mean: float) -> None:
        """Estimate from the first cells of some inputs what will be written, and look whether it fits."""
        bytes_run = bytes_out = nnz = 0
        stores = self.corpus.stores
        for number in sorted({round(i * (len(stores) - 1) / 3) for i in range(4)}):
            rows = np.arange(min(256, stores[number].n_cells))
            if len(rows):
                counts = stores[number].read(np.array([[0, len(rows)]]))
                block = ScannedBlock(number, self.corpus.offsets[number] + rows, counts)
                cells, _ = self._prepare(block, np.zeros(len(rows), np.int64))
                a, b = encoded_size(cells)
                bytes_run, bytes_out, nnz = bytes_run + a, bytes_out + b, nnz + max(1, len(block.counts.data))
        scale = 1.1 * mean * self.n_cells / nnz
        for_runs, for_out = int(bytes_run * scale) if self.shuffle else 0, int(bytes_out * scale) + (1 << 20)
        self.needed = for_runs + for_out
        there = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        plan.refuse_small_disk(
            self.out,
            needed=max(0, self.needed - there),
            shuffled=self.shuffle,
            parts=f"{for_out / 1e9:,.1f} GB for the collection, {for_runs / 1e9:,.1f} GB for the shuffle while it "
            f"runs, less what is there already",
        )

    def _prepare(self, block: ScannedBlock, places: np.ndarray) -> tuple[Cells, Totals]:
        number, store = block.store, self.corpus.stores[block.store]
        own = block.cells - self.corpus.offsets[number]
        rows = conform(block.counts, self.aligner.columns[number], len(self.aligner), store=store, first=own)
        texts = [self.spool.text(text, number, own) for text in self.spool.texts]
        records = self.spool.records(number, own)
        return Cells(rows, places.astype(np.int64), records, texts), totals(rows, records["source"], own)

    def _scan(self, first: int) -> Generator[tuple[int, Cells, Totals, int], None, None]:
        """Kept cells from number ``first`` of the corpus on: store, cells, totals, number behind the last cell."""
        keep, rank = self.keep, 0
        if first:
            keep = np.ones(self.corpus.n_cells, np.bool_) if keep is None else keep.copy()
            rank = int(np.count_nonzero(keep[:first]))
            keep[:first] = False
        ahead: deque[tuple[int, int, Future[tuple[Cells, Totals]]]] = deque()
        blocks = self.corpus.scan(keep=keep, cells_per_block=self.per_block, threads=self.threads)
        with closing(blocks):  # type: ignore[type-var]
            for block in blocks:
                places = self.places[rank : rank + len(block.cells)]
                rank += len(block.cells)
                ahead.append((block.store, int(block.cells[-1]) + 1, self.pool.submit(self._prepare, block, places)))
                if len(ahead) > self.threads:
                    store, behind, cells = ahead.popleft()
                    yield store, *cells.result(), behind
        while ahead:
            store, behind, cells = ahead.popleft()
            yield store, *cells.result(), behind

    def _shuffled(self) -> list[Totals]:
        runs = Runs(
            self.work / "runs",
            self.layout.buckets,
            dtype=self.spool.dtype,
            n_genes=len(self.aligner),
            n_texts=len(self.spool.texts),
            stage=self.memory // 5,
            pool=self.pool,
        )
        of_inputs = [Totals(*one) for one in runs.note.get("totals", [Totals()] * len(self.corpus.stores))]
        with closing(self._scan(int(runs.note.get("next", 0)))) as scanned:
            for store, cells, counted, behind in scanned:
                of_inputs[store] = of_inputs[store].plus(counted)
                if runs.add(cells):
                    runs.flush({"next": behind, "totals": of_inputs})
                self._tell("reading", sum(one.cells for one in of_inputs))
        runs.flush({"next": self.corpus.n_cells, "totals": of_inputs})
        for dataset in range(self.n_datasets):
            if not (self.out / f"dataset_{dataset}").is_dir():
                pieces = (self._ordered(runs.bucket(bucket)) for bucket in self.layout.buckets_of(dataset))
                self._write(dataset, (cells for bucket in pieces for cells in bucket), {})
            self._tell("writing", int(self.layout.datasets[dataset + 1]))
        return of_inputs

    def _ordered(self, bucket: Cells) -> Iterator[Cells]:
        """Cells of a bucket in their order, a few chunks of values at a time."""
        ends = np.cumsum(bucket.rows.lengths[bucket.places])
        start = 0
        while start < len(ends):
            before = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + (1 << 20), side="right")))
            yield select(bucket, bucket.places[start:stop])
            start = stop

    def _straight(self) -> list[Totals]:
        done = 0
        of_inputs = [Totals()] * len(self.corpus.stores)
        while done < self.n_datasets and (self.out / f"dataset_{done}").is_dir():
            note = plan.read_note(self.work / f"dataset_{done}.json", "inputs")
            of_inputs = [one.plus(Totals(*more)) for one, more in zip(of_inputs, note["inputs"], strict=True)]
            done += 1
        first = int(self.layout.datasets[done])
        if first < self.n_cells and self.keep is not None:
            first = int(np.flatnonzero(self.keep)[first])
        if done == self.n_datasets:
            return of_inputs
        source = self._scan(first)
        left: list[tuple[int, Cells]] = []

        def cells_of(dataset: int, here: list[Totals]) -> Iterator[Cells]:
            missing = int(self.layout.datasets[dataset + 1] - self.layout.datasets[dataset])
            while missing:
                if not left:
                    store, cells, _, _ = next(source)
                    left.append((store, cells))
                store, cells = left.pop()
                n = min(missing, len(cells.places))
                if n < len(cells.places):
                    left.append((store, select(cells, np.arange(n, len(cells.places)))))
                    cells = select(cells, np.arange(n))
                here[store] = here[store].plus(totals(cells.rows, cells.records["source"], cells.records["source_row"]))
                missing -= n
                yield cells

        with closing(source):
            for dataset in range(done, self.n_datasets):
                here = [Totals()] * len(self.corpus.stores)
                self._write(dataset, cells_of(dataset, here), {"inputs": here})
                of_inputs = [one.plus(more) for one, more in zip(of_inputs, here, strict=True)]
        return of_inputs

    # --- one dataset, and the end -----------------------------------------------------------------

    def _write(self, dataset: int, parts: Iterator[Cells], note: dict[str, Any]) -> None:
        """Write a dataset, read it back, note what it holds, and give it its name."""
        path = self.out / f"dataset_{dataset}"
        writer = zarr_writer.DatasetWriter(
            path, len(self.aligner), pool=self.pool, chunk=self.chunk, chunks_per_shard=self.chunks_per_shard
        )
        records: list[np.ndarray] = []
        texts: dict[int, list[str]] = {number: [] for number in self.spool.texts}
        done = int(self.layout.datasets[dataset])
        try:
            for cells in parts:
                writer.append(cells.rows.lengths, cells.rows.indices, cells.rows.data)
                records.append(cells.records)
                for number, (lengths, blob) in zip(self.spool.texts, cells.texts, strict=True):
                    ends = np.cumsum(lengths, dtype=np.int64).tolist()
                    texts[number] += [blob[a:b].decode() for a, b in zip([0, *ends[:-1]], ends, strict=True)]
                done += len(cells.records)
                self._tell("writing", done)
            obs = self.spool.table(np.concatenate(records), texts)
            writer.finish(obs, self.aligner.var)
            found = Totals()
            for (lengths, indices, data), source, row in zarr_writer.read_back(writer.partial, self.sources):
                rows = Rows(np.concatenate([[0], np.cumsum(lengths)]), indices, data)
                found = found.plus(totals(rows, source, row))
            write_json(self.work / f"dataset_{dataset}.json", {"totals": found, **note})
            writer.publish()
        except BaseException:
            writer.discard()
            raise

    def _publish(self, of_inputs: list[Totals], started: float) -> ConvertReport:
        read, written, sizes = Totals(), Totals(), []
        for one in of_inputs:
            read = read.plus(one)
        for dataset in range(self.n_datasets):
            note = plan.read_note(self.work / f"dataset_{dataset}.json")
            sizes.append(Totals(*note["totals"]))
            written = written.plus(sizes[-1])
        if read != written or read.cells != self.n_cells:
            raise DataError(
                f"the collection holds {written.cells:,} cells with {written.nnz:,} values that add up to "
                f"{written.counts:,} (digest {written.digest:016x})",
                wanted=f"what was read: {read.cells:,} cells with {read.nnz:,} values that add up to {read.counts:,} "
                f"(digest {read.digest:016x})",
                where=self.out,
                fix="remove the folder and convert again; if it happens twice, check memory and disk of the machine",
            )
        report = ConvertReport(
            out=str(self.out),
            cells=read.cells,
            genes=len(self.aligner),
            nnz=read.nnz,
            counts=read.counts,
            datasets=self.n_datasets,
            bytes=sum(path.stat().st_size for path in self.out.glob("dataset_*/**/*") if path.is_file()),
            seconds=round(time.monotonic() - started, 3),
            filled_columns=self.filled,
            inputs=[
                describe_input(store, source, one)
                for store, source, one in zip(self.corpus.stores, self.sources, of_inputs, strict=True)
            ],
            order_sha256=self.settings["order"],
            digest=f"{read.digest:016x}",
        )
        publish(self.out, report, settings=self.settings, sizes=sizes)
        shutil.rmtree(self.work)
        return report

    def _tell(self, what: str, done: int) -> None:
        """Move the bar of a step; it appears with the step."""
        if what not in self._bar_of:
            shown = progress.bar(f"{what} cells", self.n_cells, unit="cells")
            self._bar_of[what] = self._bars.enter_context(shown)
        self._bar_of[what].move_to(done)

    def disk_full(self, error: OSError) -> DataError:
        """What to say when the disk is full."""
        there = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        place = shutil.disk_usage(self.out)
        return DataError(
            f"the disk took no more ({error.strerror}): {place.free / 1e9:,.2f} GB free",
            wanted=f"about {max(0, self.needed - there) / 1e9:,.2f} GB more, {self.needed / 1e9:,.2f} GB in all",
            where=self.out,
            fix="free space and give the same command again: it goes on where it stopped",
        )
