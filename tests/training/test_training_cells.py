"""Which cells a run trains, validates, fine-tunes and predicts on, how many tokens it hides, and where it began."""

import json

import anndata as ad
import numpy as np
import pytest
import torch

from scmf.core.config.recipe import load_recipe
from scmf.evaluation.submissions.model import ModelSubmission
from scmf.models.generative_transformer import GenerativeTransformerModel
from scmf.models.transformer_encoder import TransformerEncoderForMaskedLM
from scmf.training import finetune as finetuning
from scmf.training.data import prepare
from scmf.training.objectives.cell_classification import CellClassification
from scmf.training.objectives.masked_gene import MaskedGenePrediction
from scmf.training.pretrain import pretrain
from scmf.training.stream_data import prepare_stream

TRAIN, VALID, TEST = ("d1", "d2", "d3"), ("d0",), ("d4", "d5")
STANDING_STILL = ("training.lr=1e-30", "training.weight_decay=0", "training.max_steps=1")
CONTINUOUS = (
    "tokenizer.strategy=gene_embedding", "model.architecture=autoregressive_transformer",
    "training.pretraining_task=next_gene_prediction",
    "tokenizer.options={order: random, vectors: fit, dimensions: 8}",
)  # fmt: skip


def recipe_of(toy, *overrides):
    return load_recipe(toy / "recipe.yaml", overrides=("training.max_epochs=1", *overrides))


def donors_of(toy):
    """Donor of each cell, read from the file without our code."""
    return ad.read_h5ad(toy / "mirror" / "toy" / "toy.h5ad").obs["donor_id"].astype(str).to_numpy()


def types_of(toy):
    return ad.read_h5ad(toy / "mirror" / "toy" / "toy.h5ad").obs["cell_type"].astype(str).to_numpy()


def rows_of(batch):
    """Tokens of each cell of a padded batch."""
    return [
        tuple(ids[mask.bool()].tolist())
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]  # fmt: skip


def tokens_of(prepared):
    offsets, ids = prepared.tokens.offsets, prepared.tokens.columns["input_ids"]
    return [tuple(ids[a:b].tolist()) for a, b in zip(offsets[:-1], offsets[1:], strict=True)]


@pytest.fixture
def seen(monkeypatch):
    """Cells that the objective is given, in order, as tokens."""
    found, whole = [], MaskedGenePrediction.prepare

    def prepare_(self, batch, generator):
        found.extend(rows_of(batch))
        return whole(self, batch, generator)

    monkeypatch.setattr(MaskedGenePrediction, "prepare", prepare_)
    return found


@pytest.mark.parametrize("streamed", [False, True])
def test_training_and_validation_cells_are_those_of_the_split(toy_env, tmp_path, seen, streamed):
    memory = prepare(recipe_of(toy_env).config)
    tokens, donors = tokens_of(memory), donors_of(toy_env)
    assert len(set(tokens)) == len(tokens), "tokens tell these cells apart"
    file = toy_env / "mirror" / "toy" / "toy.h5ad"
    more = (
        f"data.files=[{file}]", f"data.split={toy_env / 'toy.donor.tsv.gz'}", "data.stream={block_cells: 16}",
        "eval.benchmarks=[]",
    )  # fmt: skip
    recipe = recipe_of(toy_env, *(more if streamed else ()))
    pretrain(recipe, prepare_stream(recipe.config) if streamed else memory, tmp_path / "run")

    of = {part: [tokens[i] for i in np.flatnonzero(np.isin(donors, part))] for part in (TRAIN, VALID)}
    trained, validated = seen[: -len(of[VALID])], seen[-len(of[VALID]) :]
    assert sorted(validated) == sorted(of[VALID])
    assert set(trained) == set(of[TRAIN]) and len(trained) == len(of[TRAIN])


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_the_network_is_shown_as_many_masks_as_the_recipe_says(toy_env, tmp_path, monkeypatch, ratio):
    labels, eligible, whole = 0, 0, TransformerEncoderForMaskedLM.forward

    def forward(self, **batch):
        nonlocal labels, eligible
        labels += int((batch["labels"] >= 0).sum())
        eligible += int(batch["attention_mask"].sum())
        return whole(self, **batch)

    monkeypatch.setattr(TransformerEncoderForMaskedLM, "forward", forward)
    recipe = recipe_of(toy_env, f"training.mask_ratio={ratio}", "tokenizer.special_tokens=false")
    pretrain(recipe, prepare(recipe.config), tmp_path / "run")
    assert labels / eligible == pytest.approx(ratio, abs=4 * np.sqrt(ratio * (1 - ratio) / eligible))


def test_the_network_is_shown_as_many_hidden_values_as_the_recipe_says(toy_env, tmp_path, monkeypatch):
    counts, whole = [], GenerativeTransformerModel.forward

    def forward(self, **batch):
        if "target_mask" in batch:
            counts.extend(
                zip(batch["target_mask"].sum(1).tolist(), batch["attention_mask"].sum(1).tolist(), strict=True)
            )
        return whole(self, **batch)

    monkeypatch.setattr(GenerativeTransformerModel, "forward", forward)
    recipe = recipe_of(
        toy_env, "tokenizer.strategy=binned", "model.architecture=generative_transformer", "training.mask_ratio=0.4",
        "training.pretraining_task=masked_value_prediction", "model.options={cell_embedding: avg-pool}",
        "tokenizer.special_tokens=false", "training.max_steps=3",
    )  # fmt: skip
    pretrain(recipe, prepare(recipe.config), tmp_path / "run")
    assert len(counts) >= 48
    assert all(hidden == int(0.4 * n) for hidden, n in counts)


