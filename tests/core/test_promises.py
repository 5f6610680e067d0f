"""What the project's proposal promises of a configuration: each key or value is read, or refused by a clear error.

The proposal's own file is run by tests/cli/test_proposal.py. What the keys do is tested where it is done; here stands
that nobody who writes them meets an unknown key.
"""

import pytest
from typer.testing import CliRunner

from scmf.cli.main import app
from scmf.core import registry
from scmf.core.config.run import RunConfig, apply_overrides, validate
from scmf.core.errors import ConfigError

FILES = {"files": ["a.h5ad"]}
READ = {
    # data
    "h5ad files": {"data": FILES},
    "remote files, lazily": {"data": {"files": ["s3://bucket/a.h5ad"], "stream": {}}},
    "Census": {"data": {"source": "cellxgene_census", "organism": "mus_musculus", "filters": {"tissue": "lung"}}},
    "library size": {"data": {**FILES, "preprocessing": {"normalize": "library_size"}}},
    "log1p": {
        "data": {**FILES, "preprocessing": {"normalize": "log1p"}}, "tokenizer": {"strategy": "continuous_projection"}
    },
    "variable genes": {"data": {**FILES, "preprocessing": {"hvg_selection": 2000}}},
    "batch-aware sampling": {"data": {**FILES, "stream": {"batches": "stratify", "batches_by": "donor"}}},
    "balanced sampling": {"data": {**FILES, "stream": {"balance": {"by": "tissue"}}}},
    "a cached step": {"data": {**FILES, "stream": {"cache_tokens": "tokens"}}},
    "one gene index, intersection with a vocabulary": {"data": {**FILES, "gene_set": "geneformer-v2"}},
    "Ensembl ids or symbols": {"data": {**FILES, "gene_ids": "feature_id"}},
    "species mapping": {"data": {**FILES, "gene_set": "human_protein_coding", "orthologs": "one2one"}},
    # tokenizers
    **{f"tokenizer {name}": {"tokenizer": {"strategy": name}} for name in (
        "rank_value", "binned_expression", "continuous_projection", "gene_embedding"
    )},
    "vectors of language models or GO": {"tokenizer": {"strategy": "gene_embedding", "options": {"vectors": "genept"}}},
    # models
    **{f"model {name}": {"model": {"architecture": name, "num_layers": 2, "hidden_dim": 8}} for name in (
        "transformer_encoder", "autoregressive_transformer", "masked_autoencoder"
    )},
    # training
    **{f"precision {name}": {"training": {"precision": name}} for name in ("32-true", "bf16-mixed", "16-mixed")},
    "accumulation, checkpoints, dashboards": {
        "training": {"gradient_accumulation": 2, "checkpoint_every_n_steps": 5, "trackers": ["wandb", "tensorboard"]}
    },
    # evaluation
    "benchmarks of the own cells": {
        "eval": {"every_n_epochs": 2, "benchmarks": ["cell_type_annotation", "batch_integration"]}
    },
    "benchmarks with a dataset": {"eval": {"benchmarks": [
        {"cell_type_annotation": {"dataset": "tabula_sapiens"}}, {"batch_integration": {"dataset": "immune_atlas"}},
        {"perturbation_prediction": {"dataset": "norman", "split": "combinations"}},
        {"gene_network_inference": {"dataset": "pancreas", "split": "donor"}},
    ]}},
}  # fmt: skip
REFUSED = {
    "scran": ({"data": {**FILES, "preprocessing": {"normalize": "scran"}}}, "one of library_size, log1p, none"),
    "log1p of ranks": (
        {"data": {**FILES, "preprocessing": {"normalize": "log1p"}}},
        "ranks counts without a logarithm",
    ),
    "any nn.Module": ({"model": {"architecture": "package.module:Own"}}, "--trust"),
}
COMMANDS = {
    ("train",): ("--config", "--set", "--out"),
    ("reproduce",): ("--record", "--check"),
    ("compare",): ("--out", "--results"),
    ("publish",): ("--out",),
    ("evaluate",): ("--tasks", "--config"),
    ("embed",): ("--key", "--output"),
    ("data", "convert"): ("--genes", "--out"),
    ("data", "hvg"): ("--flavor", "--split"),
}


@pytest.mark.parametrize("name", READ)
def test_a_promise_is_read(name):
    validate(RunConfig, {"data": FILES, **READ[name]}, where="here")


@pytest.mark.parametrize("name", REFUSED)
def test_a_promise_that_is_not_kept_is_one_clear_error(name):
    sections, said = REFUSED[name]
    with pytest.raises(ConfigError, match=said) as error:
        validate(RunConfig, {"data": FILES, **sections}, where="here")
    assert error.value.fix


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_there(words):
    said = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert said.exit_code == 0 and all(option in said.output for option in COMMANDS[words])


def test_every_family_of_tokenizer_and_model_can_be_combined_in_a_file():
    for strategy in registry.names("tokenizers"):
        for architecture in registry.names("models"):
            texts = [f"tokenizer.strategy={strategy}", f"model.architecture={architecture}"]
            found = validate(RunConfig, apply_overrides({"data": FILES}, texts), where="here")
            assert (found.tokenizer.strategy, found.model.architecture) == (strategy, architecture)
