"""Tables of a tokenizer: read from JSON and written; those of the rank-value tokenizer checked against each other.

Lives here: what a saved tokenizer holds, and the shape of its errors. Lives elsewhere: the use of the tables
(rank_value_genes, gene_columns).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")
"""Special tokens in the order of the official dictionaries; V1 has the first two."""


def problem(found: str, *, wanted: str, where: str, fix: str) -> ValueError:
    """A ``ValueError`` in the four parts all errors of this project have."""
    return ValueError(f"found: {found}\nwanted: {wanted}\nwhere: {where}\ndo: {fix}")


def read_table(path: str | None, name: str) -> dict[str, Any]:
    """Read one JSON table of a saved tokenizer; ``ValueError`` if the file is not there or not a JSON object."""
    if path is None:
        raise problem(
            f"no {name}",
            wanted="vocab.json and gene_medians.json beside tokenizer_config.json",
            where="the folder of the tokenizer",
            fix="save it again with save_pretrained, or make one with from_tables or fit",
        )
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise problem(f"no JSON: {error}", wanted=name, where=str(path), fix="save the tokenizer again") from error
    if not isinstance(table, dict):
        raise problem("JSON that is no object", wanted=name, where=str(path), fix="save the tokenizer again")
    return table


def write_tables(folder: str, prefix: str | None, tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Write tables (file name -> table) as JSON, floats by ``repr``, hence exact, and return the paths."""
    paths = []
    for name, table in tables.items():
        path = Path(folder) / (f"{prefix}-{name}" if prefix else name)
        path.write_text(json.dumps(table, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        paths.append(str(path))
    return tuple(paths)


def check_tables(
    token_ids: Mapping[str, int],
    genes: Mapping[str, int],
    medians: Mapping[str, float],
    *,
    max_length: int,
    special_tokens: bool,
) -> None:
    """Raise ``ValueError`` unless the tables fit each other.

    Parameters
    ----------
    token_ids, genes
        Token -> id with and without special tokens.
    medians
        Gene -> non-zero median.
    max_length, special_tokens
        See `RankValueTokenizer`.
    """
    needed = SPECIAL if special_tokens else SPECIAL[:2]
    if missing := [token for token in needed if token not in token_ids]:
        raise problem(
            f"no {', '.join(missing)} among {len(token_ids):,} tokens",
            wanted=", ".join(needed),
            where="token_ids (vocab.json)",
            fix="add them, or set special_tokens=False if only <cls> and <eos> are missing",
        )
    twice = len(token_ids) - len(set(token_ids.values()))
    if not genes or twice or min(token_ids.values()) < 0:
        raise problem(
            f"{len(genes):,} genes, {twice} ids given twice, lowest id {min(token_ids.values())}",
            wanted="at least one gene, one id a token, ids from 0",
            where="token_ids (vocab.json)",
            fix="rebuild the vocabulary",
        )
    if bad := [gene for gene in genes if not 0 < medians.get(gene, 0) < float("inf")]:
        raise problem(
            f"no positive finite median for {len(bad):,} genes (first: {bad[0]!r})",
            wanted="a median for every gene with a token",
            where="medians (gene_medians.json)",
            fix="give medians of the same vocabulary",
        )
    shortest = 3 if special_tokens else 1
    if max_length < shortest:
        raise problem(f"max_length {max_length}", wanted=f"{shortest} or more", where="max_length", fix="raise it")
