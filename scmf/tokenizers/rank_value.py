"""Rank-value tokenizer: a cell becomes its genes, most over-expressed first (Geneformer V1 and V2).

Lives here: `RankValueTokenizer`, what a user calls. Lives elsewhere: which column is which gene
(rank_value_genes), the block and its errors (rank_value_block), the compiled sort (rank_value_kernel), the
tables and their checks (rank_value_tables). These files travel with a saved tokenizer and load without scmf.

Legend: B cells, G genes (columns), L longest sequence of a batch, N tokens of all cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from transformers import BatchEncoding

from .encoded import EncodedCells
from .gene_orthologs import ORTHOLOGS, GeneTokenizer
from .rank_value_block import Counts, Layout, RankedCells, as_csr, check_counts, check_totals, rank_block
from .rank_value_genes import GeneColumns, list_of, match_columns, nonzero_medians
from .rank_value_kernel import pad_rows
from .rank_value_tables import SPECIAL, check_tables, problem, read_table, write_tables

_PANELS = 64
"""Gene panels whose match is kept."""


class RankValueTokenizer(GeneTokenizer):
    """Order the genes of a cell by ``count / total * 10,000 / median``, descending, and give their token ids.

    The median of a gene is that of its non-zero values over a corpus, so the order says which genes are high
    *for themselves*. **Ties** go by token id, so that the order of the columns decides nothing. The arithmetic is
    that of the official h5ad path to the last bit (see rank_value_kernel).

    ================================================  ==================================================
    official quirk, kept by ``match_official=True``   default
    ================================================  ==================================================
    ties: in column order, summed genes behind        by token id
    (the official sort leaves them to the CPU)
    an id in two columns: the token twice             raw counts summed, one token
    an id and its lower-case copy: the token twice    summed
    ``ENSG00000000003.15``: dropped                   version stripped (then summed with its likes)
    stored zeros of a sparse matrix: tokens, last     dropped
    dense matrix: divides, so other last bits         the same tokens dense and sparse
    dense cell with ``n_counts`` 0: all genes         empty, as every cell without a known gene
    ``n_counts`` 0 or NaN beside counts: any order    an error
    dense matrix with columns to sum: crash           summed (also when match_official)
    empty cell: removed from the output               an error or, with ``empty="keep"``, a row without
                                                      genes (also when match_official: rows stay rows)
    symbols: known to V2's mapping, not to V1's       known where the aliases hold them (also when match_official)
    ================================================  ==================================================

    Parameters
    ----------
    vocab_file, medians_file, aliases_file
        JSON files: token -> id, gene -> median, other name -> gene.
    token_ids, medians, aliases
        The same as mappings (use `from_tables`).
    max_length
        Longest sequence, special tokens included (2,048 for V1, 4,096 for V2).
    special_tokens
        Put ``<cls>`` in front and ``<eos>`` behind (V2).
    match_official
        Reproduce the left column of the table.
    kwargs
        Passed to `transformers.PreTrainedTokenizer`.

    Notes
    -----
    Source: Hugging Face ``ctheodoris/Geneformer`` at 05fcbeb8a27d; Theodoris et al., Nature 618, 616 (2023).
    """

    vocab_files_names = ORTHOLOGS | {
        "vocab_file": "vocab.json", "medians_file": "gene_medians.json", "aliases_file": "gene_aliases.json",
    }  # fmt: skip
    model_input_names = ["input_ids", "attention_mask"]
    obs_columns: tuple[str, ...] = ()
    is_stochastic = False

    def __init__(
        self,
        vocab_file: str | None = None,
        medians_file: str | None = None,
        aliases_file: str | None = None,
        *,
        token_ids: Mapping[str, int] | None = None,
        medians: Mapping[str, float] | None = None,
        aliases: Mapping[str, str] | None = None,
        max_length: int = 2048,
        special_tokens: bool = False,
        match_official: bool = False,
        **kwargs: Any,
    ) -> None:
        token_ids = token_ids if token_ids is not None else read_table(vocab_file, "vocab.json")
        medians = medians if medians is not None else read_table(medians_file, "gene_medians.json")
        if aliases is None and aliases_file is not None:
            aliases = read_table(aliases_file, "gene_aliases.json")
        self._token_ids = {str(token): int(i) for token, i in token_ids.items()}
        self._tokens = {i: token for token, i in self._token_ids.items()}
        self._last_id = max(self._tokens, default=0)
        self._genes = {token: i for token, i in self._token_ids.items() if token not in SPECIAL}
        self._medians = {gene: float(medians[gene]) for gene in self._genes if gene in medians}
        self._aliases = {k: v for k, v in (aliases or {}).items() if k != v and v in self._genes}
        self.max_length, self.special_tokens = int(max_length), bool(special_tokens)
        self.match_official = bool(match_official)
        shape: dict[str, Any] = {"max_length": self.max_length, "special_tokens": self.special_tokens}
        check_tables(self._token_ids, self._genes, self._medians, **shape)
        self._matched: dict[int, tuple[Any, list[str], GeneColumns]] = {}
        for token in SPECIAL:
            if token in self._token_ids:
                kwargs.setdefault(f"{token.strip('<>')}_token", token)
        kwargs["model_max_length"] = self.max_length
        super().__init__(**shape, match_official=self.match_official, **kwargs)

    # --- making one --------------------------------------------------------------------------------

    @classmethod
    def from_tables(
        cls,
        token_ids: Mapping[str, int],
        medians: Mapping[str, float],
        aliases: Mapping[str, str] | None = None,
        *,
        max_length: int,
        special_tokens: bool,
        match_official: bool = False,
    ) -> RankValueTokenizer:
        """Make a tokenizer of dictionaries, such as the published ones.

        Parameters
        ----------
        token_ids
            Gene or special token -> id, with ``<pad>``, ``<mask>`` and for ``special_tokens`` ``<cls>``, ``<eos>``.
        medians, aliases
            Gene -> non-zero median and other name (retired id, symbol) -> gene; those without a token are ignored.
        max_length, special_tokens, match_official
            See the class.
        """
        return cls(
            token_ids=token_ids, medians=medians, aliases=aliases,
            max_length=max_length, special_tokens=special_tokens, match_official=match_official,
        )  # fmt: skip

    @classmethod
    def fit(
        cls,
        counts: Counts,
        genes: Sequence[str],
        *,
        min_cells: int,
        max_length: int,
        special_tokens: bool,
        match_official: bool = False,
        n_counts: Any = None,
    ) -> RankValueTokenizer:
        """Make a tokenizer whose vocabulary and medians come from these cells.

        The vocabulary is every gene expressed in ``min_cells`` cells or more, sorted by id behind the special
        tokens, as in the published ones. Medians are exact, in float64, and do not depend on the order of the cells.

        Parameters
        ----------
        counts, genes
            Raw counts (B, G) and the gene ids of the columns; duplicates (also by version or case) are summed.
        min_cells
            Genes in fewer cells get no token.
        max_length, special_tokens, match_official
            See the class.
        n_counts
            Total counts of each cell over all genes (B,), when ``counts`` holds a part of them. Default: row sums.
        """
        names = [str(name) for name in list_of(genes)]
        matrix = as_csr(counts, len(names))
        check_counts(matrix)
        totals = None if n_counts is None else check_totals(n_counts, matrix.shape[0], match_official=False)
        medians = nonzero_medians(matrix, names, min_cells=max(1, min_cells), totals=totals)
        if not medians:
            raise problem(
                f"no gene is expressed in {min_cells} of {matrix.shape[0]} cells",
                wanted="at least one", where="min_cells", fix="lower min_cells, or give more cells",
            )  # fmt: skip
        shape: dict[str, Any] = {"max_length": max_length, "special_tokens": special_tokens}
        token_ids = cls.vocabulary_of(sorted(medians), special_tokens=special_tokens)
        return cls.from_tables(token_ids, medians, match_official=match_official, **shape)

    @classmethod
    def vocabulary_of(cls, genes: Sequence[str], *, special_tokens: bool, **options: Any) -> dict[str, int]:
        """Token ids of a fitted vocabulary: the special tokens in use in front, then the genes as they stand."""
        return {token: i for i, token in enumerate([*(SPECIAL if special_tokens else SPECIAL[:2]), *genes])}

    # --- using it ----------------------------------------------------------------------------------

    def __call__(  # type: ignore[override]
        self,
        counts: Counts,
        genes: Sequence[str],
        *,
        n_counts: Any = None,
        padding: bool | Literal["longest", "max_length"] = True,
        return_tensors: str | None = None,
        empty: Literal["error", "keep"] = "error",
    ) -> BatchEncoding:
        """Tokenize a block of cells.

        Parameters
        ----------
        counts
            Raw counts (B, G), sparse or dense. CSR is used as it is.
        genes
            Gene ids of the G columns. The match is kept for the next call with the same ids.
        n_counts
            Total counts of each cell over *all* genes (B,), when ``counts`` holds a part of them. Default: row sums.
        padding
            True or ``"longest"``: right, to the longest cell; ``"max_length"``: to ``max_length``; False: none.
        return_tensors
            None or ``"np"`` for numpy arrays, ``"pt"`` for torch.
        empty
            What to do with a cell without any known gene: raise, or keep a row of special tokens only.

        Returns
        -------
        BatchEncoding
            ``input_ids`` (B, L) int64, ``attention_mask`` (B, L) int64, ``length`` (B,) int64. Without padding
            the first two are lists of B arrays.

        Raises
        ------
        ValueError
            Negative, NaN or infinite counts; wrong shapes; no known gene; an empty cell.
        """
        ranked = self.rank(counts, genes, n_counts=n_counts, empty=empty)
        return self.batch(ranked, padding=padding, return_tensors=return_tensors)

    def rank(
        self,
        counts: Counts,
        genes: Sequence[str],
        *,
        n_counts: Any = None,
        empty: Literal["error", "keep"] = "error",
        values: Literal["scaled", "per_10k"] | None = None,
        crop: bool = True,
        dtype: Any = np.int32,
    ) -> RankedCells:
        """Tokenize a block of cells without padding: the fast way for training and for token stores.

        Parameters
        ----------
        counts, genes, n_counts, empty
            As in a call.
        values
            Also return the ranked values (``"scaled"``), or counts a 10,000 in rank order (``"per_10k"``).
        crop
            Cut to ``max_length`` and add special tokens; with False all ranked genes and nothing else.
        dtype
            Type of the ids; int16 halves a store and holds the published vocabularies.
        """
        if empty not in ("error", "keep"):
            raise problem(f"empty={empty!r}", wanted="'error' or 'keep'", where="rank", fix="choose one")
        if np.iinfo(dtype).max < self._last_id:
            raise problem(f"dtype {np.dtype(dtype)}", wanted=f"{self._last_id} to fit", where="rank", fix="use int32")
        columns, n_genes = self._match(genes)
        matrix = as_csr(counts, n_genes)
        totals = n_counts
        if totals is not None:
            totals = check_totals(totals, matrix.shape[0], match_official=self.match_official)
        specials = crop and self.special_tokens
        return rank_block(
            matrix,
            columns,
            totals=totals,
            layout=Layout(
                (self.max_length - 2 if specials else self.max_length) if crop else None,
                self.cls_token_id if specials else -1,
                self.eos_token_id if specials else -1,
                dtype,
            ),  # fmt: skip
            dense=not sp.issparse(counts),
            match_official=self.match_official,
            values=values,
            empty=empty,
        )

    def encode_cells(
        self,
        counts: Counts,
        genes: Sequence[str],
        *,
        n_counts: Any = None,
        empty: Literal["error", "keep"] = "error",
        draw: int = 0,
        dtype: Any = np.int32,
    ) -> EncodedCells:
        """Tokenize a block of cells without padding, as every strategy does; nothing depends on ``draw``."""
        ranked = self.rank(counts, genes, n_counts=n_counts, empty=empty, dtype=dtype)
        return EncodedCells(ranked.offsets, {"input_ids": ranked.ids}, {})

    @property
    def options(self) -> dict[str, Any]:
        """The options of the strategy (``tokenizer.options`` of a configuration): none."""
        return {}

    def fit_obs(self, obs: Mapping[str, Sequence[str]]) -> None:
        """Learn from columns of ``obs``: nothing."""

    def cell_tensors(self, obs: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """Tensors made of columns of ``obs``: none."""
        return {}

    def batch(
        self,
        cells: RankedCells,
        *,
        padding: bool | Literal["longest", "max_length"] = True,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Turn ragged tokens into the tensors of a model; parameters and result as in a call."""
        lengths = cells.lengths
        if padding is False:
            ids = [part.astype(np.int64) for part in np.split(cells.ids, cells.offsets[1:-1])] if lengths.size else []
            masks = [np.ones_like(row) for row in ids]
            return BatchEncoding({"input_ids": ids, "attention_mask": masks, "length": lengths})
        longest = self.max_length if padding == "max_length" else int(lengths.max(initial=0))
        input_ids_BL, attention_mask_BL = (np.empty((lengths.size, longest), np.int64) for _ in range(2))
        pad_rows(cells.ids, cells.offsets, input_ids_BL, attention_mask_BL, self.pad_token_id)
        batch = {"input_ids": input_ids_BL, "attention_mask": attention_mask_BL, "length": lengths}
        return BatchEncoding(batch, tensor_type=return_tensors)

    # --- what transformers asks of a tokenizer ---------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._token_ids)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens in every cell: a cell of this length has no gene."""
        return 2 if self.special_tokens else 0

    @property
    def pad_values(self) -> dict[str, float]:
        """Column -> what fills short rows."""
        return {"input_ids": self.pad_token_id}

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything that decides the tokens of a cell."""
        shape = self.max_length, self.special_tokens, self.match_official
        parts = [self._token_ids, self._medians, self._aliases, *shape]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def medians(self) -> dict[str, float]:
        """Gene -> non-zero median (a copy)."""
        return dict(self._medians)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id (a copy)."""
        return dict(self._token_ids)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        raise problem("text", wanted="counts and genes", where="tokenize", fix="call tokenizer(counts, genes)")

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._token_ids.get(token)

    def _convert_id_to_token(self, index: int) -> str | None:
        return self._tokens.get(int(index))

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the tables as JSON (floats by ``repr``, hence exact) and return the paths."""
        tables = {"vocab_file": self._token_ids, "medians_file": self._medians, "aliases_file": self._aliases}
        used = {self.vocab_files_names[key]: table for key, table in tables.items() if table}
        return write_tables(save_directory, filename_prefix, used)

    def _match(self, genes: Sequence[str]) -> tuple[GeneColumns, int]:
        """Meaning of the columns and their number; kept for the last few panels, so that files may take turns.

        Threads may call this side by side: an entry is found whole or not at all.
        """
        held = self._matched.get(id(genes))
        if held is not None and isinstance(genes, tuple) and genes is held[0]:
            return held[2], len(genes)
        names = list_of(genes)
        columns = next((of for _, known, of in tuple(self._matched.values()) if names == known), None)
        if columns is None:
            names, tables = [str(name) for name in names], (self._genes, self._medians, self._aliases)
            columns = match_columns(names, *tables, match_official=self.match_official)
        if len(self._matched) >= _PANELS:
            self._matched = {}
        self._matched[id(genes)] = (genes, names, columns)
        return columns, len(names)


RankValueTokenizer.register_for_auto_class("AutoTokenizer")
