"""Fixtures that several packages share: synthetic cells, a tiny recipe, the oracle folder."""

import gzip
import os
from collections import Counter
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, settings

from scmf.core import progress
from scmf.core.files import sha256_file
from tests.fixtures.servers import http_files, memory, s3, s3_server  # noqa: F401  (fixtures)

# How fast examples are drawn says something about the machine and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_modifyitems(config, items):
    """Files with the most slow tests first: processes that run side by side then end together.

    Without the tests marked `nightly`, a third of the random examples is drawn too, ten at least.
    """
    if "not nightly" in config.option.markexpr:
        for test in {item.obj for item in items if hasattr(item.obj, "hypothesis")}:
            drawn = test._hypothesis_internal_use_settings
            if not drawn.derandomize:
                fewer = min(drawn.max_examples, max(10, drawn.max_examples // 3))
                test._hypothesis_internal_use_settings = settings(drawn, max_examples=fewer)
    slow = Counter(item.path for item in items for mark in ("slow", "nightly") if item.get_closest_marker(mark))
    items.sort(key=lambda item: -slow[item.path])


def pytest_runtest_setup():
    """Every test begins with bars shown: a command with ``--quiet`` in this process turns them off for good."""
    progress.show(True)


N_GENES = 120
TYPES = ("alpha", "beta", "delta")


def synthetic_cells(n_cells=240, *, seed=0):
    """Raw counts of three cell types with marker genes, two batches and six donors."""
    rng = np.random.default_rng(seed)
    types = rng.integers(len(TYPES), size=n_cells)
    donors = rng.integers(6, size=n_cells)
    rate_TG = rng.gamma(0.4, 2.0, size=(len(TYPES), N_GENES))
    for kind in range(len(TYPES)):
        rate_TG[kind, kind * 12 : kind * 12 + 12] += 8
    depth = rng.lognormal(0, 0.4, size=(n_cells, 1))
    counts = rng.poisson(rate_TG[types] * depth * np.where(donors % 2, 1.0, 1.3)[:, None])
    counts[:, 0] += counts.sum(axis=1) == 0
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.array(TYPES)[types]),
            "study": pd.Categorical(np.where(donors % 2, "one", "two")),
            "donor_id": pd.Categorical([f"d{donor}" for donor in donors]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(1, N_GENES + 1)])
    return ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


CARD = """
name: toy
title: Synthetic cells
kind: cells
organism: Homo sapiens
license: CC0-1.0
citation: made by the tests
files:
  - name: toy.h5ad
    sha256: {sha256}
    sources:
      - {{kind: mirror, path: toy/toy.h5ad}}
n_cells: {n_cells}
n_genes: {n_genes}
counts: X
gene_ids: var_names
label_key: cell_type
batch_key: study
donor_key: donor_id
labels: [alpha, beta, delta]
splits:
  donor:
    file: toy.donor.tsv.gz
    sha256: {split_sha256}
    by: donor_id
    description: two donors held out
    parts: {{train: [d1, d2, d3], valid: [d0], test: [d4, d5]}}
"""

RECIPE = """
identity:
  name: toy
  title: a toy
  paper: none
  doi: none
  code: none
  license: CC0-1.0
  default_variant: tiny
data: {{dataset: {card}, split: donor}}
tokenizer: {{vocabulary: fit, min_cells: 5, max_length: 24}}
model: {{hidden_dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 32}}
training: {{batch_size: 16, max_epochs: 4, lr: 3e-3, warmup_steps: 5}}
eval:
  every_n_epochs: 2
  benchmarks: [annotation]
  batch_size: 32
  knn_neighbors: 5
variants:
  tiny: {{description: tiny, tier: mini}}
"""


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A folder with a mirror, a card, a split and a recipe; SCMF_DATA_DIR points at its mirror."""
    root = tmp_path_factory.mktemp("toy")
    (root / "mirror" / "toy").mkdir(parents=True)
    cells = synthetic_cells()
    cells.write_h5ad(root / "mirror" / "toy" / "toy.h5ad")
    part = cells.obs["donor_id"].map({"d0": "valid", "d4": "test", "d5": "test"}.get)
    table = pd.DataFrame({"cell_id": cells.obs_names, "part": part.astype(object).where(part.notna(), "train")})
    split = root / "toy.donor.tsv.gz"
    split.write_bytes(gzip.compress(table.to_csv(sep="\t", index=False).encode(), mtime=0))
    card = root / "toy.yaml"
    card.write_text(
        CARD.format(
            sha256=sha256_file(root / "mirror" / "toy" / "toy.h5ad"),
            split_sha256=sha256_file(split),
            n_cells=cells.n_obs,
            n_genes=cells.n_vars,
        )
    )
    (root / "recipe.yaml").write_text(RECIPE.format(card=card))
    (root / "expected.yaml").write_text("mini: []\npublished: []\n")
    return root


@pytest.fixture
def toy_env(toy, monkeypatch, tmp_path):
    """The toy with its mirror and an empty cache in the environment."""
    monkeypatch.setenv("SCMF_DATA_DIR", str(toy / "mirror"))
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    return toy


@pytest.fixture(scope="session")
def oracle():
    """Folder with outputs of the official Geneformer code."""
    found = os.environ.get("SCMF_REFERENCE_DIR")
    if not found or not (Path(found) / "geneformer").is_dir():
        pytest.skip("SCMF_REFERENCE_DIR is not set or has no geneformer/")
    return Path(found) / "geneformer"
