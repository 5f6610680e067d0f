"""What a conversion will do, decided before the first byte: genes, places of the cells, sizes, space on disk.

Lives here: one gene aligner for several inputs, the shuffled order, the cut into datasets and buckets, what is needed
on disk, the note from which an interrupted conversion resumes. Lives elsewhere: doing it (convert).
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from scmf.core.errors import DataError, GeneError
from scmf.core.files import read_object, sha256_json, write_json
from scmf.data.genes import ids as genes_
from scmf.data.genes.joining import joining_names
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.named_genes import named_genes
from scmf.data.stores.store import Store

FORMAT = 2
"""Raised when a conversion that was begun by an older version cannot be gone on with."""

# --- genes ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenePanel:
    """The genes of the output.

    Parameters
    ----------
    var
        Their table: index of ids; ``n_stores``, the number of inputs that measured the gene (in the others it
        counts 0 although nobody looked); ``symbol`` where an input knows symbols.
    columns
        For each store the column of the aligner for each of its genes, int32, -1 for none.
    """

    var: pd.DataFrame
    columns: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.var)


def unite_genes(stores: Sequence[Store], genes: Literal["union", "intersection"] | Sequence[str]) -> GenePanel:
    """One aligner for all stores.

    Genes are compared in their canonical form (no version suffix) and written as they first appear, in the order in
    which they first appear; where one store has symbols and another Ensembl ids, by their ids. Where one store has two
    ids of the same canonical form (a gene and its copy on Y, say) that gene is compared as written.

    Parameters
    ----------
    stores
        The inputs.
    genes
        ``union``, ``intersection``, or ids: these genes, in this order.

    Raises
    ------
    GeneError
        Ids of several kinds or species, no gene common to all, or none of the wanted genes in any input.
    """
    distinct = list({id(store): store for store in stores}.values())
    mapping = joining_names(named_genes(distinct), where="the inputs", one_species=True)
    forms = [_forms(store.genes, mapping) for store in distinct]
    shared = {form for store in forms for form, n in Counter(store).items() if n > 1}
    keys = {
        id(store): [gene if form in shared else form for gene, form in zip(store.genes, form_of, strict=True)]
        for store, form_of in zip(distinct, forms, strict=True)
    }
    measured = Counter(key for store in stores for key in keys[id(store)])
    written: dict[str, str] = {}
    for store in distinct:
        for key, gene in zip(keys[id(store)], store.genes, strict=True):
            written.setdefault(key, key if mapping is not None and key in mapping.known else gene)
    if isinstance(genes, str):
        least = 1 if genes == "union" else len(stores)
        aligner = {key: gene for key, gene in written.items() if measured[key] >= least}
        if not aligner:
            raise GeneError(
                "no gene is in all inputs",
                wanted="at least one common gene",
                where=", ".join(store.uri for store in distinct[:4]),
                fix="use genes='union', or leave the odd input out",
            )
    else:
        ids = np.array([str(gene) for gene in genes], dtype=object)
        genes_.refuse_duplicates(ids, path="genes")
        forms_of_ids = _forms(ids.tolist(), mapping)
        aligner = {gene if form in shared else form: gene for gene, form in zip(ids, forms_of_ids, strict=True)}
        if len(aligner) < len(ids):
            raise GeneError(
                f"{len(ids) - len(aligner)} of the wanted genes differ from another only by a version suffix",
                wanted="each gene once",
                where="genes",
                fix="remove the copies",
            )
        if not any(measured[key] for key in aligner):
            raise GeneError(
                f"none of the {len(ids):,} wanted genes, the first is {ids[0]!r}" if len(ids) else "no gene",
                wanted=f"ids as in the inputs, such as {distinct[0].genes[0]!r}",
                where="genes",
                fix="give ids of the same kind as the inputs have",
            )
    place = {key: i for i, key in enumerate(aligner)}
    of_store = {key: np.array([place.get(one, -1) for one in ids_], np.int32) for key, ids_ in keys.items()}
    var = pd.DataFrame(index=pd.Index(np.array(list(aligner.values()), dtype=object)))
    symbols = np.full(len(aligner), "", dtype=object)
    for store in reversed(distinct):
        known = genes_.pick_symbols(store.var, None, ids_from="", path=store.uri)
        if known is not None:
            columns = of_store[id(store)]
            told = (columns >= 0) & (known != "")
            symbols[columns[told]] = known[told]
    if (symbols != "").any():
        var["symbol"] = symbols
    var["n_stores"] = np.array([measured[key] for key in aligner], np.int32)
    return GenePanel(var, [of_store[id(store)] for store in stores])


def _forms(genes: Sequence[str], mapping: genes_.GeneMap | None) -> list[str]:
    """The form in which the genes of a store are compared: their id where names are brought together."""
    own = [genes_.canonical(gene) for gene in genes]
    if mapping is None:
        return own
    return [found or form for found, form in zip(mapping.map(genes)[0].tolist(), own, strict=True)]


# --- order and sizes ------------------------------------------------------------------------------


def places(n_cells: int, *, seed: int, shuffle: bool) -> np.ndarray:
    """Place in the output of each kept cell: a uniform permutation, uint32 (n_cells,), int64 beyond 2**32 cells."""
    order = np.arange(n_cells, dtype=np.uint32 if n_cells < 1 << 32 else np.int64)
    if shuffle:
        np.random.Generator(np.random.PCG64(seed)).shuffle(order)
    return order


def sha256_array(values: np.ndarray) -> str:
    """Hex sha256 of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


