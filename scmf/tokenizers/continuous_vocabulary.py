"""Vocabularies of the continuous tokenizer: tokens, other names of genes, assays; saved and loaded with it.

Lives here: `ValueVocabulary`, what transformers asks of a tokenizer, and columns of obs as ids. Lives elsewhere: checks
and names of special tokens (continuous_tables), cells as tokens (continuous).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .continuous_tables import DEPTH_TOKENS, NAMES, OTHERS, SPECIAL, UNKNOWN_ASSAY, check_tables
from .gene_orthologs import ORTHOLOGS, GeneTokenizer
from .rank_value_tables import problem, read_table, write_tables


class ValueVocabulary(GeneTokenizer):
    """Tables of a `ContinuousTokenizer`, which describes the parameters.

    Parameters
    ----------
    vocab_file, aliases_file, assays_file, token_ids, aliases, assays, max_length, special_tokens
        See `ContinuousTokenizer`.
    options
        Its options by name.
    kwargs
        Passed to `transformers.PreTrainedTokenizer`, as are the options.
    """

    vocab_files_names = {
        "vocab_file": "vocab.json",
        "aliases_file": "gene_aliases.json",
        "assays_file": "assays.json",
        **ORTHOLOGS,
    }

    def __init__(
        self,
        vocab_file: str | None,
        aliases_file: str | None,
        assays_file: str | None,
        *,
        token_ids: Mapping[str, int] | None,
        aliases: Mapping[str, str] | None,
        assays: Mapping[str, int] | None,
        options: Mapping[str, Any],
        max_length: int,
        special_tokens: bool,
        **kwargs: Any,
    ) -> None:
        token_ids = token_ids if token_ids is not None else read_table(vocab_file, "vocab.json")
        if aliases is None and aliases_file is not None:
            aliases = read_table(aliases_file, "gene_aliases.json")
        if assays is None and assays_file is not None:
            assays = read_table(assays_file, "assays.json")
        self._token_ids = {str(token): int(i) for token, i in token_ids.items()}
        self._tokens = {i: token for token, i in self._token_ids.items()}
        self._last_id = max(self._tokens, default=0)
        self._genes = {token: i for token, i in self._token_ids.items() if token not in SPECIAL}
        self._aliases = {k: v for k, v in (aliases or {}).items() if k != v and v in self._genes}
        self._assays = {str(k): int(v) for k, v in (assays or {UNKNOWN_ASSAY: 0}).items()}
        self._assay_key: str | None = options["assay_key"]
        check_tables(self._token_ids, self._assays, options, max_length=max_length, special_tokens=special_tokens)
        depth_ids = [self._token_ids[token] if options["depth_tokens"] else -1 for token in DEPTH_TOKENS]
        self.depth_ids = (depth_ids[0], depth_ids[1])
        for key, names in NAMES.items():
            if found := next((name for name in names if name in self._token_ids), None):
                kwargs.setdefault(key, found)
        more = sorted((token for token in OTHERS if token in self._token_ids), key=self._token_ids.__getitem__)
        kwargs.setdefault("extra_special_tokens", more)
        kwargs["model_max_length"] = max_length
        super().__init__(max_length=max_length, special_tokens=special_tokens, **options, **kwargs)

    # --- columns of obs ----------------------------------------------------------------------------

    @property
    def obs_columns(self) -> tuple[str, ...]:
        """Columns of obs that `cell_tensors` reads."""
        return () if self._assay_key is None else (self._assay_key,)

    @property
    def assays(self) -> dict[str, int]:
        """Assay -> id (a copy)."""
        return dict(self._assays)

    @property
    def n_assays(self) -> int:
        """Assays that `cell_tensors` tells apart, ``unknown`` included; 0 without ``assay_key``."""
        return 0 if self._assay_key is None else len(self._assays)

    def fit_obs(self, obs: Mapping[str, Sequence[str]]) -> None:
        """Take the assays that these cells have into the vocabulary of assays, sorted, behind ``unknown``.

        Parameters
        ----------
        obs
            Columns of obs; only that of ``assay_key`` is read.
        """
        if self._assay_key is not None:
            names = sorted({str(name) for name in self._assay_column(obs)} - {UNKNOWN_ASSAY})
            self._assays = {name: i for i, name in enumerate([UNKNOWN_ASSAY, *names])}

    def cell_tensors(self, obs: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
        """``assay_ids`` int64 (B,), 0 for an assay that the vocabulary does not have; empty without ``assay_key``."""
        if self._assay_key is None:
            return {}
        names = self._assay_column(obs)
        return {"assay_ids": np.array([self._assays.get(str(name), 0) for name in names], np.int64)}

    def _assay_column(self, obs: Mapping[str, Sequence[str]]) -> Sequence[str]:
        key = str(self._assay_key)
        if key not in obs:
            raise problem(
                f"no column {key!r} in obs (there are {', '.join(map(repr, list(obs)[:8])) or 'none'})",
                wanted="the assay of each cell",
                where="assay_key",
                fix="add the column ('unknown' is a value), name another, or leave assay_key out",
            )
        return obs[key]

    # --- what transformers asks of a tokenizer ---------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._token_ids)

    @property
    def gene_token_start(self) -> int:
        """Lowest id of a gene."""
        return min(self._genes.values())

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
        tables = {"vocab_file": self._token_ids, "aliases_file": self._aliases, "assays_file": self._assays}
        used = {self.vocab_files_names[key]: table for key, table in tables.items() if table or key != "aliases_file"}
        return write_tables(save_directory, filename_prefix, used)
