"""Official files with random weights, cards that name them, and a Hub on loopback that serves them."""

import json
import pickle  # noqa: TID251  # the published vocabulary tables are pickles
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import BertConfig, BertForMaskedLM

from scmf.core.files import sha256_file
from scmf.core.yaml import dump_yaml
from scmf.models.generative_transformer import GenerativeTransformerConfig, GenerativeTransformerModel
from scmf.models.masked_autoencoder import MaskedAutoencoderConfig, MaskedAutoencoderModel
from scmf.models.published import scfoundation
from tests.conftest import synthetic_cells
from tests.fixtures.commands import scmf
from tests.fixtures.hub_server import File, Repository, serve
from tests.fixtures.zoo import use_cards

REPO = "ctheodoris/Geneformer"
PATH = "Geneformer-V2-104M/model.safetensors"
TINY = {"vocab_size": 124, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "ffn_dim": 24, "max_positions": 40}
MAE = {
    "model": "mae_autobin", "mask_gene_name": False, "pos_embed": False, "seq_len": 122, "gene_num": 122,
    "n_class": 104, "pad_token_id": 103, "mask_token_id": 102, "bin_num": 5, "bin_alpha": 1.0, "value_mask_prob": 0.3,
    "mask_ignore_token_ids": [0], "mae_encoder_max_seq_len": 15000,
    "encoder": {"hidden_dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "seq_len": 122, "module_type": "transformer",
                "norm_first": False},
    "decoder": {"hidden_dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "seq_len": 122, "module_type": "performer",
                "norm_first": False},
}  # fmt: skip
ARGUMENTS = {
    "embsize": 16, "nheads": 2, "d_hid": 24, "nlayers": 1, "dropout": 0.2, "pad_token": "<pad>", "pad_value": -2,
    "mask_value": -1, "n_bins": 51, "max_seq_len": 40, "input_style": "binned", "input_emb_style": "continuous",
}  # fmt: skip


@dataclass
class Official:
    """Where official files lie, and the cells whose genes they know."""

    root: Path
    bert: BertForMaskedLM

    @property
    def geneformer(self):
        return self.root / "geneformer"

    @property
    def scgpt(self):
        return self.root / "scgpt"

    @property
    def scfoundation(self):
        return self.root / "scfoundation"

    @property
    def cells(self):
        return self.root / "cells.h5ad"


def vocabulary_card(folder, name, files):
    """A vocabulary card with these files: name -> role and content."""
    listed = []
    for file, (role, content) in files.items():
        (folder / file).write_bytes(content)
        source = {"kind": "mirror", "path": file}
        listed.append({"name": file, "role": role, "sha256": sha256_file(folder / file), "sources": [source]})
    facts = {"name": name, "title": name, "kind": "vocabulary", "organism": "Mus musculus", "license": "CC0-1.0"}
    (folder / f"{name}.yaml").write_text(dump_yaml({**facts, "citation": "none", "files": listed}))


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """Random weights in the official layouts of Geneformer V2, scGPT and scFoundation."""
    root = tmp_path_factory.mktemp("official")
    cells = synthetic_cells(24, seed=3)
    cells.write_h5ad(root / "cells.h5ad")
    genes = sorted(map(str, cells.var_names))
    torch.manual_seed(0)
    bert = BertForMaskedLM(BertConfig(
        vocab_size=124, num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=40, hidden_act="relu", initializer_range=0.3,
    )).eval()  # fmt: skip
    bert.save_pretrained(root / "geneformer")
    tokens = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3} | {gene: i + 4 for i, gene in enumerate(genes)}
    tables = {"tokens": tokens, "medians": {gene: 1.0 + i for i, gene in enumerate(genes)}, "aliases": {}}
    pickled = {f"{role}.pkl": (role, pickle.dumps(table)) for role, table in tables.items()}
    vocabulary_card(root, "tiny-ranks", pickled)
    listed = "gene_name\tindex\n" + "".join(f"{gene}\t{i}\n" for i, gene in enumerate(genes))
    vocabulary_card(root, "tiny-list", {"list.tsv": ("tokens", listed.encode())})
    (root / "scgpt").mkdir()
    network = GenerativeTransformerModel(GenerativeTransformerConfig(
        vocab_size=123, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
        pad_token_id=120, cls_token_id=121,
    ))  # fmt: skip
    torch.save(network.state_dict(), root / "scgpt" / "best_model.pt")
    (root / "scgpt" / "args.json").write_text(json.dumps(ARGUMENTS))
    (root / "scgpt" / "vocab.json").write_text(json.dumps({gene: i for i, gene in enumerate(genes)}))
    (root / "scfoundation").mkdir()
    state = MaskedAutoencoderModel(MaskedAutoencoderConfig.from_official(MAE)).state_dict()
    part = {"config": MAE, "state_dict": {f"model.{name}": tensor for name, tensor in state.items()}}
    torch.save(dict.fromkeys(("cell", "rde", "gene"), part), root / "scfoundation" / "models.ckpt")
    return Official(root, bert)


@dataclass
class Zoo:
    """The world of a test: official files, a Hub, cards, a cache, and commands."""

    official: Official
    hub: object
    cards: Path
    cache: Path
    capsys: object

    def __call__(self, *arguments):
        """Run a command: exit code, stdout, stderr."""
        self.capsys.readouterr()
        code = scmf(*arguments)
        said = self.capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    def json(self, *arguments):
        """What a command that must succeed printed as JSON."""
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    def folder(self, name):
        return self.cache / "models" / name

    def change(self, recipe, old, new):
        """Change the text of a card."""
        path = self.cards / recipe / "models.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture
def zoo(official, monkeypatch, tmp_path, capsys):
    """Cards with tiny shapes; the Hub has the weights of geneformer@v2-104m at the pinned revision."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCMF_DATA_DIR", str(official.root))
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(scfoundation, "RELEASED", MaskedAutoencoderConfig.from_official(MAE))
    weights = official.geneformer / "model.safetensors"
    with serve() as hub:
        for name, value in hub.environment(tmp_path / "hf").items():
            monkeypatch.setenv(name, value)
        # read once, at import
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        repository = hub.repositories[REPO] = Repository()
        repository.commit({**repository.files, PATH: File(weights.read_bytes(), large=True)})
        pinned = repository.head
        repository.commit({PATH: File(b"what main holds today", large=True)})

        def tiny(recipe, card):
            for name, facts in card["variants"].items():
                if recipe == "geneformer":
                    facts["shape"] |= TINY
                    facts["vocabulary"] = str(official.root / "tiny-ranks.yaml")
                elif recipe == "scfoundation":
                    facts["vocabulary"] = str(official.root / "tiny-list.yaml")
                elif recipe == "scgpt":
                    facts["shape"] = {"vocab_size": 123, "num_layers": 1, "hidden_dim": 16}
                if name == "v2-104m":
                    facts["files"][0] |= {"sha256": sha256_file(weights), "size": weights.stat().st_size}
            if recipe == "geneformer":
                card["revision"] = pinned

        use_cards(monkeypatch, tmp_path / "cards", tiny)
        yield Zoo(official, hub, tmp_path / "cards", tmp_path / "cache", capsys)
