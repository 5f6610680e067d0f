"""The template of a plugin: installed without a network, trained with, published, and loaded by transformers alone."""

import json
import os
import re
import shutil
import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import torch

from scmf.core import registry
from scmf.core.errors import ConfigError
from scmf.core.yaml import dump_yaml, load_yaml
from scmf.models.checkpoint import family_of
from scmf.models.configuration_wrapped_module import WrappedModuleConfig
from scmf.models.wrapped_module import WrappedModule
from tests import ROOT
from tests.conftest import synthetic_cells
from tests.fixtures.commands import scmf

PLUGIN = ROOT / "docs" / "examples" / "plugin"
DOTTED = "scmf_presence.gene_bag:GeneBag"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder for the Python path with the plugin as pip installs it, and cells."""
    root = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, root / "source", ignore=shutil.ignore_patterns("__pycache__"))
    words = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", root / "site", root / "source")
    done = subprocess.run([sys.executable, "-m", "pip", "install", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    synthetic_cells(60).write_h5ad(root / "cells.h5ad")
    (text,) = re.findall(r"```yaml\n# presence.yaml\n(.*?)```", (PLUGIN / "README.md").read_text(), re.DOTALL)
    (root / "presence.yaml").write_text(text)
    return root


def outside(root, *words, trust=True):
    """Run a command in a process that has the plugin on its path."""
    path = os.pathsep.join([str(root / "site"), str(ROOT)])
    command = [sys.executable, "-m", "scmf", *(["--trust"] if trust else []), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=environment)


def test_an_installed_plugin_is_trained_with_and_published(installed):
    words = ("train", "--config", "presence.yaml", "--out", "run", "--quiet")
    done = outside(installed, *words, trust=False)
    assert done.returncode == 2 and "of the distribution scmf-presence" in done.stderr and "--trust" in done.stderr
    done = outside(installed, *words)
    assert done.returncode == 0, done.stderr
    words = ("publish", "run", "--repo", "lab/presence", "--license", "MIT", "--out", "hub", "--dry-run", "--json")
    done = outside(installed, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    hub = installed / "hub"
    assert {"gene_bag.py", "presence_tokenizer.py", "wrapped_module.py"} <= {path.name for path in hub.iterdir()}
    assert "not gene_bag.py, presence_tokenizer.py" in (hub / "LICENSE").read_text()


@pytest.fixture
def here(installed, monkeypatch):
    """The plugin on the path of this process, trusted."""
    monkeypatch.syspath_prepend(str(installed / "site"))
    monkeypatch.chdir(installed)
    registry._entry_points.cache_clear()
    yield installed
    registry.trust(False)
    registry._entry_points.cache_clear()
    for name in [name for name in sys.modules if name.startswith("scmf_presence")]:
        del sys.modules[name]


def test_a_module_by_its_path_is_trained_embedded_and_read_by_transformers_alone(here, capsys):
    from transformers import AutoModel, AutoTokenizer

    config = load_yaml(here / "presence.yaml")
    config["model"]["architecture"] = DOTTED
    config["training"]["max_steps"] = 2
    (here / "dotted.yaml").write_text(dump_yaml(config))
    assert scmf("--trust", "train", "--config", "dotted.yaml", "--out", "dotted", "--quiet") == 0
    assert scmf("--trust", "embed", "cells.h5ad", "--model", "dotted", "-o", "embedded.h5ad", "--quiet") == 0
    x_ND = ad.read_h5ad("embedded.h5ad").obsm["X_dotted"]
    assert x_ND.shape == (60, 8) and np.isfinite(x_ND).all()
    cells = ad.read_h5ad("cells.h5ad")
    model = AutoModel.from_pretrained(here / "dotted" / "model", trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(here / "dotted" / "model", trust_remote_code=True)
    batch = tokenizer(cells.X, list(cells.var_names), return_tensors="pt")
    batch.pop("length")
    assert np.abs(model.embed(**batch).numpy() - x_ND).max() < 1e-6
    genes = model.generate(**batch, n_genes=3)
    assert genes.shape == (60, 3) and not torch.isin(genes[0], batch["input_ids"][0]).any()


def test_weights_of_a_foreign_class_ask_for_trust(here, capsys):
    if not (here / "run").is_dir():
        assert outside(here, "train", "--config", "presence.yaml", "--out", "run", "--quiet").returncode == 0
    registry.trust(False)
    capsys.readouterr()
    assert scmf("embed", "cells.h5ad", "--model", here / "run", "-o", "x.h5ad", "--json", "--quiet") == 2
    assert "--trust" in json.loads(capsys.readouterr().out)["do"]


class Lacking(torch.nn.Module):
    def forward(self, input_ids, attention_mask):
        return input_ids


class Asking(torch.nn.Module):
    def __init__(self, something):
        super().__init__()

    def forward(self, input_ids, attention_mask, values):
        return input_ids

    def encode(self, input_ids, attention_mask):
        return input_ids


@pytest.mark.parametrize(("kind", "found"), [(Lacking, "Lacking has no encode"), (Asking, "Asking asks for something")])
def test_a_module_that_does_not_fit_is_one_error(kind, found):
    facts = {"vocab_size": 8, "pad_token_id": 0}
    with pytest.raises(ValueError, match=found):
        WrappedModuleConfig.around(kind, facts, {"hidden_dim": 4}, {})
    made = WrappedModuleConfig.around(Asking, facts, {"hidden_dim": 4}, {"something": 1})
    assert made.required_inputs == ["input_ids", "attention_mask", "values"] and made.arguments == {"something": 1}


def test_a_path_that_is_no_class_of_a_network_is_one_error(here):
    registry.trust()
    with pytest.raises(ConfigError):
        family_of("scmf_presence.gene_bag:Nothing")
    assert family_of(DOTTED) is family_of("gene_bag") is WrappedModule
