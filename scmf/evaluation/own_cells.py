"""The benchmarks of a recipe on its own cells: vectors of the model, of its untrained self and of baselines, scored."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scmf.core.config.recipe import Recipe
from scmf.evaluation.annotation.benchmark import HEAD, Annotation
from scmf.evaluation.baselines import baseline_representations
from scmf.evaluation.integration.benchmark import Integration
from scmf.evaluation.score import CellLabels, Score
from scmf.models.checkpoint import copy_frozen
from scmf.models.embed import embed_tokens
from scmf.training.data import Prepared
from scmf.training.finetune import finetune

log = logging.getLogger(__name__)


def baselines(prepared: Prepared) -> dict[str, np.ndarray]:
    """Vectors of all cells without a model; they depend on the cells and the split alone."""
    log.info("baselines: highly variable genes, principal components")
    threads = torch.get_num_threads()
    vectors = baseline_representations(prepared.cells, prepared.rows("train"))
    torch.set_num_threads(threads)  # thread pools are limited and let go on the way, torch's with them
    return vectors


def representations(
    recipe: Recipe,
    prepared: Prepared,
    model: Any,
) -> dict[str, np.ndarray]:
    """Vectors of all cells by the model: pretrained, and untrained."""
    config = recipe.config
    log.info("embedding cells")
    # The same shape, before any step: for weights trained here, those that training began with.
    torch.manual_seed(config.training.seed)
    untrained = type(model)(deepcopy(model.config))
    copy_frozen(model, untrained)
    return {
        "pretrained": embed_tokens(model, prepared.tokens, settings=config.eval),
        "untrained": embed_tokens(untrained, prepared.tokens, settings=config.eval),
    }


def evaluate(
    recipe: Recipe,
    prepared: Prepared,
    vectors: dict[str, np.ndarray],
    *,
    baselines: dict[str, np.ndarray],
    out: Path,
    score_baselines: bool = True,
) -> Iterator[Score]:
    """Run the benchmarks of ``recipe``; fine-tune from ``out/model`` if the recipe asks for it.

    Parameters
    ----------
    vectors, baselines
        From `representations` and `baselines`.
    out
        Folder of the run.
    score_baselines
        Score the methods without a seed too; once is enough for many seeds.
    """
    scored = {**vectors, **(baselines if score_baselines else {})}
    settings = recipe.config.eval
    truth = CellLabels.of(prepared.cells)
    if "annotation" in settings.benchmarks:
        benchmark = Annotation(knn_neighbors=settings.knn_neighbors)
        log.info("annotation: probes")
        if score_baselines:
            yield benchmark.majority(truth)
        yield from benchmark.run(scored, truth)
        if settings.finetune is not None:
            for method in ("pretrained", "untrained"):
                log.info(f"annotation: fine-tuning a head, {method}")
                started = time.perf_counter()
                predicted = finetune(recipe, prepared, out / "model", out, method=method)
                yield benchmark.scored(predicted, truth, protocol=HEAD, method=method, started=started)
    if "integration" in settings.benchmarks:
        embeddings = {name: x_ND for name, x_ND in scored.items() if name != "hvg"}
        yield from Integration().run(embeddings, truth, unintegrated=baselines["pca"])
