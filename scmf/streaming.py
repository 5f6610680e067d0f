"""A run over cells that stay on disk: vocabulary in one pass, tokens made inside the stream, batches for the loop.

Lives here: the tokenizer as an encoder of the stream, fitting it on the training cells, the cache of tokens, the
validation cells. Lives elsewhere: opening (data.open_corpus), the stream (data.stream), cells in memory (run).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scmf import plugins
from scmf.config import RunConfig, TokenizerConfig, TrainingConfig
from scmf.config_data import DataConfig, StreamConfig
from scmf.data.corpus import Corpus
from scmf.data.open_corpus import OpenedCorpus, open_corpus
from scmf.data.panel import Panel
from scmf.data.statistics_pass import corpus_statistics
from scmf.data.stores.store import CountBlock
from scmf.data.stores.token_store import ReadyTokens
from scmf.data.stream.arrange import Arrangement
from scmf.data.stream.plan import Shape
from scmf.data.stream.ragged import BadRows, Encoded, Encoder
from scmf.data.stream.reader import CellStream, in_order
from scmf.errors import ConfigError, DataError, from_value_error
from scmf.files import cache_dir, sha256_json
from scmf.token_cache import cached_tokens, tokenise_to
from scmf.training.batches import BatchesOf, TokenCells
from scmf.training.ranks import main_first
from scmf.training.streamed import StreamBatches

Note = Callable[[str], None]


class TokenEncoder:
    """A tokenizer as an encoder of the stream; threads share it.

    Parameters
    ----------
    tokenizer
        Any tokenizer with ``rank(counts, genes, ...)``.
    panel
        Bring the cells onto these genes first; depth is still that of all genes of the cell.
    """

    def __init__(self, tokenizer: Any, *, panel: Panel | None = None) -> None:
        self.tokenizer, self.panel = tokenizer, panel
        self.fill: Mapping[str, float] = {"input_ids": tokenizer.pad_token_id}
        self._dtype = np.int16 if len(tokenizer) <= np.iinfo(np.int16).max else np.int32

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides the tokens of a cell."""
        tokenizer = self.tokenizer
        shape = [tokenizer.max_genes, tokenizer.special_tokens, tokenizer.faithful]
        panel = None if self.panel is None else self.panel.fingerprint
        return sha256_json([tokenizer.get_vocab(), tokenizer.medians, shape, panel])

    def __call__(self, counts: CountBlock, genes: tuple[str, ...]) -> Encoded:
        """See `scmf.data.stream.ragged.Encoder`."""
        totals = None
        if self.panel is not None:
            aligned = self.panel.align(counts, self.panel.columns(genes), in_place=True)
            # float32, as the tokenizer's own sums of float32 counts are
            counts, genes, totals = aligned.counts, self.panel.genes, aligned.n_counts_B.astype(np.float32)
        try:
            ranked = self.tokenizer.rank(counts.csr(), genes, n_counts=totals, dtype=self._dtype, empty="keep")
        except ValueError as error:
            raise from_value_error(DataError, error, where="a block of the stream") from error
        empty = np.flatnonzero(ranked.lengths == (2 if self.tokenizer.special_tokens else 0))
        if len(empty):
            raise BadRows(
                f"{len(empty)} cell(s) without counts in any known gene",
                wanted="counts of at least one gene of the vocabulary in every cell",
                fix="leave such cells out: data.filter.min_genes or min_counts, or a split without them",
                rows=empty,
            )
        return Encoded(ranked.offsets, {"input_ids": ranked.ids}, {})


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
    def facts(self) -> dict[str, Any]:
        """What the cells are, for provenance."""
        return self.opened.facts

    @property
    def n_training(self) -> int:
        """Training cells."""
        return int(self.opened.mask("train").sum())

    @cached_property
    def digest(self) -> str:
        """Digest of what the model is trained on, and in which order."""
        facts = self.opened.facts
        order = self.settings.model_dump(mode="json", exclude={"threads", "cache_tokens", "valid_cells", "max_open_gb"})
        return sha256_json(
            [facts["sha256"], facts["split_sha256"], facts["removed"], self.tokenizer.get_vocab(), order]
        )

    def batches(self, training: TrainingConfig) -> BatchesOf:
        """What gives each process its share of the training cells."""
        corpus, settings = self.opened.corpus, self.settings
        how: Arrangement = "length" if training.group_by_length and settings.batches == "shuffle" else settings.batches
        groups = self.opened.codes(settings.batches_by) if settings.batches_by is not None else None
        copies = self.opened.copies(settings, seed=training.seed)
        shape = Shape(training.batch_size, settings.block_cells, settings.buffer_blocks)
        _refuse_large_buffer(corpus, shape, settings)

        def share(rank: int, world_size: int) -> StreamBatches:
            stream = CellStream(
                corpus,
                self.encoder,
                shape=shape,
                seed=training.seed,
                rank=rank,
                world_size=world_size,
                copies=copies,
                how=how,
                groups=groups,
                dtypes={"input_ids": np.int64},
                threads=settings.threads,
            )
            return StreamBatches(stream)

        return share

    def valid_tokens(self) -> TokenCells:
        """At most ``valid_cells`` validation cells, spread evenly, in memory."""
        cells = np.flatnonzero(self.opened.mask("valid"))
        if len(cells) > self.settings.valid_cells:
            cells = cells[np.linspace(0, len(cells) - 1, self.settings.valid_cells).astype(np.int64)]
        keep = np.zeros(self.opened.corpus.n_cells, bool)
        keep[cells] = True
        parts = list(in_order(self.opened.corpus, self.encoder, keep)) if len(cells) else []
        ids = [np.empty(0, np.int32), *(batch.columns["input_ids"].astype(np.int32) for batch in parts)]
        lengths = [np.zeros(1, np.int64), *(batch.lengths for batch in parts)]
        return TokenCells(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))


