"""Hold a file against what a recipe needs, before hours are spent on it.

Lives here: `check_file` (which matrix holds counts, which gene ids, how much of a vocabulary is found,
empty and repeated cells, and with a split what leaks through it). Lives elsewhere: `check_card` (cards;
also to be had from here), what the answers look like (findings), the tools (counts, genes, authenticity, leaks).
Torch is never imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scmf.core import registry
from scmf.core.config.run import RunConfig
from scmf.core.errors import ScmfError
from scmf.data.cards.card import Card
from scmf.data.checks.authenticity import check_authentic
from scmf.data.checks.cards import check_card
from scmf.data.checks.labels import check_labels
from scmf.data.checks.vocabulary import check_species, check_vocabulary
from scmf.data.genes import ids as genes_
from scmf.data.genes.feature_types import genes_by_type
from scmf.data.genes.measured import measured_genes as genes_measured
from scmf.data.genes.species import species_of_table
from scmf.data.genes.vocabulary import GeneTables, load_vocabulary
from scmf.data.loading.load import opened
from scmf.data.splits.duplicates import row_hashes
from scmf.data.splits.findings import CheckReport
from scmf.data.splits.groups import COLUMNS
from scmf.data.splits.leaks import audit_leaks
from scmf.data.splits.make import claimed_columns, claimed_conditions
from scmf.data.splits.read import SPLITS, read_split
from scmf.data.stores import counts as counts_
from scmf.data.stores.adata_memory import in_memory
from scmf.data.stores.canonical import Rounding
from scmf.data.stores.cell_ids import hash_ids
from scmf.data.stores.missing import is_missing
from scmf.data.stores.store import CountBlock

__all__ = ["check_card", "check_file"]

_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def check_file(
    path: Path | str | AnnData,
    *,
    vocabulary: GeneTables | Card | str | None = None,
    recipe_sections: RunConfig | None = None,
    counts: str = "auto",
    gene_ids: str = "auto",
    rounding: Rounding = "error",
    allow_low_coverage: bool = False,
    label_key: str | None = None,
    batch_key: str | None = None,
    min_genes: int = 200,
    split: Path | str | None = None,
    donor_key: str | None = None,
) -> CheckReport:
    """Look at an .h5ad file, or at an AnnData, as a recipe would.

    Parameters
    ----------
    path
        The file; or an AnnData, which is not changed.
    vocabulary
        Genes to look for: tables, a vocabulary card or its name.
    recipe_sections
        Sections of a recipe or configuration: its vocabulary and its keys of ``data`` hold where the
        other arguments leave them open, and what it would refuse is an error here.
    counts, gene_ids, label_key, batch_key
        As in the section ``data``.
    rounding
        What becomes of values that are no integers (``data.counts_rounding``).
    allow_low_coverage
        A vocabulary that knows less than a fifth of the genes or of the counts is a warning and not an error.
    min_genes
        Cells with fewer detected genes are counted.
    split
        A TSV with columns cell_id and split: run the leak audit (`scmf.data.splits.leaks`). What it claims to keep
        whole is
        taken from the file that `scmf data split` writes beside it, where there is one.
    donor_key
        Column whose values must not lie in two parts; without it donors in two parts are a warning, where there is
        a column with a usual name.

    Returns
    -------
    CheckReport
        What is wrong with the cells is a finding and not an exception.

    Raises
    ------
    DataError
        The file cannot be read at all, or the vocabulary cannot be had.
    """
    if recipe_sections is not None:
        data, tokenizer = recipe_sections.data, recipe_sections.tokenizer
        counts = data.counts if counts == "auto" else counts
        rounding = data.counts_rounding if rounding == "error" else rounding
        gene_ids = data.gene_ids if gene_ids == "auto" else gene_ids
        label_key, batch_key = label_key or data.label_key, batch_key or data.batch_key
        allow_low_coverage = allow_low_coverage or data.allow_low_coverage
        split = split or (data.split if data.files else None)
        if vocabulary is None and tokenizer.vocabulary != "fit":
            vocabulary = tokenizer.vocabulary
    if vocabulary is not None and not isinstance(vocabulary, GeneTables):
        vocabulary = load_vocabulary(vocabulary)

    adata, path = opened(in_memory(path) if isinstance(path, AnnData) else Path(path))
    report = CheckReport(path)
    report.facts["shape"] = [int(adata.n_obs), int(adata.n_vars)]
    chosen = _check_counts(report, adata, counts, path=path, rounding=rounding)
    matrix, var = counts_.matrix_of(adata, chosen) if chosen else (None, adata.var)
    ids = _check_genes(report, var, gene_ids, path=path)
    _check_names(report, adata)
    x = None
    ids, kept = _check_measured(report, var, ids, path=path)
    if matrix is not None:
        x = counts_.canonical(matrix, rounding=rounding)
        if kept is not None:
            x = x[:, kept]
        _check_cells(report, x, adata.obs_names, min_genes=min_genes)
    if vocabulary is not None and ids is not None:
        check_species(report, vocabulary)
        check_vocabulary(report, vocabulary, ids, x, allow=allow_low_coverage)
    labels = _check_key(report, adata, label_key, "label_key")
    _check_key(report, adata, batch_key, "batch_key")
    if x is not None and labels is not None:
        check_authentic(report, x, labels)
    if split is not None:
        scored = label_key
        if recipe_sections is not None and "annotation" not in recipe_sections.eval.benchmarks:
            scored = None
        if x is None or ids is None:
            report.add("error", "leaks", "not looked for without counts and gene ids", do="see above")
        else:
            cells = AnnData(x, obs=adata.obs, var=pd.DataFrame(index=pd.Index(ids.astype(str))))
            _check_split(report, cells, Path(split), donor_key=donor_key, batch_key=batch_key, label_key=scored)
    return report


def _check_split(
    report: CheckReport, cells: AnnData, path: Path, *, donor_key: str | None, batch_key: str | None,
    label_key: str | None,
) -> None:  # fmt: skip
    """The leak audit of a split file, and whether its labels can be learnt and scored."""
    try:
        parts = read_split(None, str(path.resolve()), cell_ids=cells.obs_names)
        sizes = parts.value_counts()
        report.add("ok", "split", ", ".join(f"{part} {sizes[part]:,}" for part in SPLITS))
        report.facts["split"] = {part: int(sizes[part]) for part in SPLITS}
        claimed = [*claimed_columns(path), *([donor_key] if donor_key else [])]
        usual = [name for name in COLUMNS["donor"] if name in cells.obs and name not in claimed]
        findings = audit_leaks(
            cells, parts, by=claimed, donor_key=usual[0] if usual else None,
            batch_key=batch_key if batch_key in cells.obs else None, conditions=claimed_conditions(path),
        )  # fmt: skip
        report.findings.extend(findings)
        if label_key is not None and label_key in cells.obs:
            check_labels(report, np.asarray(parts, str), cells.obs[label_key])
    except ScmfError as error:
        report.add("error", "split", error.found, do=error.fix or "")


def _check_counts(report: CheckReport, adata: Any, where: str, *, path: str, rounding: Rounding) -> str | None:
    """Verdict on every matrix; the name of the one that would be used, or None."""
    names = [*counts_.candidates(adata), *(f"layers/{name}" for name in adata.layers if name != "counts")]
    verdicts = {}
    for name in names:
        matrix, var = counts_.matrix_of(adata, name)
        try:
            verdicts[name] = counts_.examine(
                matrix, where=name, cells=adata.obs_names, genes=var.index, rounding=rounding
            )
        except ScmfError as error:
            report.add("error", "raw counts", error.found, do=error.fix or "")
            return None
    chosen = None
    try:
        chosen = counts_.choose(adata, where, path=path, rounding=rounding)
        found = f"{chosen} holds {verdicts[chosen].found}"
        rest = [f"{name}: {v.found}" for name, v in verdicts.items() if name != chosen]
        report.add("ok", "raw counts", "; ".join([found, *rest]))
    except ScmfError as error:
        report.add("error", "raw counts", error.found, do=error.fix or "")
    report.facts["matrices"] = [
        {"where": name, "kind": v.kind, "found": v.found, "shape": list(v.shape), "chosen": name == chosen}
        for name, v in verdicts.items()
    ]
    return chosen


def _check_genes(report: CheckReport, var: pd.DataFrame, where: str, *, path: str) -> np.ndarray | None:
    """Kind of ids, suffixes, duplicates; the ids."""
    try:
        ids, where = genes_.pick_ids(var, where, path=path)
    except ScmfError as error:
        report.add("error", "gene ids", error.found, do=error.fix or "")
        return None
    kind = genes_.detect(ids[genes_by_type(var)[0]])
    species = species_of_table(var, ids)
    report.facts["genes"] = {
        "where": where,
        "kind": kind.kind,
        "species": species,
        "share": kind.share,
        "versioned": kind.n_versioned,
        "not_upper": kind.n_not_upper,
        "excel_dates": kind.n_excel_dates,
    }
    if kind.is_mixture:
        report.facts["genes"]["by_species"] = dict(kind.by_species)
        report.add(
            "warning", "species", f"{where}: {kind}",
            do="a model reads one species: keep the cells and genes of one, or take the other through orthologs",
        )  # fmt: skip
    usable = kind.kind in ("ensembl", "symbol")
    report.add(
        "ok" if usable else "warning",
        "gene ids",
        f"{where}: {kind} ({kind.share:.1%} of {len(ids):,})"
        + (f", of {species}" if species and species != kind.species and not kind.is_mixture else ""),
        do="" if usable else "put Ensembl ids into a column of var and name it in data.gene_ids",
    )
    if kind.n_versioned:
        report.add("ok", "version suffixes", f"{kind.n_versioned:,} ids such as {_first(ids)}; they are stripped")
    if kind.n_excel_dates:
        report.add(
            "warning", "spreadsheet dates", f"{kind.n_excel_dates} ids such as 1-Mar", do="use Ensembl ids instead"
        )
    try:
        genes_.refuse_duplicates(ids, path=path)
    except ScmfError as error:
        report.add("error", "duplicate ids", error.found, do=error.fix or "")
    same = genes_.collisions(ids, [genes_.canonical(gene) for gene in ids])
    same = {gene: given for gene, given in same.items() if len(set(given)) > 1}
    report.facts["genes"]["collisions"] = len(same)
    if same:
        gene, given = next(iter(same.items()))
        report.add(
            "warning",
            "same gene twice",
            f"{len(same)} genes have several columns, the first is {gene}: {', '.join(given)}",
            do="their counts are added up; remove one if it is a copy",
        )
    return ids


def _check_measured(
    report: CheckReport, var: pd.DataFrame, ids: np.ndarray | None, *, path: str
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Ids of the columns that are genes, and which these are; None for all."""
    if ids is None:
        return None, None
    try:
        kept = genes_measured(var, ids, path=path)
    except ScmfError as error:
        report.add("error", "feature types", error.found, do=error.fix or "")
        return None, None
    if kept.all():
        return ids, None
    types = var["feature_types"].astype(str)[~kept].value_counts().to_dict() if "feature_types" in var else {}
    no_id = sum(not gene for gene in ids)
    parts = [f"{n:,} {name!r}" for name, n in types.items()] + ([f"{no_id:,} without id"] if no_id else [])
    report.facts["genes"]["left_out"] = int((~kept).sum())
    found = f"{int((~kept).sum()):,} of {len(ids):,} columns are no genes and are left out: {', '.join(parts)}"
    report.add("warning", "feature types", found, do="nothing, if only gene expression is wanted")
    return ids[kept], kept


