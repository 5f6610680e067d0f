"""Fine-tuning: a cell-type head on a pretrained network, or on the same network from random weights.

Lives here: `finetune`. Lives elsewhere: the loop (loop), the scores of the predictions (evaluation).
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scmf.core.config.recipe import Recipe
from scmf.core.config.run import TrainingConfig
from scmf.core.distributed import agreed
from scmf.core.errors import ConfigError, ModelError, from_value_error
from scmf.core.files import sha256_json
from scmf.core.locks import one_writer
from scmf.data.loading.labels import CellLabels
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import PerEpochTokens
from scmf.models.checkpoint import copy_frozen, load_weights, read_config
from scmf.models.embed import classify_tokens
from scmf.models.run_folder import RunFolder
from scmf.tokenizers.build import (
    training_tokens,
)
from scmf.training.data import Prepared
from scmf.training.loop import train
from scmf.training.objectives.cell_classification import CellClassification


def finetune(recipe: Recipe, prepared: Prepared, folder: Path, out: Path, *, method: str) -> np.ndarray:
    """Fine-tune a cell-type head and predict labels.

    Parameters
    ----------
    folder
        Weights that give the shape and, for ``pretrained``, the start.
    method
        ``pretrained``, or ``untrained``: the same network and budget from random weights, which shows how much of the
        score is due to pretraining.

    Returns
    -------
    numpy.ndarray
        Labels of the test cells, str (n_test,).
    """
    settings = recipe.config.eval.finetune
    if settings is None:
        raise ConfigError("eval.finetune is null", wanted="a section", where="eval.finetune", fix="set its keys")
    truth, seed = CellLabels.of(prepared.cells), recipe.config.training.seed
    truth.check_trained_labels()
    truth.check_classes()
    rows, test = truth.rows("train"), truth.rows("test")
    classes, labels = np.unique(truth.labels[rows], return_inverse=True)
    torch.manual_seed(seed)
    model = _classifier(
        folder, classes.tolist(), pooling=settings.pooling, pretrained=method == "pretrained", seed=seed
    )
    model.freeze_first(settings.freeze_layers)
    loop = TrainingConfig(
        **settings.model_dump(exclude={"freeze_layers", "pooling"}),
        precision=recipe.config.training.precision,
        seed=seed,
    )
    weights = {name: value.double().sum().item() for name, value in model.state_dict().items()}
    folder_of_head = RunFolder(out).finetuning(method)
    with ExitStack() as stack:
        agreed(lambda: stack.enter_context(one_writer(folder_of_head, "fine-tuning a head")), share=False)
        train(
            model,
            _with_labels(prepared, rows, labels),
            objective=CellClassification(),
            settings=loop,
            out=folder_of_head,
            digest=sha256_json([recipe.digest, seed, prepared.digest, weights]),
            evaluate_every=0,
        )
    logits_NC = classify_tokens(
        model,
        prepared.tokens.select(test),
        batch_size=recipe.config.eval.batch_size,
    )
    return classes[logits_NC.argmax(axis=1)]


def _with_labels(prepared: Prepared, rows: np.ndarray, labels: np.ndarray) -> Ragged | PerEpochTokens:
    """The cells ``rows`` with their classes, tokenized again in each epoch where the tokenizer is stochastic."""
    tokens = training_tokens(prepared.tokenizer, prepared.cells, prepared.tokens, rows)
    labels = np.asarray(labels, np.int64)
    if isinstance(tokens, Ragged):
        return tokens.with_cell_tensors(labels=labels)
    draw = tokens.draw
    return PerEpochTokens(lambda epoch: draw(epoch).with_cell_tensors(labels=labels))


def _classifier(folder: Path, classes: list[str], *, pooling: str, pretrained: bool, seed: int) -> Any:
    from transformers import AutoModelForSequenceClassification

    head = {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
        "classifier_pooling": pooling,
    }
    try:
        trained = load_weights(AutoModelForSequenceClassification, folder, **head)
    except ValueError as error:
        raise from_value_error(ModelError, error, where="eval.finetune") from error
    if pretrained:
        return trained
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(read_config(folder, **head))
    copy_frozen(trained, model)
    return model
