"""Tables of the continuous tokenizer: names of special tokens, vocabularies, and whether they fit the options.

Lives here: names, fitted vocabularies, checks. Lives elsewhere: the class that holds the tables
(continuous_vocabulary), reading them from JSON and the shape of errors (rank_value_tables), what the options do
(continuous_block).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .continuous_block import DEPTHS, KINDS, ORDERS
from .rank_value_tables import problem

NAMES = {
    "pad_token": ("<pad>", "[PAD]"),
    "mask_token": ("<mask>", "[MASK]"),
    "cls_token": ("<cls>", "[START]"),
    "eos_token": ("<eos>", "[END]"),
    "unk_token": ("<unk>", "unknown"),
}
"""Names of the special tokens that transformers knows too: ours, and TranscriptFormer's."""

DEPTH_TOKENS = ("<T>", "<S>")
"""Tokens of the depth to reach and of the depth of the cell."""

OTHERS = (*DEPTH_TOKENS, "[RD]", "[CELL]")
"""Special tokens that transformers has no name for; the last two are TranscriptFormer's, which never uses them."""

SPECIAL = frozenset([*(name for names in NAMES.values() for name in names), *OTHERS])
"""Tokens that are no genes."""

UNKNOWN_ASSAY = "unknown"
"""Name of the assay with id 0, which stands for all that the vocabulary does not have."""


def fitted_vocabulary(
    genes: Sequence[str], *, special_tokens: bool, depth_tokens: bool, unknown: bool = False
) -> dict[str, int]:
    """Token ids of a fitted vocabulary: special tokens in front, then the genes as they stand."""
    special = ["<pad>", "<mask>", *(("<cls>", "<eos>") if special_tokens else ())]
    special += [*(DEPTH_TOKENS if depth_tokens else ()), *(("<unk>",) if unknown else ())]
    return {token: i for i, token in enumerate([*special, *genes])}


def check_tables(
    token_ids: Mapping[str, int], assays: Mapping[str, int], options: Mapping[str, Any], *, max_length: int,
    special_tokens: bool
) -> None:  # fmt: skip
    """Raise ``ValueError`` unless vocabularies and options are fit to use.

    Parameters
    ----------
    token_ids, assays
        Token -> id; assay -> id.
    options, max_length, special_tokens
        See `ContinuousTokenizer`.
    """
    for key, allowed in (
        ("transform", KINDS), ("order", ORDERS), ("depth_of", ("counts", "values")),
        ("depth_scale", ("log10", "linear")), ("duplicate_genes", ("sum", "first", "error")),
        ("unknown_genes", ("drop", "token")),
    ):  # fmt: skip
        if options[key] not in allowed:
            raise problem(f"{key} {options[key]!r}", wanted=f"one of {', '.join(allowed)}", where=key, fix="choose one")
    target = options["target_depth"]
    try:
        known = target[:1] in DEPTHS and np.isfinite(float(target[1:]))
    except ValueError:
        known = False
    if not known:
        raise problem(
            f"target_depth {target!r}",
            wanted="t, f or a and a number, such as t4",
            where="target_depth",
            fix="repair it",
        )
    needed: list[tuple[str, ...]] = [NAMES["pad_token"]]
    needed += [NAMES["cls_token"], NAMES["eos_token"]] if special_tokens else []
    needed += [NAMES["unk_token"]] if options["unknown_genes"] == "token" else []
    needed += [(token,) for token in DEPTH_TOKENS] if options["depth_tokens"] else []
    if missing := [names[0] for names in needed if not any(name in token_ids for name in names)]:
        raise problem(
            f"no {', '.join(missing)} among {len(token_ids):,} tokens",
            wanted=", ".join(" or ".join(names) for names in needed),
            where="token_ids (vocab.json)",
            fix="add them, or turn off the option that needs them",
        )
    genes = [token for token in token_ids if token not in SPECIAL]
    twice = len(token_ids) - len(set(token_ids.values()))
    if not genes or twice or min(token_ids.values()) < 0:
        raise problem(
            f"{len(genes):,} genes, {twice} ids given twice, lowest id {min(token_ids.values())}",
            wanted="at least one gene, one id a token, ids from 0",
            where="token_ids (vocab.json)",
            fix="rebuild the vocabulary",
        )
    if assays.get(UNKNOWN_ASSAY) != 0 or sorted(assays.values()) != list(range(len(assays))):
        raise problem(
            f"assays {dict(list(assays.items())[:3])}",
            wanted=f"ids from 0 without a gap, 0 for {UNKNOWN_ASSAY!r}",
            where="assays (assays.json)",
            fix="rebuild the vocabulary of assays",
        )
    shortest = 3 if options["depth_tokens"] else 1
    if max_length < shortest:
        raise problem(f"max_length {max_length}", wanted=f"{shortest} or more", where="max_length", fix="raise it")
