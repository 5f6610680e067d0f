"""A copy holds the same cells, a changed file other ones: through the command line, whatever name and times say."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

from scmf.cli.main import app
from scmf.core.config.data import DataConfig
from scmf.data.loading.load import load_cells

GENES = [f"ENSG{i:011d}" for i in range(1, 61)]


def cells(seed=0):
    x = np.random.default_rng(seed).integers(1, 4, (40, len(GENES))).astype(np.float32)
    obs = pd.DataFrame({"cell_type": ["a", "b"] * 20}, index=[f"cell{i}" for i in range(40)])
    return ad.AnnData(sp.csr_matrix(x), obs=obs, var=pd.DataFrame(index=GENES))


def train(config, out, *sets):
    options = [word for one in sets for word in ("--set", one)]
    found = CliRunner().invoke(
        app, ["train", "--config", str(config), "--out", str(out), "--json", "--quiet", *options]
    )
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    cells().write_h5ad("cells.h5ad")
    return tmp_path


def written(folder, data):
    path = folder / "run.yaml"
    path.write_text(
        f"data: {{files: [cells.h5ad]{data}}}\n"
        "tokenizer: {vocabulary: fit, min_cells: 2, max_length: 24}\n"
        "model: {hidden_dim: 8, num_layers: 1, num_heads: 1, ffn_dim: 8}\n"
        "training: {batch_size: 20, max_epochs: 1}\n"
        "eval: {every_n_epochs: 0, benchmarks: []}\n"
    )
    return path


@pytest.mark.parametrize("data", ["", ", stream: {}"])
def test_a_copy_under_another_name_and_time_resumes_the_run(folder, data):
    config = written(folder, data)
    first = train(config, "run")
    assert first.exit_code == 0, first.output
    (folder / "elsewhere").mkdir()
    shutil.copy("cells.h5ad", "elsewhere/staged.h5ad")
    os.utime("cells.h5ad", (1, 1))
    shutil.rmtree("run/model")
    for sets in ((), ("data.files=[elsewhere/staged.h5ad]",)):
        again = train(config, "run", *sets)
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["resumed_from"]


@pytest.mark.parametrize("data", ["", ", stream: {}"])
def test_other_counts_of_equal_size_and_time_are_other_cells(folder, data):
    config = written(folder, data)
    assert train(config, "run").exit_code == 0
    before = Path("cells.h5ad").stat()
    medians = json.loads((folder / "run/model/gene_medians.json").read_text())
    cells(1).write_h5ad("other.h5ad")
    with Path("other.h5ad").open("rb") as source, Path("cells.h5ad").open("r+b") as target:  # the same inode
        target.write(source.read())
    os.utime("cells.h5ad", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = Path("cells.h5ad").stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    refused = train(config, "run")
    assert refused.exit_code == 1 and "another run" in str(refused.exception)
    assert train(config, "new").exit_code == 0
    assert json.loads((folder / "new/model/gene_medians.json").read_text()) != medians


@pytest.mark.parametrize("names", [("a", "b"), ("a/cells", "b/cells")], ids=["other names", "equal names"])
def test_equal_barcodes_have_one_id_in_splits_conversions_and_memory(names, folder):
    files = []
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        files.append(f"{folder / name}.h5ad")
        cells(seed).write_h5ad(files[-1])

    def done(*words):
        found = CliRunner().invoke(app, ["data", *map(str, words)])
        assert found.exit_code == 0, found.output

    done("split", *files, "--strategy", "random", "--out", folder / "split.tsv")
    done("convert", *files, "--out", folder / "zarr", "--quiet")
    split = pd.read_csv(folder / "split.tsv", sep="\t")
    (converted,) = [ad.read_zarr(path) for path in (folder / "zarr").glob("dataset_*")]
    memory = load_cells(DataConfig(files=files, split=f"{folder / 'split.tsv'}"))
    assert set(split["cell_id"]) == set(converted.obs_names) == set(memory.adata.obs_names)
    assert (
        len(split) == 80 and memory.split.tolist() == split.set_index("cell_id").loc[memory.obs.index, "split"].tolist()
    )