def _first(ids: np.ndarray) -> str:
    return next((str(gene) for gene in ids if genes_.strip_version(str(gene)) != gene), "")


def _check_names(report: CheckReport, adata: Any) -> None:
    twice = int(adata.obs_names.duplicated().sum())
    report.facts["duplicate_cell_ids"] = twice
    if twice:
        report.add("error", "cell ids", f"{twice} stand more than once", do="adata.obs_names_make_unique()")
    else:
        report.add("ok", "cell ids", f"{adata.n_obs:,}, all different")


def _check_cells(report: CheckReport, x: sparse.csr_matrix, names: pd.Index, *, min_genes: int) -> None:
    """Empty, small and repeated cells; depth."""
    depth, detected = np.asarray(x.sum(axis=1)).ravel(), np.diff(x.indptr)
    copies = _repeated(x)
    empty = np.flatnonzero(detected == 0)
    small = int(((detected < min_genes) & (detected > 0)).sum())
    quantiles = {str(q): float(np.quantile(depth, q)) for q in _QUANTILES}
    report.facts["cells"] = {
        "empty": int(empty.size),
        "below_min_genes": small,
        "min_genes": min_genes,
        "identical": len(copies),
        "depth_quantiles": quantiles,
        "genes_quantiles": {str(q): float(np.quantile(detected, q)) for q in _QUANTILES},
    }
    report.add(
        "ok", "depth", f"{quantiles['0.5']:,.0f} counts a cell in the median ({depth.min():,.0f} to {depth.max():,.0f})"
    )
    if empty.size:
        found = f"{empty.size:,} cells without a count, the first is {names[empty[0]]!r}"
        report.add("error", "empty cells", found, do="remove them: sc.pp.filter_cells(adata, min_genes=1)")
    if small:
        found = f"{small:,} cells with fewer than {min_genes} genes"
        report.add("warning", "small cells", found, do="consider removing them; their rank order is mostly ties")
    if copies:
        a, b = copies[0]
        found = f"{len(copies):,} cells equal an earlier one, the first pair is {names[a]!r}, {names[b]!r}"
        report.add("warning", "identical cells", found, do="remove them: a copy in train and test is a leak")


