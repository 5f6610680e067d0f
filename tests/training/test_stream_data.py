"""Training from disk: the tokens of the stream are those of memory, a run goes on exactly, bad cells are named."""

import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

from scmf.core.config.recipe import load_recipe
from scmf.core.config.run import RunConfig
from scmf.core.errors import ConfigError, DataError
from scmf.data.loading.facts import DataFacts
from scmf.data.loading.open_corpus import OpenedCorpus
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from scmf.data.stores.ragged import BadRows
from scmf.data.tokens.cache import cached_tokens, tokenize_to
from scmf.tokenizers.rank_value import RankValueTokenizer
from scmf.training.data import prepare
from scmf.training.pretrain import pretrain
from scmf.training.stream_data import prepare_stream
from scmf.training.token_encoder import TokenEncoder
from tests.conftest import synthetic_cells

TRAINING = {"max_epochs": 2, "batch_size": 16, "lr": 1e-3, "group_by_length": False}
MODEL = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16}


@pytest.fixture(scope="module")
def adata():
    return synthetic_cells(300)


@pytest.fixture(scope="module")
def tokenizer(adata):
    return RankValueTokenizer.fit(adata.X, adata.var_names, min_cells=5, max_length=40, special_tokens=False)


@pytest.fixture(scope="module")
def folder(adata, tmp_path_factory):
    """Two files with permuted genes, and a split of both."""
    folder = tmp_path_factory.mktemp("cells")
    rng = np.random.default_rng(0)
    adata[:180].write_h5ad(folder / "a.h5ad")
    adata[180:, rng.permutation(adata.n_vars)].copy().write_h5ad(folder / "b.h5ad")
    parts = rng.choice(["train", "train", "valid", "test"], adata.n_obs)
    rows = "".join(f"{cell}\t{part}\n" for cell, part in zip(adata.obs_names, parts, strict=True))
    (folder / "split.tsv").write_text("cell_id\tpart\n" + rows)
    return folder


def config(folder, **stream):
    raw = {
        "data": {
            "files": [str(folder / "a.h5ad"), str(folder / "b.h5ad")],
            "split": str(folder / "split.tsv"),
            "stream": {"block_cells": 4, "buffer_blocks": 8, **stream},
        },
        "tokenizer": {"min_cells": 5, "max_length": 40},
        "model": MODEL,
        "training": TRAINING,
        "eval": {"every_n_epochs": 1, "benchmarks": []},
    }
    return RunConfig.model_validate(raw)


def rows_of(streamed, *, epoch=0):
    """Cell -> tokens, as the batches of an epoch hold them."""
    share = streamed.batches(config_training())(0, 1, 1)
    rows = {}
    for batch in share.streams[0].epoch(epoch):
        for cell, n, ids in zip(batch.cells, batch.lengths, batch.columns["input_ids"], strict=True):
            rows[int(cell)] = ids[:n].tolist()
    return rows


def config_training():
    from scmf.core.config.run import TrainingConfig

    return TrainingConfig(**TRAINING)


def test_streamed_tokens_vocabulary_and_parts_are_those_of_memory(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path))
    streamed = prepare_stream(config(folder))
    raw = config(folder).model_dump()
    raw["data"]["stream"] = None
    held = prepare(RunConfig.model_validate(raw))
    assert streamed.tokenizer.get_vocab() == held.tokenizer.get_vocab()
    rows = rows_of(streamed)
    assert sorted(rows) == held.rows("train").tolist()
    medians = held.tokenizer.medians
    assert all(abs(streamed.tokenizer.medians[gene] / medians[gene] - 1) < 1e-12 for gene in medians)
    # Ties stand in the order of the columns, which differs between the files: each file by itself, as officially.
    files = [ad.read_h5ad(folder / name) for name in ("a.h5ad", "b.h5ad")]
    ranked = [held.tokenizer.rank(file.X, file.var_names) for file in files]
    expected = [row.tolist() for part in ranked for row in np.split(part.ids, part.offsets[1:-1])]
    assert rows == {cell: expected[cell] for cell in rows}
    valid = streamed.valid_tokens()
    assert [row.tolist() for row in np.split(valid.columns["input_ids"], valid.offsets[1:-1])] == [
        expected[cell] for cell in held.rows("valid")
    ]


