"""Conversion of official weights: random weights in the published file formats, and every way it is refused."""

from __future__ import annotations

import csv
import json
import pickle  # noqa: TID251  # to make a file that must be refused
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from scmf.core.errors import ChecksumError, ModelError
from scmf.core.files import sha256_file
from scmf.core.paths import data_dir
from scmf.models.published import geneformer
from scmf.models.published.cards import load_model_card
from tests.fixtures.commands import scmf
from tests.fixtures.zoo import use_cards

CARD = load_model_card("geneformer")


TINY = {"vocab_size": 30, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "ffn_dim": 24, "max_positions": 12}
BATCH = {
    "input_ids": torch.tensor([[2, 9, 7, 3], [2, 5, 3, 0]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
}


@pytest.fixture
def bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(
        vocab_size=30, num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12, hidden_act="relu", initializer_range=0.3,
    )).eval()  # fmt: skip


@pytest.fixture
def v2(bert: BertForMaskedLM, tmp_path: Path) -> Path:
    """A V2 folder: config.json and model.safetensors."""
    bert.save_pretrained(tmp_path / "v2")
    return tmp_path / "v2"


@pytest.fixture
def v1(bert: BertForMaskedLM, tmp_path: Path) -> Path:
    """A file as of 2021: pickle, old norm names, tied decoder and position buffer written out."""
    state = {key: value.clone() for key, value in bert.state_dict().items()}
    state = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in state.items()
    }
    state["bert.embeddings.position_ids"] = torch.arange(12)[None]
    assert "cls.predictions.decoder.weight" in state
    (tmp_path / "v1").mkdir()
    torch.save(state, tmp_path / "v1" / "pytorch_model.bin")
    return tmp_path / "v1" / "pytorch_model.bin"


