"""A model ready to embed: loaded, with the layer and pooling of its embedding, and the checks of cells for it.

Lives here: what `scmf embed` and `scmf.embed` have in common. Lives elsewhere: the pass over the cells (embed_job),
files (embed_file), an AnnData in memory (embed_adata).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from scmf.core.config.run import EvalConfig, validate
from scmf.core.errors import ConfigError
from scmf.data.loading.open_corpus import OpenedCorpus
from scmf.data.stores.cell_ids import store_marks
from scmf.evaluation.embed_job import EmbedJob, cell_tensors
from scmf.evaluation.made_by import made_by
from scmf.models.checkpoint import load_run_model
from scmf.models.embed import Precision, on_device
from scmf.models.published.names import FoundModel
from scmf.models.run_folder import RunFolder
from scmf.tokenizers.coverage import tell_known_share_of_stores
from scmf.training.stream_data import with_orthologs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedder:
    """A model and how it embeds.

    Parameters
    ----------
    model
        Where it is.
    network, tokenizer
        What was loaded.
    settings
        Layer, pooling, cells in a forward pass.
    precision
        See `scmf.models.embed.embed_tokens`.
    """

    model: FoundModel
    network: Any
    tokenizer: Any
    settings: EvalConfig
    precision: Precision

    @classmethod
    def load(
        cls, found: FoundModel, *, layer: int | None, pooling: str | None, batch_size: int | None, device: str | None,
        precision: Precision,
    ) -> Embedder:  # fmt: skip
        """Load a model; the parameters are those of `scmf.evaluation.embed_file.embed_to_file`."""
        if precision not in get_args(Precision):
            raise ConfigError(
                f"precision={precision!r}", wanted=f"one of {', '.join(get_args(Precision))}", where="scmf embed",
                fix="choose one of these",
            )  # fmt: skip
        log.info("loading the model")
        network, tokenizer = load_run_model(found.folder)
        network = on_device(network, device)
        settings = embedding_settings(found.folder, network, layer=layer, pooling=pooling, batch_size=batch_size)
        return cls(found, network, tokenizer, settings, precision)

    @contextmanager
    def job(
        self, opened: OpenedCorpus, *, batch_key: str | None, allow_low_coverage: bool, piece: int, parts: int = 1
    ) -> Iterator[EmbedJob]:
        """The pass over some cells, after the checks; they are closed behind it.

        Parameters
        ----------
        opened
            The cells.
        batch_key, allow_low_coverage
            As `scmf.evaluation.embed_file.embed_to_file` takes them.
        piece
            Cells of a piece, at most.
        parts
            Processes that share the cells; each has a piece at least.
        """
        corpus = opened.corpus
        try:
            aligner = with_orthologs(opened, self.tokenizer).aligner
            store_marks(corpus)  # refuses ids that are there twice
            tell_known_share_of_stores(self.tokenizer, corpus, aligner, allow=allow_low_coverage)
            tensors = cell_tensors(corpus, self.network, self.tokenizer, self.model.folder, batch_key)
            size = min(piece, -(-corpus.n_cells // parts))
            yield EmbedJob(corpus, aligner, self.network, self.tokenizer, self.settings, self.precision, tensors, size)
        finally:
            corpus.close()

    @property
    def record(self) -> dict[str, Any]:
        """What made the vectors, as ``uns["scmf"]`` says it."""
        asked = self.settings
        return made_by(self.model, layer=asked.embedding_layer, pooling=asked.pooling, precision=self.precision)


def usual_key(found: FoundModel, key: str | None) -> str:
    """The key in ``obsm``: what is asked for, else ``X_<recipe>``."""
    return f"X_{usual_name(found)}" if key is None else key


def usual_name(found: FoundModel) -> str:
    """Name of the recipe that a model was made with, else the name of its folder."""
    if found.recipe:
        return found.recipe
    run = RunFolder.find(found.folder)
    return (found.folder.resolve().name if run is None else Path(str(run.fact("recipe"))).name) or "model"


def embedding_settings(
    model: Path, network: Any, *, layer: int | None, pooling: str | None, batch_size: int | None
) -> EvalConfig:
    """The layer and pooling that are asked for, else those of the run, else those the family was published with."""
    usual_layer, usual_pooling = network.embedding_defaults
    if (run := RunFolder.find(model)) is not None:
        of_run = run.config.eval
        usual_layer, usual_pooling = of_run.embedding_layer, of_run.pooling
    keys = {
        "embedding_layer": usual_layer if layer is None else layer,
        "pooling": usual_pooling if pooling is None else pooling,
    }
    if batch_size is not None:
        keys["batch_size"] = batch_size
    settings: EvalConfig = validate(EvalConfig, keys, where="embed")
    return settings
