"""Files in memory put together: over the union of their genes, whatever names each gives them; ids of cells unique.

Lives here: `together` and what comes of it. Lives elsewhere: reading each file (load), the names that bring different
ids to one (genes.joining), ids of cells on disk (stores.cell_ids; the same rule), genes of a gene set (restrict).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData, concat

from scmf.data.genes.ids import GeneMap
from scmf.data.genes.joining import NamedGenes, joining_names
from scmf.data.genes.names import OtherNames
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.stores import counts as counts_
from scmf.data.stores.cell_ids import marks_of
from scmf.data.stores.memory import MemoryStore

_WHERE = "data.files"


@dataclass(frozen=True)
class Joined:
    """The cells of all files.

    Parameters
    ----------
    adata
        Counts, ids and symbols of genes, ``obs``.
    species
        Of all files; empty where their ids do not tell.
    names
        Names of the genes in the files, where they were brought together.
    totals
        Counts of each cell over all genes of its file, by cell id, where genes were left out.
    """

    adata: AnnData
    species: str
    names: OtherNames | None = None
    totals: pd.Series | None = None

    def total_counts(self, adata: AnnData) -> np.ndarray | None:
        """Counts of these cells over all their genes, float32 (N,); None where ``adata`` holds them all."""
        if self.totals is None:
            return None
        kept = self.totals if len(self.totals) == adata.n_obs else self.totals.loc[adata.obs_names]
        return kept.to_numpy(np.float32)


def together(parts: Sequence[AnnData], paths: Sequence[Path], species: Sequence[str], *, to_gene_set: bool) -> Joined:
    """Several files over the union of their genes; a gene that a file lacks counts 0 there.

    Parameters
    ----------
    parts, paths, species
        The files.
    to_gene_set
        Names are brought to those of a gene set later, and stay as they are here.

    Raises
    ------
    GeneError
        Files of several species, or with ids that cannot be brought together.
    """
    if len(parts) == 1:
        return Joined(parts[0], species[0])
    files = [
        NamedGenes(path.name, part.var_names.tolist(), part.var.get("symbol"), kind)
        for path, part, kind in zip(paths, parts, species, strict=True)
    ]
    mapping = joining_names(files, where=_WHERE, one_species=True)
    _name_cells(parts, paths)
    told = next((one for one in species if one), "")
    if mapping is None or to_gene_set:
        return Joined(_concatenated(parts), told)
    aligner = GeneAligner.union([file.ids for file in files], mapping=mapping, species=told or None)
    aligned = [_aligned(part, aligner) for part in parts]
    adata = _concatenated([part for part, _ in aligned])
    totals = pd.Series(np.concatenate([sums for _, sums in aligned]), index=adata.obs_names)
    return Joined(adata, told, aligner.other_names([file.ids for file in files]), totals)


def joining_aligner(files: Sequence[NamedGenes], *, where: str) -> GeneAligner | None:
    """The same for cells on disk: what brings the genes of all stores together; None where they are written alike."""
    mapping: GeneMap | None = joining_names(files, where=where, one_species=False)
    if mapping is None:
        return None
    told = next((file.species for file in files if file.species), "")
    return GeneAligner.union([tuple(file.ids) for file in files], mapping=mapping, species=told or None)


def _aligned(part: AnnData, aligner: GeneAligner) -> tuple[AnnData, np.ndarray]:
    """The genes of one file under their common names, and the counts of each cell over all its genes."""
    store = MemoryStore(part, counts="X", gene_ids="var_names", rounding="accept")
    columns = aligner.columns(store.genes)
    found = aligner.align(store.read(np.array([[0, store.n_cells]])), columns)
    present = np.unique(columns.target[columns.target >= 0])
    var = pd.DataFrame(index=pd.Index([aligner.genes[i] for i in present]))
    if "symbol" in part.var:
        first = {int(at): symbol for at, symbol in zip(columns.target, part.var["symbol"], strict=True)}
        var["symbol"] = [first[int(at)] for at in present]
    return AnnData(found.counts.csr()[:, present], obs=part.obs, var=var), found.n_counts_B


def _name_cells(parts: Sequence[AnnData], paths: Sequence[Path]) -> None:
    """Ids of cells that clash bear the name of their file."""
    every = pd.Index(np.concatenate([part.obs_names for part in parts]))
    if every.is_unique:
        return
    for part, mark in zip(parts, marks_of([str(path) for path in paths]), strict=True):
        part.obs_names = [f"{mark}:{name}" for name in part.obs_names]


def _concatenated(parts: Sequence[AnnData]) -> AnnData:
    symbols = pd.Series(dtype=object)
    for part in parts:
        if "symbol" in part.var:
            symbols = symbols.combine_first(part.var["symbol"])
    adata = concat(list(parts), join="outer", fill_value=0)
    adata.X = counts_.canonical(adata.X)
    if len(symbols):
        adata.var["symbol"] = symbols.reindex(adata.var_names).fillna("").to_numpy()
    return adata
