"""Conversion of official checkpoints: random weights in the official layout, other species, every way it is refused."""

from __future__ import annotations

import functools
import json
import pickle  # noqa: TID251  # to make a file that must be refused
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from scmf.core.errors import ChecksumError, DataError, ModelError
from scmf.core.files import sha256_file
from scmf.core.paths import reference_dir
from scmf.models.published import transcriptformer as recipe
from scmf.models.published.cards import load_model_card
from tests.fixtures.commands import scmf
from tests.fixtures.zoo import use_cards

WEIGHTS = "model_weights.pt"


WIDTH, VECTOR, HEAD = 16, 6, 12
GENES = {"homo_sapiens_gene.h5": ["ENSG1", "ENSG2", "ENSG3"], "mus_musculus_gene.h5": ["ENSMUSG1", "ENSG2", "ENSMUSG2"]}
ALL = ["ENSG1", "ENSG2", "ENSG3", "ENSMUSG1", "ENSMUSG2"]
ASSAYS = {"unknown": 0, "10x 3' v2": 1, "Smart-seq2": 2}
MODEL = {
    "_target_": "transcriptformer.data.dataclasses.ModelConfig", "log_counts_eps": 1e-6, "num_heads": 2,
    "num_layers": 2, "model_dim": 24, "embed_dim": WIDTH, "dropout": 0.1, "seq_len": 9, "aux_len": 1, "block_len": 10,
    "activation": "gelu", "fw_bias": False, "softcap": 10, "attn_bias": False, "mu_link_fn": "softmax",
    "gene_head_hidden_dim": HEAD,
}  # fmt: skip
CELLS = np.array([[3.0, 0, 7, 40, 1], [0, 2, 0, 0, 0]])


