"""Gene-embedding tokenizer: tokens of `continuous` for genes that have a vector, and the right vector in each row."""

import os
import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from transformers import AutoTokenizer

from scmf.core.config.run import TokenizerConfig
from scmf.core.paths import reference_dir
from scmf.data.genes.align_vectors import align_vectors
from scmf.data.genes.ids import GeneMap
from scmf.data.genes.vectors import GeneVectors
from scmf.data.genes.vocabulary import TRANSCRIPTFORMER_TOKENS
from scmf.tokenizers.continuous import ContinuousTokenizer
from scmf.tokenizers.gene_embedding import GeneEmbeddingTokenizer
from scmf.tokenizers.gene_vector_table import fit_vectors, match_vectors

GENES = [f"G{i:02}" for i in range(30)]
TOKENS = {token: i for i, token in enumerate(["<pad>", "<mask>", *GENES])}


def cells(n=60, seed=0):
    rng = np.random.default_rng(seed)
    program = rng.integers(0, 3, n)
    rate = 0.2 + 3 * (np.arange(30) % 3 == program[:, None])
    return sp.csr_matrix(rng.poisson(rate * rng.gamma(2, 0.5, (n, 1))).astype(np.float32))


def table(genes, width=4, seed=1):
    return {gene: np.random.default_rng([seed, int(gene[1:])]).normal(size=width) for gene in genes}


def made(vectors, **options):
    return GeneEmbeddingTokenizer.from_tables(TOKENS, vectors=vectors, max_length=64, **options)


# --- tokens and rows ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.sampled_from(GENES), min_size=1),
    st.permutations(range(30)),
    st.sampled_from(["log1p_10k", "clipped_counts"]),
)
def test_tokens_are_those_of_continuous_for_the_genes_with_a_vector(known, order, transform):
    vectors = table(sorted(known))
    ours = made(dict(reversed(vectors.items())), transform=transform)
    kept = [gene for gene in GENES if gene in known]
    plain = ContinuousTokenizer.from_tables(
        {token: i for i, token in enumerate(["<pad>", "<mask>", *kept])}, max_length=64, transform=transform
    )
    counts, names = cells()[:, order], [GENES[i] for i in order]
    a, b = (tokenizer.encode_cells(counts, names, empty="keep") for tokenizer in (ours, plain))
    np.testing.assert_array_equal(a.offsets, b.offsets)
    for column in ("input_ids", "values"):
        np.testing.assert_array_equal(a.columns[column], b.columns[column])
    assert ours.get_vocab() == plain.get_vocab()
    assert ours.vectors.shape == (len(ours), 4) == (2 + len(known), ours.gene_vector_dim)
    for gene in kept:
        np.testing.assert_array_equal(ours.vectors[ours.get_vocab()[gene]], vectors[gene].astype(np.float32))
    assert ours.without_vector == tuple(gene for gene in GENES if gene not in known)


def test_a_gene_without_a_vector_gets_the_mean_or_is_an_error():
    vectors = table(GENES[:20])
    tokenizer = made(vectors, missing_vectors="mean")
    assert tokenizer.get_vocab() == TOKENS and tokenizer.without_vector == tuple(GENES[20:])
    mean = np.mean([vector.astype(np.float32) for vector in vectors.values()], axis=0, dtype=np.float64)
    np.testing.assert_allclose(tokenizer.vectors[22:], np.tile(mean, (10, 1)), rtol=1e-6)
    with pytest.raises(ValueError, match=r"10 of 30 genes without a vector \(first: G20"):
        made(vectors, missing_vectors="error")
    with pytest.raises(ValueError, match="missing_vectors='men'"):
        made(vectors, missing_vectors="men")


def test_the_table_may_call_the_genes_otherwise():
    aliases = {"ENSG00000000001": "G00", "old": "G01", "ENSG00000000002": "G02", "older": "G01"}
    vectors = (["ENSG00000000001.5", "old", "ENSG00000000002", "G02", "g03"], np.eye(5))
    tokenizer = GeneEmbeddingTokenizer.from_tables(TOKENS, None, aliases, vectors=vectors, max_length=64)
    assert list(tokenizer.get_vocab()) == ["<pad>", "<mask>", "G00", "G01", "G02"]
    np.testing.assert_array_equal(tokenizer.vectors[2:], np.eye(5)[[0, 1, 3]])
    two = (["old", "older", "G00"], np.eye(3))
    tokenizer = GeneEmbeddingTokenizer.from_tables(TOKENS, None, aliases, vectors=two, max_length=64)
    assert list(tokenizer.get_vocab()) == ["<pad>", "<mask>", "G00"], "two other names decide nothing"


