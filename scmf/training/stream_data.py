"""A run over cells that stay on disk: vocabulary in one pass, tokens made inside the stream, batches for the loop.

Lives here: fitting the tokenizer on the training cells, the cache of tokens, the validation cells. Lives elsewhere:
the tokenizer as an encoder (token_encoder), opening (data.loading.open_corpus), the stream (data.stream).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scmf.core import registry
from scmf.core.config.data import DataConfig, StreamConfig
from scmf.core.config.run import RunConfig, TokenizerConfig, TrainingConfig
from scmf.core.distributed import main_first
from scmf.core.errors import ConfigError, DataError
from scmf.core.files import sha256_json
from scmf.core.paths import cache_dir
from scmf.data.loading.facts import DataFacts
from scmf.data.loading.open_corpus import OpenedCorpus, open_corpus
from scmf.data.preprocess.gene_aligner import GeneAligner
from scmf.data.preprocess.statistics_pass import corpus_statistics, gene_name
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.missing import known_text
from scmf.data.stores.named_genes import named_genes
from scmf.data.stores.ragged import Encoder, Ragged
from scmf.data.stores.token_store import ReadyTokens
from scmf.data.stream.arrange import Arrangement
from scmf.data.stream.plan import Shape
from scmf.data.stream.reader import CellStream, in_order
from scmf.data.tokens.cache import cached_tokens, tokenize_to
from scmf.data.tokens.tokens import BatchesOf
from scmf.tokenizers.build import (
    BATCH_IDS,
    batch_codes,
    batch_names_of,
    given_tokenizer,
    learn_columns,
    most_variable,
    obs_columns,
    refuse_missing_batches,
    tokenizer_shape,
    with_vectors,
)
from scmf.tokenizers.coverage import tell_known_share_of_stores
from scmf.tokenizers.species import keep_orthologs, ortholog_aligner
from scmf.training.data import no_training_cells
from scmf.training.stream_batches import StreamBatches, own_lanes
from scmf.training.token_encoder import TokenEncoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Streamed:
    """Cells on disk and what turns them into batches.

    Parameters
    ----------
    opened
        Corpus, parts, filters.
    tokenizer
        Fitted on the training cells, or built from a published vocabulary.
    encoder
        What the stream calls.
    settings
        The section ``data.stream``.
    """

    opened: OpenedCorpus
    tokenizer: Any
    encoder: Encoder
    settings: StreamConfig

    @property
    def facts(self) -> DataFacts:
        """What the cells are."""
        return self.opened.facts

    @property
    def provenance(self) -> dict[str, Any]:
        """Which cells, split, genes and filters, as a run records it."""
        return self.opened.provenance

    @property
    def n_training(self) -> int:
        """Training cells."""
        return int(self.opened.mask("train").sum())

    @cached_property
    def digest(self) -> str:
        """Digest of what the model is trained on, and in which order."""
        facts = self.facts
        order = self.settings.model_dump(mode="json", exclude={"threads", "cache_tokens", "valid_cells", "max_open_gb"})
        return sha256_json([facts.sha256, facts.split_sha256, dict(facts.removed), self.tokenizer.fingerprint, order])

    def batches(self, training: TrainingConfig) -> BatchesOf:
        """What gives each process its share of the training cells."""
        corpus, settings = self.opened.corpus, self.settings
        how: Arrangement = "length" if training.group_by_length and settings.batches == "shuffle" else settings.batches
        groups = self._groups()
        sampler = self.opened.sampler(settings, seed=training.seed)
        cell_tensors = self.cell_tensors
        shape = Shape(training.batch_size, settings.block_cells, settings.buffer_blocks)
        _refuse_large_buffer(corpus, shape, settings)

        def share(rank: int, world_size: int, lanes: int) -> StreamBatches:
            lanes = min(lanes, self.n_training)  # each has a cell; the same on every number of processes
            own = len(own_lanes(lanes, rank=rank, world_size=world_size))
            _refuse_large_buffer(corpus, shape, settings, buffers=own)

            def lane_of(lane: int) -> CellStream:
                return CellStream(
                    corpus,
                    self.encoder,
                    shape=shape,
                    seed=training.seed,
                    rank=lane,
                    world_size=lanes,
                    sampler=sampler,
                    how=how,
                    groups=groups,
                    cell_tensors=cell_tensors,
                    dtypes={"input_ids": np.int64},
                    threads=max(1, settings.threads // own),
                )

            return StreamBatches(lane_of, lanes=lanes, rank=rank, world_size=world_size)

        return share

    def refuse_missing_batches(self) -> None:
        """Raise `DataError` where a training or validation cell has no batch, for models that read it."""
        rows = self.opened.mask("train") | self.opened.mask("valid")
        if (codes := self.cell_tensors.get(BATCH_IDS)) is not None:
            refuse_missing_batches(codes[rows], key=self.facts.batch_key, where=self.facts.dataset)

    def _groups(self) -> np.ndarray | None:
        """Group of each cell (n_cells,) for batches by group; every training cell must have one."""
        if (column := self.settings.batches_by) is None:
            return None
        groups = self.opened.codes(column)
        if n := int((groups[self.opened.mask("train")] < 0).sum()):
            raise DataError(
                f"{n:,} of {self.n_training:,} training cells have no {column!r}", wanted="the group of every cell",
                where="data.stream.batches_by", fix="fill it in, leave these cells out, or use batches: shuffle",
            )  # fmt: skip
        return groups

    def valid_tokens(self) -> Ragged:
        """At most ``valid_cells`` validation cells, spread evenly, in memory."""
        cells = np.flatnonzero(self.opened.mask("valid"))
        if len(cells) > self.settings.valid_cells:
            cells = cells[np.linspace(0, len(cells) - 1, self.settings.valid_cells).astype(np.int64)]
        keep = np.zeros(self.opened.corpus.n_cells, bool)
        keep[cells] = True
        pad_values = self.encoder.pad_values
        if not len(cells):
            return Ragged(np.zeros(1, np.int64), {name: np.empty(0, np.int32) for name in pad_values}, {}, pad_values)
        batches = in_order(self.opened.corpus, self.encoder, keep)
        tokens = Ragged.joined([batch.ragged(pad_values) for batch in batches])
        return tokens.with_cell_tensors(**{name: values[cells] for name, values in self.cell_tensors.items()})

    @cached_property
    def cell_tensors(self) -> dict[str, np.ndarray]:
        """What columns of ``obs`` add to each cell of the corpus: the tensors of the tokenizer, and the batch."""
        names = self.tokenizer.obs_columns
        columns = {name: self.opened.column(name) for name in names}
        tensors = self.tokenizer.cell_tensors(obs_columns(self.tokenizer, columns))
        if self.facts.batch_key is not None:
            tensors[BATCH_IDS] = batch_codes(known_text(self.opened.column(self.facts.batch_key)))
        return tensors

    @property
    def batch_names(self) -> list[str]:
        """Batches of the corpus, sorted; empty without a batch column."""
        key = self.facts.batch_key
        return [] if key is None else batch_names_of(self.opened.column(key))


def prepare_stream(config: RunConfig) -> Streamed:
    """Open the corpus of ``config.data``, and make the tokenizer (one pass over the training cells where it is fitted).

    Raises
    ------
    ConfigError
        Keys that do not go together.
    DataError
        For anything wrong with the cells.
    """
    settings = config.data.stream or StreamConfig()
    log.info("opening the corpus")
    opened = open_corpus(config.data)
    if not opened.mask("train").any():
        raise no_training_cells(opened.facts)
    with main_first():
        tokenizer = _tokenizer(config, opened)
    if opened.aligner is not None:
        keep_orthologs(tokenizer, opened.other_names)
    opened = with_orthologs(opened, tokenizer)
    columns = {name: opened.column(name) for name in tokenizer.obs_columns}
    learn_columns(tokenizer, obs_columns(tokenizer, columns))
    if config.data.tokens is not None or settings.cache_tokens is not None:
        _refuse_values(tokenizer, config)
    if config.data.tokens is not None:
        return Streamed(opened, tokenizer, ReadyTokens(tokenizer.pad_token_id), settings)
    allow = config.tokenizer.vocabulary == "fit" or config.data.allow_low_coverage
    tell_known_share_of_stores(tokenizer, opened.corpus, opened.aligner, allow=allow)
    encoder = TokenEncoder(tokenizer, aligner=opened.aligner)
    if settings.cache_tokens is None:
        return Streamed(opened, tokenizer, encoder, settings)
    with main_first():
        cached = cached_tokens(opened, encoder, settings.cache_tokens, made_by=encoder.fingerprint)
    return Streamed(cached, tokenizer, ReadyTokens(tokenizer.pad_token_id), settings)


def with_orthologs(opened: OpenedCorpus, tokenizer: Any) -> OpenedCorpus:
    """The corpus on the genes of the tokenizer, where all its stores are of a species that this reads by orthologs."""
    if opened.facts.gene_set is not None or not getattr(tokenizer, "gene_orthologs", {}):
        return opened
    files = named_genes(opened.corpus.stores)
    species = {file.species for file in files}
    aligner = ortholog_aligner(tokenizer, species.pop()) if len(species) == 1 else None
    for file in files if aligner is not None else ():
        aligner.tell_species(file.ids, file.species, where=file.name)  # type: ignore[union-attr]
    return opened if aligner is None else replace(opened, aligner=aligner)


def _refuse_values(tokenizer: Any, config: RunConfig) -> None:
    """Token datasets hold ids alone: a tokenizer that gives more cannot be read back from one."""
    if more := sorted(set(tokenizer.model_input_names) - {"input_ids", "attention_mask"}):
        raise ConfigError(
            f"tokenizer {config.tokenizer.strategy!r} gives {', '.join(more)} besides token ids",
            wanted="token ids alone, which is what token datasets hold",
            where="data.tokens" if config.data.tokens is not None else "data.stream.cache_tokens",
            fix="stream the counts: leave the key out",
        )


def _tokenizer(config: RunConfig, opened: OpenedCorpus) -> Any:
    settings = config.tokenizer
    if settings.vocabulary != "fit":
        return given_tokenizer(settings)
    if config.data.tokens is not None:
        raise ConfigError(
            "ready tokens with vocabulary: fit",
            wanted="the vocabulary the tokens were made with",
            where="tokenizer.vocabulary",
            fix="name its card, such as geneformer-v2, or the folder of the tokenizer",
        )
    keep = opened.mask("train")
    log.info(f"medians of {int(keep.sum()):,} training cells")
    aligner = opened.aligner
    key = sha256_json([opened.provenance, None if aligner is None else aligner.fingerprint])
    state = cache_dir() / "statistics" / f"{key[:16]}.npz"
    state.parent.mkdir(parents=True, exist_ok=True)
    statistics = corpus_statistics(
        opened.corpus,
        keep=None if keep.all() else keep,
        genes=None if aligner is None else panel_genes(opened.corpus, aligner),
        state=state,
    )
    _, medians = statistics.tables(min_cells=settings.min_cells, special_tokens=settings.special_tokens)
    aliases = None if aligner is None else opened.other_names.aliases
    if settings.top_genes is not None:
        log.info(f"highly variable genes of {int(keep.sum()):,} training cells")
        chosen = most_variable(
            opened.corpus, settings.top_genes, keep=None if keep.all() else keep, aligner=aligner
        )  # fmt: skip
        medians = {gene: medians[gene] for gene in map(gene_name, chosen) if gene in medians}
        if not medians:
            raise DataError(
                f"none of the {len(chosen):,} most variable genes is in {settings.min_cells:,} training cells",
                wanted="at least one", where="tokenizer.min_cells", fix="lower min_cells, or raise top_genes",
            )  # fmt: skip
    if settings.all_options.get("vectors") == "fit":
        raise ConfigError(
            "gene vectors fitted on cells that are streamed",
            wanted="a table of gene vectors, or cells in memory",
            where="tokenizer.options.vectors: fit",
            fix="fit them once in memory on a part of the cells and name the saved tokenizer as tokenizer.vocabulary",
        )
    strategy = registry.resolve("tokenizers", settings.strategy)
    shape = with_vectors(tokenizer_shape(settings), sorted(medians))
    return strategy.from_tables(strategy.vocabulary_of(sorted(medians), **shape), medians, aliases, **shape)


def panel_genes(corpus: Corpus, aligner: GeneAligner) -> dict[str, str]:
    """Gene as a store writes it -> gene of the aligner, for all stores."""
    genes: dict[str, str] = {}
    for store in {id(store.genes): store for store in corpus.stores}.values():
        target = aligner.columns(store.genes, where=store.uri).target
        genes.update(
            {name: aligner.genes[at] for name, at in zip(store.genes, target.tolist(), strict=True) if at >= 0}
        )
    return genes


def _refuse_large_buffer(corpus: Corpus, shape: Shape, settings: StreamConfig, *, buffers: int = 1) -> None:
    """Raise where the buffers of a process, one for each of its lanes, are larger than allowed."""
    stored = np.mean([store.lengths[:10_000].mean() for store in corpus.stores if store.n_cells])
    needed = round(buffers * shape.block_cells * shape.buffer_blocks * float(stored) * 8 / 1e9, 6)
    if needed > settings.max_open_gb:
        count = "a buffer" if buffers == 1 else f"each of {buffers} buffers, one for each batch of a step"
        raise ConfigError(
            f"{shape.block_cells * shape.buffer_blocks:,} cells in {count}, {stored:,.0f} values each: {needed:g} GB",
            wanted=f"at most {settings.max_open_gb:g} GB",
            where="data.stream",
            fix="lower buffer_blocks or block_cells, or raise max_open_gb",
        )


def tokenize_files(
    data: DataConfig, out: Path, *, vocabulary: str, max_length: int, special_tokens: bool, columns: Sequence[str] = ()
) -> int:
    """Tokens of the cells of ``data`` as one Hugging Face dataset, for other programs.

    Parameters
    ----------
    data
        The section ``data``.
    out
        The folder to make.
    vocabulary
        A vocabulary card, or a folder with a saved tokenizer.
    max_length, special_tokens
        As in the section ``tokenizer``.
    columns
        Columns of ``obs`` to keep.

    Returns
    -------
    int
        Cells written.
    """
    settings = TokenizerConfig(vocabulary=vocabulary, max_length=max_length, special_tokens=special_tokens)
    tokenizer = given_tokenizer(settings)
    opened = with_orthologs(open_corpus(data), tokenizer)
    tell_known_share_of_stores(tokenizer, opened.corpus, opened.aligner, allow=data.allow_low_coverage)
    return tokenize_to(opened, TokenEncoder(tokenizer, aligner=opened.aligner), out, columns=columns)