# --- where a run began ----------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [(), CONTINUOUS])
def test_the_untrained_network_is_what_training_began_with(toy_env, tmp_path, overrides):
    recipe = recipe_of(toy_env, *STANDING_STILL, "training.seed=3", "eval.every_n_epochs=0", *overrides)
    prepared = prepare(recipe.config)
    model, _ = pretrain(recipe, prepared, tmp_path / "run")
    for submission in (
        ModelSubmission.of_folder(tmp_path / "run"),
        ModelSubmission.of_recipe(recipe, model, prepared, tmp_path / "run"),
    ):
        untrained = submission.untrained.state_dict()
        assert untrained.keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(untrained[name], tensor), name


def test_given_gene_vectors_are_those_of_the_untrained_network_too(toy_env, tmp_path):
    recipe = recipe_of(toy_env, "training.max_steps=3", "eval.every_n_epochs=0", *CONTINUOUS)
    prepared = prepare(recipe.config)
    model, _ = pretrain(recipe, prepared, tmp_path / "run")
    network = ModelSubmission.of_folder(tmp_path / "run").untrained
    given = torch.as_tensor(np.asarray(prepared.tokenizer.vectors), dtype=torch.float32)
    table = network.get_input_embeddings().weight
    assert torch.equal(table[: len(given)], given)
    moved = [n for n, t in model.state_dict().items() if not torch.equal(t, network.state_dict()[n])]
    assert moved and not any(name.endswith("gene_embeddings.embedding.weight") for name in moved)


# --- the fine-tuned head --------------------------------------------------------------------------------


@pytest.fixture
def heads(toy_env, tmp_path, monkeypatch):
    """A function that fine-tunes; it gives the cells with classes that were trained on, the network, the labels."""
    recipe = recipe_of(
        toy_env, "training.max_steps=2", "eval.every_n_epochs=0", "training.seed=5",
        "eval.finetune={max_epochs: 1, lr: 0.01}",
    )  # fmt: skip
    prepared = prepare(recipe.config)
    pretrain(recipe, prepared, tmp_path / "run")
    trained, networks, starts = [], [], []
    whole, loop = CellClassification.prepare, finetuning.train

    def prepare_(self, batch, generator):
        trained.extend(zip(rows_of(batch), batch["labels"].tolist(), strict=True))
        return whole(self, batch, generator)

    def train(model, *arguments, **keywords):
        networks.append(model)
        starts.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return loop(model, *arguments, **keywords)

    monkeypatch.setattr(CellClassification, "prepare", prepare_)
    monkeypatch.setattr(finetuning, "train", train)

    def tune(method, out="out"):
        trained.clear()
        labels = finetuning.finetune(recipe, prepared, tmp_path / "run" / "model", tmp_path / out, method=method)
        return list(trained), networks[-1], starts[-1], labels

    tune.prepared, tune.folder = prepared, tmp_path / "run" / "model"
    return tune


def test_a_head_learns_the_labels_of_the_training_cells_and_predicts_those_of_the_test_cells(toy_env, heads):
    trained, network, _, labels = heads("pretrained")
    tokens, donors, types = tokens_of(heads.prepared), donors_of(toy_env), types_of(toy_env)
    classes = ("alpha", "beta", "delta")
    wanted = [(tokens[i], classes.index(types[i])) for i in np.flatnonzero(np.isin(donors, TRAIN))]
    assert sorted(trained) == sorted(wanted)
    network.eval()
    one_by_one = []
    with torch.no_grad():
        for i in np.flatnonzero(np.isin(donors, TEST)):
            ids = torch.tensor([tokens[i]])
            logits = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            one_by_one.append(classes[int(logits.argmax())])
    assert labels.tolist() == one_by_one


def test_a_head_begins_with_the_weights_or_with_none_of_them_but_the_seed(toy_env, heads):
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification

    _, _, pretrained, _ = heads("pretrained")
    _, network, untrained, _ = heads("untrained", "two")
    saved = load_file(heads.folder / "model.safetensors")
    shared = [name for name in saved if name in pretrained]
    assert len(shared) > 10
    assert all(torch.equal(pretrained[name], saved[name]) for name in shared)
    torch.manual_seed(5)
    fresh = AutoModelForSequenceClassification.from_config(network.config).state_dict()
    assert all(torch.equal(untrained[name], tensor) for name, tensor in fresh.items())
    assert any(not torch.equal(untrained[name], saved[name]) for name in shared)


def test_an_untrained_head_keeps_the_given_gene_vectors(toy_env, tmp_path):
    recipe = recipe_of(toy_env, "training.max_steps=2", "eval.every_n_epochs=0", *CONTINUOUS)
    prepared = prepare(recipe.config)
    pretrain(recipe, prepared, tmp_path / "run")
    classes = ["alpha", "beta", "delta"]
    model = finetuning._classifier(tmp_path / "run" / "model", classes, pooling="mean", pretrained=False, seed=0)
    given = torch.as_tensor(np.asarray(prepared.tokenizer.vectors), dtype=torch.float32)
    assert torch.equal(model.get_input_embeddings().weight[: len(given)], given)


def test_the_note_of_a_run_says_its_seed(toy_env, tmp_path):
    recipe = recipe_of(toy_env, *STANDING_STILL, "training.seed=3", "eval.every_n_epochs=0")
    pretrain(recipe, prepare(recipe.config), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["seed"] == 3