def prepare_stream(config: RunConfig, *, progress: bool = True, note: Note = lambda _: None) -> Streamed:
    """Open the corpus of ``config.data``, and make the tokenizer (one pass over the training cells where it is fitted).

    Raises
    ------
    ConfigError
        Keys that do not go together.
    DataError
        For anything wrong with the cells.
    """
    settings = config.data.stream or StreamConfig()
    note("opening the corpus")
    opened = open_corpus(config.data, progress=progress, note=note)
    with main_first():
        tokenizer = _tokenizer(config, opened, progress=progress, note=note)
    if config.data.tokens is not None:
        return Streamed(opened, tokenizer, ReadyTokens(tokenizer.pad_token_id), settings)
    encoder = TokenEncoder(tokenizer, panel=opened.panel)
    if settings.cache_tokens is None:
        return Streamed(opened, tokenizer, encoder, settings)
    with main_first():
        cached = cached_tokens(
            opened, encoder, settings.cache_tokens, made_by=encoder.fingerprint, progress=progress, note=note
        )
    return Streamed(cached, tokenizer, ReadyTokens(tokenizer.pad_token_id), settings)


def _tokenizer(config: RunConfig, opened: OpenedCorpus, *, progress: bool, note: Note) -> Any:
    settings = config.tokenizer
    if settings.vocabulary != "fit":
        return given_tokenizer(settings, progress=progress)
    if config.data.tokens is not None:
        raise ConfigError(
            "ready tokens with vocabulary: fit",
            wanted="the vocabulary the tokens were made with",
            where="tokenizer.vocabulary",
            fix="name its card, such as geneformer-v2, or the folder of the tokenizer",
        )
    keep = opened.mask("train")
    note(f"medians of {int(keep.sum()):,} training cells")
    panel = opened.panel
    key = sha256_json([opened.facts, None if panel is None else panel.fingerprint])
    state = cache_dir() / "statistics" / f"{key[:16]}.npz"
    state.parent.mkdir(parents=True, exist_ok=True)
    statistics = corpus_statistics(
        opened.corpus,
        keep=None if keep.all() else keep,
        genes=None if panel is None else panel_genes(opened.corpus, panel),
        state=state,
    )
    token_ids, medians = statistics.tables(min_cells=settings.min_cells, special_tokens=settings.special_tokens)
    aliases = None if panel is None or panel.mapping is None else panel.mapping.aliases
    strategy = plugins.resolve("tokenizers", settings.strategy)
    return strategy.from_tables(token_ids, medians, aliases, **tokenizer_shape(settings))


