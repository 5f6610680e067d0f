"""Presence tokenizer: a cell becomes the set of genes that it expresses, in the order of the vocabulary.

`save_pretrained` copies this file into the checkpoint, where it has to load without scmf: it imports only the standard
library, numpy, scipy and transformers. What every member is for: ``scmf/tokenizers/protocol.py``.

Legend: B cells, G genes (columns), L longest sequence of a batch, N tokens of all cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from transformers import BatchEncoding, PreTrainedTokenizer

SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")


class Encoded(NamedTuple):
    """Tokens of B cells without padding: cell b is ``column[offsets[b]:offsets[b + 1]]`` of every column."""

    offsets: np.ndarray
    columns: dict[str, np.ndarray]
    cells: dict[str, np.ndarray]


def problem(found: str, *, wanted: str, where: str, fix: str) -> ValueError:
    """A ``ValueError`` with the four parts that scmf shows."""
    return ValueError(f"found: {found}\nwanted: {wanted}\nwhere: {where}\ndo: {fix}")


class PresenceTokenizer(PreTrainedTokenizer):
    """The genes of a cell with at least ``min_count`` counts, sorted by their ids, cut to ``max_length``.

    Parameters
    ----------
    vocab_file
        JSON file, token -> id.
    token_ids
        The same as a mapping.
    max_length
        Longest sequence, special tokens included.
    special_tokens
        Put ``<cls>`` in front and ``<eos>`` behind.
    min_count
        Counts from which on a gene is present.
    kwargs
        Passed to `transformers.PreTrainedTokenizer`.
    """

    @dataclass(frozen=True)
    class Options:
        """``tokenizer.options`` of a configuration."""

        min_count: float = field(default=1.0, metadata={"gt": 0})
        """Counts from which on a gene is present."""

    vocab_files_names = {"vocab_file": "vocab.json"}
    model_input_names = ["input_ids", "attention_mask"]
    obs_columns: tuple[str, ...] = ()
    is_stochastic = False
    match_official = False

    def __init__(
        self,
        vocab_file: str | None = None,
        *,
        token_ids: Mapping[str, int] | None = None,
        max_length: int = 2048,
        special_tokens: bool = False,
        min_count: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if token_ids is None:
            token_ids = json.loads(Path(str(vocab_file)).read_text(encoding="utf-8"))
        self._token_ids = {str(token): int(number) for token, number in token_ids.items()}
        self._tokens = {number: token for token, number in self._token_ids.items()}
        self.max_length, self.special_tokens = int(max_length), bool(special_tokens)
        self.min_count = float(min_count)
        kwargs.pop("match_official", None)
        for token in SPECIAL:
            if token in self._token_ids:
                kwargs.setdefault(f"{token.strip('<>')}_token", token)
        kwargs["model_max_length"] = self.max_length
        shape = {"max_length": self.max_length, "special_tokens": self.special_tokens, "min_count": self.min_count}
        super().__init__(**shape, **kwargs)

    # --- making one --------------------------------------------------------------------------------

    @classmethod
    def from_tables(
        cls, token_ids: Mapping[str, int], medians: Mapping[str, float], aliases: Mapping[str, str] | None = None, *,
        max_length: int, special_tokens: bool, match_official: bool = False, **options: Any,
    ) -> PresenceTokenizer:  # fmt: skip
        """Make one of a vocabulary; medians and aliases are not used."""
        return cls(token_ids=token_ids, max_length=max_length, special_tokens=special_tokens, **options)

    @classmethod
    def fit(
        cls, counts: Any, genes: Sequence[str], *, min_cells: int, max_length: int, special_tokens: bool,
        match_official: bool = False, n_counts: Any = None, **options: Any,
    ) -> PresenceTokenizer:  # fmt: skip
        """Make one whose vocabulary is every gene that is present in ``min_cells`` cells (B, G), sorted."""
        least = options.get("min_count", 1.0)
        n_cells = np.asarray((sp.csr_matrix(counts) >= least).sum(axis=0)).ravel()
        known = sorted({str(gene) for gene, n in zip(genes, n_cells, strict=True) if n >= max(1, min_cells)})
        if not known:
            raise problem(
                f"no gene is present in {min_cells} cells", wanted="at least one", where="min_cells", fix="lower it"
            )
        token_ids = cls.vocabulary_of(known, special_tokens=special_tokens)
        return cls.from_tables(token_ids, {}, max_length=max_length, special_tokens=special_tokens, **options)

    @classmethod
    def vocabulary_of(cls, genes: Sequence[str], *, special_tokens: bool, **options: Any) -> dict[str, int]:
        """Token ids of a fitted vocabulary: special tokens in front, then the genes."""
        return {token: i for i, token in enumerate([*(SPECIAL if special_tokens else SPECIAL[:2]), *genes])}

    # --- using it ----------------------------------------------------------------------------------

    def encode_cells(
        self, counts: Any, genes: Sequence[str], *, n_counts: Any = None, empty: str = "error", draw: int = 0,
        dtype: Any = np.int32,
    ) -> Encoded:  # fmt: skip
        """Tokenize cells (B, G) without padding; a gene in several columns is present once."""
        x_BG = sp.csr_matrix(counts)
        special = set(self.all_special_tokens)
        names = [str(gene) for gene in genes]
        token_G = np.array([-1 if gene in special else self._token_ids.get(gene, -1) for gene in names])
        edge = 1 if self.special_tokens else 0
        rows = []
        for b in range(x_BG.shape[0]):
            stored = slice(x_BG.indptr[b], x_BG.indptr[b + 1])
            tokens = np.unique(token_G[x_BG.indices[stored][x_BG.data[stored] >= self.min_count]])
            tokens = tokens[tokens >= 0][: self.max_length - 2 * edge]
            if not len(tokens) and empty == "error":
                raise problem(
                    "a cell without a gene that has a token", wanted="at least one gene", where=f"row {b}",
                    fix="remove it, or pass empty='keep'",
                )  # fmt: skip
            ends = ([self.cls_token_id], [self.eos_token_id]) if edge else ([], [])
            rows.append(np.concatenate([ends[0], tokens, ends[1]]).astype(dtype))
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return Encoded(offsets, {"input_ids": np.concatenate(rows) if rows else np.empty(0, dtype)}, {})

    def __call__(  # type: ignore[override]
        self, counts: Any, genes: Sequence[str], *, empty: str = "error", return_tensors: str | None = None
    ) -> BatchEncoding:
        """Tokenize cells (B, G): ``input_ids`` and ``attention_mask`` (B, L), ``length`` (B,)."""
        encoded = self.encode_cells(counts, genes, empty=empty)
        lengths_B = np.diff(encoded.offsets)
        mask_BL = np.arange(lengths_B.max(initial=0)) < lengths_B[:, None]
        ids_BL = np.full(mask_BL.shape, self.pad_token_id, np.int64)
        ids_BL[mask_BL] = encoded.columns["input_ids"]
        batch = {"input_ids": ids_BL, "attention_mask": mask_BL.astype(np.int64), "length": lengths_B}
        return BatchEncoding(batch, tensor_type=return_tensors)

    def fit_obs(self, obs: Mapping[str, Sequence[str]]) -> None:
        """Learn from columns of ``obs``: nothing."""

    def cell_tensors(self, obs: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """Tensors made of columns of ``obs``: none."""
        return {}

    @property
    def options(self) -> dict[str, Any]:
        """As ``tokenizer.options`` of a configuration names them."""
        return {"min_count": self.min_count}

    @property
    def pad_values(self) -> dict[str, float]:
        """Column of a batch -> what fills short rows."""
        return {"input_ids": self.pad_token_id}

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything that decides the tokens of a cell."""
        parts = [self._token_ids, self.max_length, self.special_tokens, self.min_count]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    # --- what transformers asks of a tokenizer -------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._token_ids)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id (a copy)."""
        return dict(self._token_ids)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens in every cell."""
        return 2 if self.special_tokens else 0

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        raise problem("text", wanted="counts and genes", where="tokenize", fix="call tokenizer(counts, genes)")

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._token_ids.get(token)

    def _convert_id_to_token(self, index: int) -> str | None:
        return self._tokens.get(int(index))

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Write the vocabulary and return its path."""
        path = Path(save_directory) / f"{f'{filename_prefix}-' if filename_prefix else ''}vocab.json"
        path.write_text(json.dumps(self._token_ids, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        return (str(path),)


PresenceTokenizer.register_for_auto_class("AutoTokenizer")