NAMES = st.lists(st.sampled_from(GENES), unique=True, min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(NAMES, NAMES, st.sampled_from(["drop", "mean"]))
def test_a_tokenizer_matches_as_the_data_side_does(known, genes, missing):
    aliases = {f"ENSG{i:011d}": gene for i, gene in enumerate(GENES)}
    ids = {gene: name for name, gene in aliases.items()}
    vectors = np.random.default_rng(0).normal(size=(len(known), 3)).astype(np.float32)
    names = [ids[gene] if i % 2 else gene for i, gene in enumerate(known)]
    if not set(known) & set(genes):
        with pytest.raises(ValueError, match="has a vector"):
            match_vectors(genes, (names, vectors), aliases)
        return
    ours = match_vectors(genes, (names, vectors), aliases, missing=missing)
    theirs, report = align_vectors(
        GeneVectors.of(names, vectors), genes, names=GeneMap(GENES, aliases), missing=missing
    )
    assert tuple(ours.genes) == theirs.genes and ours.without == report.missing
    np.testing.assert_array_equal(ours.vectors_KD, theirs.vectors)


def test_special_tokens_have_the_rows_of_transcriptformer():
    tokens = {token: i for i, token in enumerate([*TRANSCRIPTFORMER_TOKENS, *GENES])}
    tokenizer = GeneEmbeddingTokenizer.from_tables(tokens, vectors=table(GENES), max_length=64)
    assert tokenizer.get_vocab() == tokens
    expected = np.random.RandomState(42).rand(7, 4).astype(np.float32)
    np.testing.assert_array_equal(tokenizer.vectors[:7], expected)
    assert expected[0, 0] == np.float32(0.3745401188473625)


def test_the_table_of_transcriptformer_is_that_of_the_official_code():
    import json

    from scmf.data.genes.vectors import read_gene_vectors

    folder = None if reference_dir() is None else reference_dir() / "transcriptformer"
    if folder is None or not (folder / "emb_matrix.npy").is_file():
        pytest.skip("SCMF_REFERENCE_DIR has no transcriptformer")
    found = read_gene_vectors(folder / "ckpt_small" / "vocabs" / "homo_sapiens_gene.h5")
    tokens = json.loads((folder / "gene_vocab.json").read_text())
    tokenizer = GeneEmbeddingTokenizer.from_tables(tokens, vectors=(found.genes, found.vectors), max_length=2047)
    assert tokenizer.get_vocab() == tokens and tokenizer.without_vector == ()
    official = np.load(folder / "emb_matrix.npy").astype(np.float32)
    np.testing.assert_array_equal(tokenizer.vectors, official)
    moved = GeneEmbeddingTokenizer.from_tables(
        tokens, vectors=(found.genes[1:], found.vectors[1:]), max_length=2047, missing_vectors="mean"
    )
    assert (moved.vectors != official).any(axis=1).sum() == 1


@pytest.mark.parametrize(
    ("vectors", "says"),
    [
        ("fit", "without cells"),
        ("genept", "a name, 'genept'"),
        (None, "a NoneType"),
        ({}, "0 genes"),
        (np.eye(30), "a ndarray"),
        ((["G00", "G00"], np.eye(2)), "1 genes that stand twice"),
        ((["G00", "G01"], [[1.0], [1.0, 2.0]]), "different lengths"),
        ((["G00", "G01"], [["a"], ["b"]]), "or no numbers"),
        ((["G00", "G01"], np.eye(3)), r"shape \(3, 3\)"),
        ((["G00", "G01"], np.zeros((2, 0))), r"shape \(2, 0\)"),
        ((["G00", "G01"], [[1.0], [np.nan]]), "1 vectors with NaN or infinite numbers \\(first: 'G01'\\)"),
        (({"X": [1.0], "Y": [2.0]}), r"none of 30 genes has a vector \(first: 'G00'"),
    ],
)
def test_a_wrong_table_is_one_clear_error(vectors, says):
    with pytest.raises(ValueError, match=says) as caught:
        made(vectors)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["found", "wanted", "where", "do"]


def test_ids_with_a_gap_are_an_error():
    with pytest.raises(ValueError, match="3 tokens, highest id 5"):
        GeneEmbeddingTokenizer.from_tables(
            {"<pad>": 0, "G00": 1, "G01": 5}, vectors=table(["G00", "G01"]), max_length=8
        )


# --- vectors from cells ---------------------------------------------------------------------------


def exact(counts, dimensions):
    dense = counts.toarray().astype(np.float64)
    x = np.log1p(dense / np.maximum(dense.sum(1, keepdims=True), 1) * 1e4)
    x -= x.mean(0)
    x /= np.where(x.std(0) > 0, x.std(0), 1)
    _, values, vectors = np.linalg.svd(x, full_matrices=False)
    loadings = (vectors * values[:, None]).T[:, :dimensions]
    loadings *= np.sign(loadings[np.abs(loadings).argmax(0), np.arange(dimensions)])
    return loadings / np.sqrt(np.mean(loadings**2))


def test_vectors_of_cells_are_the_exact_decomposition():
    found = fit_vectors(cells(200), GENES, GENES, dimensions=2, seed=0)  # three programs have two axes
    assert found.dtype == np.float32 and found.shape == (30, 2)
    np.testing.assert_allclose(found, exact(cells(200), 2), atol=1e-5)
    more = fit_vectors(cells(200), GENES, GENES, dimensions=10, seed=0)
    np.testing.assert_allclose(more @ more.T, exact(cells(200), 10) @ exact(cells(200), 10).T, atol=0.1)
    assert np.mean(found.astype(np.float64) ** 2) == pytest.approx(1)


def test_vectors_of_cells_depend_neither_on_the_order_of_cells_and_columns_nor_on_the_seed():
    counts, rng = cells(200), np.random.default_rng(5)
    rows, columns = rng.permutation(200), rng.permutation(30)
    first = fit_vectors(counts, GENES, GENES, dimensions=2, seed=0)
    names = [GENES[i] for i in columns]
    np.testing.assert_array_equal(fit_vectors(counts[:, columns], names, GENES, dimensions=2, seed=0), first)
    np.testing.assert_allclose(fit_vectors(counts[rows], GENES, GENES, dimensions=2, seed=0), first, atol=1e-5)
    np.testing.assert_allclose(fit_vectors(counts, GENES, GENES, dimensions=2, seed=9), first, atol=1e-5)


def test_genes_of_one_program_are_near_each_other():
    vectors = fit_vectors(cells(400), GENES, GENES, dimensions=2, seed=0).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    same = np.arange(30)[:, None] % 3 == np.arange(30) % 3
    near = unit @ unit.T
    assert near[same].min() > near[~same].max()


def test_a_gene_that_does_not_vary_has_the_vector_0():
    counts = sp.hstack([cells(50), sp.csr_matrix((50, 1), dtype=np.float32)]).tocsr()
    vectors = fit_vectors(counts, [*GENES, "flat"], [*GENES, "flat"], dimensions=2, seed=0)
    assert not vectors[30].any() and vectors[:30].any(axis=1).all()


def test_columns_of_one_gene_are_summed_and_totals_may_be_given():
    counts = cells(100)
    twice = sp.hstack([counts, counts[:, :5]]).tocsr()
    summed = counts.toarray()
    summed[:, :5] *= 2
    one = fit_vectors(twice, [*GENES, *GENES[:5]], GENES, dimensions=2, seed=0)
    np.testing.assert_array_equal(one, fit_vectors(sp.csr_matrix(summed), GENES, GENES, dimensions=2, seed=0))
    totals = np.asarray(summed.sum(1))
    np.testing.assert_array_equal(
        one, fit_vectors(twice, [*GENES, *GENES[:5]], GENES, dimensions=2, seed=0, totals=totals)
    )
    other = fit_vectors(twice, [*GENES, *GENES[:5]], GENES, dimensions=2, seed=0, totals=totals * np.arange(1, 101))
    assert np.abs(one - other).max() > 0.01


def test_more_dimensions_than_the_cells_have_are_an_error():
    with pytest.raises(ValueError, match="60 dimensions from 60 cells and 30 genes\nwanted: at most 30"):
        fit_vectors(cells(60), GENES, GENES, dimensions=60, seed=0)
    with pytest.raises(ValueError, match="wanted: at most 9"):
        fit_vectors(cells(10), GENES, GENES, dimensions=10, seed=0)


def test_fit_learns_vocabulary_and_vectors():
    options = {"max_length": 64, "special_tokens": True, "depth_tokens": True}
    tokenizer = GeneEmbeddingTokenizer.fit(cells(), GENES, min_cells=5, dimensions=6, **options)
    assert tokenizer.get_vocab() == ContinuousTokenizer.fit(cells(), GENES, min_cells=5, **options).get_vocab()
    assert tokenizer.vectors.shape == (36, 6)
    np.testing.assert_array_equal(tokenizer.vectors[6:], fit_vectors(cells(), GENES, GENES, dimensions=6, seed=0))
    given_table = GeneEmbeddingTokenizer.fit(cells(), GENES, min_cells=5, vectors=table(GENES[:9]), max_length=64)
    assert list(given_table.get_vocab()) == ["<pad>", "<mask>", *GENES[:9]]


def test_values_that_are_given_are_not_normalised_again():
    values = cells(80)
    values.data = np.log1p(values.data)
    tokenizer = GeneEmbeddingTokenizer.fit(
        values, GENES, min_cells=1, max_length=64, dimensions=2, transform="as_given"
    )
    expected = fit_vectors(values, GENES, GENES, dimensions=2, seed=0, raw=False)
    np.testing.assert_array_equal(tokenizer.vectors[2:], expected)
    assert np.abs(expected - fit_vectors(values, GENES, GENES, dimensions=2, seed=0)).max() > 1e-3


# --- saved ----------------------------------------------------------------------------------------


def test_a_saved_tokenizer_is_the_same_and_holds_no_pickle(tmp_path):
    tokenizer = made(table(GENES[:7]), transform="clipped_counts", clip=5.0, missing_vectors="mean")
    tokenizer.save_pretrained(tmp_path / "a")
    loaded = GeneEmbeddingTokenizer.from_pretrained(tmp_path / "a")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.options == tokenizer.options and loaded.missing_vectors == "mean"
    np.testing.assert_array_equal(loaded.vectors, tokenizer.vectors)
    with np.load(tmp_path / "a" / "gene_vectors.npz", allow_pickle=False) as file:
        assert file.files == ["vectors"] and file["vectors"].dtype == np.float32
    loaded.save_pretrained(tmp_path / "b")
    for name in ("vocab.json", "gene_vectors.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.nightly
def test_a_saved_tokenizer_loads_where_scmf_is_not_installed(tmp_path):
    tokenizer = made(table(GENES))
    tokenizer.save_pretrained(tmp_path / "saved")
    code = (
        "import sys; sys.modules['scmf'] = None\n"
        "import numpy as np\nfrom transformers import AutoTokenizer\n"
        f"t = AutoTokenizer.from_pretrained({str(tmp_path / 'saved')!r}, trust_remote_code=True)\n"
        "batch = t(np.eye(3, dtype='float32'), ['G03', 'G01', 'nothing'], empty='keep')\n"
        "print(t.fingerprint, t.vectors.shape, batch['input_ids'].ravel().tolist())\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(" ", 1) == [tokenizer.fingerprint, "(32, 4) [5, 3, 0]\n"]


def test_auto_tokenizer_gives_the_class(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    made(table(GENES)).save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert type(loaded).__name__ == "GeneEmbeddingTokenizer" and loaded.gene_vector_dim == 4


def test_another_vector_is_another_fingerprint():
    one, other = table(GENES), table(GENES)
    other["G07"] = other["G07"] + 1e-3
    assert made(one).fingerprint == made(table(GENES)).fingerprint != made(other).fingerprint


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "no gene vectors"),
        (lambda path: path.write_bytes(b"PK"), "not readable"),
        (lambda path: np.savez(path, other=np.eye(2)), "not readable"),
        (lambda path: np.savez(path, vectors=np.array([None, 1], dtype=object)), "not readable"),
        (lambda path: np.savez(path, vectors=np.eye(3, dtype=np.float32)), r"vectors of the shape \(3, 3\)"),
        (lambda path: np.savez(path, vectors=np.eye(32)), "float64"),
    ],
)
def test_a_damaged_table_is_one_clear_error(tmp_path, spoil, says):
    made(table(GENES)).save_pretrained(tmp_path)
    spoil(tmp_path / "gene_vectors.npz")
    with pytest.raises(ValueError, match=says):
        GeneEmbeddingTokenizer.from_pretrained(tmp_path)


def test_nobody_changes_the_table_of_a_tokenizer_from_outside():
    matrix = np.eye(30, dtype=np.float32)
    tokenizer = made((GENES, matrix))
    before = tokenizer.vectors
    matrix[0, 0] = tokenizer.vectors[0, 0] = 2
    np.testing.assert_array_equal(tokenizer.vectors, before)


def test_the_options_of_the_configuration_are_those_of_the_tokenizer():
    options = TokenizerConfig.model_validate({"strategy": "gene_embedding"}).all_options
    assert {**options, "vectors": None} == {**made(table(GENES)).options, "vectors": None}