@pytest.fixture(autouse=True)
def tiny_variants(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published variants with the shape of a small model, and a cache of its own."""
    root = tmp_path_factory.mktemp("zoo")
    use_cards(monkeypatch, root / "recipes", shrink)
    monkeypatch.setenv("SCMF_CACHE_DIR", str(root / "cache"))
    return root / "recipes"


def shrink(recipe: str, card: dict) -> None:
    for facts in card["variants"].values() if recipe == "geneformer" else ():
        facts["shape"] |= TINY


def run(variant: str, *arguments: object) -> int:
    return scmf("models", "pull", f"geneformer@{variant}", *arguments)


def test_a_v2_folder_becomes_a_model_that_knows_its_special_tokens(
    v2: Path, bert: BertForMaskedLM, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run("v2-104m", "--source", v2, "--out", out, "--unverified", "--no-tokenizer") == 0
    model = AutoModelForMaskedLM.from_pretrained(out, trust_remote_code=True)
    torch.testing.assert_close(model(**BATCH).logits[0], bert(**BATCH).logits[0], rtol=1e-5, atol=1e-5)
    hidden = bert(**BATCH, output_hidden_states=True).hidden_states[1]
    by_hand = torch.stack([hidden[0, 1:3].mean(0), hidden[1, 1]])
    embedded = AutoModel.from_pretrained(out, trust_remote_code=True).embed(**BATCH)
    torch.testing.assert_close(embedded, by_hand, rtol=1e-5, atol=1e-5)
    config = json.loads((out / "config.json").read_text())
    assert (config["cls_token_id"], config["eos_token_id"], config["hidden_dropout_prob"]) == (2, 3, 0.1)
    assert config["source_verified"] is False
    assert config["source_sha256"] == sha256_file(v2 / "model.safetensors")
    assert config["source_revision"] is None
    assert (out / "transformer_encoder.py").is_file()


def test_a_legacy_pickle_of_v1_gives_the_same_model(v1: Path, bert: BertForMaskedLM, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("v1-10m", "--source", v1, "--out", out, "--unverified", "--no-tokenizer") == 0
    state = load_file(out / "model.safetensors")
    wanted = bert.state_dict()
    assert not {"bert.embeddings.position_ids", "cls.predictions.decoder.weight"} & state.keys()
    for key, value in state.items():
        assert torch.equal(value, wanted[key]), key
    config = json.loads((out / "config.json").read_text())
    assert (config["cls_token_id"], config["hidden_dropout_prob"], config["source_file"]) == (None, 0.02, v1.name)


def test_the_published_file_is_recorded_as_verified(v2: Path, tmp_path: Path, tiny_variants: Path) -> None:
    weights, card = v2 / "model.safetensors", tiny_variants / "geneformer" / "models.yaml"
    text = card.read_text()
    card.write_text(text.replace(CARD.variants["v2-104m"].files[0].sha256, sha256_file(weights)))
    assert run("v2-104m", "--source", weights, "--out", tmp_path / "out", "--no-tokenizer") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["source_verified"] is True
    assert config["source_revision"] == CARD.revision


def test_another_file_than_the_published_one_is_refused(
    v2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = run("v2-316m", "--source", v2, "--out", out, "--no-tokenizer")
    assert code == ChecksumError.exit_code
    assert "--unverified" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v2"]


def test_an_existing_folder_is_left_alone(v2: Path, tmp_path: Path) -> None:
    code = run("v2-104m", "--source", v2, "--out", v2, "--unverified", "--no-tokenizer")
    assert code == ModelError.exit_code
    assert not (v2 / "transformer_encoder.py").exists()


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:a5e3\nsize 41\n",
            "git lfs pull",
        ),
        ("model.safetensors", b"\x00" * 40, "unreadable weights"),
        ("pytorch_model.bin", b"PK\x03\x04 cut off", "unreadable weights"),
        ("pytorch_model.bin", pickle.dumps({"a": Malicious()}, protocol=2), "unreadable weights"),
        ("readme.txt", b"", "no weights"),
    ],
    ids=["lfs pointer", "not safetensors", "cut off", "malicious pickle", "no weights"],
)
def test_a_file_that_holds_no_weights_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    code = run("v1-10m", "--source", tmp_path / "in", "--out", tmp_path / "out", "--unverified")
    assert code == ModelError.exit_code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def remove(state: dict[str, torch.Tensor]) -> None:
    del state["cls.predictions.transform.dense.bias"]


def add(state: dict[str, torch.Tensor]) -> None:
    state["bert.encoder.layer.2.output.dense.bias"] = torch.zeros(16)


def shorten(state: dict[str, torch.Tensor]) -> None:
    state["bert.embeddings.position_embeddings.weight"] = torch.zeros(11, 16)


def untie(state: dict[str, torch.Tensor]) -> None:
    state["cls.predictions.decoder.weight"] = torch.zeros(30, 16)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove, "found: no tensor cls.predictions.transform.dense.bias"),
        (add, "found: bert.encoder.layer.2.output.dense.bias with shape"),
        (shorten, "found: bert.embeddings.position_embeddings.weight with shape (11, 16)"),
        (untie, "decoder.weight differs"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    v2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: object, message: str
) -> None:
    state = load_file(v2 / "model.safetensors")
    damage(state)  # type: ignore[operator]
    save_file(state, v2 / "model.safetensors", {"format": "pt"})
    code = run("v2-104m", "--source", v2, "--out", tmp_path / "out", "--unverified", "--no-tokenizer")
    assert code == ModelError.exit_code
    assert message in capsys.readouterr().err


def test_a_configuration_of_another_network_is_refused(
    v2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads((v2 / "config.json").read_text())
    (v2 / "config.json").write_text(json.dumps(settings | {"num_attention_heads": 4}))
    code = run("v2-104m", "--source", v2, "--out", tmp_path / "out", "--unverified", "--no-tokenizer")
    assert code == ModelError.exit_code
    assert "num_attention_heads: 4" in capsys.readouterr().err


def test_a_withdrawn_checkpoint_needs_a_local_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gf-20l-95m", "--out", tmp_path / "out") == ModelError.exit_code
    err = capsys.readouterr().err
    assert "--source" in err and CARD.variants["gf-20l-95m"].files[0].sha256 in err and "withdrew" in err


@pytest.mark.parametrize("name", sorted(CARD.variants))
def test_the_table_agrees_with_the_published_sums_and_sizes(name: str) -> None:
    mirror = data_dir()
    if mirror is None:
        pytest.skip("SCMF_DATA_DIR names no folder with official_lfs_checksums.tsv")
    with (mirror / "geneformer_vocab" / "official_lfs_checksums.tsv").open() as handle:
        rows = {row["sha256"]: row for row in csv.DictReader(handle, delimiter="\t")}
    variant = CARD.variants[name]
    with torch.device("meta"):
        model = geneformer.TransformerEncoderForMaskedLM(geneformer.config_of(variant.shape))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == variant.parameters
    for file in variant.files:
        paths = [Path(path) for path in rows[file.sha256]["paths"].split(" | ")]
        assert all(path.name == file.name for path in paths)
        assert file.path is None or Path(file.path) in paths
        assert file.size == int(rows[file.sha256]["size"])
        assert 0 < file.size - 4 * parameters < 150_000, "header and nothing else"


def test_the_tokenizer_is_saved_beside_the_weights(v2: Path, tmp_path: Path) -> None:
    pytest.importorskip("scmf.data.genes.vocabulary")
    if data_dir() is None:
        pytest.skip("SCMF_DATA_DIR names no folder with the vocabulary tables")
    from transformers import AutoTokenizer

    out = tmp_path / "out"
    assert run("v2-104m", "--source", v2, "--out", out, "--unverified") == 0
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    assert len(tokenizer) == CARD.variants["v2-104m"].shape["vocab_size"]
    AutoModel.from_pretrained(out, trust_remote_code=True)
