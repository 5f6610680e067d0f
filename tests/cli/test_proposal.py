"""The configuration of the project's proposal, byte for byte: it trains and evaluates where the machine has the cells.

The cells are a small Census of the real layout. What makes the run small is named: `SMALL`; what this machine cannot
give is one message with the override that runs.
"""

import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest

from scmf.core.config.recipe import load_recipe
from scmf.core.config.training import TrainingConfig
from scmf.core.errors import ScmfError
from scmf.core.files import sha256_file
from scmf.data.genes.gene_sets import load_gene_set
from tests import ROOT
from tests.conftest import CARD, synthetic_cells
from tests.fixtures.commands import scmf
from tests.fixtures.mini_census import N_CELLS, N_GENES, build

pytest.importorskip("tiledbsoma")

PROPOSAL = ROOT / "tests" / "fixtures" / "proposal.yaml"
PROCESSES = {"strategy", "num_gpus"} <= set(TrainingConfig.model_fields)
"""Whether the schema has the keys by which a run starts its processes; without them their two lines are left out."""
ONE_PROCESS = ("training.num_gpus=0",) if PROCESSES else ()
SMALL = ("model.hidden_dim=16", "model.num_layers=1", "model.num_heads=2", "model.ffn_dim=16", "training.max_epochs=2")
"""Overrides that shrink the network and the number of epochs."""
TISSUES = ["lung", "heart", "liver", "blood"]


def sets(*texts):
    return [word for text in texts for word in ("--set", text)]