@dataclass(frozen=True)
class Layout:
    """How the places are cut.

    Parameters
    ----------
    datasets
        First place of each dataset and the number of places, int64; sizes differ by one at most.
    buckets
        The same for buckets; a dataset is one or several of them.
    """

    datasets: np.ndarray
    buckets: np.ndarray

    def buckets_of(self, dataset: int) -> range:
        """Numbers of the buckets of a dataset."""
        first, last = np.searchsorted(self.buckets, self.datasets[dataset : dataset + 2])
        return range(int(first), int(last))


def cut(n_cells: int, *, cells_per_dataset: int, cells_per_bucket: int) -> Layout:
    """Cut the places into datasets and buckets of at most so many cells."""
    count = -(-n_cells // cells_per_dataset)
    datasets = np.arange(count + 1, dtype=np.int64) * n_cells // count
    edges: list[np.ndarray] = []
    for start, stop in zip(datasets[:-1].tolist(), datasets[1:].tolist(), strict=True):
        pieces = -(-(stop - start) // max(1, cells_per_bucket))
        edges.append(start + np.arange(pieces, dtype=np.int64) * (stop - start) // pieces)
    return Layout(datasets, np.concatenate([*edges, [n_cells]]))


def mean_length(corpus: Corpus) -> tuple[float, int]:
    """Stored values of a cell: the mean over the corpus, and the mean in the richest 4,096 cells in a row."""
    total, most = 0, 0.0
    for store in corpus.stores:
        lengths = store.lengths
        for start in range(0, len(lengths), 4096):
            part = lengths[start : start + 4096]
            n = int(part.sum(dtype=np.int64))
            total, most = total + n, max(most, n / len(part))
    return total / corpus.n_cells, int(np.ceil(most))


# --- space and the note ---------------------------------------------------------------------------


def refuse_small_disk(folder: Path, *, needed: int, parts: str, shuffled: bool) -> None:
    """Raise `DataError` when fewer than ``needed`` bytes are free where ``folder`` will be."""
    place = next(parent for parent in [folder, *folder.resolve().parents] if parent.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise DataError(
            f"{free / 1e9:,.1f} GB are free",
            wanted=f"about {needed / 1e9:,.1f} GB ({parts})",
            where=place,
            fix="free space, or give another folder"
            + (", or convert without shuffling, which needs no temporary files" if shuffled else ""),
        )


def read_note(path: Path, *keys: str) -> dict[str, Any]:
    """What an interrupted conversion noted; `DataError` where the file is damaged."""
    fix = f"remove {path.parent} to begin anew"
    return read_object(path, kind=DataError, wanted="what the conversion noted", fix=fix, keys=keys)


def remember(path: Path, settings: dict[str, Any], layout: dict[str, Any]) -> dict[str, Any]:
    """Note what is being done; or, when an earlier try was interrupted, check that it was the same and give its layout.

    Raises
    ------
    DataError
        The inputs or the arguments are not those of the conversion that was begun.
    """
    if not path.is_file():
        write_json(path, {"format": FORMAT, "settings": settings, "layout": layout})
        return layout
    kept = read_note(path, "settings", "layout")
    if kept.get("format") != FORMAT or sha256_json(kept["settings"]) != sha256_json(settings):
        begun = kept.get("settings", {})
        other = [key for key in settings if begun.get(key) != settings[key]] or ["the version of scmf"]
        raise DataError(
            f"a conversion was begun here with another {', '.join(other)}",
            wanted="the inputs and arguments it was begun with",
            where=path.parent,
            fix="repeat the first command to go on with it, or remove that folder to begin anew",
        )
    return kept["layout"]
