"""Conversion of official scFoundation weights: random weights in the published format, and every way it is refused."""

from __future__ import annotations

import json
import pickle  # noqa: TID251  # to make a file that must be refused
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from scmf.core.errors import ChecksumError, DataError, ModelError
from scmf.core.files import sha256_file
from scmf.core.paths import data_dir, reference_dir
from scmf.data.genes.vocabulary import load_vocabulary
from scmf.models.masked_autoencoder import MaskedAutoencoderConfig, MaskedAutoencoderModel
from scmf.models.published import scfoundation as recipe
from scmf.models.published.cards import published
from scmf.models.published.pull import pull
from scmf.tokenizers.continuous import ContinuousTokenizer
from tests.fixtures.commands import scmf

SETTINGS: dict[str, Any] = {
    "model": "mae_autobin", "mask_gene_name": False, "pos_embed": False, "seq_len": 30, "gene_num": 30, "n_class": 104,
    "encoder": {
        "hidden_dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "seq_len": 30, "module_type": "transformer",
        "norm_first": False,
    },
    "decoder": {
        "hidden_dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "seq_len": 30, "module_type": "performer",
        "norm_first": False,
    },
    "pad_token_id": 103, "mask_token_id": 102, "bin_num": 5, "bin_alpha": 1.0, "value_mask_prob": 0.3,
    "mask_ignore_token_ids": [0], "mae_encoder_max_seq_len": 15000,
}  # fmt: skip
BATCH = {
    "input_ids": torch.tensor([[2, 9, 28, 29], [5, 28, 29, 30]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
    "values": torch.tensor([[1.0, 2.0, 4.0, 3.0], [0.5, 4.0, 3.0, 0.0]]),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published shape, small."""
    monkeypatch.setattr(recipe, "RELEASED", MaskedAutoencoderConfig.from_official(SETTINGS))


@pytest.fixture
def models() -> dict[str, MaskedAutoencoderModel]:
    torch.manual_seed(0)
    config = MaskedAutoencoderConfig.from_official(SETTINGS)
    return {key: MaskedAutoencoderModel(config).eval() for key in ("cell", "rde", "gene")}


@pytest.fixture
def content(models: dict[str, MaskedAutoencoderModel]) -> dict[str, Any]:
    return {
        key: {"config": SETTINGS, "state_dict": {f"model.{name}": t for name, t in model.state_dict().items()}}
        for key, model in models.items()
    }


@pytest.fixture
def file(content: dict[str, Any], tmp_path: Path) -> Path:
    torch.save(content, tmp_path / "models.ckpt")
    return tmp_path / "models.ckpt"


def run(variant: str, *arguments: object) -> int:
    return scmf("models", "pull", f"scfoundation@{variant}", *arguments)


def convert(file: Path, out: Path, *, name: str, unverified: bool = False) -> Path:
    return pull(f"scfoundation@{name}", source=file, out=out, unverified=unverified, tokenizer=False).folder


@pytest.mark.parametrize("key", ["cell", "rde", "gene"])
def test_each_checkpoint_of_the_file_becomes_a_model_of_its_own(
    file: Path, models: dict[str, MaskedAutoencoderModel], key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(key, "--source", file, "--out", out, "--unverified", "--no-tokenizer") == 0
    told = capsys.readouterr()
    assert f"folder: {out}" in told.out
    assert "no redistribution" in told.err
    for auto in (AutoModel, AutoModelForPreTraining):
        model = auto.from_pretrained(out, trust_remote_code=True)
        for name, tensor in models[key].state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name
    torch.testing.assert_close(
        model.embed(**BATCH, pooling="all"), models[key].embed(**BATCH, pooling="all"), rtol=1e-6, atol=1e-6
    )
    assert model.config.depth_token_ids == [28, 29]
    assert not model.config.match_official


def test_the_folder_says_where_the_weights_come_from_and_that_they_stay(file: Path, tmp_path: Path) -> None:
    out = convert(file, tmp_path / "out", name="gene", unverified=True)
    record = json.loads((out / "provenance.json").read_text())
    assert record["may_publish"] is False
    assert "non-commercial" in record["weights_license"]
    assert record["weights_sha256"] == {"model.safetensors": sha256_file(out / "model.safetensors")}
    config = json.loads((out / "config.json").read_text())
    assert config["source_may_publish"] is False
    for facts in (record, config):
        assert facts["source_sha256"] == sha256_file(file)
        assert facts["source_verified"] is False
        assert (facts["source_key"], facts["source_file"]) == ("gene", "models.ckpt")
    hub = pytest.importorskip("scmf.models.origin")
    checkpoint = hub.Checkpoint.at(out)
    with pytest.raises(ModelError, match="no redistribution"):
        hub.judge(checkpoint, hub.trace(checkpoint))


def test_a_file_is_not_believed_without_a_word(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ChecksumError, match="none was ever published"):
        convert(file, tmp_path / "out", name="cell")
    assert run("cell", "--source", file, "--out", tmp_path / "out", "--no-tokenizer") == ChecksumError.exit_code
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_alone(file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists"):
        convert(file, tmp_path / "out", name="cell", unverified=True)


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["cell"]["state_dict"].pop(f"model.{key}")


def add(content: dict[str, Any]) -> None:
    content["cell"]["state_dict"]["model.surprise"] = torch.zeros(2)


def widen(content: dict[str, Any]) -> None:
    content["cell"]["state_dict"]["model.to_final.bias"] = torch.zeros(2)


def spoil(content: dict[str, Any]) -> None:
    state = content["cell"]["state_dict"]
    state["model.norm.bias"] = state["model.norm.bias"] + float("nan")


def settings(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["cell"]["config"] = SETTINGS | changes

    return change


def lacking(key: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["cell"]["config"] = {name: value for name, value in SETTINGS.items() if name != key}

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("pos_emb.weight"), "no tensor pos_emb.weight"),
        (drop("decoder.performer.calls_since_last_redraw"), "calls_since_last_redraw"),
        (add, "surprise"),
        (widen, "to_final.bias with shape"),
        (spoil, "norm.bias is not finite"),
        (settings(bin_alpha=0.5), "bin_alpha: 0.5"),
        (settings(mask_gene_name=True), "mask_gene_name"),
        (settings(encoder=SETTINGS["encoder"] | {"depth": 3}), "num_hidden_layers: 3"),
        (settings(encoder=SETTINGS["encoder"] | {"norm_first": True}), "norm_first"),
        (settings(encoder=SETTINGS["encoder"] | {"module_type": "flash"}), "encoder_type"),
        (lacking("seq_len"), "seq_len"),
        (lambda content: content.pop("cell"), "no checkpoint 'cell'"),
        (lambda content: content["cell"].pop("config"), "no checkpoint 'cell'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    content: dict[str, Any], damage: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    damage(content)
    torch.save(content, tmp_path / "models.ckpt")
    with pytest.raises(ModelError, match=message):
        convert(tmp_path / "models.ckpt", tmp_path / "out", name="cell", unverified=True)
    assert not (tmp_path / "out").exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_a_file_that_would_run_code_or_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = tmp_path / "evil.ckpt"
    torch.save({"cell": {"config": SETTINGS, "state_dict": Evil()}}, evil)
    plain = tmp_path / "plain.ckpt"
    plain.write_bytes(pickle.dumps(Evil()))
    half = tmp_path / "half.ckpt"
    half.write_bytes(evil.read_bytes()[:300])
    other = tmp_path / "other.ckpt"
    torch.save({"cell": torch.zeros(2)}, other)
    for path in (evil, plain, half, other, tmp_path / "nothing"):
        with pytest.raises(ModelError):
            convert(path, tmp_path / "out", name="cell", unverified=True)
    assert "run" not in capsys.readouterr().out


@pytest.mark.skipif(
    reference_dir() is None or not (reference_dir() / "scfoundation" / "model").is_dir(),  # type: ignore[operator]
    reason="SCMF_REFERENCE_DIR names no folder with outputs of the official code",
)
def test_a_checkpoint_of_the_released_shape_fits_tensor_by_tensor() -> None:
    file = reference_dir() / "scfoundation" / "model" / "released_config_shapes.json"  # type: ignore[operator]
    with torch.device("meta"):
        model = MaskedAutoencoderModel(MaskedAutoencoderConfig())
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == {name: tuple(shape) for name, shape in json.loads(file.read_text()).items()}
    official = SETTINGS | {"seq_len": 19266, "bin_num": 100}
    official["encoder"] = SETTINGS["encoder"] | {"hidden_dim": 768, "depth": 12, "heads": 12, "dim_head": 64}
    official["decoder"] = SETTINGS["decoder"] | {"hidden_dim": 512, "depth": 6, "heads": 8, "dim_head": 64}
    read, released = MaskedAutoencoderConfig.from_official(official), MaskedAutoencoderConfig()
    for name in recipe.SHAPE:
        assert getattr(read, name) == getattr(released, name), name
    assert read.depth_token_ids == released.depth_token_ids
    assert (read.encoder_head_dim, read.decoder_head_dim or 64) == (None, 64)


@pytest.mark.skipif(data_dir() is None, reason="SCMF_DATA_DIR names no mirror of the gene list")
def test_the_tokenizer_of_the_folder_gives_the_ids_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = published("scfoundation@cell")
    (tmp_path / "models.ckpt").write_bytes(b"never read")
    tables = load_vocabulary("scfoundation")
    monkeypatch.setattr(recipe, "RELEASED", MaskedAutoencoderConfig())
    recipe.ScfoundationConverter(model, tmp_path, tables=tables).tokenizer().save_pretrained(tmp_path)
    tokenizer = ContinuousTokenizer.from_pretrained(tmp_path)
    batch = tokenizer([[3.0, 0.0, 1.0]], ["A1BG", "A1CF", "ZZZ3"], return_tensors="pt")
    released = MaskedAutoencoderConfig()
    assert batch["input_ids"][0].tolist()[-2:] == list(released.depth_token_ids or ())
    assert batch["values"][0, -2:].tolist() == pytest.approx([4.0, 0.60206], rel=1e-5)
    assert (tokenizer.pad_token_id, len(tokenizer)) == (released.pad_token_id, released.vocab_size)
    few = replace(tables, token_ids=dict(list(tables.token_ids.items())[:12]))
    with pytest.raises(DataError, match="12 tokens"):
        recipe.ScfoundationConverter(model, tmp_path, tables=few).tokenizer()