def of_today(text):
    return text if PROCESSES else re.sub(r"(?m)^ *(strategy(?=\W+ddp)|num_gpus).*\n", "", text)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file; a copy of it only where two of its lines have to be left out."""
    if PROCESSES:
        return PROPOSAL
    path = tmp_path_factory.mktemp("file") / "proposal.yaml"
    path.write_text(of_today(PROPOSAL.read_text()))
    return path


@pytest.fixture(scope="module")
def genes():
    """Ids of real protein-coding genes."""
    try:
        return list(load_gene_set("human_protein_coding").genes[:N_GENES])
    except ScmfError as error:
        pytest.skip(f"the annotation cannot be had here: {error.found}")


@pytest.fixture(scope="module")
def census(genes, tmp_path_factory):
    columns = {"tissue": pd.Categorical(np.resize(TISSUES, N_CELLS))}
    return build(tmp_path_factory.mktemp("census") / "soma", columns=columns, genes=genes)


@pytest.fixture(scope="module")
def card(genes, tmp_path_factory):
    """Path of a card with cells for the benchmarks, and one split."""
    root = tmp_path_factory.mktemp("card")
    cells = synthetic_cells(120)
    cells.var_names = genes[: cells.n_vars]
    (root / "toy").mkdir()
    cells.write_h5ad(root / "toy" / "toy.h5ad")
    part = cells.obs["donor_id"].astype(str).map({"d0": "valid", "d4": "test", "d5": "test"}).fillna("train")
    table = pd.DataFrame({"cell_id": cells.obs_names, "part": part})
    split = root / "toy.donor.tsv.gz"
    split.write_bytes(gzip.compress(table.to_csv(sep="\t", index=False).encode(), mtime=0))
    sums = {"sha256": sha256_file(root / "toy" / "toy.h5ad"), "split_sha256": sha256_file(split)}
    path = root / "toy.yaml"
    path.write_text(CARD.format(**sums, n_cells=cells.n_obs, n_genes=cells.n_vars))
    return path


@pytest.fixture(scope="module")
def here(card):
    """Overrides that name benchmarks and processes that are to be had here."""
    one, two = (f"{{{name}: {{dataset: {card}}}}}" for name in ("cell_type_annotation", "batch_integration"))
    return (f"eval.benchmarks=[{one}, {two}]", *ONE_PROCESS)


@pytest.fixture(scope="module")
def run(file, census, here, tmp_path_factory):
    """The trained run, in the folder that it has without --out."""
    root = tmp_path_factory.mktemp("proposal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("SCMF_CACHE_DIR", str(root / "cache"))
        words = sets(f"data.census.uri={census.uri}", *here, *SMALL)
        assert scmf("train", "--config", file, *words) == 0
    (found,) = (root / "runs").iterdir()
    return found


def test_every_key_is_read(file):
    config = load_recipe(file).config
    assert config.data.census.organism == "homo_sapiens" and config.data.census.primary_only
    assert config.data.census.value_filter == "tissue in ['lung', 'heart', 'liver']"
    assert (config.data.gene_set, config.tokenizer.strategy) == ("human_protein_coding", "rank_value")
    assert (config.tokenizer.top_genes, config.tokenizer.max_length) == (2000, 2048)
    assert (config.model.architecture, config.model.hidden_dim) == ("transformer_encoder", 512)
    assert (config.model.num_layers, config.model.num_heads) == (12, 8)
    training = config.training
    assert (training.pretraining_task, training.mask_ratio) == ("masked_gene_prediction", 0.15)
    assert (training.batch_size, training.max_epochs, training.lr) == (64, 10, 1e-4)
    assert training.precision == "bf16-mixed"
    if PROCESSES:
        assert (training.strategy, training.num_gpus) == ("ddp", 4)
    assert config.eval.every_n_epochs == 2 and config.eval.benchmarks == ()
    assert config.eval.tasks == ("annotation:tabula_sapiens", "integration:immune_atlas")


@pytest.mark.slow
def test_it_trains_on_the_cells_of_the_filter_with_its_genes(run, census, genes):
    note = json.loads((run / "run.json").read_text())
    obs = census.obs
    kept = obs["tissue"].isin(["lung", "heart", "liver"]) & obs["is_primary_data"]
    assert note["provenance"]["data"]["n_cells"] == int(kept.sum())
    assert note["provenance"]["data"]["census_version"] == "2026-01-01"
    vocabulary = json.loads((run / "model" / "tokenizer_config.json").read_text())
    assert vocabulary["max_length"] == 2048
    log = [json.loads(line) for line in (run / "pretraining" / "log.jsonl").read_text().splitlines()]
    scored = {key for line in log for key in line if ":" in key}
    assert any(key.startswith("annotation:") and key.endswith("macro_f1") for key in scored)
    assert any(key.startswith("integration:") for key in scored)


@pytest.mark.nightly  # test_cli evaluates a run, the recipes of .ci/run score both benchmarks
def test_it_evaluates_on_the_benchmarks_of_the_file(run, capsys):
    assert scmf("evaluate", run, "--json", "--quiet") == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["benchmark"].partition(":")[0] for one in found} == {"annotation", "integration"}
    assert {one["method"] for one in found} >= {"pretrained", "untrained"}


@pytest.mark.slow
def test_the_folder_of_a_run_is_named_by_configuration_and_time(run):
    assert run.name.startswith("proposal-20") and len(run.name) == len("proposal-20260101-000000")


# --- what this machine or the cards cannot give -----------------------------------------------------


def test_cards_that_need_a_download_are_one_message_with_the_override_that_runs(
    file, census, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = sets(f"data.census.uri={census.uri}", *ONE_PROCESS, *SMALL)
    code, said = command("train", "--config", file, *words)
    assert code == 3 and "CELLxGENE Discover" in said and "Open Problems" in said
    assert "annotation:tabula_sapiens" in said and "integration:immune_atlas" in said
    assert "--set 'eval.benchmarks=[]' --set 'eval.tasks=[]'" in said
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    run_words = sets("eval.benchmarks=[]", "eval.tasks=[]", "training.max_steps=1")
    code, said = command("train", "--config", file, *words, *run_words, "--out", tmp_path / "run")
    assert code == 0, said


def test_an_unknown_card_is_one_message_too(file, census, command, tmp_path):
    words = sets(f"data.census.uri={census.uri}", *ONE_PROCESS, "eval.tasks=[]")
    for entry in ("{cell_type_annotation: {dataset: pancras}}", "{annotations: {dataset: pancreas, split: donor}}"):
        code, said = command(
            "train", "--config", file, *words, *sets(f"eval.benchmarks=[{entry}]"), "--out", tmp_path / "run"
        )
        assert code == 2 and ("did you mean" in said or "known" in said) and "--set 'eval.benchmarks=[]'" in said


@pytest.mark.skipif(not PROCESSES, reason="the schema has no key for GPUs")
def test_four_gpus_that_are_not_there_are_one_message(file, census, here, command, tmp_path):
    import torch

    if torch.cuda.device_count() >= 4:
        pytest.skip("this machine has four GPUs")
    words = sets(f"data.census.uri={census.uri}", *here[:1], *SMALL)
    code, said = command("train", "--config", file, *words, "--out", tmp_path / "run")
    assert code != 0 and "training.num_gpus" in said and "4" in said


def test_the_same_file_in_toml_is_the_same_recipe(file, tmp_path):
    text = """
[data]
source = "cellxgene_census"
organism = "homo_sapiens"
filters = { tissue = ["lung", "heart", "liver"], is_primary_data = true }
preprocessing = { normalize = "library_size", hvg_selection = 2000 }
[tokenizer]
strategy = "rank_value"
max_genes = 2048
gene_vocab = "human_protein_coding"
[model]
architecture = "transformer_encoder"
hidden_dim = 512
num_layers = 12
num_heads = 8
pretraining_task = "masked_gene_prediction"
mask_ratio = 0.15
[training]
batch_size = 64
max_epochs = 10
precision = "bf16-mixed"
strategy = "ddp"
num_gpus = 4
lr = 1e-4
[eval]
every_n_epochs = 2
[[eval.benchmarks]]
cell_type_annotation = { dataset = "tabula_sapiens" }
[[eval.benchmarks]]
batch_integration = { dataset = "immune_atlas" }
"""
    (tmp_path / "proposal.toml").write_text(of_today(text))
    assert load_recipe(tmp_path / "proposal.toml").config == load_recipe(file).config
