"""Continuous tokenizer: a cell becomes its genes with a number beside each (scFoundation and TranscriptFormer).

Lives here: `ContinuousTokenizer`, what a user calls. Lives elsewhere: which column is which gene (continuous_genes),
the block and its errors (continuous_block), the compiled loops (continuous_kernel), the vocabularies
(continuous_vocabulary). These files travel with a saved tokenizer and load without scmf.

Legend: B cells, G genes (columns), L longest sequence of a batch, N tokens of all cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from transformers import BatchEncoding

from .continuous_block import Orders, encode_block, rules_of
from .continuous_genes import Genes, Panels
from .continuous_options import ContinuousOptions
from .continuous_tables import fitted_vocabulary
from .continuous_vocabulary import ValueVocabulary
from .encoded import EncodedCells, padded
from .gene_columns import expressed_genes
from .rank_value_block import Counts, as_csr, check_totals
from .rank_value_tables import problem


class ContinuousTokenizer(ValueVocabulary):
    """Give the genes that a cell expresses, and the value of each as a number.

    With ``transform="log1p_10k"`` or ``"as_given"`` it does what scFoundation's ``get_embedding.py`` does, with
    ``"clipped_counts"`` what TranscriptFormer's data loader does; ``match_official=True`` with their faults:

    ==================================================  ================================================
    official quirk, kept by ``match_official=True``     default
    ==================================================  ================================================
    *scFoundation*
    a symbol in two columns: all ids behind shift       counts summed
    19,264 columns or more: taken in any order, those   aligned by name, whatever their number
    behind as id 103
    values given: S is the log of *their* sum           of ``n_counts``, which must be given
    total 1: S is 0, so it is left out                  S stays, 0 or not
    negative counts: in the total, not in the tokens    an error
    NaN: left out of total and tokens                   an error
    float32 arithmetic if no column is missing          float64 always
    empty cell: T alone (then dies)                     an error or, with ``empty="keep"``, an empty row
    *TranscriptFormer*
    ``order="column"``, and equal values: as the        as in the vocabulary
    columns stand
    any name is cut at its first ``.``                  versions of Ensembl ids only
    an id in two columns: refused                       counts summed (see ``duplicate_genes``)
    ``target_sum``: total of the genes that fit         total of all known genes, or ``n_counts``
    negative counts: a token of count 0                 an error
    NaN: a token of count NaN                           an error
    empty cell: padding (NaN with ``target_sum``)       an error or, with ``empty="keep"``, an empty row
    *both*
    values that are no whole numbers: taken as counts   an error, unless ``transform="as_given"``
    ==================================================  ================================================

    Kept by default as well: totals count the genes of the vocabulary only, unless ``n_counts`` says otherwise;
    a sequence that is too long loses what comes last in its order (``order`` chooses which). Padding has count 0 also
    where TranscriptFormer has NaN. The order of the columns decides nothing: equal values go by token id.

    TranscriptFormer's model puts ``[START]`` in front and ``[END]`` behind by itself; ids come without them.

    Parameters
    ----------
    vocab_file, aliases_file, assays_file
        JSON files: token -> id, other name -> gene, assay -> id.
    token_ids, aliases, assays
        The same as mappings (use `from_tables`).
    max_length
        Longest sequence, depth tokens included.
    special_tokens
        The vocabulary must have tokens for start and end (``<cls>``, ``<eos>``), for a model that puts them.
    match_official
        Reproduce the left column of the table.
    transform, target_sum, clip
        ``log1p_10k``: ln(1 + count / total x ``target_sum``), 10,000 by default. ``clipped_counts``: counts up to
        ``clip``, before that brought to ``target_sum`` if it is given. ``as_given``: values as they are.
    depth_tokens, target_depth, depth_of, depth_scale
        Append the tokens T and S. S is the total: of ``counts`` or of the ``values``, as ``log10`` or ``linear``.
        T: ``t<x>`` is x, ``f<x>`` S of x times the total, ``a<x>`` is S + x.
    assay_key
        Column of obs with the assay; None for none.
    order
        ``vocabulary`` (ascending ids), ``value`` (descending), ``random``, or ``column``: with ``match_official`` what
        the official loader does with the columns as they stand, without it the same as ``vocabulary``.
    duplicate_genes
        Columns of one gene: ``sum``, ``first`` or ``error``.
    unknown_genes
        ``drop``, or ``token``: each as the token for unknown ones.
    keep_zeros
        Give the genes with a count of 0 too, behind the others.
    pad_value, seed
        Value at padding; seed of the random order.
    kwargs
        Passed to `transformers.PreTrainedTokenizer`.

    Notes
    -----
    Sources: github.com/biomap-research/scFoundation at d09626a5; ``transcriptformer`` 0.6.1 of the package index.
    """

    Options = ContinuousOptions
    model_input_names = ["input_ids", "attention_mask", "values"]

    def __init__(
        self,
        vocab_file: str | None = None,
        aliases_file: str | None = None,
        assays_file: str | None = None,
        *,
        token_ids: Mapping[str, int] | None = None,
        aliases: Mapping[str, str] | None = None,
        assays: Mapping[str, int] | None = None,
        max_length: int = 2048,
        special_tokens: bool = False,
        match_official: bool = False,
        transform: Literal["log1p_10k", "clipped_counts", "as_given"] = "log1p_10k",
        target_sum: float | None = None,
        clip: float = 30.0,
        depth_tokens: bool = False,
        target_depth: str = "t4",
        depth_of: Literal["counts", "values"] = "counts",
        depth_scale: Literal["log10", "linear"] = "log10",
        assay_key: str | None = None,
        order: Literal["column", "vocabulary", "value", "random"] = "column",
        duplicate_genes: Literal["sum", "first", "error"] = "sum",
        unknown_genes: Literal["drop", "token"] = "drop",
        keep_zeros: bool = False,
        pad_value: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self.max_length, self.special_tokens = int(max_length), bool(special_tokens)
        self.match_official = bool(match_official)
        self.options: dict[str, Any] = {
            "transform": transform, "target_sum": target_sum, "clip": float(clip),
            "depth_tokens": bool(depth_tokens), "target_depth": str(target_depth), "depth_of": depth_of,
            "depth_scale": depth_scale, "assay_key": assay_key, "order": order, "duplicate_genes": duplicate_genes,
            "unknown_genes": unknown_genes, "keep_zeros": bool(keep_zeros), "pad_value": float(pad_value),
            "seed": int(seed),
        }  # fmt: skip
        super().__init__(
            vocab_file, aliases_file, assays_file,
            token_ids=token_ids, aliases=aliases, assays=assays, options=self.options,
            max_length=self.max_length, special_tokens=self.special_tokens, match_official=self.match_official,
            **kwargs,
        )  # fmt: skip
        official = None
        if self.match_official:
            official = "transcriptformer" if transform == "clipped_counts" else "scfoundation"
        self._rules = rules_of(self.options, max_length=self.max_length, official=official, pad_id=self.pad_token_id)
        unknown_id = self.unk_token_id if unknown_genes == "token" else -1
        by_vocabulary = order == "vocabulary" or official is None
        self._panels = Panels(
            Genes(self._genes, self._aliases, self.depth_ids, unknown_id, duplicate_genes, by_vocabulary, official)
        )

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
        **options: Any,
    ) -> ContinuousTokenizer:
        """Make a tokenizer of dictionaries, such as the published ones.

        Parameters
        ----------
        token_ids
            Gene or special token -> id. Names of special tokens: ``<pad>``, ``<mask>``, ``<cls>``, ``<eos>``, ``<unk>``
            or those of TranscriptFormer; ``<T>`` and ``<S>`` for depth tokens.
        medians
            Not used: this strategy has none.
        aliases
            Other name -> gene; those without a token are ignored.
        max_length, special_tokens, match_official, options
            See the class.
        assays
            Assay -> id, 0 for ``unknown``; default: nothing but that (see `fit_obs`).
        """
        return cls(
            token_ids=token_ids, aliases=aliases, assays=assays,
            max_length=max_length, special_tokens=special_tokens, match_official=match_official, **options,
        )  # fmt: skip

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
        **options: Any,
    ) -> ContinuousTokenizer:
        """Make a tokenizer whose vocabulary comes from these cells: genes in ``min_cells`` of them, sorted by name.

        Parameters
        ----------
        counts, genes
            Counts (B, G) and the names of the columns.
        min_cells
            Genes in fewer cells get no token.
        max_length, special_tokens, match_official, options
            See the class.
        n_counts
            Not used: this strategy has no statistics.
        """
        matrix = as_csr(counts, len(genes))
        found = expressed_genes(matrix, genes, min_cells=min_cells)
        token_ids = cls.vocabulary_of(found, special_tokens=special_tokens, **options)
        return cls.from_tables(
            token_ids, max_length=max_length, special_tokens=special_tokens, match_official=match_official, **options
        )

    @classmethod
    def vocabulary_of(cls, genes: Sequence[str], *, special_tokens: bool, **options: Any) -> dict[str, int]:
        """Token ids of a fitted vocabulary: special tokens in front, then the genes as they stand."""
        return fitted_vocabulary(
            genes, special_tokens=special_tokens, depth_tokens=bool(options.get("depth_tokens")),
            unknown=options.get("unknown_genes") == "token",
        )  # fmt: skip

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
        draw: int = 0,
    ) -> BatchEncoding:
        """Tokenize a block of cells.

        Parameters
        ----------
        counts, genes, n_counts, empty, draw
            As `encode_cells` takes them.
        padding
            True or ``"longest"``: right, to the longest cell; ``"max_length"``: to ``max_length``; False: none.
        return_tensors
            None or ``"np"`` for numpy arrays, ``"pt"`` for torch.

        Returns
        -------
        BatchEncoding
            ``input_ids`` and ``attention_mask`` (B, L) int64, ``values`` (B, L) float32, ``depth`` (B, 2) float32 with
            depth tokens, ``length`` (B,) int64. Without padding the first three are lists of B arrays.
        """
        return self.batch(
            self.encode_cells(counts, genes, n_counts=n_counts, empty=empty, draw=draw),
            padding=padding, return_tensors=return_tensors,
        )  # fmt: skip

    def encode_cells(
        self,
        counts: Counts,
        genes: Sequence[str],
        *,
        n_counts: Any = None,
        empty: Literal["error", "keep"] = "error",
        draw: int = 0,
        dtype: Any = np.int32,
        orders: Orders | None = None,
    ) -> EncodedCells:
        """Tokenize a block of cells without padding: the fast way for training and for token stores.

        Parameters
        ----------
        counts
            Raw counts, or values with ``as_given`` (B, G), sparse or dense. CSR is used as it is.
        genes
            Names of the G columns. The match is kept for the next call with the same names.
        n_counts
            Total counts of each cell (B,). Default: sums over the genes of the vocabulary.
        empty
            What to do with a cell without any known gene: raise, or keep an empty row.
        draw
            Number of the epoch: another random order each.
        dtype
            Type of the ids.
        orders
            Somebody else's random choice, asked for cell by cell: from the number of genes a cell expresses and of
            those it does not to an order of either.

        Returns
        -------
        EncodedCells
            Columns ``input_ids`` and ``values``; ``depth`` (B, 2), T and S, with depth tokens.

        Raises
        ------
        ValueError
            Negative, NaN or infinite counts; fractions; wrong shapes; no known gene; an empty cell; no totals.
        """
        if empty not in ("error", "keep"):
            raise problem(f"empty={empty!r}", wanted="'error' or 'keep'", where="encode_cells", fix="choose one")
        if np.iinfo(dtype).max < self._last_id:
            raise problem(
                f"dtype {np.dtype(dtype)}", wanted=f"{self._last_id} to fit", where="encode_cells", fix="use int32"
            )
        columns = self._panels(genes)
        matrix = as_csr(counts, columns.place_G.size)
        totals = (
            None if n_counts is None else check_totals(n_counts, matrix.shape[0], match_official=self.match_official)
        )
        options = self.options
        counted = options["depth_tokens"] and options["depth_of"] == "counts"
        if counted and options["transform"] == "as_given" and totals is None and not self.match_official:
            raise problem(
                "values, and no total counts to make the depth tokens of",
                wanted="n_counts: total counts of each cell",
                where="encode_cells",
                fix="give n_counts, or set depth_of='values' for the totals of the values",
            )
        return encode_block(
            matrix, columns, self._rules, totals=totals, draw=draw, empty=empty, dtype=dtype, orders=orders
        )

    def batch(
        self,
        cells: EncodedCells,
        *,
        padding: bool | Literal["longest", "max_length"] = True,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Turn ragged tokens into the tensors of a model; parameters and result as in a call."""
        return padded(
            cells, pad_values=self.pad_values, longest=self.max_length, padding=padding, return_tensors=return_tensors
        )

    @property
    def pad_values(self) -> dict[str, float]:
        """What fills short rows of each column."""
        return {"input_ids": self.pad_token_id, "values": self.pad_value}

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Tokens of a cell without known genes."""
        return 0

    @property
    def pad_value(self) -> float:
        """Value at padding."""
        return float(self.options["pad_value"])

    @property
    def is_stochastic(self) -> bool:
        """Whether the tokens of a cell differ from one ``draw`` to the next."""
        return self.options["order"] == "random"

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything that decides the tokens of a cell."""
        parts = [
            type(self).__name__, self._token_ids, self._aliases, self._assays, self.options,
            self.max_length, self.special_tokens, self.match_official,
        ]  # fmt: skip
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


ContinuousTokenizer.register_for_auto_class("AutoTokenizer")
