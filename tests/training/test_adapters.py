"""LoRA, DoRA and IA3 in every family: they are used, they are the merged network, and peft alone reads them."""

import json

import numpy as np
import pytest
import torch

from scmf.core import manifest
from scmf.core.config.training import FinetuneConfig
from scmf.core.errors import ConfigError, MissingExtraError
from scmf.data.tokens.tokens import padded_tensors
from scmf.experiments.finetune_recipe import FinetuneRequest
from scmf.models.checkpoint import load_run_model
from scmf.tokenizers.build import tokenize
from scmf.training import adapters
from scmf.training.adapters import save_adapter
from scmf.training.data import load_cells
from scmf.training.finetune import Classifier
from tests.fixtures.tiny_runs import FAMILIES, tiny  # noqa: F401  (fixture)

CLASSES = ["alpha", "beta", "delta"]
BASE = {"name": "lab/base", "weights_sha256": {"model.safetensors": "0" * 64}}


@pytest.fixture(scope="module")
def batches(tiny):  # noqa: F811
    """A padded batch of the cells for the network of a family."""
    cells = load_cells(FinetuneRequest("x", str(tiny.cells)).recipe().config.data)
    made = {}

    def batch(family):
        if family not in made:
            _, tokenizer = load_run_model(tiny(family))
            made[family] = padded_tensors(tokenize(tokenizer, cells), np.arange(12))
        return made[family]

    return batch


def logits(model, batch):
    model.eval()
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("method", adapters.PEFT_METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_and_base_are_the_merged_network(family, method, tiny, batches, tmp_path):  # noqa: F811
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification

    settings, batch = FinetuneConfig(method=method), batches(family)
    folder = tiny(family) / "model"
    made = Classifier.of(folder, CLASSES, settings, seed=0)
    trained = {name: value for name, value in made.model.named_parameters() if value.requires_grad}
    head = [name for name in trained if "lora" not in name and "ia3" not in name]
    assert head and all("modules_to_save" in name for name in head)
    assert all(name.startswith(("classifier", "fc1", "norm", "bert.pooler")) for name in head), head
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in trained.values():
            value.add_(torch.randn(value.shape, generator=rng) * 0.2)
    made.model.train()
    labels = torch.arange(12) % 3
    for _ in range(2):  # statistics of the head move, those of the base do not
        made.model(**batch, labels=labels).loss.backward()
    idle = {name for name, value in trained.items() if value.grad is None or not value.grad.any()}
    assert len(trained) > 4 and not {name for name in idle if "lora" in name or "ia3" in name}
    assert made.trained_parameters == sum(value.numel() for value in trained.values())
    adapted = logits(made.model, batch)
    save_adapter(made.adapted, tmp_path / "adapter", base=BASE)
    merged = made.merged()
    assert not [name for name, _ in merged.named_parameters() if "lora" in name or "modules_to_save" in name]
    head = {"num_labels": 3, "classifier_pooling": settings.pooling}
    base = AutoModelForSequenceClassification.from_pretrained(folder, **head)
    before = logits(base, batch)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.allclose(logits(loaded, batch), adapted, atol=1e-6)
    assert torch.allclose(logits(merged, batch), adapted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, adapted, atol=1e-3)
    assert json.loads((tmp_path / "adapter" / "provenance.json").read_text()) == {
        "base_model": "lab/base", "base_weights_sha256": BASE["weights_sha256"]
    }  # fmt: skip
    assert not manifest.damage(tmp_path / "adapter")


def test_frozen_layers_get_no_adapter(tiny):  # noqa: F811
    pytest.importorskip("peft")
    settings = FinetuneConfig(method="lora", freeze_layers=1, rank=2)
    made = Classifier.of(tiny() / "model", CLASSES, settings, seed=0)
    names = [name for name, _ in made.model.named_parameters() if "lora_A" in name]
    assert names and not [name for name in names if ".layer.0." in name]
    assert {value.shape[0] for name, value in made.model.named_parameters() if "lora_A" in name} == {2}
    with pytest.raises(ConfigError, match="no layer for an adapter, 2 being frozen"):
        Classifier.of(tiny() / "model", CLASSES, FinetuneConfig(method="lora", freeze_layers=2), seed=0)


def test_without_peft_the_extra_is_named(tiny, monkeypatch):  # noqa: F811
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError) as caught:
        Classifier.of(tiny() / "model", CLASSES, FinetuneConfig(method="dora"), seed=0)
    assert caught.value.fix == 'pip install "scmodelforge[finetune]"'


def test_the_rate_follows_the_method_unless_it_is_given():
    assert FinetuneConfig().lr == 5e-5 and FinetuneConfig(method="frozen").lr == 1e-3
    assert FinetuneConfig(method="lora").lr == 5e-4 and FinetuneConfig(method="lora", lr=0.1).lr == 0.1
