"""The section ``data`` of every YAML file: which cells, and how they reach the trainer.

Lives here: keys, units, defaults. Lives elsewhere: the other sections (run), what a key does (scmf.data.loading).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from scmf.core.config.section import Section
from scmf.core.redact import file_name, remember


def _texts(value: Any) -> Any:
    """Paths become text, so that ``s3://bucket/key`` keeps its slashes; one name becomes a list of one."""
    if isinstance(value, str | Path):
        value = [value]
    if isinstance(value, list | tuple):
        return [str(item) if isinstance(item, Path) else item for item in value]
    return value


class CensusConfig(Section):
    """Cells of CELLxGENE Census, or of another SOMA experiment, streamed."""

    organism: str = "homo_sapiens"
    """Organism as the Census names it."""
    value_filter: str | None = None
    """Filter on ``obs``, for example ``tissue_general == 'lung' and assay == "10x 3' v3"``."""
    primary_only: bool = True
    """Leave out cells that another dataset of the Census holds too (``is_primary_data``)."""
    version: str = "stable"
    """Release of the Census; ``stable`` is resolved to a date, and the date is recorded."""
    uri: str | None = None
    """A copy on this machine or on S3 instead of the public release."""


class FilterConfig(Section):
    """Cells that take part. Fitted on nothing: each cell is judged alone."""

    min_genes: int = Field(0, ge=0)
    """Genes with a count, at least."""
    min_counts: float = Field(0, ge=0)
    """Counts of a cell, at least."""
    max_counts: float | None = Field(None, gt=0)
    """Counts of a cell, at most."""
    max_mito_percent: float | None = Field(None, ge=0, le=100)
    """Share of mitochondrial counts, at most."""

    @property
    def active(self) -> bool:
        """Whether anything is filtered."""
        return self != FilterConfig()


class BalanceConfig(Section):
    """Groups in other shares than those of the corpus."""

    by: str
    """Column of ``obs``, such as ``tissue``, ``assay`` or ``donor_id``."""
    power: float = Field(0.0, ge=0, le=1)
    """A group of n cells gets a share proportional to n to this power: 0 makes groups equal, 1 is the corpus."""
    weights: dict[str, float] | None = None
    """Group -> relative weight, instead of ``power``; groups that are not named do not come."""


class StreamConfig(Section):
    """Read cells from disk in shuffled blocks, whatever the size of the corpus, instead of holding them in memory."""

    block_cells: int = Field(64, ge=1)
    """Neighboring cells read together; more is faster and mixes less."""
    buffer_blocks: int = Field(256, ge=1)
    """Blocks shuffled together; more mixes better and takes more memory."""
    threads: int = Field(2, ge=1)
    """Threads that read and tokenize."""
    balance: BalanceConfig | None = None
    """Sample groups in other shares; null takes every cell once an epoch."""
    batches: Literal["shuffle", "group", "stratify"] = "shuffle"
    """``group``: batches of one group; ``stratify``: every batch holds the groups in equal shares."""
    batches_by: str | None = None
    """Column of ``obs`` for ``group`` and ``stratify``."""
    cache_tokens: Path | None = None
    """Tokenize once into this folder (Hugging Face datasets, Arrow) and stream the tokens; later epochs are faster."""
    valid_cells: int = Field(2000, ge=0)
    """Validation cells held in memory, spread evenly over the validation part."""
    max_open_gb: float = Field(1.0, gt=0)
    """Refuse a buffer larger than this (block_cells x buffer_blocks x mean stored values x 8 bytes)."""

    @model_validator(mode="after")
    def _column_for_groups(self) -> StreamConfig:
        if self.batches != "shuffle" and self.batches_by is None:
            raise ValueError(f"`batches: {self.batches}` needs `batches_by`, a column of obs")
        return self


class DataConfig(Section):
    """Which cells, which labels, which split."""

    dataset: str | None = None
    """Name of a dataset card, or a path to one."""
    files: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    """Your own files instead of ``dataset``: .h5ad, .zarr, folders of them, patterns, s3://, gs://, https://."""
    split: str | None = None
    """Name of a split of the card (for example ``donor``), or a path to a TSV with columns cell_id and split."""
    counts: str = "auto"
    """Where the raw counts are: ``X``, ``raw.X``, ``layers/<name>``, or ``auto`` to look for them."""
    counts_rounding: Literal["error", "round", "accept"] = "error"
    """Counts with fractions (SoupX, CellBender, alevin): ``error``, ``round`` or ``accept``. Normalized ones never."""
    allow_low_coverage: bool = False
    """Take cells of whose genes or counts a given vocabulary knows less than 20 %."""
    gene_ids: str = "auto"
    """Where the gene ids are: ``var_names``, a column of ``var``, or ``auto``."""
    label_key: str | None = None
    """Column of ``obs`` with cell-type labels; the card names it when this is null."""
    batch_key: str | None = None
    """Column of ``obs`` with the batch (study); the card names it when this is null."""
    census: CensusConfig | None = None
    """Cells of CELLxGENE Census, instead of ``dataset`` and ``files``. Always streamed."""
    tokens: Path | None = None
    """A folder of tokenized cells (Hugging Face datasets with ``input_ids``), instead of cells. Always streamed."""
    storage_options: dict[str, str | bool | int] = {}
    """Credentials and addresses of remote stores, such as ``endpoint_url``; the environment is read too."""
    gene_set: str | None = None
    """Keep to these genes: ``human_protein_coding``, a vocabulary card, or a file with gene ids; null keeps all."""
    orthologs: Literal["one2one", "sum"] | None = None
    """Take mouse genes to human ones of ``gene_set``: pairs of one gene each, or all mouse genes added up."""
    filter: FilterConfig = FilterConfig()
    """Quality filters."""
    stream: StreamConfig | None = None
    """Read from disk in shuffled blocks; null loads all cells into memory."""

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        given = [name for name in ("dataset", "files", "census", "tokens") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "give either `dataset` (a card) or `files` (your own), `census` or `tokens`, and not several"
                + (f": {', '.join(given)} are given" if given else "; nothing is given")
            )
        return self

    @model_validator(mode="after")
    def _orthologs_need_genes(self) -> DataConfig:
        if self.orthologs is not None and self.gene_set is None:
            raise ValueError("`orthologs` needs `gene_set`, such as human_protein_coding")
        return self

    @model_validator(mode="after")
    def _keep_secrets(self) -> DataConfig:
        census = self.census.uri if self.census is not None and self.census.uri else ""
        remember(self.storage_options, [*self.files, self.dataset or "", self.split or "", census])
        return self

    @property
    def file_names(self) -> tuple[str, ...]:
        """Names of ``files`` without folders and credentials."""
        return tuple(file_name(file) for file in self.files)

    @property
    def streamed(self) -> bool:
        """Whether cells are read from disk in blocks."""
        return self.stream is not None or self.census is not None or self.tokens is not None
