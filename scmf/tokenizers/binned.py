"""Binned tokenizer: a cell becomes its genes with digits that say how high each stands in that cell (scGPT).

Lives here: `BinnedTokenizer`, what a user calls. Lives elsewhere: which column is which token (gene_columns), a block
of cells (binned_block), the compiled bins and draws (binned_kernel), the draws of the official code (binned_draws),
padding (encoded). These files and those of the rank-value tokenizer that they import travel with a saved tokenizer and
load without scmf.

Legend: B cells, G genes (columns), L longest sequence of a batch, N tokens of all cells, P genes of a panel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from transformers import BatchEncoding

from .binned_block import (
    MASK,
    SPECIAL,
    Layout,
    check_options,
    check_vocabulary,
    encode_block,
    encode_official,
    refuse_empty,
)
from .binned_draws import OfficialDraws
from .binned_options import BinnedOptions
from .encoded import EncodedCells, padded
from .gene_columns import GenePanels, expressed_genes
from .gene_orthologs import ORTHOLOGS, GeneTokenizer
from .rank_value_block import Counts, as_csr
from .rank_value_tables import problem, read_table, write_tables


class BinnedTokenizer(GeneTokenizer):
    """Give the genes of a cell and, as value, the quantile bin of each count among the counts of that cell.

    With ``n_bins`` 51 the edges are the 50 quantiles (0 to 1) of the counts above 0. A value on an edge, as are most
    small counts, gets a digit drawn from the bins that share the edge. Digits are 1 to ``n_bins - 1``, 0 is *not
    expressed*. Raw counts and any increasing transform of them, such as log1p after scaling, have the same digits, so
    both may be given. Edges and bounds equal those of ``np.quantile`` and ``np.digitize`` bit for bit.

    ==================================================  ==================================================
    official behavior, kept by ``match_official=True``  default
    ==================================================  ==================================================
    draws of one generator in the order of the cells:   draws keyed by seed, draw and what is in the cell:
    a cell's tokens depend on all cells before it       the same alone, in any batch, order and thread
    genes in the order of the columns, those kept of    in the order of their ids: the order of the columns
    a long cell in random order                         decides nothing
    unknown gene: silently ``<pad>``, with a digit,     left out
    hidden from attention
    a gene in two columns: the token twice              summed, one token
    names match as they stand                           Ensembl ids in any case and version, too
    cell without counts: a crash                        an error or, with ``empty="keep"``, a row without
                                                        counts (also when match_official)
    NaN and infinite counts: any digits                 an error (also when match_official)
    ==================================================  ==================================================

    The official programs filter unknown genes before they come to the tokenizer, except that of perturbation.

    Parameters
    ----------
    vocab_file, aliases_file
        JSON files: token -> id, other name -> gene.
    token_ids, aliases
        The same as mappings (use `from_tables`).
    max_length
        Longest sequence, ``<cls>`` included.
    special_tokens
        Put ``<cls>`` in front.
    match_official
        Reproduce the left column of the table.
    n_bins
        Number of bins, that of zeros included; 0 gives the values as they are.
    include_zero_genes
        Give every known gene among the columns, with value 0 where a cell does not express it.
    cls_value
        Value at ``<cls>``: ``"pad"`` (pretraining, embedding) or ``"zero"`` (fine-tuning).
    pad_value, mask_value
        Values at padding, and at positions that an objective masks.
    long_cells
        Of a cell with more genes than fit keep a random sample, or those with the lowest ids.
    seed
        Seed of all draws.
    kwargs
        Passed to `transformers.PreTrainedTokenizer`.

    Notes
    -----
    Source: GitHub ``bowang-lab/scGPT`` at cebd6fa; Cui et al., Nature Methods 21, 1470 (2024).
    """

    Options = BinnedOptions
    vocab_files_names = {"vocab_file": "vocab.json", "aliases_file": "gene_aliases.json", **ORTHOLOGS}
    model_input_names = ["input_ids", "attention_mask", "values"]
    obs_columns: tuple[str, ...] = ()
    """Columns of obs that decide tokens: none."""

    def __init__(
        self,
        vocab_file: str | None = None,
        aliases_file: str | None = None,
        *,
        token_ids: Mapping[str, int] | None = None,
        aliases: Mapping[str, str] | None = None,
        max_length: int = 1200,
        special_tokens: bool = False,
        match_official: bool = False,
        n_bins: int = 51,
        include_zero_genes: bool = False,
        cls_value: Literal["pad", "zero"] = "pad",
        pad_value: float = -2.0,
        mask_value: float = -1.0,
        long_cells: Literal["sample", "first"] = "sample",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        token_ids = token_ids if token_ids is not None else read_table(vocab_file, "vocab.json")
        if aliases is None and aliases_file is not None:
            aliases = read_table(aliases_file, "gene_aliases.json")
        self._token_ids = {str(token): int(i) for token, i in token_ids.items()}
        self._tokens = {i: token for token, i in self._token_ids.items()}
        self._last_id = max(self._tokens, default=0)
        self._genes = {token: i for token, i in self._token_ids.items() if token not in (*SPECIAL, MASK)}
        self._aliases = {k: v for k, v in (aliases or {}).items() if k != v and v in self._genes}
        self.max_length, self.special_tokens = int(max_length), bool(special_tokens)
        self.match_official = bool(match_official)
        self.n_bins, self.include_zero_genes, self.cls_value = int(n_bins), bool(include_zero_genes), str(cls_value)
        self.pad_value, self.mask_value = float(pad_value), float(mask_value)
        self.long_cells, self.seed = str(long_cells), int(seed)
        check_vocabulary(self._token_ids, self._genes, special_tokens=self.special_tokens)
        check_options(self.options, max_length=self.max_length, special_tokens=self.special_tokens)
        self._panels = GenePanels(self._genes, self._aliases, match_official=self.match_official)
        for token, role in (("<pad>", "pad"), ("<cls>", "cls"), ("<eoc>", "eos"), ("<mask>", "mask")):
            if token in self._token_ids:
                kwargs.setdefault(f"{role}_token", token)
        kwargs["model_max_length"] = self.max_length
        super().__init__(
            max_length=self.max_length,
            special_tokens=self.special_tokens,
            match_official=self.match_official,
            **self.options,
            **kwargs,
        )

    @property
    def options(self) -> dict[str, Any]:
        """The options of the strategy (``tokenizer.options`` of a configuration)."""
        return {
            "n_bins": self.n_bins, "include_zero_genes": self.include_zero_genes, "cls_value": self.cls_value,
            "pad_value": self.pad_value, "mask_value": self.mask_value, "long_cells": self.long_cells,
            "seed": self.seed,
        }  # fmt: skip

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
        **options: Any,
    ) -> BinnedTokenizer:
        """Make a tokenizer of dictionaries, such as the published ones.

        Parameters
        ----------
        token_ids
            Gene or special token -> id. Special tokens that are not there are appended as the official code does:
            the published vocabulary of 60,694 genes gets ``<pad>``, ``<cls>`` and ``<eoc>`` as 60694 to 60696.
        medians
            Not used.
        aliases
            Other name (Ensembl id, retired id) -> gene; those of genes without a token are ignored.
        max_length, special_tokens, match_official, options
            See the class.
        """
        token_ids = dict(token_ids)
        for token in SPECIAL:
            token_ids.setdefault(token, max(token_ids.values(), default=-1) + 1)
        return cls(
            token_ids=token_ids, aliases=aliases, max_length=max_length, special_tokens=special_tokens,
            match_official=match_official, **options,
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
    ) -> BinnedTokenizer:
        """Make a tokenizer whose vocabulary comes from these cells: sorted by name, behind the special tokens.

        Parameters
        ----------
        counts, genes
            Counts (B, G) and the gene names of the columns; versions of an Ensembl id are one gene.
        min_cells
            Genes in fewer cells get no token.
        n_counts
            Not used: bins do not depend on the total counts of a cell.
        max_length, special_tokens, match_official, options
            See the class.
        """
        found = expressed_genes(as_csr(counts, len(genes)), genes, min_cells=min_cells)
        token_ids = cls.vocabulary_of(found, special_tokens=special_tokens)
        return cls.from_tables(
            token_ids, max_length=max_length, special_tokens=special_tokens, match_official=match_official, **options
        )

    @classmethod
    def vocabulary_of(cls, genes: Sequence[str], *, special_tokens: bool, **options: Any) -> dict[str, int]:
        """Token ids of a fitted vocabulary: all special tokens in front, then the genes as they stand."""
        return {token: i for i, token in enumerate([*SPECIAL, MASK, *genes])}

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
        draws: OfficialDraws | None = None,
    ) -> BatchEncoding:
        """Tokenize a block of cells.

        Parameters
        ----------
        counts
            Counts (B, G), sparse or dense, raw or transformed by an increasing function that keeps 0.
        genes
            Gene names of the G columns. The match is kept for the next call with the same names.
        n_counts
            Not used: bins do not depend on the total counts of a cell.
        padding
            True or ``"longest"``: right, to the longest cell; ``"max_length"``: to ``max_length``; False: none.
        return_tensors
            None or ``"np"`` for numpy arrays, ``"pt"`` for torch.
        empty
            What to do with a cell without a count in a known gene: raise, or keep it.
        draw, draws
            As in `encode_cells`.

        Returns
        -------
        BatchEncoding
            ``input_ids`` and ``attention_mask`` (B, L) int64, ``values`` (B, L) float32, ``length`` (B,) int64.

        Raises
        ------
        ValueError
            Negative, NaN or infinite counts; wrong shapes; no known gene; an empty cell.
        """
        cells = self.encode_cells(counts, genes, n_counts=n_counts, empty=empty, draw=draw, draws=draws)
        batch = padded(
            cells, pad_values=self.pad_values, longest=self.max_length, padding=padding, return_tensors=return_tensors
        )
        if self.match_official and padding is not False:  # unknown genes carry the id of padding: hidden like it
            batch["attention_mask"] = batch["attention_mask"] * (batch["input_ids"] != self.pad_token_id)
        return batch

    def encode_cells(
        self,
        counts: Counts,
        genes: Sequence[str],
        *,
        n_counts: Any = None,
        empty: Literal["error", "keep"] = "error",
        draw: int = 0,
        dtype: Any = np.int32,
        draws: OfficialDraws | None = None,
    ) -> EncodedCells:
        """Tokenize a block of cells without padding: the fast way for training and for token stores.

        Parameters
        ----------
        counts, genes, n_counts, empty
            As in a call.
        draw
            Number of the draw: another one gives other digits to ties and other samples of long cells.
        dtype
            Type of the ids.
        draws
            With ``match_official``: a generator that goes on where the last call left it. Default: a new one, seeded
            with ``seed``, and with ``draw`` unless that is 0.
        """
        if empty not in ("error", "keep"):
            raise problem(f"empty={empty!r}", wanted="'error' or 'keep'", where="encode_cells", fix="choose one")
        if np.iinfo(dtype).max < self._last_id:
            raise problem(
                f"dtype {np.dtype(dtype)}", wanted=f"{self._last_id} to fit", where="encode_cells", fix="use int32"
            )
        meaning = self._panels(genes)
        matrix = as_csr(counts, meaning.token_G.size)
        front, value = int(self.special_tokens), self.pad_value if self.cls_value == "pad" else 0.0
        layout = Layout(
            self.max_length - front, self.n_bins, self.include_zero_genes, self.long_cells == "sample",
            self.cls_token_id if front else -1, value,
        )  # fmt: skip
        if self.match_official:
            draws = draws or OfficialDraws(self.seed if draw == 0 else (self.seed, draw))
            cells, n_found_B = encode_official(matrix, meaning, layout, draws=draws, unknown_id=self.pad_token_id)
        elif draws is not None:
            raise problem(
                "draws", wanted="no generator", where="encode_cells", fix="set match_official, or leave draws out"
            )
        else:
            cells, n_found_B = encode_block(matrix, meaning, layout, seed=self.seed, draw=draw)
        if empty == "error":
            refuse_empty(n_found_B)
        if cells.columns["input_ids"].dtype != dtype:
            cells.columns["input_ids"] = cells.columns["input_ids"].astype(dtype)
        return cells

    @property
    def pad_values(self) -> dict[str, float]:
        """Column of a batch -> what fills short rows."""
        return {"input_ids": self.pad_token_id, "values": self.pad_value}

    def fit_obs(self, obs: Mapping[str, Sequence[str]]) -> None:
        """Learn from columns of obs: nothing."""

    @property
    def is_stochastic(self) -> bool:
        """Whether another draw gives other tokens: ties get other bins, a long cell keeps other genes."""
        return self.n_bins > 0 or self.long_cells == "sample"

    def cell_tensors(self, obs: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """Tensors made of columns of obs: none."""
        return {}

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens in every cell: a cell of this length has no gene."""
        return int(self.special_tokens)

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything that decides the tokens of a cell."""
        parts = [
            "binned 1", sorted(self._token_ids.items()), sorted(self._aliases.items()), self.max_length,
            self.special_tokens, self.match_official, sorted(self.options.items()),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    # --- what transformers asks of a tokenizer ---------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._token_ids)

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
        """Write the tables as JSON and return the paths."""
        tables = {"vocab_file": self._token_ids, "aliases_file": self._aliases}
        used = {self.vocab_files_names[key]: table for key, table in tables.items() if table}
        return write_tables(save_directory, filename_prefix, used)


BinnedTokenizer.register_for_auto_class("AutoTokenizer")
