"""Any stores into one collection of shuffled, sharded zarr in AnnData's own format, in bounded memory.

Lives here: `convert`: its arguments, the inputs, the folder. Lives elsewhere: the steps (steps), what is
decided before (plan), rows (rows), columns of ``obs`` (obs), the shuffle on disk
(runs), one dataset (zarr_writer).

A collection is a zarr v3 group with the groups ``dataset_0``, ``dataset_1``, ..., each of which
`anndata.read_zarr` opens; its attributes say what it was made of and carry the mark by which annbatch knows it.

An interrupted conversion resumes when the same command is repeated: the runs of the shuffle and the datasets that were
complete stay. ``convert.json`` in the folder ``.convert`` says what was begun.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scmf.core.errors import ConfigError, DataError
from scmf.core.locks import one_writer
from scmf.data.convert.by_columns import open_for_conversion
from scmf.data.convert.report import ConvertReport
from scmf.data.convert.steps import WORK, Conversion
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.corpus import Corpus

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def convert(
    inputs: Corpus | Sequence[str | Path],
    out: Path | str,
    *,
    shuffle: bool = True,
    seed: int = 0,
    genes: Literal["union", "intersection"] | Sequence[str] = "union",
    cells_per_dataset: int = 65_536,
    memory: int = 1 << 30,
    obs_columns: Sequence[str] | None = None,
    keep: np.ndarray | None = None,
    threads: int = 2,
    counts: str = "auto",
    gene_ids: str = "auto",
    rounding: Rounding = "error",
    storage_options: dict[str, Any] | None = None,
) -> ConvertReport:
    """Rewrite cells as a collection of sharded zarr.

    Parameters
    ----------
    inputs
        A corpus, or paths and addresses of h5ad files and zarr groups.
    out
        Folder of the collection; it must be new, empty, or hold what an earlier try of the same conversion left.
    shuffle
        Put all cells into one uniformly random order; else they stay in the order of the inputs. It needs
        temporary space of about the size of the output, in ``out``.
    seed
        Of the order. The order depends on the seed, the number of kept cells and nothing else.
    genes
        ``union`` (in the order of first appearance; a gene that an input lacks counts 0 there), ``intersection``,
        or gene ids: these, in this order.
    cells_per_dataset
        At most so many cells in a dataset; sizes differ by one at most.
    memory
        Bytes for buffers. On top come the program (about 300 MB), 4 bytes for each cell of the corpus, and
        one column of ``obs`` of the largest input.
    obs_columns
        Columns of ``obs`` to keep; None keeps all, and cells of inputs that lack one have no value in it. ``source``
        and ``source_row`` are added.
    keep
        Boolean (cells of the corpus,): leave out the others.
    threads
        Threads for reading, and as many for compressing.
    counts, gene_ids, rounding, storage_options
        How to open ``inputs`` that are paths, see `scmf.data.stores.open.open_stores`; fractions cannot be kept.

    Raises
    ------
    DataError
        Too little space on the disk, before or during; a damaged input; ``out`` holds something else; the cells
        read back are not those that were read.
    CountsError, GeneError
        See `scmf.data.convert.rows.conform` and `scmf.data.convert.plan.unite_genes`.
    """
    out = Path(out)
    if rounding == "accept":
        raise ConfigError(
            "counts_rounding: accept", wanted="error or round", where="scmf data convert",
            fix="a collection holds whole counts: round them, or read the files as they are",
        )  # fmt: skip
    if isinstance(inputs, Corpus):
        corpus = inputs
    else:
        stores = open_for_conversion(
            inputs, counts=counts, gene_ids=gene_ids, rounding=rounding, memory=memory // 4,
            storage_options=storage_options,
        )  # fmt: skip
        corpus = Corpus(stores)
    if keep is not None and (keep.shape != (corpus.n_cells,) or keep.dtype != np.bool_ or not keep.any()):
        raise DataError(
            f"keep of {keep.dtype}, shape {keep.shape}, {int(np.count_nonzero(keep)):,} true",
            wanted=f"bool, shape ({corpus.n_cells},), at least one true",
            where="keep",
            fix="give one value for each cell of the corpus",
        )
    try:
        with ThreadPoolExecutor(max(1, threads), thread_name_prefix="convert") as pool, ExitStack() as bars:
            conversion = Conversion(
                corpus,
                out,
                shuffle=shuffle,
                seed=seed,
                genes=genes,
                cells_per_dataset=cells_per_dataset,
                memory=memory,
                obs_columns=obs_columns,
                keep=keep,
                threads=max(1, threads),
                pool=pool,
                bars=bars,
            )
            with _locked(out):
                try:
                    return conversion.run()
                except OSError as error:
                    if error.errno in _FULL:
                        raise conversion.disk_full(error) from error
                    raise
    finally:
        if corpus is not inputs:
            corpus.close()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make the folder; one conversion into it at a time."""
    collection = out / "zarr.json"
    strange = [path.name for path in out.iterdir() if path.name != WORK] if out.is_dir() else []
    if strange and not collection.is_file() and not (out / WORK / "convert.json").is_file():
        raise DataError(
            f"the folder has {len(strange)} files of something else, such as {sorted(strange)[0]!r}",
            wanted="a new or empty folder",
            where=out,
            fix="choose another folder",
        )
    with one_writer(out / WORK, "scmf data convert", error=DataError):
        yield
