"""Make and check a split of files as they lie on disk or in a bucket, without loading them.

Lives here: `split_files` and `check_split`, what the command line calls for many or large files.
Lives elsewhere: opening stores (stores.open), making a split (splits.make), the audit (splits.leaks), a file in memory
(file).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scmf.core.errors import ConfigError, ScmfError
from scmf.data.splits.findings import CheckReport
from scmf.data.splits.groups import COLUMNS, ObsColumns, tabulate
from scmf.data.splits.leaks import audit_leaks
from scmf.data.splits.make import claimed_columns, claimed_conditions, make_split
from scmf.data.splits.read import SPLITS, read_codes
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.open import open_stores


def split_files(
    uris: Sequence[str | Path],
    out: Path | str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    **options: Any,  # those of make_split; it checks them
) -> dict[str, Any]:
    """Split the cells of several files and write the split; only ``obs`` is read.

    Parameters
    ----------
    uris
        ``.h5ad`` files and zarr stores, see `scmf.data.stores.open.open_stores`.
    out
        File to write, ``….tsv.gz``; ``….yaml`` is written beside it.
    storage_options
        For remote stores.
    options
        See `scmf.data.splits.make.make_split`.

    Returns
    -------
    What stands in the file beside the split: block for a card with the sha256, cells of each part, what is held out.
    """
    corpus = Corpus(open_stores(uris, storage_options=storage_options))
    try:
        split = make_split(corpus, **options)
        return split.to_json(Path(out).name, split.write(out))
    finally:
        corpus.close()


def names_of(text: str) -> list[str]:
    """Names in the text of an option: separated by commas, or a JSON list where a name holds a comma.

    Raises
    ------
    ConfigError
        What begins as a JSON list is none.
    """
    if not text.lstrip().startswith("["):
        return text.split(",")
    try:
        found = json.loads(text)
    except ValueError as error:
        found = error
    if not isinstance(found, list) or not all(isinstance(one, (str, int)) for one in found):
        raise ConfigError(f"names {text}", wanted='a JSON list of names, such as ["d4, F", "d5"]', where="--hold-out")
    return [str(one) for one in found]


def check_split(
    uris: Sequence[str | Path],
    split: Path | str,
    *,
    donor_key: str | None = None,
    batch_key: str | None = None,
    counts: str = "auto",
    gene_ids: str = "auto",
    near_duplicates: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> CheckReport:
    """Run the leak audit on files that are read once, block by block.

    Parameters
    ----------
    uris
        ``.h5ad`` files and zarr stores; together they are the cells of the split.
    split
        TSV with columns cell_id and split.
    donor_key
        Column whose values must not lie in two parts, besides those that the split itself claims to keep whole.
    batch_key
        Column whose values are only counted.
    counts, gene_ids
        As in the section ``data``.
    near_duplicates
        Look for nearly equal cells, too.
    storage_options
        For remote stores.

    Raises
    ------
    DataError
        A file cannot be opened or read. What is wrong with the split is a finding.
    """
    corpus = Corpus(open_stores(uris, counts=counts, gene_ids=gene_ids, storage_options=storage_options))
    report = CheckReport(corpus.name)
    try:
        codes = read_codes(Path(split), corpus)
        sizes = dict(zip(SPLITS, tabulate(codes, len(SPLITS))[:, 0].tolist(), strict=True))
        report.facts["split"] = sizes
        report.add("ok", "split", ", ".join(f"{part} {n:,}" for part, n in sizes.items()))
        claimed = [*claimed_columns(split), *([donor_key] if donor_key else [])]
        known = ObsColumns(corpus).columns
        usual = [name for name in COLUMNS["donor"] if name in known and name not in claimed]
        report.findings.extend(
            audit_leaks(
                corpus, codes, by=claimed, donor_key=usual[0] if usual else None, batch_key=batch_key,
                conditions=claimed_conditions(split), near_duplicates=near_duplicates,
            )
        )  # fmt: skip
    except ScmfError as error:
        report.add("error", "split", error.found, do=error.fix or "")
    finally:
        corpus.close()
    return report
