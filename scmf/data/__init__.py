"""AnnData in: cards, sources, gene ids, splits, checks. Knows no tokenizer and no model."""

from __future__ import annotations

from scmf.core.public import public

__getattr__, __dir__, __all__ = public(
    __name__,
    {
        "cards.card": "Card list_cards load_card",
        "cards.sources": "fetch",
        "checks.adata": "check",
        "checks.cards": "check_card",
        "checks.file": "check_file",
        "checks.split": "check_split",
        "genes.gene_sets": "GeneSet load_gene_set",
        "genes.orthologs": "Orthologs load_orthologs",
        "genes.vectors": "GeneVectors load_gene_vectors",
        "genes.vocabulary": "GeneTables load_vocabulary",
        "loading.facts": "DataFacts LoadedCells",
        "loading.labels": "CellLabels",
        "loading.load": "load_cells",
        "loading.open_corpus": "OpenedCorpus open_corpus",
        "preprocess.gene_aligner": "GeneAligner",
        "preprocess.hvg": "highly_variable_genes",
        "splits.findings": "CheckReport Finding",
        "splits.leaks": "audit_leaks",
        "splits.make": "make_split",
        "splits.read": "read_split",
        "stores.adata_files": "read_adata",
        "stores.corpus": "Corpus",
        "stores.memory": "MemoryStore",
        "stores.open": "open_stores",
        "stores.store": "Store",
        "stream.reader": "CellStream",
    },
)