@pytest.mark.parametrize("gene_set", [False, True], ids=["all genes", "gene set"])
def test_the_most_variable_genes_of_a_stream_are_those_of_memory(folder, adata, monkeypatch, tmp_path, gene_set):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path))
    raw = config(folder).model_dump()
    raw["tokenizer"]["top_genes"] = 20
    if gene_set:  # half of the genes, in another order, one that no file has
        (tmp_path / "genes.txt").write_text("\n".join([*adata.var_names[90:30:-1], "ENSG00000009999"]))
        raw["data"]["gene_set"] = str(tmp_path / "genes.txt")
    streamed = prepare_stream(RunConfig.model_validate(raw))
    raw["data"]["stream"] = None
    held = prepare(RunConfig.model_validate(raw))
    assert 15 < len(streamed.tokenizer.medians) <= 20  # those in fewer than min_cells have no token
    assert streamed.tokenizer.get_vocab() == held.tokenizer.get_vocab()
    assert streamed.tokenizer.fingerprint == held.tokenizer.fingerprint


def test_cached_tokens_are_the_tokens_of_the_stream(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    plain = prepare_stream(config(folder))
    cached = prepare_stream(config(folder, cache_tokens=str(tmp_path / "tokens")))
    assert rows_of(cached) == rows_of(plain)
    again = prepare_stream(config(folder, cache_tokens=str(tmp_path / "tokens")))
    assert rows_of(again) == rows_of(plain)


def test_a_killed_cache_goes_on_with_the_first_part_that_is_missing(adata, tokenizer, tmp_path, monkeypatch):
    corpus = Corpus([MemoryStore(adata)])
    opened = OpenedCorpus(corpus, None, None, None, DataFacts("x", "0" * 64))
    encoder = TokenEncoder(tokenizer)
    whole = cached_tokens(opened, encoder, tmp_path / "whole", made_by="me", cells_per_part=70)
    calls = []

    def dying(self, counts, genes):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return TokenEncoder.__call__(self, counts, genes)

    killed = type("Dying", (TokenEncoder,), {"__call__": dying})(tokenizer)
    with pytest.raises(KeyboardInterrupt):
        cached_tokens(opened, killed, tmp_path / "cache", made_by="me", cells_per_part=70)
    assert 0 < len(list((tmp_path / "cache").glob("part-*"))) < 5
    after = cached_tokens(opened, encoder, tmp_path / "cache", made_by="me", cells_per_part=70)
    spans = np.array([[0, adata.n_obs]])
    ours, theirs = ([store.read(np.array([[0, store.n_cells]])) for store in of.corpus.stores] for of in (after, whole))
    assert after.corpus.n_cells == whole.corpus.n_cells == spans[0, 1]
    for one, other in zip(ours, theirs, strict=True):
        assert (one.indices == other.indices).all()
        assert (one.indptr == other.indptr).all()


def test_a_cache_of_other_cells_is_refused(adata, tokenizer, tmp_path):
    def opened(cells):
        return OpenedCorpus(Corpus([MemoryStore(cells)]), None, None, None, DataFacts("x", "0" * 64))

    cached_tokens(opened(adata), TokenEncoder(tokenizer), tmp_path / "cache", made_by="me")
    with pytest.raises(DataError, match="tokens of other cells"):
        fewer = opened(adata[:100].copy())
        cached_tokens(fewer, TokenEncoder(tokenizer), tmp_path / "cache", made_by="me")


@pytest.mark.parametrize("more", [{"balance": {"by": "donor_id"}}, {"batches": "group", "batches_by": "donor_id"}])
def test_cached_tokens_are_sampled_by_the_columns_of_their_cells(folder, monkeypatch, tmp_path, more):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))

    def cells_of(**stream):
        share = prepare_stream(config(folder, **stream)).batches(config_training())(0, 1, 1)
        return [batch.cells.tolist() for batch in share.streams[0].epoch(0)]

    assert cells_of(**more, cache_tokens=str(tmp_path / "tokens")) == cells_of(**more)