def _repeated(x: sparse.csr_matrix) -> list[tuple[int, int]]:
    """Pairs (first, later) of cells with the same counts; empty cells left out."""
    block = CountBlock(x.indptr.astype(np.int64), x.indices, x.data.astype(np.float32), x.shape[1])
    hashes, detected = row_hashes(block, hash_ids(np.arange(x.shape[1]).astype(str)))
    table = pd.DataFrame(hashes)[detected > 0]
    first = pd.Series(table.index, table.index).groupby([table[0], table[1]]).transform("first")
    later = first[first != first.index]
    return list(zip(later.tolist(), later.index.tolist(), strict=True))


def _check_key(report: CheckReport, adata: Any, key: str | None, name: str) -> pd.Series | None:
    if key is None:
        return None
    if key not in adata.obs:
        known = [str(column) for column in adata.obs.columns]
        report.add("error", name, f"no column {key!r} in obs", do=registry.did_you_mean(key, known) if known else "")
        return None
    values = adata.obs[key]
    lost = is_missing(values)
    missing = int(lost.sum())
    sizes = values[~lost].value_counts()
    sizes = sizes[sizes > 0]
    report.facts[name] = {"key": key, "missing": missing, "sizes": {str(k): int(v) for k, v in sizes.items()}}
    text = f"{key!r} has {len(sizes)} values, the smallest with {sizes.min() if len(sizes) else 0} cells"
    if missing:
        do = "nothing, if these cells may be left out where labels or batches are read"
        report.add("warning", name, f"{text}; {missing} cells have none", do=do)
    else:
        report.add("ok", name, text)
    return values