def write_vectors(path: Path, genes: list[str], seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    vectors = {gene: random.normal(size=VECTOR).astype(np.float32) for gene in genes}
    with h5py.File(path, "w") as file:
        file["keys"] = np.array(genes, dtype="S15")
        for gene, vector in vectors.items():
            file.create_dataset(f"arrays/{gene}", data=vector)
    return vectors


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A folder as the official tool downloads it, for two species that share a gene."""
    folder = tmp_path / "tf_small"
    (folder / "vocabs").mkdir(parents=True)
    table: dict[str, np.ndarray] = {}
    for seed, (name, genes) in enumerate(GENES.items()):
        table = write_vectors(folder / "vocabs" / name, genes, seed) | table
    data = {"aux_cols": "assay", "clip_counts": None, "esm2_mappings": list(GENES), "special_tokens": [*recipe.SPECIAL]}
    loss = {"gene_id_loss_weight": 1.0, "softplus_approx": True}
    sections = {"model": {"model_config": MODEL, "loss_config": loss, "data_config": data}}
    (folder / "config.json").write_text(json.dumps(sections))
    (folder / "vocabs" / "assay_vocab.json").write_text(json.dumps(ASSAYS))
    torch.manual_seed(0)
    config = recipe.AutoregressiveTransformerConfig(
        vocab_size=12, gene_vector_dim=VECTOR, n_assays=3, hidden_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=24, gene_head_dim=HEAD, max_positions=9, pad_token_id=1,
        start_token_id=2, end_token_id=3, initializer_range=0.4,
    )  # fmt: skip
    state = recipe.AutoregressiveTransformerModel(config).state_dict()
    state[recipe.TABLE][7:] = torch.from_numpy(np.stack([table[gene] for gene in ALL]))
    torch.save({name: value.clone() for name, value in state.items()}, folder / WEIGHTS)
    return folder


def run(*arguments: object, variant: str = "own") -> int:
    return scmf("models", "pull", f"transcriptformer@{variant}", *arguments)


@functools.cache
def loaded(folder: Path) -> tuple:
    return AutoModel.from_pretrained(folder, trust_remote_code=True), AutoTokenizer.from_pretrained(
        folder, trust_remote_code=True
    )


def embeddings(folder: Path, genes: list[str], **arguments: object) -> torch.Tensor:
    model, tokenizer = loaded(folder)
    batch = dict(tokenizer(CELLS, genes, return_tensors="pt"))
    batch |= {name: torch.from_numpy(x) for name, x in tokenizer.cell_tensors({"assay": ["Smart-seq2", "?"]}).items()}
    return model.embed(**batch, **arguments)


def test_a_folder_becomes_a_model_with_its_tokenizer(official: Path, tmp_path: Path) -> None:
    assert run("--source", official, "--out", tmp_path / "out", "--unverified") == 0
    model, tokenizer = loaded(tmp_path / "out")
    state, ours = torch.load(official / WEIGHTS, weights_only=True), model.state_dict()  # noqa: TID251
    assert state.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in state.items())
    assert tokenizer.get_vocab() == {token: i for i, token in enumerate([*recipe.SPECIAL, *ALL])}
    batch = tokenizer(CELLS, ALL)
    assert batch["input_ids"].tolist() == [[7, 9, 10, 11], [8, 1, 1, 1]]
    assert batch["values"].tolist() == [[3, 7, 30, 1], [2, 0, 0, 0]]
    assert tokenizer.assays == ASSAYS
    assert embeddings(tmp_path / "out", ALL).shape == (2, WIDTH)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["start_token_id"], config["end_token_id"], config["pad_token_id"]) == (2, 3, 1)
    assert (config["count_likelihood"], config["max_count"], config["match_official"]) == (
        "softplus_approx",
        30.0,
        False,
    )
    assert (config["source_verified"], config["source_variant"]) == (False, "own")
    assert config["source_sha256"] == sha256_file(official / WEIGHTS)
    assert (tmp_path / "out" / "autoregressive_transformer.py").is_file()


@pytest.mark.nightly
def test_a_match_official_folder_gives_the_official_embedding(official: Path, tmp_path: Path) -> None:
    for name, flags in (("ours", ()), ("theirs", ("--match-official",))):
        assert run("--source", official, "--out", tmp_path / name, "--unverified", *flags) == 0
    rows = embeddings(tmp_path / "theirs", ALL, pooling="gene")  # the row before each gene, START first
    last = embeddings(tmp_path / "ours", ALL, pooling="gene")
    by_hand = torch.stack([rows[0].sum(0) + last[0, 3], rows[1, 0] + last[1, 0]]) / 9
    torch.testing.assert_close(embeddings(tmp_path / "theirs", ALL), by_hand)


def test_a_published_sum_is_recorded_as_verified(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--source", official, "--out", tmp_path / "out") == ChecksumError.exit_code
    assert "--unverified" in capsys.readouterr().err

    def known(name: str, card: dict) -> None:
        if name == "transcriptformer":
            sha256 = sha256_file(official / WEIGHTS)
            card["variants"]["sapiens"] |= {
                "shape": {"vocab_size": 12},
                "files": [{"name": WEIGHTS, "sha256": sha256}],
            }

    use_cards(monkeypatch, tmp_path / "cards", known)
    assert run("--source", official, "--out", tmp_path / "out", "--no-tokenizer", variant="sapiens") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["source_verified"], config["source_variant"]) == (True, "sapiens")
    assert not (tmp_path / "out" / "vocab.json").exists()


def test_an_existing_folder_and_another_variant_are_refused(official: Path, tmp_path: Path) -> None:
    assert run("--source", official, "--out", official, "--unverified") == ModelError.exit_code
    out = tmp_path / "out"
    assert run("--source", official, "--out", out, "--unverified", variant="sapiens") == ModelError.exit_code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tf_small"]


# --- other species ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_other_genes_take_over_while_special_tokens_stay(official: Path, tmp_path: Path) -> None:
    # The same genes under new names and with other ids: the same cells must get the same embeddings. Their order stays,
    # as tokens stand in the order of their ids and the network is causal.
    names = {gene: f"ENSXXX{i}" for i, gene in enumerate(ALL)}
    state = torch.load(official / WEIGHTS, weights_only=True)  # noqa: TID251
    vectors = np.stack([state[recipe.TABLE][7 + ALL.index(gene)].numpy() for gene in names])
    table = {"genes": ["ENSXXXfirst", *names.values()], "vectors": np.concatenate([vectors[:1] + 1, vectors])}
    np.savez(tmp_path / "new.npz", **table)
    assert run("--source", official, "--out", tmp_path / "old", "--unverified") == 0
    arguments = ("--source", official, "--out", tmp_path / "new", "--unverified", "--genes", tmp_path / "new.npz")
    assert run(*arguments) == 0
    renamed = [names[gene] for gene in ALL]
    for arguments in ({}, {"pooling": "gene"}, {"pooling": "vector"}, {"layer": -1}):
        torch.testing.assert_close(
            embeddings(tmp_path / "new", renamed, **arguments), embeddings(tmp_path / "old", ALL, **arguments)
        )
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert (config["pad_token_id"], config["start_token_id"], config["end_token_id"]) == (1, 2, 3)
    assert config["source_genes"] == ["new.npz"]


def test_more_genes_than_before_work_and_known_ones_keep_their_rows_in_the_heads(
    official: Path, tmp_path: Path
) -> None:
    genes = ["ENSG3", *(f"ENSYYY{i}" for i in range(40))]
    write_vectors(tmp_path / "new.h5", genes, 5)
    arguments = ("--source", official, "--out", tmp_path / "new", "--unverified", "--genes", tmp_path / "new.h5")
    assert run(*arguments) == 0
    model, tokenizer = loaded(tmp_path / "new")
    batch = dict(tokenizer(np.ones((1, 5)), genes[-5:], return_tensors="pt")) | {"assay_ids": torch.tensor([1])}
    out = model(**batch)
    assert out.mu.isfinite().all()
    assert out.logits.shape[-1] == len(tokenizer) == 48
    state, old = model.state_dict(), torch.load(official / WEIGHTS, weights_only=True)  # noqa: TID251
    for name in recipe.PER_TOKEN:
        assert torch.equal(state[name][:7], old[name][:7]), name
        assert torch.equal(state[name][7], old[name][9]), name
        torch.testing.assert_close(state[name][8], old[name][7:].mean(0))


def test_vectors_of_another_width_are_refused(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "new.npz", genes=["ENSG9"], vectors=np.zeros((1, VECTOR + 1), np.float32))
    arguments = ("--source", official, "--out", tmp_path / "new", "--unverified", "--genes", tmp_path / "new.npz")
    assert run(*arguments) == ModelError.exit_code
    assert f"(1, {VECTOR})" in capsys.readouterr().err
    assert run(*arguments[:-1], tmp_path / "none.h5") == DataError.exit_code


# --- what is refused --------------------------------------------------------------------------------


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


def change_config(section: str, **changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        settings["model"][section] |= changes
        (folder / "config.json").write_text(json.dumps(settings))

    return damage


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        state = torch.load(folder / WEIGHTS, weights_only=True)  # noqa: TID251
        change(state)
        torch.save(state, folder / WEIGHTS)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{}"), "no section model"),
        (lambda folder: (folder / WEIGHTS).unlink(), "no weights"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"PK\x03\x04 cut off"), "unreadable weights"),
        (
            lambda folder: (folder / WEIGHTS).write_bytes(pickle.dumps({"a": Malicious()}, protocol=2)),
            "unreadable weights",
        ),
        (lambda folder: (folder / "vocabs" / "mus_musculus_gene.h5").unlink(), "table of gene vectors"),
        (change_config("data_config", esm2_mappings=["homo_sapiens_gene.h5"]), "10 tokens in homo_sapiens_gene.h5"),
        (change_config("data_config", aux_cols=["assay", "sex"]), "aux_cols"),
        (change_config("model_config", mu_link_fn="exp"), "count_link='exp'"),
        (change_config("model_config", rotary=True), "rotary: True"),
        (change_config("model_config", num_layers=3), "encoder_layers.2"),
        (change_config("model_config", model_dim=25), "shape (24, 16)"),
        (change_weights(lambda state: state.pop("gene_id_head.layers.4.bias")), "no tensor gene_id_head.layers.4.bias"),
        (change_weights(lambda state: state.pop(recipe.TABLE)), f"no tensor {recipe.TABLE}"),
        (change_weights(lambda state: state.update(extra=torch.zeros(2))), "extra with shape (2,)"),
        (change_weights(lambda state: state[recipe.TABLE][8].add_(1)), "another vector of ENSG2"),
    ],
)
def test_parts_that_are_missing_or_do_not_fit_are_one_clear_error(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], message: str
) -> None:
    damage(official)
    assert run("--source", official, "--out", tmp_path / "out", "--unverified") == ModelError.exit_code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("variant", "millions"), [("sapiens", 368.86), ("metazoa", 444.02)])
def test_released_shapes_have_the_published_number_of_parameters(variant: str, millions: float) -> None:
    facts = load_model_card("transcriptformer").variants[variant]
    shape = {
        "gene_vector_dim": 2560, "n_assays": 40, "hidden_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 16, "intermediate_size": 2048,
    }  # fmt: skip
    config = recipe.AutoregressiveTransformerConfig(**shape | facts.shape | recipe._tokens(recipe.SPECIAL))
    with torch.device("meta"):
        model = recipe.AutoregressiveTransformerModel(config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == facts.parameters
    assert trained / 1e6 == pytest.approx(millions, abs=0.006)


def test_the_official_small_checkpoint_is_converted_by_value(tmp_path: Path) -> None:
    recorded = reference_dir()
    source = None if recorded is None else recorded / "transcriptformer" / "ckpt_small"
    if source is None or not source.is_dir():
        pytest.skip("SCMF_REFERENCE_DIR names no folder with an official checkpoint")
    assert run("--source", source, "--out", tmp_path / "out", "--unverified") == 0
    state = torch.load(source / WEIGHTS, weights_only=True)  # noqa: TID251
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert state.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in state.items())