@pytest.mark.parametrize("change", ["tokenizer.max_length=30", "data.gene_set={genes}"])
def test_a_cache_made_with_other_settings_is_refused(folder, monkeypatch, tmp_path, change):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "genes.txt").write_text("\n".join(synthetic_cells(1).var_names[:80]))
    (tmp_path / "my.yaml").write_text(
        json.dumps(config(folder, cache_tokens=str(tmp_path / "tokens")).model_dump(mode="json"))
    )
    prepare_stream(load_recipe(tmp_path / "my.yaml").config)
    override = change.format(genes=tmp_path / "genes.txt")
    with pytest.raises(DataError, match="tokens of other cells or another tokenizer"):
        prepare_stream(load_recipe(tmp_path / "my.yaml", overrides=(override,)).config)


def test_one_dataset_for_other_programs_has_input_ids_length_and_obs(adata, tokenizer, tmp_path):
    datasets = pytest.importorskip("datasets")
    opened = OpenedCorpus(Corpus([MemoryStore(adata)]), None, None, None, DataFacts("x", "0" * 64))
    assert tokenize_to(opened, TokenEncoder(tokenizer), tmp_path / "d", columns=["cell_type"]) == 300
    found = datasets.load_from_disk(str(tmp_path / "d"))
    ranked = tokenizer.rank(adata.X, adata.var_names)
    assert found["length"][:] == np.diff(ranked.offsets).tolist()
    assert found[7]["input_ids"] == ranked.ids[ranked.offsets[7] : ranked.offsets[8]].tolist()
    assert found["cell_type"][:] == adata.obs["cell_type"].astype(str).tolist()


def test_a_cell_without_known_genes_is_named_with_its_file_and_number(adata, tokenizer):
    cells = adata.copy()
    cells.X = sp.csr_matrix(cells.X.multiply((np.arange(300) != 123)[:, None]))
    cells.X[123, 0] = 0
    with pytest.raises(BadRows):
        TokenEncoder(tokenizer)(MemoryStore(cells).read(np.array([[120, 130]])), tuple(cells.var_names))
    from scmf.data.stream.reader import CellStream

    with pytest.raises(DataError, match="my store, cells number 123") as caught:
        list(CellStream(Corpus([MemoryStore(cells, name="my store")]), TokenEncoder(tokenizer)).epoch(0))
    assert "min_genes" in str(caught.value)


def test_a_buffer_that_would_not_fit_is_refused_before_anything_is_read(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path))
    streamed = prepare_stream(config(folder, max_open_gb=1e-9))
    with pytest.raises(ConfigError, match="in a buffer"):
        streamed.batches(config_training())


def test_a_streamed_run_that_dies_goes_on_to_the_bit(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    text = json.dumps(config(folder).model_dump(mode="json"))
    (tmp_path / "my.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "my.yaml", overrides=("training.checkpoint_every_n_steps=3",))

    def train(out):
        prepared = prepare_stream(recipe.config)
        return pretrain(recipe, prepared, out)

    model, report = train(tmp_path / "whole")
    from scmf.training import loop

    original, steps = loop._step, []

    def dying(*args, **kwargs):
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    monkeypatch.setattr(loop, "_step", original)
    again, resumed = train(tmp_path / "killed")
    assert resumed.resumed_from == 6
    assert resumed.data_wait is not None
    assert resumed.log.read_text() == report.log.read_text()
    assert all((a == b).all() for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
