"""Two and four processes with gloo: every cell once over all of them, equal steps, one model, one answer."""

import json

import numpy as np
import pytest
import torch.distributed as dist

from scmf.core.distributed import leave
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.open import open_stores
from scmf.data.stream.plan import Shape
from scmf.data.stream.reader import CellStream
from tests.conftest import synthetic_cells
from tests.fixtures.forked import command, finished, ranks


def work(world, out, *files):
    """One process: its share of two epochs, gathered by the first."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    assert dist.get_world_size() == world
    corpus = Corpus(open_stores(files))
    stream = CellStream(corpus, shape=Shape(16, 4, 8), rank=rank, world_size=world, layout="ragged")
    for epoch in range(2):
        batches = list(stream.epoch(epoch))
        cells = np.concatenate([b.cells for b in batches])
        mine = (len(batches), cells, sum(b.cell_tensors["n_counts"].sum() for b in batches))
        every = [None] * world
        dist.all_gather_object(every, mine)
        if rank == 0:
            np.savez(
                f"{out}/epoch{epoch}.npz", steps=[e[0] for e in every], sizes=[len(e[1]) for e in every],
                cells=np.concatenate([e[1] for e in every]), counts=sum(e[2] for e in every),
            )  # fmt: skip
    dist.barrier()
    leave(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for i, n in enumerate((311, 190)):
        adata = synthetic_cells(n, seed=i)
        adata.obs_names = [f"{i}-{name}" for name in adata.obs_names]
        adata.write_h5ad(folder / f"{i}.h5ad")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_the_cells_of_all_ranks_are_the_corpus_once(folder, tmp_path, world):
    files = [str(folder / "0.h5ad"), str(folder / "1.h5ad")]
    finished(ranks(work, world, str(tmp_path), *files, size=world))
    total = sum(float(synthetic_cells(n, seed=i).X.sum()) for i, n in enumerate((311, 190)))
    orders = []
    for epoch in range(2):
        found = np.load(tmp_path / f"epoch{epoch}.npz")
        assert (np.bincount(found["cells"], minlength=501) == 1).all()
        assert len(set(found["steps"].tolist())) == 1
        assert found["sizes"].max() - found["sizes"].min() <= 1
        assert float(found["counts"]) == total
        orders.append(found["cells"].tolist())
    assert orders[0] != orders[1]


@pytest.mark.slow
def test_train_on_two_ranks_gives_one_answer_and_one_model(folder, tmp_path):
    config = {
        "data": {"files": [str(folder / "*.h5ad")], "stream": {"block_cells": 4, "buffer_blocks": 8}},
        "tokenizer": {"min_cells": 5, "max_length": 40},
        "model": {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16},
        "training": {"max_epochs": 1, "batch_size": 16, "checkpoint_every_n_steps": 5},
        "eval": {"every_n_epochs": 0, "benchmarks": []},
    }
    (tmp_path / "my.yaml").write_text(json.dumps(config))
    words = ("train", "--config", "my.yaml", "--out", "run", "--json", "--quiet")
    here = {"SCMF_CACHE_DIR": str(tmp_path / "cache")}
    answer = json.loads("".join(finished(ranks(command, *words, size=2, folder=tmp_path, environment=here))))
    assert answer["steps"] == 16  # 501 cells on two ranks, 16 a batch
    assert 0 <= answer["data_wait_share"] <= 1
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert [json.loads(line)["step"] for line in (tmp_path / "run/pretraining/log.jsonl").open()] == list(range(1, 17))
