"""Every built-in tokenizer offers what `scmf.tokenizers.protocol.Tokenizer` asks for, under the same names."""

import inspect

import numpy as np
import pytest

from scmf.core import registry
from scmf.core.config.renamed import load_tokenizer
from scmf.tokenizers.coverage import known_columns
from scmf.tokenizers.protocol import Tokenizer

MEMBERS = [name for name in vars(Tokenizer) if not name.startswith("_")]


def made(name):
    """The tokenizer fitted on six cells of four genes."""
    counts = np.arange(1.0, 25.0).reshape(6, 4) % 5 + 1
    shape = {"max_length": 8, "special_tokens": False, "match_official": True}
    if name == "gene_embedding":
        shape |= {"dimensions": 2, "match_official": False}
    return registry.resolve("tokenizers", name).fit(counts, ["A", "B", "C", "D"], min_cells=1, **shape)


@pytest.mark.parametrize("name", registry.BUILT_IN["tokenizers"])
def test_a_strategy_satisfies_the_protocol(name):
    strategy, tokenizer = registry.resolve("tokenizers", name), made(name)
    assert isinstance(tokenizer, Tokenizer)
    for member in MEMBERS:
        asked = inspect.getattr_static(Tokenizer, member)
        if isinstance(asked, property):
            assert not callable(getattr(tokenizer, member))
        elif callable(getattr(Tokenizer, member)):
            assert_takes(getattr(strategy, member), getattr(Tokenizer, member))
    assert set(tokenizer.pad_values) <= set(tokenizer.model_input_names)
    assert tokenizer.num_special_tokens_to_add() == tokenizer.num_special_tokens_to_add(pair=True) == 0
    assert tokenizer.cell_tensors({}) == {} and tokenizer.fit_obs({}) is None


def assert_takes(method, asked):
    """Every parameter that the protocol names is there, and what else there is has a default."""
    given = inspect.signature(method).parameters
    wanted = inspect.signature(asked).parameters
    for name, parameter in wanted.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert name in given, f"{method.__qualname__} has no {name}"
            assert given[name].kind == parameter.kind
    for name in given.keys() - wanted.keys():
        kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        assert given[name].kind in kinds or given[name].default is not inspect.Parameter.empty, name


@pytest.mark.parametrize("name", registry.BUILT_IN["tokenizers"])
def test_a_tokenizer_that_was_saved_before_its_keys_were_renamed_is_the_same(name, tmp_path):
    tokenizer = made(name)
    tokenizer.save_pretrained(tmp_path / "now")
    tokenizer.save_pretrained(tmp_path / "before")
    note = tmp_path / "before" / "tokenizer_config.json"
    text = note.read_text(encoding="utf-8")
    note.write_text(text.replace('"max_length"', '"max_genes"').replace('"match_official"', '"faithful"'))
    strategy = registry.resolve("tokenizers", name)
    old, new = (load_tokenizer(strategy, tmp_path / folder) for folder in ("before", "now"))
    assert old.fingerprint == new.fingerprint == tokenizer.fingerprint
    assert (old.max_length, old.match_official) == (8, name != "gene_embedding")
    old.save_pretrained(tmp_path / "again")
    assert "max_genes" not in (tmp_path / "again" / "tokenizer_config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", registry.BUILT_IN["tokenizers"])
def test_only_ensembl_ids_are_read_in_upper_case(name):
    """Ensa of the mouse begins like an Ensembl id and is none; Gpi1 in capitals is an alias of a human gene."""
    genes = ["ensg00000000003.2", "Ensa", "GPI1", "B"]
    shape = {"max_length": 8, "special_tokens": False} | ({"dimensions": 2} if name == "gene_embedding" else {})
    counts = np.arange(1.0, 25.0).reshape(6, 4) % 5 + 1
    tokenizer = registry.resolve("tokenizers", name).fit(counts, genes, min_cells=1, **shape)
    assert {"ENSG00000000003", "Ensa", "GPI1"} <= tokenizer.get_vocab().keys()
    found, _, _ = known_columns(tokenizer, ["ENSG00000000003.9", "ENSA", "Gpi1"], where="here")
    assert found.tolist() == [True, False, False]
