"""Edges read off a model: the three ways, what they must be, and scored end to end."""

import numpy as np
import pytest
import torch

from scmf.core.config.recipe import load_recipe
from scmf.core.config.run import DataConfig
from scmf.core.errors import ConfigError, ModelError
from scmf.data.loading.load import load_cells
from scmf.data.tokens.tokens import padded_tensors
from scmf.evaluation.gene_network.benchmark import GeneNetwork
from scmf.evaluation.gene_network.model_contexts import attention, knockout
from scmf.evaluation.gene_network.model_edges import gene_embedding, gene_vectors, model_edges, token_ids
from scmf.evaluation.gene_network.truth import NetworkTruth
from scmf.models.build import build_model
from scmf.models.checkpoint import load_run_model
from scmf.training.data import prepare
from tests.cli.test_cli import scmf
from tests.fixtures.masked_cells import build as masked_autoencoder


@pytest.fixture
def parts(toy_env):
    """A small untrained encoder, its tokenizer, its cells and their tokens."""
    recipe = load_recipe(toy_env / "recipe.yaml")
    prepared = prepare(recipe.config)
    model = build_model(recipe.config, prepared.tokenizer, seed=0).eval()
    cells = load_cells(DataConfig(dataset=str(recipe.config.data.dataset), split="donor"))
    return model, prepared.tokenizer, cells, prepared.tokens


def test_three_ways_of_a_trained_run_are_scored(toy_env, tmp_path, capsys, monkeypatch):
    code, _, err = scmf(
        capsys, monkeypatch, "train", "--config", toy_env / "recipe.yaml", "--out", tmp_path / "run", "--quiet",
        "--set", "training.max_epochs=1", "--set", "eval.benchmarks=[]",
    )  # fmt: skip
    assert code == 0, err
    cells = load_cells(DataConfig(dataset=str(toy_env / "toy.yaml"), split="donor"))
    genes = cells.var_names.tolist()
    edges = model_edges(*load_run_model(tmp_path / "run"), cells, regulators=genes[:6], targets=genes)
    assert set(edges) == {"gene_embedding", "attention", "knockout"}
    for table in edges.values():
        assert np.isfinite(table["weight"]).all() and (table["weight"] > 0).all() and len(table) > 10
        assert (table["regulator"] != table["target"]).all() and set(table["regulator"]) <= set(genes[:6])
    truth = NetworkTruth("toy", frozenset({(genes[0], genes[8]), (genes[1], genes[9])}), "a toy", "0" * 64)
    scores = list(GeneNetwork(draws=5).run(edges, truth, genes, regulators=genes[:6]))
    assert [score.method for score in scores] == list(edges)
    assert all(0 <= score.metrics["auroc"] <= 1 and score.details["how"] for score in scores)
    # the weights of the run, not those it began with
    saved = load_run_model(tmp_path / "run")
    again = model_edges(*saved, cells, regulators=genes[:6], targets=genes, ways=["gene_embedding"])
    assert list(again) == ["gene_embedding"] and again["gene_embedding"].equals(edges["gene_embedding"])


def test_ways_can_be_chosen_and_what_a_family_cannot_is_said(parts):
    model, tokenizer, cells, _ = parts
    genes = sorted(token_ids(tokenizer, cells))
    ask = {"regulators": genes[:4], "targets": genes}
    assert list(model_edges(model, tokenizer, cells, **ask, ways=["context_embedding"])) == ["context_embedding"]
    with pytest.raises(ConfigError, match="way 'attenton'"):
        model_edges(model, tokenizer, cells, **ask, ways=["attenton"])
    masked = masked_autoencoder(vocab_size=200)
    assert list(model_edges(masked, tokenizer, cells, **ask)) == ["gene_embedding"]
    with pytest.raises(ModelError, match="edges by knockout of scmf_masked_autoencoder"):
        model_edges(masked, tokenizer, cells, **ask, ways=["knockout"])


def test_attention_is_that_of_the_forward_pass_and_the_kernel_is_put_back(parts):
    model, tokenizer, cells, tokens = parts
    ids = token_ids(tokenizer, cells)
    genes = sorted(ids)
    before = model.config._attn_implementation
    one = tokens.select(np.array([0]))
    table = attention(model, one, ids, genes, genes).set_index(["regulator", "target"])["weight"]
    assert model.config._attn_implementation == before
    model.set_attn_implementation("eager")
    batch = padded_tensors(one, np.array([0]))
    with torch.no_grad():
        maps = model(**batch, output_attentions=True).attentions
    mean = torch.stack([layer[0].mean(0) for layer in maps]).mean(0).numpy()
    here = batch["input_ids"][0].tolist()
    names = {token: gene for gene, token in ids.items()}
    a, b = names[here[3]], names[here[5]]
    # the target asks, the regulator is looked at
    assert table[a, b] == pytest.approx(mean[5, 3] * len(here), rel=1e-5)


def test_knock_out_of_a_gene_moves_the_others_and_is_no_draw(parts):
    model, tokenizer, cells, tokens = parts
    ids = token_ids(tokenizer, cells)
    genes = sorted(ids)
    table = knockout(model, tokens, ids, genes[:3], genes)
    assert (table["weight"] >= -1e-6).all() and table["weight"].max() > 0
    assert table.equals(knockout(model, tokens, ids, genes[:3], genes))


def test_gene_vectors_are_the_rows_of_the_input_table(parts):
    model, tokenizer, cells, _ = parts
    ids = token_ids(tokenizer, cells)
    gene = sorted(ids)[0]
    name = next(name for name, token in tokenizer.get_vocab().items() if token == ids[gene])
    vector = gene_vectors(model, tokenizer, [name, "no such gene"])
    assert list(vector) == [name]
    assert np.allclose(vector[name], model.get_input_embeddings().weight[ids[gene]].detach().numpy())
    table = gene_embedding(model, ids, [gene], sorted(ids)).set_index("target")["weight"]
    other = sorted(ids)[1]
    a, b = (model.get_input_embeddings().weight[ids[g]].detach().numpy() for g in (gene, other))
    assert table[other] == pytest.approx(abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-5)
