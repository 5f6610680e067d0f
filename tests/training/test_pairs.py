"""Any tokenizer with any model: sensible pairs train, embed and stand alone; others are one clear error."""

import itertools
import json

import numpy as np
import pytest

from scmf.core import registry
from scmf.core.config.recipe import load_recipe
from scmf.core.config.run import EvalConfig
from scmf.core.errors import ConfigError, ModelError
from scmf.models.checkpoint import load_run_model
from scmf.models.embed import embed_tokens
from scmf.tokenizers.build import tokenize
from scmf.training.data import prepare
from scmf.training.pretrain import pretrain
from scmf.training.stream_data import prepare_stream

VALUES = ("binned", "continuous", "gene_embedding")
MODELS = {
    "transformer_encoder": "masked_gene_prediction",
    "generative_transformer": "masked_value_prediction",
    "masked_autoencoder": "read_depth_aware",
    "autoregressive_transformer": "next_gene_prediction",
}
PAIRS = [("rank_value", "transformer_encoder"), *itertools.product(VALUES, MODELS)]


OUTSIDE = """
from dataclasses import dataclass

from scmf.tokenizers.binned import BinnedTokenizer
from scmf.tokenizers.binned_options import BinnedOptions


@dataclass(frozen=True)
class MyOptions(BinnedOptions):
    n_bins: int = 11


class MyTokenizer(BinnedTokenizer):
    Options = MyOptions
"""


def test_the_list_of_pairs_names_every_tokenizer_and_every_model():
    assert {tokenizer for tokenizer, _ in PAIRS} == set(registry.BUILT_IN["tokenizers"])
    assert {model for _, model in PAIRS} == set(MODELS) == set(registry.BUILT_IN["models"])


def options_of(tokenizer, model):
    """What a pair needs besides its names."""
    networks = {
        "generative_transformer": "{cell_embedding: avg-pool}",  # these cells do not begin with <cls>
        "masked_autoencoder": "{decoder_dim: 16, decoder_layers: 1, decoder_heads: 2}",
    }
    tokens = {"continuous": "{order: random}", "gene_embedding": "{order: random, vectors: fit, dimensions: 8}"}
    encoder = {"rank_value": "{}", "binned": "{value_encoding: category, positions: false}"}
    return (
        f"tokenizer.options={tokens.get(tokenizer, '{}')}",
        "model.options="
        + (
            encoder.get(tokenizer, "{value_encoding: continuous, positions: false}")
            if model == "transformer_encoder"
            else networks.get(model, "{}")
        ),
    )


def recipe_of(toy, tokenizer, model, *more):
    return load_recipe(
        toy / "recipe.yaml",
        overrides=(
            f"tokenizer.strategy={tokenizer}",
            f"model.architecture={model}",
            f"training.pretraining_task={MODELS[model]}",
            "training.max_epochs=2",
            *options_of(tokenizer, model),
            *more,
        ),
    )


@pytest.mark.parametrize(("tokenizer", "model"), PAIRS)
def test_a_pair_trains_embeds_and_is_loaded_again(toy_env, tmp_path, tokenizer, model):
    recipe = recipe_of(toy_env, tokenizer, model)
    prepared = prepare(recipe.config)
    network, report = pretrain(recipe, prepared, tmp_path / "run")
    lines = [json.loads(line) for line in report.log.read_text(encoding="utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.isfinite(losses).all() and np.mean(losses[-3:]) < np.mean(losses[:3])
    settings = EvalConfig(embedding_layer=0, pooling="cell", batch_size=32)
    vectors = embed_tokens(network, prepared.tokens, settings=settings)
    assert vectors.shape[0] == prepared.cells.n_obs and np.isfinite(vectors).all()
    again, saved = load_run_model(tmp_path / "run")
    tokens = tokenize(saved, prepared.cells)
    assert np.array_equal(embed_tokens(again, tokens, settings=settings), vectors)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "transformer_encoder"])
def test_a_model_that_reads_values_refuses_ranks_before_it_trains(toy_env, tmp_path, model):
    recipe = recipe_of(toy_env, "rank_value", model)
    prepared = prepare(recipe.config)
    with pytest.raises(ModelError, match="also values"):
        pretrain(recipe, prepared, tmp_path / "run")


def test_a_tokenizer_from_outside_trains_and_is_loaded_again(toy_env, tmp_path, monkeypatch):
    (tmp_path / "outside_binned.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_trusted", True)
    recipe = recipe_of(toy_env, "outside_binned:MyTokenizer", "generative_transformer")
    assert recipe.config.tokenizer.all_options["n_bins"] == 11
    prepared = prepare(recipe.config)
    pretrain(recipe, prepared, tmp_path / "run")
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        _, saved = load_run_model(folder)
        assert type(saved).__name__ == "MyTokenizer" and saved.fingerprint == prepared.tokenizer.fingerprint
    monkeypatch.setattr(registry, "_trusted", False)
    with pytest.raises(ConfigError, match="would run outside_binned:MyTokenizer"):
        load_run_model(tmp_path / "run")


def test_an_objective_of_another_model_is_refused(toy_env, tmp_path):
    recipe = recipe_of(toy_env, "binned", "transformer_encoder", "training.pretraining_task=next_gene_prediction")
    with pytest.raises(ModelError, match="objective 'next_gene_prediction'"):
        pretrain(recipe, prepare(recipe.config), tmp_path / "run")


@pytest.mark.parametrize("tokenizer", ["binned", "continuous"])
def test_streamed_tokens_with_values_are_those_of_memory(toy_env, tokenizer):
    memory = prepare(recipe_of(toy_env, tokenizer, "generative_transformer").config)
    file = toy_env / "mirror" / "toy" / "toy.h5ad"
    more = (f"data.files=[{file}]", f"data.split={toy_env / 'toy.donor.tsv.gz'}", "data.stream={block_cells: 16}")
    recipe = recipe_of(toy_env, tokenizer, "generative_transformer", *more)
    streamed = prepare_stream(recipe.config)
    assert streamed.tokenizer.get_vocab() == memory.tokenizer.get_vocab()
    ours, theirs = streamed.valid_tokens(), memory.valid_tokens()
    assert set(ours.columns) == set(theirs.columns) == {"input_ids", "values"}
    for name in ours.columns:
        assert np.array_equal(ours.columns[name], theirs.columns[name])
