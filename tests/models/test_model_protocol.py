"""Every built-in network offers what `scmf.models.protocol.Model` asks for; one saved with old names is read."""

import inspect
import json

import pytest

from scmf.core import registry
from scmf.models.checkpoint import load_weights
from scmf.models.masked_autoencoder import MaskedAutoencoderConfig, MaskedAutoencoderModel
from scmf.models.protocol import Model

MEMBERS = {*Model.__annotations__, *(name for name in vars(Model) if not name.startswith("_"))}


@pytest.mark.parametrize("name", registry.BUILT_IN["models"])
def test_a_family_satisfies_the_protocol(name):
    family = registry.resolve("models", name)
    assert {member for member in MEMBERS if not hasattr(family, member)} == set()
    assert family.config_class.model_type == f"scmf_{name}"
    assert callable(family.config_class.from_settings)
    assert "input_ids" in family.required_inputs
    assert set(family.objectives) <= set(registry.names("objectives"))
    for capability in ("gives_attention", "gives_gene_vectors", "allows_knockout"):
        assert isinstance(getattr(family, capability), bool)
    given = inspect.signature(family.embed).parameters
    assert {"input_ids", "attention_mask", "layer", "pooling", "kwargs"} <= set(given)
    assert given["layer"].kind == given["pooling"].kind == inspect.Parameter.KEYWORD_ONLY
    assert "kwargs" in inspect.signature(family.forward).parameters


def test_a_network_that_was_saved_before_its_keys_were_renamed_is_the_same(tmp_path):
    config = MaskedAutoencoderConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, decoder_size=8,
        num_decoder_layers=1, num_decoder_heads=2, pad_token_id=11, depth_token_ids=[9, 10], match_official=True,
    )  # fmt: skip
    MaskedAutoencoderModel(config).save_pretrained(tmp_path)
    note = tmp_path / "config.json"
    saved = json.loads(note.read_text(encoding="utf-8"))
    saved["faithful"] = saved.pop("match_official")
    note.write_text(json.dumps(saved))
    read = load_weights(MaskedAutoencoderModel, tmp_path).config
    assert read.match_official is True and not hasattr(read, "faithful")
