"""Speed of the tokenizer and of the token store under pytest-benchmark; run with ``--benchmark-enable``.

The comparison with other programs is ``benchmarks/tokenizer_throughput.py``.
"""

import numpy as np
import pytest
import scipy.sparse as sp

from scmf.data.tokens.arrow import write_token_dataset
from scmf.tokenizers.rank_value import RankValueTokenizer

N_GENES = 5_000
GENES = tuple(f"ENSG{i:011d}" for i in range(N_GENES))


@pytest.fixture(scope="module")
def block():
    rng = np.random.default_rng(0)
    return sp.random_array((512, N_GENES), density=0.1, format="csr", dtype=np.float32, rng=rng,
                           data_sampler=lambda size: rng.geometric(0.6, size).astype(np.float32))  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(block):
    return RankValueTokenizer.fit(block, GENES, min_cells=1, max_length=2048, special_tokens=True)


def test_ranking_a_block(benchmark, tokenizer, block):
    ranked = benchmark(tokenizer.rank, block, GENES)
    assert ranked.lengths.size == 512


def test_padding_a_block(benchmark, tokenizer, block):
    ranked = tokenizer.rank(block, GENES)
    assert benchmark(tokenizer.batch, ranked)["input_ids"].shape[0] == 512


def test_writing_a_token_store(benchmark, tokenizer, block, tmp_path):
    pytest.importorskip("pyarrow")
    ranked = tokenizer.rank(block, GENES)
    path = benchmark(write_token_dataset, tmp_path / "tokens", ranked.ids, ranked.offsets, overwrite=True)
    assert (path / "state.json").is_file()
