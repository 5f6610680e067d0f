"""Fine-tuning: a cell-type head on a pretrained network, or on the same network from random weights.

Lives here: the classifier, its training, the labels it gives for an evaluation (`finetune`). Lives elsewhere: a run of
its own that is kept (finetune_run), what of the network is trained (adapters), which epoch is kept (selection), the
loop (loop), the scores of the predictions (evaluation).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scmf.core.config.recipe import Recipe
from scmf.core.config.run import FinetuneConfig, TrainingConfig
from scmf.core.distributed import agreed
from scmf.core.errors import ConfigError, ModelError, from_value_error
from scmf.core.files import peek_object, sha256_json
from scmf.core.locks import one_writer
from scmf.data.loading.labels import CellLabels
from scmf.data.stores.ragged import Ragged
from scmf.data.tokens.tokens import PerEpochTokens
from scmf.models.checkpoint import class_names, copy_frozen, is_classifier, load_weights, read_config
from scmf.models.embed import classify_tokens
from scmf.models.run_folder import RunFolder
from scmf.tokenizers.build import (
    training_tokens,
)
from scmf.training.adapters import PEFT_METHODS, add_adapters, freeze_all_but_head
from scmf.training.data import Prepared
from scmf.training.loop import TrainingReport, train
from scmf.training.objectives.cell_classification import CellClassification
from scmf.training.selection import BestEpoch, last_epoch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classifier:
    """A network with a head for classes, ready to be trained as a method says.

    Parameters
    ----------
    model
        The network, trained in place.
    classes
        Names of the classes, sorted.
    adapted
        What saves and merges adapters; None without.
    fingerprint
        Sums of the weights before training, by name.
    """

    model: Any
    classes: tuple[str, ...]
    adapted: Any
    fingerprint: dict[str, float]

    @classmethod
    def of(
        cls, folder: Path, classes: Sequence[str], settings: FinetuneConfig, *, seed: int, pretrained: bool = True
    ) -> Classifier:
        """The classifier on the weights in ``folder``, or on the same network from random weights.

        Raises
        ------
        ModelError
            The weights have no classifier, or one for other classes.
        ConfigError
            More layers are to be frozen than there are.
        """
        torch.manual_seed(seed)
        model = _classifier(folder, list(classes), pooling=settings.pooling, pretrained=pretrained, seed=seed)
        fingerprint = {name: value.double().sum().item() for name, value in model.state_dict().items()}
        try:
            model.freeze_first(settings.freeze_layers)
        except ValueError as error:
            raise from_value_error(ConfigError, error, where="eval.finetune.freeze_layers") from error
        adapted = None
        if settings.method in PEFT_METHODS:
            adapted = add_adapters(model, settings)
        elif settings.method == "frozen":
            freeze_all_but_head(model)
        return cls(model, tuple(classes), adapted, fingerprint)

    @property
    def trained_parameters(self) -> int:
        """Weights that training moves."""
        return sum(value.numel() for value in self.model.parameters() if value.requires_grad)

    def merged(self) -> Any:
        """The network with what adapters learned put into its weights."""
        return self.model if self.adapted is None else self.adapted.merge_and_unload()


@dataclass(frozen=True)
class Examples:
    """The cells a head learns from and is chosen by.

    Parameters
    ----------
    classes
        Labels of the training cells, sorted.
    train_rows, labels
        The training cells, and the class of each.
    valid_rows, valid_labels
        The validation cells that have one of these labels, and the class of each.
    left_out
        Cells that take no part, by reason.
    """

    classes: tuple[str, ...]
    train_rows: np.ndarray
    labels: np.ndarray
    valid_rows: np.ndarray
    valid_labels: np.ndarray
    left_out: dict[str, int]

    @classmethod
    def of(cls, truth: CellLabels) -> Examples:
        """The training and validation cells among cells with labels and parts."""
        rows, valid = truth.rows("train"), truth.rows("valid")
        classes, labels = np.unique(truth.labels[rows], return_inverse=True)
        known = np.isin(truth.labels[valid], classes)
        left_out = dict(truth.left_out)
        left_out.pop("without_batch", None)
        if n := int((~known).sum()):
            left_out["validation_label_not_trained"] = n
        valid_labels = np.searchsorted(classes, truth.labels[valid[known]])
        return cls(tuple(classes.tolist()), rows, labels, valid[known], valid_labels, left_out)

    def weights(self, how: str) -> tuple[float, ...]:
        """How much a cell of each class counts: empty for ``none``; ``balanced``: inverse to the size of the class."""
        if how == "none":
            return ()
        counts_C = np.bincount(self.labels, minlength=len(self.classes))
        return tuple((len(self.labels) / (len(self.classes) * counts_C)).tolist())


def fit(
    classifier: Classifier,
    prepared: Prepared,
    examples: Examples,
    *,
    settings: FinetuneConfig,
    loop: TrainingConfig,
    out: Path,
    digest: str,
) -> tuple[TrainingReport, dict[str, Any]]:
    """Train a classifier in place, and leave it with the weights that are to be kept.

    Returns
    -------
    tuple
        What the loop did, and by which rule the weights were chosen.
    """
    n_valid = len(examples.valid_rows)
    best = None if settings.patience is None or not n_valid else BestEpoch(out, settings.patience)
    valid = None
    if best is not None:
        valid = prepared.tokens.select(examples.valid_rows)
        valid = valid.with_cell_tensors(labels=np.asarray(examples.valid_labels, np.int64))
    report = train(
        classifier.model,
        _with_labels(prepared, examples.train_rows, examples.labels),
        objective=CellClassification(weights=examples.weights(settings.class_weights)),
        settings=loop,
        out=out,
        digest=digest,
        valid=valid,
        evaluate_every=0 if best is None else 1,
        best=best,
    )
    if best is None:
        return report, last_epoch("no patience was given" if settings.patience is None else "no validation cells")
    best.load(classifier.model)
    return report, best.rule(n_cells=n_valid, max_epochs=loop.max_epochs)


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
    examples = Examples.of(truth)
    classifier = Classifier.of(folder, examples.classes, settings, seed=seed, pretrained=method == "pretrained")
    loop = TrainingConfig(**settings.loop, precision=recipe.config.training.precision, seed=seed)
    folder_of_head = RunFolder(out).finetuning(method)
    with ExitStack() as stack:
        agreed(lambda: stack.enter_context(one_writer(folder_of_head, "fine-tuning a head")), share=False)
        fit(
            classifier,
            prepared,
            examples,
            settings=settings,
            loop=loop,
            out=folder_of_head,
            digest=sha256_json([recipe.digest, seed, prepared.digest, classifier.fingerprint]),
        )
    logits_NC = classify_tokens(
        classifier.model,
        prepared.tokens.select(truth.rows("test")),
        batch_size=recipe.config.eval.batch_size,
    )
    return np.array(classifier.classes)[logits_NC.argmax(axis=1)]


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
    _refuse_other_classes(folder, classes)
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


def _refuse_other_classes(folder: Path, classes: list[str]) -> None:
    """A classifier can be trained further for its own classes alone: its head means nothing for others."""
    config = peek_object(folder / "config.json") or {}
    if is_classifier(config) and (known := class_names(read_config(folder))) != classes:
        raise ModelError(
            f"a classifier of {len(known)} classes: {', '.join(known[:6])}",
            wanted=f"a pretrained network, or a classifier of the {len(classes)} labels of the training cells",
            where=folder,
            fix="give the model that it was fine-tuned from",
        )
