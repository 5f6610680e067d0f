"""The state of a pass over a corpus: what it has gathered, on disk between times, merged over shards.

Lives here: `Tally`, its file, `merge_states`. Lives elsewhere: the pass (statistics_pass), the digests (tdigest),
the result (statistics).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core.errors import DataError
from scmf.core.files import atomic_path
from scmf.data.preprocess.statistics import CorpusStatistics
from scmf.data.preprocess.tdigest import GeneDigests


class Tally:
    """What the pass has gathered so far, over which genes, and of which pass it is.

    Parameters
    ----------
    genes
        Gene ids (G,).
    definition, provenance
        See `CorpusStatistics`.
    """

    def __init__(self, genes: Sequence[str], definition: dict[str, Any], provenance: dict[str, Any]) -> None:
        self.genes, self.definition, self.provenance = tuple(genes), definition, provenance
        self.digests = GeneDigests(
            len(genes), compression=definition.get("compression", 100.0), buffer=definition.get("buffer", 1024)
        )
        self.counts_G = np.zeros(len(genes))
        self.n_cells, self.nnz, self.counts, self.next_cell = 0, 0, 0.0, 0

    def same_pass(self, other: Tally) -> bool:
        """Whether both are of the same cells, genes and settings."""
        mine, its = ({**tally.provenance, "corpus": None} for tally in (self, other))  # a name may change, cells not
        return (self.genes, self.definition, mine) == (other.genes, other.definition, its)

    def save(self, path: Path) -> None:
        """Write the state atomically."""
        parts = {f"digests.{name}": array for name, array in self.digests.state().items()}
        head = json.dumps([self.definition, self.provenance], sort_keys=True)
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(
                handle, allow_pickle=False, head=np.array(head), genes=np.array(self.genes), counts_G=self.counts_G,
                counts=np.array(self.counts), totals=np.array([self.n_cells, self.nnz, self.next_cell], np.int64),
                **parts,
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Tally:
        """Read what `save` wrote; `DataError` for anything else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                state = dict(file)
            made = cls.__new__(cls)
            made.genes = tuple(state["genes"].tolist())
            made.definition, made.provenance = json.loads(str(state["head"]))
            made.digests = GeneDigests.from_state({k[8:]: v for k, v in state.items() if k.startswith("digests.")})
            made.counts_G, made.counts = state["counts_G"], float(state["counts"])
            made.n_cells, made.nnz, made.next_cell = (int(value) for value in state["totals"])
        except Exception as error:  # whatever numpy, zip and zlib raise for what is damaged
            raise DataError(
                f"not a state: {error}", wanted="what a pass wrote", where=path, fix="remove it to start again"
            ) from error
        return made

    def result(self, n_cells_G: np.ndarray, medians_G: np.ndarray) -> CorpusStatistics:
        """The statistics, with the cells that hold each gene and its median (G,)."""
        return CorpusStatistics(
            self.genes, n_cells_G, self.counts_G, medians_G, self.n_cells, self.nnz, self.counts,
            self.definition, self.provenance,
        )  # fmt: skip


def merge_states(paths: Sequence[Path | str]) -> CorpusStatistics:
    """Join the states of passes over parts of a corpus, such as shards done on several machines.

    Parameters
    ----------
    paths
        States of finished passes with the same definition; genes may differ.

    Raises
    ------
    DataError
        A pass was not finished, was defined otherwise, or is given twice.
    """
    parts: list[Tally] = []
    for path in dict.fromkeys(map(Path, paths)):
        part = Tally.load(path)
        if part.n_cells != part.provenance["cells"]:
            found = f"{part.n_cells:,} of {part.provenance['cells']:,} cells"
            raise DataError(found, wanted="a finished pass", where=path, fix="let it go on first")
        if parts and part.definition != parts[0].definition:
            raise DataError(
                f"definition {part.definition}", wanted=str(parts[0].definition), where=path, fix="use equal settings"
            )
        if part.provenance in [one.provenance for one in parts]:
            raise DataError("the same cells twice", wanted="other cells", where=path, fix="leave one of them out")
        parts.append(part)
    if not parts:
        raise DataError("no states", wanted="at least one", where="merge_states")
    names = sorted({gene for part in parts for gene in part.genes})
    place = {gene: g for g, gene in enumerate(names)}
    merged = Tally(names, parts[0].definition, {"merged": [part.provenance for part in parts]})
    for part in parts:
        at = np.array([place[gene] for gene in part.genes], np.int64)
        merged.digests.merge(part.digests, at)
        merged.counts_G[at] += part.counts_G
        merged.n_cells += part.n_cells
        merged.nnz += part.nnz
        merged.counts += part.counts
    return merged.result(merged.digests.n_values, merged.digests.quantile(0.5))
