"""`scmf.check`: an AnnData looked at as `scmf check` looks at a file.

Lives here: the arguments. Lives elsewhere: the checks (file), their answer (scmf.data.splits.findings).
"""

from __future__ import annotations

from pathlib import Path

from anndata import AnnData

from scmf.core.config.recipe import load_recipe
from scmf.core.python_words import for_python
from scmf.data.checks.file import check_file
from scmf.data.splits.findings import CheckReport
from scmf.data.stores.adata_memory import in_memory
from scmf.data.stores.canonical import Rounding


@for_python
def check(
    adata: AnnData,
    *,
    vocabulary: str | None = None,
    config: Path | str | None = None,
    variant: str | None = None,
    split: Path | str | None = None,
    donor_key: str | None = None,
    label_key: str | None = None,
    batch_key: str | None = None,
    counts: str = "auto",
    gene_ids: str = "auto",
    counts_rounding: Rounding = "error",
    allow_low_coverage: bool = False,
) -> CheckReport:
    """Look at cells as a recipe would: counts, gene ids, coverage, empty and duplicate cells, leaks of a split.

    Parameters
    ----------
    adata
        Cells: in memory, a view, or backed by a file. Not changed.
    vocabulary
        Vocabulary card, such as ``geneformer-v2``.
    config, variant
        Recipe or YAML file: what it would refuse is an error of the report.
    split, donor_key, label_key, batch_key, counts, gene_ids, counts_rounding, allow_low_coverage
        See `scmf.data.checks.file.check_file`.

    Returns
    -------
    CheckReport
        ``ok``, ``findings``, ``facts``; what is wrong with the cells is a finding and no exception.
    """
    sections = None if config is None else load_recipe(config, variant=variant).config
    return check_file(
        in_memory(adata), vocabulary=vocabulary, recipe_sections=sections, split=split, donor_key=donor_key,
        label_key=label_key, batch_key=batch_key, counts=counts, gene_ids=gene_ids, rounding=counts_rounding,
        allow_low_coverage=allow_low_coverage,
    )  # fmt: skip
