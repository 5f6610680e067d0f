"""Hold a dataset card against its files.

Lives here: `check_card` (checksums, numbers, label set, splits and who lies in which split), `evidence_labels`.
Lives elsewhere: checking a file without a card (file), copies of cells in two splits (splits.leaks).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from scmf.core.config.run import DataConfig
from scmf.core.errors import ScmfError
from scmf.data.cards.card import Card, load_card
from scmf.data.cards.sources import fetch
from scmf.data.checks.authenticity import check_authentic
from scmf.data.genes.orthologs import check_orthologs
from scmf.data.genes.vectors import load_gene_vectors
from scmf.data.genes.vocabulary import annotation, load_vocabulary
from scmf.data.loading.load import load_cells
from scmf.data.splits.findings import CheckReport, Level
from scmf.data.splits.leaks import audit_leaks
from scmf.data.splits.read import SPLITS, read_table, shared_groups, split_file
from scmf.data.stores.missing import is_missing, known_text


def check_card(card: Card | str | Path) -> CheckReport:
    """Hold a card against its files: checksums, numbers, label set, splits, donors and cells on one side only.

    Parameters
    ----------
    card
        A card, its name or its path.
    """
    card = card if isinstance(card, Card) else load_card(card)
    report = CheckReport(card.name)
    if card.needs_download:
        report.add("warning", "needs a download", "its publisher gives no checksum", do=card.needs_download)
        return report
    try:
        for name, path in fetch(card).items():
            report.add("ok", "checksum", f"{name}: as in the card ({path})")
        if card.kind == "vocabulary":
            _check_vocabulary_card(report, card)
        elif card.kind == "network":
            report.add("ok", "network", "read by scmf.evaluation.gene_network.truth")
        elif card.kind == "vectors":
            _equal(report, "genes", len(load_gene_vectors(card.path or card.name)), card.n_genes)
        else:
            _check_cells_card(report, card)
    except ScmfError as error:
        report.add("error", type(error).__name__, f"{error.found} (where: {error.where})", do=error.fix or "")
    return report


def _equal(report: CheckReport, what: str, found: object, wanted: object) -> None:
    if wanted is None:
        report.add("warning", what, f"{found}; the card says nothing", do="write it into the card")
    elif found == wanted:
        report.add("ok", what, f"{found}")
    else:
        report.add("error", what, f"{found}, the card says {wanted}", do="a changed dataset needs a new card")


def _check_vocabulary_card(report: CheckReport, card: Card) -> None:
    roles = {file.role for file in card.files}
    if "gencode" in roles:
        table = annotation(card)
        _equal(report, "genes", table["gene"].nunique(), card.n_genes)
        coding = int((table["biotype"] == "protein_coding").sum())
        report.add("ok", "protein-coding genes", f"{coding:,}")
        return
    if "orthologs" in roles:
        agreement = check_orthologs(card)
        _equal(report, "one-to-one pairs", agreement.first, card.n_genes)
        level: Level = "ok" if agreement.share >= 0.98 else "error"
        report.add(level, "second table", str(agreement), do="" if level == "ok" else "find out which one is wrong")
        return
    tables = load_vocabulary(card)
    _equal(report, "genes", len(tables.genes), card.n_genes)
    numbers = sorted(tables.token_ids.values())
    _equal(report, "token ids 0 to n-1", numbers == list(range(len(numbers))), True)
    if tables.medians:
        _equal(report, "genes without median", len([gene for gene in tables.genes if gene not in tables.medians]), 0)
    report.add("ok", "other names", f"{len(tables.aliases):,}; {len(tables.ambiguous):,} could be several genes")


def _check_cells_card(report: CheckReport, card: Card) -> None:
    config = DataConfig(dataset=str(card.path) if card.path else card.name)
    has_counts = card.expression is None or card.derive is not None
    cells = load_cells(config, log_expression=not has_counts)
    adata = cells.adata
    _equal(report, "cells", adata.n_obs, card.n_cells)
    _equal(report, "genes", adata.n_vars, card.n_genes)
    what = "raw counts" if has_counts else "log-normalized expression, no counts"
    report.add("ok", what, cells.facts.counts or card.counts)
    labels = adata.obs[card.label_key].astype(str) if card.label_key else None
    if labels is not None:
        labels = labels.where(~is_missing(labels))
        if n_lost := int(labels.isna().sum()):
            report.add("warning", "labels", f"{n_lost:,} cells have no {card.label_key!r}", do="label or remove them")
        _equal(report, "labels", sorted(labels.dropna().unique()), sorted(card.labels))
    check_authentic(report, adata.X, evidence_labels(adata, card))
    for name, split in card.splits.items():
        table = read_table(split_file(card, name))
        if set(table.index) != set(adata.obs_names):
            off = len(set(table.index) ^ set(adata.obs_names))
            report.add("error", f"split {name}", f"{off} cell ids differ between file and cells", do="make it again")
            continue
        parts = table.loc[adata.obs_names]
        sizes = parts.value_counts()
        report.add("ok", f"split {name}", ", ".join(f"{part} {sizes.get(part, 0):,}" for part in SPLITS))
        if split.by != "cell":
            _check_groups(report, f"split {name}", parts, adata.obs[split.by].astype(str), split.parts)
        elif card.donor_key:
            found = f"donors may lie in several parts, though {card.donor_key!r} is known"
            report.add("warning", f"split {name}", found, do="prefer a split by donor")
        lost = set() if labels is None else set(card.labels) - set(labels[parts.to_numpy() == "train"])
        if lost != set(split.unseen):
            said = f"no training cell of {sorted(lost)}, the card says {sorted(split.unseen)}"
            report.add("error", f"split {name}", said, do="make it again, or say so in `unseen`")
        if has_counts:
            report.findings.extend(audit_leaks(adata, parts, batch_key=card.batch_key, what=f"leaks {name}"))
        else:
            report.add("warning", f"leaks {name}", "copies of cells are found by their counts, and there are none")


def evidence_labels(adata: AnnData, card: Card) -> pd.Series:
    """What cells are alike in, for the evidence that they are real: the label, else condition and cell type."""
    if card.label_key is not None:
        return adata.obs[card.label_key]
    keys = card.perturbation
    if keys is None:
        return pd.Series("all", index=adata.obs_names)
    condition = pd.Series(known_text(adata.obs[keys.key]), index=adata.obs_names, dtype=object)
    if keys.covariate_key is None:
        return condition
    covariate = pd.Series(known_text(adata.obs[keys.covariate_key]), index=adata.obs_names, dtype=object)
    return (condition + ", " + covariate).where((condition != "") & (covariate != ""), "")


def _check_groups(report: CheckReport, what: str, parts: pd.Series, groups: pd.Series, said: Any) -> None:
    """No group in two parts, and in the parts that the card says."""
    if shared := shared_groups(parts, groups):
        group, where = next(iter(shared.items()))
        text = f"{len(shared)} of {groups.name!r} lie in several parts, the first is {group!r} in {where}"
        report.add("error", what, text, do="make it again: this is a leak")
        return
    known = ~is_missing(groups)
    if not known.all():
        report.add("error", what, f"{int((~known).sum()):,} cells have no {groups.name!r}", do="fill it in")
    parts, groups = parts[known], groups[known]
    found = {part: tuple(sorted(groups[parts.to_numpy() == part].unique())) for part in SPLITS}
    _equal(report, f"{what}, {groups.name}", found, {part: tuple(sorted(said.get(part, ()))) for part in SPLITS})