def tokenizer_shape(settings: TokenizerConfig) -> dict[str, Any]:
    """What every tokenizer of a configuration is made with, beside its tables."""
    return {
        "max_genes": settings.max_genes,
        "special_tokens": settings.special_tokens,
        "faithful": settings.faithful,
    }


def given_tokenizer(settings: TokenizerConfig, *, progress: bool = True) -> Any:
    """The tokenizer of a vocabulary card, or the one saved in a folder (which must have the shape that is asked for).

    Raises
    ------
    ConfigError
        The saved one has another shape.
    """
    strategy, shape = plugins.resolve("tokenizers", settings.strategy), tokenizer_shape(settings)
    if (Path(settings.vocabulary) / "tokenizer_config.json").is_file():
        saved = strategy.from_pretrained(settings.vocabulary)
        found = {name: getattr(saved, name) for name in shape}
        if found != shape:
            raise ConfigError(
                ", ".join(f"{name} {value}" for name, value in found.items()),
                wanted=", ".join(f"{name} {value}" for name, value in shape.items()),
                where=settings.vocabulary,
                fix="set the keys of `tokenizer` to those of the saved tokenizer",
            )
        return saved
    from scmf.data.vocabulary import load_vocabulary

    tables = load_vocabulary(settings.vocabulary, progress=progress)
    return strategy.from_tables(tables.token_ids, tables.medians, tables.aliases, **shape)


def panel_genes(corpus: Corpus, panel: Panel) -> dict[str, str]:
    """Gene as a store writes it -> gene of the panel, for all stores."""
    genes: dict[str, str] = {}
    for store in {id(store.genes): store for store in corpus.stores}.values():
        target = panel.columns(store.genes, where=store.uri).target
        genes.update({name: panel.genes[at] for name, at in zip(store.genes, target.tolist(), strict=True) if at >= 0})
    return genes


def _refuse_large_buffer(corpus: Corpus, shape: Shape, settings: StreamConfig) -> None:
    stored = np.mean([store.lengths[:10_000].mean() for store in corpus.stores if store.n_cells])
    needed = round(shape.block_cells * shape.buffer_blocks * float(stored) * 8 / 1e9, 6)
    if needed > settings.max_open_gb:
        raise ConfigError(
            f"{shape.block_cells * shape.buffer_blocks:,} cells in a buffer, {stored:,.0f} values each: {needed:g} GB",
            wanted=f"at most {settings.max_open_gb:g} GB",
            where="data.stream",
            fix="lower buffer_blocks or block_cells, or raise max_open_gb",
        )


def tokenise_files(
    data: DataConfig,
    out: Path,
    *,
    vocabulary: str,
    max_genes: int,
    special_tokens: bool,
    columns: Sequence[str] = (),
    progress: bool = True,
    note: Note = lambda _: None,
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
    max_genes, special_tokens
        As in the section ``tokenizer``.
    columns
        Columns of ``obs`` to keep.
    progress
        Show progress bars on stderr.
    note
        Told in a few words what is going on.

    Returns
    -------
    int
        Cells written.
    """
    settings = TokenizerConfig(vocabulary=vocabulary, max_genes=max_genes, special_tokens=special_tokens)
    tokenizer = given_tokenizer(settings, progress=progress)
    opened = open_corpus(data, progress=progress, note=note)
    return tokenise_to(opened, TokenEncoder(tokenizer, panel=opened.panel), out, columns=columns, progress=progress)
