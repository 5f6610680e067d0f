"""Vocabularies of the continuous tokenizer: assays, fitted genes, and what a saved one still is."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
import scipy.sparse as sp

from scmf.tokenizers.continuous import ContinuousTokenizer
from scmf.tokenizers.continuous_options import ContinuousOptions
from tests.tokenizers.test_continuous import GENES, A, F, cells, clipped, csr, make

# --- columns of obs --------------------------------------------------------------------------------------------


def test_assays_are_numbers_of_a_vocabulary():
    tokenizer = clipped(assay_key="assay", assays={"unknown": 0, "v2": 1, "v3": 2})
    assert tokenizer.obs_columns == ("assay",)
    assert tokenizer.cell_tensors({"assay": ["v3", "news", "unknown", "v2"]})["assay_ids"].tolist() == [2, 0, 0, 1]
    with pytest.raises(ValueError, match="no column 'assay' in obs"):
        tokenizer.cell_tensors({"batch": ["1"]})
    assert clipped().cell_tensors({"assay": ["v3"]}) == {} and clipped().obs_columns == ()


def test_assays_are_learned():
    tokenizer = clipped(assay_key="assay")
    before = tokenizer.fingerprint
    tokenizer.fit_obs({"assay": ["v3", "v2", "unknown", "v3"]})
    assert tokenizer.assays == {"unknown": 0, "v2": 1, "v3": 2} and tokenizer.fingerprint != before


# --- making, saving, loading -------------------------------------------------------------------------------------


def test_fit_takes_the_genes_of_enough_cells_behind_the_special_tokens():
    counts = csr([1, 0, 2, 0, 0, 1], [1, 0, 0, 0, 0, 1], [1, 5, 0, 0, 0, 1])
    fitted = ContinuousTokenizer.fit(
        counts, GENES, min_cells=2, max_length=8, special_tokens=True, depth_tokens=True, unknown_genes="token"
    )
    names = ["<pad>", "<mask>", "<cls>", "<eos>", "<T>", "<S>", "<unk>", A, F]
    assert fitted.get_vocab() == {name: i for i, name in enumerate(names)}
    assert fitted.gene_token_start == 7 and fitted.vocab_size == 9
    assert (fitted.pad_token_id, fitted.mask_token_id, fitted.cls_token_id, fitted.eos_token_id) == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="no gene is expressed in 4 of 3 cells"):
        ContinuousTokenizer.fit(counts, GENES, min_cells=4, max_length=8)


def test_published_names_of_special_tokens_are_known():
    tokenizer = clipped(special_tokens=True)
    assert (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.eos_token_id) == (1, 2, 3)
    assert (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.gene_token_start) == (6, 0, 7)
    assert tokenizer.pad_values == {"input_ids": 1, "values": 0.0}


def test_every_token_that_is_no_gene_is_a_special_one():
    for tokenizer in (clipped(), make(depth=True), make(depth=True, special=["<mask>"])):
        genes = {tokenizer.get_vocab()[gene] for gene in GENES}
        assert set(tokenizer.all_special_ids) == set(tokenizer.get_vocab().values()) - genes
    assert clipped().n_assays == 0 and clipped(assay_key="assay", assays={"unknown": 0, "a": 1}).n_assays == 2
    assert make(pad_value=103).pad_value == 103


def test_every_option_of_the_config_is_one_of_the_tokenizer():
    options = asdict(ContinuousOptions())
    tokenizer = ContinuousTokenizer.fit(csr([1] * 6), GENES, min_cells=1, max_length=8, **options)
    assert tokenizer.options == options


def test_the_fingerprint_depends_on_whatever_decides_a_token():
    found = {make().fingerprint, make(order="value").fingerprint, make(max_length=99).fingerprint}
    found |= {make(match_official=True).fingerprint, make(seed=1).fingerprint, make(aliases={"X": A}).fingerprint}
    found |= {make(depth=True).fingerprint, clipped().fingerprint, clipped(assays={"unknown": 0, "a": 1}).fingerprint}
    assert len(found) == 9 and make().fingerprint == make().fingerprint


@pytest.mark.nightly
def test_a_saved_tokenizer_loads_without_scmf(tmp_path):
    counts = csr([1, 0, 2, 0, 0, 40], [0, 9, 0, 0, 3, 1])
    tokenizer = make(
        depth=True, assay_key="assay", assays={"unknown": 0, "v3": 1}, aliases={"TSPAN6": A}, target_depth="a5",
        order="value", pad_value=-1,
    )  # fmt: skip
    tokenizer.save_pretrained(tmp_path / "saved")
    script = """
import importlib.abc, json, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "scmf":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
batch = tokenizer(np.array(json.loads(sys.argv[2]), "f4"), json.loads(sys.argv[3]))
print(json.dumps({
    "batch": {name: np.asarray(batch[name]).tolist() for name in batch},
    "fingerprint": tokenizer.fingerprint,
    "assays": tokenizer.cell_tensors({"assay": ["v3", "x"]})["assay_ids"].tolist(),
    "special": tokenizer.all_special_tokens,
}))
"""
    arguments = [str(tmp_path / "saved"), json.dumps(counts.toarray().tolist()), json.dumps(["TSPAN6", *GENES[1:]])]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={"HF_HOME": str(tmp_path / "hf"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    batch = tokenizer(counts, ["TSPAN6", *GENES[1:]])
    assert found["batch"] == {name: np.asarray(batch[name]).tolist() for name in batch}
    assert found["fingerprint"] == tokenizer.fingerprint and found["assays"] == [1, 0]
    assert found["special"] == tokenizer.all_special_tokens and len(tokenizer) == tokenizer.vocab_size


def test_threads_and_types_give_the_same(tmp_path):
    rng = np.random.default_rng(0)
    genes = tuple(f"G{i}" for i in range(300))
    counts = rng.poisson(0.5, (200, 300))
    counts[:, 0] += 1
    tokenizer = ContinuousTokenizer.fit(counts, genes, min_cells=1, max_length=50, depth_tokens=True, order="value")
    found = cells(tokenizer.encode_cells(counts, genes))
    for kind in (np.uint8, np.int64, np.float32, np.float64):
        assert cells(tokenizer.encode_cells(sp.csr_matrix(counts.astype(kind)), genes)) == found
        assert cells(tokenizer.encode_cells(sp.coo_matrix(counts.astype(kind)), genes)) == found
    narrow = sp.csr_matrix(counts.astype("f4"))
    narrow.indices, narrow.indptr = narrow.indices.astype(np.uint16), narrow.indptr.astype(np.int64)
    assert cells(tokenizer.encode_cells(narrow, genes)) == found
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(
            lambda start: cells(tokenizer.encode_cells(counts[start : start + 10], genes)), range(0, 200, 10)
        )
        assert [cell for part in parts for cell in part] == found
