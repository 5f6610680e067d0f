"""What was loaded: the cells of a ``data`` section with the facts about them.

Lives here: `DataFacts`, `LoadedCells`. Lives elsewhere: making them in memory (load) and from disk (open_corpus).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scmf.data.cards.assembly import PerturbationKeys
from scmf.data.genes.names import OtherNames

if TYPE_CHECKING:  # tasks are read without anndata
    from anndata import AnnData


@dataclass(frozen=True)
class DataFacts:
    """What the cells are and which column says what.

    Parameters
    ----------
    dataset
        Name of the card, or of the files.
    sha256
        Checksum of the cells: of the file, of several checksums, or the fingerprint of a corpus on disk.
    split, split_sha256
        The split scheme as ``data.split`` names it, and the checksum of its file.
    label_key, batch_key, donor_key
        Columns of ``obs``, or None.
    counts
        Where the raw counts were found; None where expression was taken as it is, and for cells on disk.
    gene_ids
        Kind of the gene ids, such as ``ensembl``; None for cells on disk.
    species
        Species of the genes; empty where their ids do not tell, and for cells on disk.
    gene_set, orthologs
        Genes that the cells were brought onto, and how genes of another species got there; None: as they were.
    expression
        ``log1p`` where X holds log-normalized expression; None: raw counts.
    perturbation
        Where a screen says what was done to a cell.
    removed
        Filter -> cells it removed.
    """

    dataset: str
    sha256: str
    split: str | None = None
    split_sha256: str | None = None
    label_key: str | None = None
    batch_key: str | None = None
    donor_key: str | None = None
    counts: str | None = None
    gene_ids: str | None = None
    species: str = ""
    gene_set: str | None = None
    orthologs: str | None = None
    expression: str | None = None
    perturbation: PerturbationKeys | None = None
    removed: Mapping[str, int] = field(default_factory=dict)

    @property
    def keys(self) -> dict[str, str]:
        """Which column holds what a split can be made by, see `scmf.data.splits.groups.COLUMNS`."""
        known = {"donor": self.donor_key, "batch": self.batch_key, "cell_type": self.label_key}
        return {name: column for name, column in known.items() if column is not None}

    @property
    def provenance(self) -> dict[str, Any]:
        """Which cells and which split, as results record it."""
        return {
            "dataset": self.dataset,
            "sha256": self.sha256,
            "split": self.split,
            "split_sha256": self.split_sha256,
        }


@dataclass(frozen=True)
class LoadedCells:
    """Cells in memory, what they are, and the split of each.

    An index such as ``cells[rows]`` or ``cells[rows, columns]`` (a mask, a slice or positions) takes a part of all of
    it. What is read most is there under the name it has in ``adata``: ``X``, ``obs``, ``var_names`` and so on.

    Parameters
    ----------
    adata
        The cells (N, G); ``obs`` holds the columns of the user and nothing else.
    facts
        What they are.
    split
        ``train``, ``valid`` or ``test`` of each cell, str (N,); None without a split.
    total_counts
        Counts of each cell over all its genes, float32 (N,), where ``adata`` holds only those of a gene set, else None.
    names
        Other names of the genes, where those of the files were brought to them (gene set, orthologs, files that name
        their genes differently).
    """

    adata: AnnData
    facts: DataFacts
    split: np.ndarray | None = None
    total_counts: np.ndarray | None = None
    names: OtherNames | None = None

    def rows(self, split: str) -> np.ndarray:
        """Indices of the cells of ``train``, ``valid`` or ``test``; without a split all cells train."""
        if self.split is None:
            return np.arange(self.n_obs if split == "train" else 0)
        return np.flatnonzero(self.split == split)

    def __getitem__(self, index: Any) -> LoadedCells:
        rows = index[0] if isinstance(index, tuple) else index
        rows = rows if isinstance(rows, slice) else np.asarray(rows)
        return LoadedCells(
            self.adata[index],
            self.facts,
            None if self.split is None else self.split[rows],
            None if self.total_counts is None else self.total_counts[rows],
            self.names,
        )

    def copy(self) -> LoadedCells:
        """The same with a copy of the AnnData, which may then be changed."""
        return replace(self, adata=self.adata.copy())

    def without_batches(self) -> LoadedCells:
        """The same cells with no batch column named: a model knows the batches of its own training alone."""
        return replace(self, facts=replace(self.facts, batch_key=None))

    @property
    def X(self) -> Any:
        """Raw counts, CSR float32 (N, G), or expression where `DataFacts.expression` says so."""
        return self.adata.X

    @property
    def obs(self) -> pd.DataFrame:
        """Table of cells."""
        return self.adata.obs

    @property
    def var(self) -> pd.DataFrame:
        """Table of genes."""
        return self.adata.var

    @property
    def obsm(self) -> Any:
        """Arrays of cells."""
        return self.adata.obsm

    @property
    def obs_names(self) -> pd.Index:
        """Ids of the cells."""
        return self.adata.obs_names

    @property
    def var_names(self) -> pd.Index:
        """Ids of the genes."""
        return self.adata.var_names

    @property
    def n_obs(self) -> int:
        """Cells."""
        return int(self.adata.n_obs)

    @property
    def n_vars(self) -> int:
        """Genes."""
        return int(self.adata.n_vars)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.n_obs, self.n_vars
