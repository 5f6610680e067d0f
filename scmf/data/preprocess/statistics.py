"""What a corpus holds: cells that detect each gene, its counts, the median of its non-zero values.

Lives here: the result, its files, the tables a rank-value tokenizer is made of.
Lives elsewhere: the pass over the corpus (statistics_pass, statistics_state), the digests behind the medians (tdigest).

The median is that of the official Geneformer: over the cells that hold a gene, ``count / total counts of the cell *
10,000``, zeros left out; its digests are merged over files and genes never seen have none.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scmf.core.errors import ChecksumError, DataError, reading
from scmf.core.files import atomic_path, sha256_file, write_json

_FORMAT = "scmf corpus statistics 1"
_SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")


@dataclass(frozen=True)
class CorpusStatistics:
    """Statistics of a corpus, one row a gene.

    Parameters
    ----------
    genes
        Gene ids, sorted.
    n_cells_G
        Cells that hold at least one count of the gene, int64 (G,).
    counts_G
        Sum of its raw counts, float64 (G,).
    medians_G
        Median of its non-zero values per ``definition["target"]`` counts, float64 (G,), NaN where it was never seen.
    n_cells, nnz, counts
        Cells, non-zero counts and total counts of the corpus, over all its columns (also those of no gene here).
    definition
        What was computed: ``target``, ``n_counts`` (``sum of all columns`` or a column of ``obs``), ``medians``
        (``exact`` or ``t-digest`` with ``compression`` and ``buffer``).
    provenance
        What it was computed from: ``corpus``, ``fingerprint``, ``cells`` (how many were
        kept), ``keep`` (digest of which; None for all); or ``merged``, a list of these.
    """

    genes: tuple[str, ...]
    n_cells_G: np.ndarray
    counts_G: np.ndarray
    medians_G: np.ndarray
    n_cells: int
    nnz: int
    counts: float
    definition: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """Columns ``n_cells``, ``counts`` and ``median``, indexed by gene."""
        return pd.DataFrame(
            {"n_cells": self.n_cells_G, "counts": self.counts_G, "median": self.medians_G},
            index=pd.Index(self.genes, name="gene", dtype=object),
        )

    def tables(self, *, min_cells: int = 1, special_tokens: bool = False) -> tuple[dict[str, int], dict[str, float]]:
        """Token ids and medians, as ``RankValueTokenizer.from_tables`` takes them and ``fit`` makes them.

        Parameters
        ----------
        min_cells
            Genes in fewer cells get no token.
        special_tokens
            Also ``<cls>`` and ``<eos>`` behind ``<pad>`` and ``<mask>``.

        Raises
        ------
        DataError
            No gene is in so many cells.
        """
        chosen = np.flatnonzero(self.n_cells_G >= max(1, min_cells))
        if not chosen.size:
            raise DataError(
                f"no gene in {min_cells:,} of {self.n_cells:,} cells",
                wanted="at least one",
                where="min_cells",
                fix="lower min_cells",
            )
        medians = {self.genes[g]: float(self.medians_G[g]) for g in chosen}
        special = _SPECIAL if special_tokens else _SPECIAL[:2]
        return {token: i for i, token in enumerate([*special, *sorted(medians)])}, medians

    def save(self, path: Path | str, *, table: str = "tsv.gz") -> Path:
        """Write ``<path>`` (JSON: definition, provenance, totals) and its table beside it.

        Parameters
        ----------
        path
            Ends in ``.json``; the table takes its name with the suffix ``table``.
        table
            ``tsv.gz`` (floats by ``repr``, hence exact; equal content is an equal file) or ``parquet``.

        Returns
        -------
        Path
            The JSON file.
        """
        path = Path(path)
        refuse_names(path, table)
        beside = path.with_suffix(f".{table}")
        with atomic_path(beside) as temporary:
            if table == "parquet":
                self.table.to_parquet(temporary)
            else:
                text = self.table.to_csv(sep="\t", na_rep="", lineterminator="\n")
                temporary.write_bytes(gzip.compress(text.encode(), mtime=0))
        return write_json(
            path,
            {
                "format": _FORMAT,
                "definition": self.definition,
                "provenance": self.provenance,
                "totals": {"cells": self.n_cells, "nnz": self.nnz, "counts": self.counts, "genes": len(self.genes)},
                "table": {"file": beside.name, "sha256": sha256_file(beside)},
            },
        )

    @classmethod
    def load(cls, path: Path | str) -> CorpusStatistics:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            Not such a file.
        ChecksumError
            The table is not the one that was written with it.
        """
        path = Path(path)
        try:
            head = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"not readable: {error}", wanted="the JSON of scmf data stats", where=path) from error
        if not isinstance(head, dict) or head.get("format") != _FORMAT:
            raise DataError("another kind of JSON", wanted=f"format {_FORMAT!r}", where=path, fix="run scmf data stats")
        with reading(DataError, what="the statistics", where=path, fix="run scmf data stats"):
            return cls._of(head, path)

    @classmethod
    def _of(cls, head: Mapping[str, Any], path: Path) -> CorpusStatistics:
        beside = path.with_name(Path(head["table"]["file"]).name)
        if not beside.is_file():
            raise DataError("no such file", wanted="the table", where=beside, fix="keep both files together")
        if (found := sha256_file(beside)) != head["table"]["sha256"]:
            raise ChecksumError(
                f"sha256 {found}", wanted=f"sha256 {head['table']['sha256']}", where=beside, fix="run scmf data stats"
            )
        rows = pd.read_parquet(beside) if beside.suffix == ".parquet" else _read_tsv(beside)
        totals: Mapping[str, Any] = head["totals"]
        return cls(
            tuple(str(gene) for gene in rows.index),
            rows["n_cells"].to_numpy(np.int64),
            rows["counts"].to_numpy(np.float64),
            rows["median"].to_numpy(np.float64),
            int(totals["cells"]),
            int(totals["nnz"]),
            float(totals["counts"]),
            head["definition"],
            head["provenance"],
        )


def refuse_names(path: Path, table: str) -> None:
    """`DataError` for names that `CorpusStatistics.save` does not take."""
    if path.suffix != ".json" or table not in ("tsv.gz", "parquet"):
        raise DataError(
            f"{path.name!r}, table {table!r}",
            wanted="a name that ends in .json; tsv.gz or parquet",
            where=path,
            fix="rename it; the table is written beside it",
        )


def _read_tsv(path: Path) -> pd.DataFrame:
    text = gzip.decompress(path.read_bytes()).decode()
    return pd.read_csv(
        io.StringIO(text), sep="\t", index_col="gene", dtype={"gene": str, "n_cells": np.int64},
        na_values={"median": [""]}, keep_default_na=False, quoting=3, float_precision="round_trip",
    )  # fmt: skip
