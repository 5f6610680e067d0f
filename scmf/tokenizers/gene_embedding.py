"""Gene-embedding tokenizer: a cell becomes its genes with a number beside each, and every gene has a given vector.

Lives here: `GeneEmbeddingTokenizer`, a `ContinuousTokenizer` that carries the vectors. Lives elsewhere: tokens and
values (continuous), the table itself (gene_vector_table). These files travel with a saved tokenizer and load without
scmf.

Legend: B cells, G genes (columns), V tokens, D width of a vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .continuous import ContinuousTokenizer
from .continuous_tables import SPECIAL
from .gene_embedding_options import GeneEmbeddingOptions
from .gene_vector_table import fit_vectors, match_vectors, read_vectors, with_special_rows, write_vectors
from .rank_value_block import Counts, as_csr, check_totals
from .rank_value_genes import list_of
from .rank_value_tables import problem


class GeneEmbeddingTokenizer(ContinuousTokenizer):
    """Tokens and values of `ContinuousTokenizer`, for the genes that have a vector, and the vectors.

    A model takes ``vectors`` as its table of gene embeddings (TranscriptFormer: protein embeddings of ESM-2; scGenePT:
    text embeddings). Genes are tokens as before: ``input_ids`` are rows of the table.

    Genes of the vocabulary without a vector are treated by ``missing_vectors``: ``drop`` (no token, and the ids behind
    move up), ``mean`` (the mean of the vectors that were found) or ``error``. Tokens that are no genes have the random
    rows that TranscriptFormer gives them (see `gene_vector_table.with_special_rows`).

    Parameters
    ----------
    vocab_file, aliases_file, assays_file
        See `ContinuousTokenizer`.
    vectors_file
        ``.npz`` with the array ``vectors`` float32 (V, D).
    token_vectors
        The same as an array (use `from_tables` or `fit`).
    dimensions
        Width of vectors that are learnt from cells; of no use otherwise.
    missing_vectors
        What was done with genes without a vector.
    kwargs
        Options of `ContinuousTokenizer`, with their defaults.

    Attributes
    ----------
    without_vector : tuple
        Genes that `from_tables` or `fit` found no vector for; empty in a tokenizer that was loaded.
    """

    Options = GeneEmbeddingOptions
    vocab_files_names = {**ContinuousTokenizer.vocab_files_names, "vectors_file": "gene_vectors.npz"}

    def __init__(
        self,
        vocab_file: str | None = None,
        aliases_file: str | None = None,
        assays_file: str | None = None,
        vectors_file: str | None = None,
        *,
        token_vectors: np.ndarray | None = None,
        dimensions: int = 64,
        missing_vectors: str = "drop",
        **kwargs: Any,
    ) -> None:
        self.dimensions, self.missing_vectors = int(dimensions), str(missing_vectors)
        self.without_vector: tuple[str, ...] = ()
        super().__init__(
            vocab_file, aliases_file, assays_file,
            dimensions=self.dimensions, missing_vectors=self.missing_vectors, **kwargs,
        )  # fmt: skip
        self.options |= {"dimensions": self.dimensions, "missing_vectors": self.missing_vectors}
        if token_vectors is None:
            token_vectors = read_vectors(vectors_file, len(self._token_ids))
        self._vectors = np.array(token_vectors, np.float32, order="C")

    # --- making one --------------------------------------------------------------------------------

    @classmethod
    def from_tables(
        cls,
        token_ids: Mapping[str, int],
        medians: Mapping[str, float] | None = None,
        aliases: Mapping[str, str] | None = None,
        *,
        max_length: int,
        special_tokens: bool = False,
        match_official: bool = False,
        assays: Mapping[str, int] | None = None,
        vectors: Any = "fit",
        missing_vectors: str = "drop",
        **options: Any,
    ) -> GeneEmbeddingTokenizer:
        """Make a tokenizer of dictionaries and a table of vectors.

        Parameters
        ----------
        token_ids, aliases, max_length, special_tokens, match_official, assays, options
            See `ContinuousTokenizer.from_tables`. Aliases also lead from names of the table to genes.
        medians
            Not used: this strategy has none.
        vectors
            A mapping gene -> vector, or genes and a matrix (genes, width).
        missing_vectors
            ``drop``, ``mean`` or ``error``.

        Raises
        ------
        ValueError
            A wrong table, or no table; see `gene_vector_table.match_vectors`.
        """
        if isinstance(vectors, str):
            what = "vectors that are to be learnt, without cells" if vectors == "fit" else f"a name, {vectors!r}"
            raise problem(
                what,
                wanted="a mapping gene -> vector, or genes and a matrix (genes, width)",
                where="vectors",
                fix="use fit(...), which has the cells, or read the table first (scmf.data.genes.vectors)",
            )
        genes = sorted((token for token in token_ids if not _is_special(token)), key=token_ids.__getitem__)
        rows = match_vectors(genes, vectors, aliases or {}, missing=missing_vectors)
        if len(rows.genes) < len(genes):
            kept = {token for token in token_ids if _is_special(token)}.union(rows.genes)
            token_ids = {token: i for i, token in enumerate(sorted(kept, key=token_ids.__getitem__))}
        made = cls(
            token_ids=token_ids, aliases=aliases, assays=assays,
            token_vectors=with_special_rows(token_ids, rows.genes, rows.vectors_KD),
            missing_vectors=missing_vectors, max_length=max_length, special_tokens=special_tokens,
            match_official=match_official,
            **options,
        )  # fmt: skip
        made.without_vector = rows.without
        return made

    @classmethod
    def fit(
        cls,
        counts: Counts,
        genes: Sequence[str],
        *,
        min_cells: int,
        max_length: int,
        special_tokens: bool = False,
        match_official: bool = False,
        n_counts: Any = None,
        vectors: Any = "fit",
        **options: Any,
    ) -> GeneEmbeddingTokenizer:
        """Make a tokenizer whose vocabulary, and with ``vectors="fit"`` whose vectors, come from these cells.

        Parameters
        ----------
        counts, genes
            Counts (B, G) and the names of the columns.
        min_cells
            Genes in fewer cells get no token.
        max_length, special_tokens, match_official, options
            See the class; ``dimensions`` and ``seed`` are those of the vectors too.
        n_counts
            Total counts of each cell (B,), when ``counts`` holds a part of them. Default: row sums.
        vectors
            ``"fit"``: see `gene_vector_table.fit_vectors`; else a table as in `from_tables`.
        """
        shape: dict[str, Any] = {
            "max_length": max_length,
            "special_tokens": special_tokens,
            "match_official": match_official,
        }
        plain = {name: value for name, value in options.items() if name not in ("dimensions", "missing_vectors")}
        fitted = ContinuousTokenizer.fit(counts, genes, min_cells=min_cells, n_counts=n_counts, **shape, **plain)
        token_ids = fitted.get_vocab()
        if isinstance(vectors, str) and vectors == "fit":
            matrix = as_csr(counts, len(list_of(genes)))
            names = [token for token in token_ids if not _is_special(token)]
            vectors = names, fit_vectors(
                matrix, genes, names,
                dimensions=int(options.get("dimensions", 64)), seed=int(options.get("seed", 0)),
                totals=None if n_counts is None else check_totals(n_counts, matrix.shape[0], match_official=False),
                raw=options.get("transform") != "as_given",
            )  # fmt: skip
        return cls.from_tables(token_ids, vectors=vectors, **shape, **options)

    # --- the table ---------------------------------------------------------------------------------

    @property
    def vectors(self) -> np.ndarray:
        """Vectors of all tokens, float32 (V, D), row = id (a copy)."""
        return self._vectors.copy()

    @property
    def gene_vector_dim(self) -> int:
        """Width of a vector, D."""
        return int(self._vectors.shape[1])

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything that decides the tokens of a cell and their vectors."""
        table = hashlib.sha256(self._vectors.tobytes()).hexdigest()
        return hashlib.sha256(f"{super().fingerprint} {self._vectors.shape} {table}".encode()).hexdigest()

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the tables as JSON, the vectors as ``.npz``, and return the paths."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / f"{prefix}{self.vocab_files_names['vectors_file']}"
        write_vectors(path, self._vectors)
        return (*super().save_vocabulary(save_directory, filename_prefix), str(path))


def _is_special(token: str) -> bool:
    """Whether a token is no gene; other models have more of them (scGPT: ``<eoc>``)."""
    return token in SPECIAL or (token.startswith("<") and token.endswith(">"))


GeneEmbeddingTokenizer.register_for_auto_class("AutoTokenizer")
