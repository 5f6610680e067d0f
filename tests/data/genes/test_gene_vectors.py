"""Tables of gene vectors: three formats read back to the bit, what is wrong with one told once, alignment exact."""

import json
import pickle  # noqa: TID251  (to write what must be refused)

import h5py
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings

from scmf.core.errors import ConfigError, DataError, GeneError, SourceError
from scmf.core.files import sha256_file
from scmf.core.paths import reference_dir
from scmf.data.cards.card import list_cards
from scmf.data.checks.file import check_card
from scmf.data.genes import align_vectors as align_module
from scmf.data.genes.align_vectors import align_vectors, vectors_for
from scmf.data.genes.ids import GeneMap
from scmf.data.genes.vectors import GeneVectors, load_gene_vectors, read_gene_vectors, side_by_side

GENES = ("ENSG00000000003", "TP53", "b", "A-1")
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


def write(path, genes=GENES, vectors=VECTORS, layout="pair"):
    rows = list(vectors)
    if path.suffix == ".npz":
        if layout == "pair":
            np.savez(path, genes=np.array(genes), vectors=vectors)
        elif layout == "keys":
            np.savez(path, keys=np.array(genes), arrays=vectors)
        else:
            np.savez(path, **dict(zip(genes, rows, strict=True)))
    elif path.suffix == ".parquet":
        table = pd.DataFrame(vectors, index=pd.Index(genes, name="gene"), columns=[f"d{i}" for i in range(3)])
        if layout == "lists":
            table = pd.DataFrame({"gene": genes, "vector": [row.tolist() for row in rows]})
        (table.reset_index() if layout == "column" else table).to_parquet(path)
    else:
        with h5py.File(path, "w") as file:
            if layout == "pair":
                file["genes"], file["vectors"] = [gene.encode() for gene in genes], vectors
                return path
            if layout == "keys":
                file["keys"] = np.array(genes, "S")
            group = file.create_group("arrays") if layout == "keys" else file
            for gene, row in zip(genes, rows, strict=True):
                group[gene] = row
    return path


# --- files ----------------------------------------------------------------------------------------

LAYOUTS = [(".npz", "pair"), (".npz", "keys"), (".npz", "genes"), (".h5", "pair"), (".h5", "keys"), (".hdf5", "genes"),
           (".parquet", "index"), (".parquet", "column"), (".parquet", "lists")]  # fmt: skip


@pytest.mark.parametrize(("suffix", "layout"), LAYOUTS, ids=["".join(x) for x in LAYOUTS])
def test_every_layout_is_read_to_the_bit(tmp_path, suffix, layout):
    table = read_gene_vectors(write(tmp_path / f"t{suffix}", layout=layout))
    order = [GENES.index(gene) for gene in table.genes]
    assert sorted(order) == [0, 1, 2, 3]
    if (suffix, layout) != (".hdf5", "genes"):  # datasets of a group have no order of their own
        assert table.genes == GENES
    assert table.vectors.dtype == np.float32
    np.testing.assert_array_equal(table.vectors, VECTORS[order])
    assert len(table) == 4 and table.width == 3
    assert table.facts["format"] == suffix[1:] and len(table.facts["sha256"]) == 64


def test_a_saved_table_is_read_back(tmp_path):
    table = GeneVectors.of(GENES, VECTORS)
    read = read_gene_vectors(table.save(tmp_path / "t.npz"))
    assert read.genes == table.genes
    np.testing.assert_array_equal(read.vectors, table.vectors)
    with pytest.raises(DataError, match="ends in .npz"):
        table.save(tmp_path / "t.h5")


def test_a_path_works_where_the_name_of_a_card_works(tmp_path):
    path = write(tmp_path / "t.npz")
    assert load_gene_vectors(str(path)).genes == load_gene_vectors(path).genes == GENES


def test_the_name_of_something_else_is_one_clear_error():
    with pytest.raises(ConfigError, match="did you mean 'pancreas'"):
        load_gene_vectors("pancrea")
    with pytest.raises(DataError):
        load_gene_vectors("human-genes")


@pytest.mark.parametrize("card", list_cards(kind="vectors"), ids=lambda card: card.name)
def test_a_card_without_a_checksum_says_what_to_fetch(card):
    assert card.needs_download and not card.files
    with pytest.raises(SourceError, match="no checksum") as caught:
        load_gene_vectors(card.name)
    assert caught.value.fix == card.needs_download
    report = check_card(card)
    assert report.ok and [(finding.level, finding.what) for finding in report.findings] == [
        ("warning", "needs a download")
    ]


def test_a_card_of_vectors_of_ones_own_is_read_and_checked(tmp_path):
    path = GeneVectors.of(GENES, VECTORS).save(tmp_path / "t.npz")
    file = {"name": "t.npz", "role": "vectors", "sha256": sha256_file(path), "sources": [
        {"kind": "mirror", "path": "t.npz"}]}  # fmt: skip
    card = {"name": "mine", "title": "t", "kind": "vectors", "organism": "o", "license": "l", "citation": "c",
            "n_genes": 4, "files": [file]}  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card))
    table = load_gene_vectors(str(tmp_path / "mine.yaml"))
    assert table.genes == GENES and table.facts["card"] == "mine"
    assert check_card(tmp_path / "mine.yaml").ok
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**card, "n_genes": 5}))
    assert not check_card(tmp_path / "mine.yaml").ok


class Harmful:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("name", ["t.pkl", "t.pickle"])
def test_a_pickle_is_refused_with_the_conversion(tmp_path, name, capsys):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({"A": Harmful()}))
    with pytest.raises(DataError, match=r"(?s)a pickle.*np\.savez\(\"t\.npz\"") as caught:
        load_gene_vectors(path)
    assert capsys.readouterr().out == ""
    table = {"A": [1.0, 2.0], "B": [3.0, 4.0]}
    path.write_bytes(pickle.dumps(table))
    lines = [line.strip() for line in caught.value.fix.splitlines()[1:]]
    assert len(lines) == 3 and "pickle.load" in lines[1]
    code = "\n".join(lines).replace(f'"{name}"', repr(str(path))).replace('"t.npz"', repr(str(tmp_path / "t.npz")))
    exec(code, {})
    assert read_gene_vectors(tmp_path / "t.npz").genes == ("A", "B")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p / "t.csv", "ends in .csv"),
        (lambda p: p / "t.npz", "no such file"),
        (lambda p: write(p / "t.npz", ("A", "B", "A", "C")), "1 genes stand more than once, the first is 'A'"),
        (lambda p: write(p / "t.h5", ("A", "B", "A", "C")), "stand more than once"),
        (lambda p: write(p / "t.npz", (), np.zeros((0, 3))), "no genes"),
        (lambda p: write(p / "t.npz", vectors=np.zeros((4, 0))), r"shape \(4, 0\)"),
        (lambda p: write(p / "t.npz", vectors=np.zeros(4)), r"shape \(4,\)"),
        (lambda p: write(p / "t.npz", vectors=np.zeros((3, 2))), "4 genes and 3 vectors"),
        (lambda p: write(p / "t.npz", vectors=np.full((4, 2), "x")), "array of <U1"),
        (lambda p: write(p / "t.npz", vectors=np.where(np.eye(4) > 0, np.nan, 1)), "4 genes, the first is 'ENSG"),
        (lambda p: write(p / "t.npz", vectors=np.where(np.eye(4)[:, ::-1] > 0, np.inf, 1)[2:].repeat(2, 0)), "NaN or"),
        (lambda p: write(p / "t.npz", vectors=np.full((4, 2), 1e39)), "infinite numbers in the vectors of 4"),
    ],
)
def test_a_bad_table_is_one_clear_error(tmp_path, make, says):
    with pytest.raises(DataError, match=says) as caught:
        read_gene_vectors(make(tmp_path))
    assert caught.value.wanted and caught.value.where and caught.value.fix


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
def test_a_damaged_file_is_one_clear_error(tmp_path, suffix):
    path = write(tmp_path / f"t{suffix}")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match="not readable"):
        read_gene_vectors(path)


def test_vectors_of_different_lengths_name_the_gene(tmp_path):
    np.savez(tmp_path / "t.npz", A=np.ones(3), B=np.ones(3), C=np.ones(2))
    with pytest.raises(DataError, match="the vector of 'C' is 2 numbers, others have 3"):
        read_gene_vectors(tmp_path / "t.npz")
    np.savez(tmp_path / "t.npz", A=np.ones(3), B=np.ones((3, 1)), C=np.ones(3))
    with pytest.raises(DataError, match="the vector of 'B' is an array of 2 dimensions"):
        read_gene_vectors(tmp_path / "t.npz")


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "t.npz", genes=np.array(GENES, dtype=object), vectors=VECTORS)
    with pytest.raises(DataError, match="not readable"):
        read_gene_vectors(tmp_path / "t.npz")


def test_a_key_without_array_is_named(tmp_path):
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["keys"] = np.array(["A", "B"], "S")
        file.create_group("arrays")["A"] = np.ones(2)
    with pytest.raises(DataError, match="1 of the keys have no array, the first is 'B'"):
        read_gene_vectors(tmp_path / "t.h5")


def test_the_file_of_transcriptformer_gives_its_table_in_its_order():
    folder = None if reference_dir() is None else reference_dir() / "transcriptformer"
    if folder is None or not (folder / "emb_matrix.npy").is_file():
        pytest.skip("SCMF_REFERENCE_DIR has no transcriptformer")
    table = read_gene_vectors(folder / "ckpt_small" / "vocabs" / "homo_sapiens_gene.h5")
    vocabulary = json.loads((folder / "gene_vocab.json").read_text())
    matrix = np.load(folder / "emb_matrix.npy").astype(np.float32)
    for row, gene in enumerate(table.genes[:100]):
        np.testing.assert_array_equal(table.vectors[row], matrix[vocabulary[gene]])
    assert list(table.genes) == list(vocabulary)[7:]
    np.testing.assert_array_equal(table.vectors, matrix[7:])


# --- alignment ------------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from([f"G{i}" for i in range(12)]), unique=True, min_size=1)


@settings(max_examples=100, deadline=None)
@given(NAMES, NAMES, st.integers(0, 100), st.sampled_from(["drop", "mean"]))
def test_every_gene_has_its_own_vector_whatever_the_order(known, genes, seed, missing):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(known), 4)).astype(np.float32)
    table = GeneVectors.of(known, vectors)
    shared = [gene for gene in genes if gene in known]
    if not shared:
        with pytest.raises(GeneError, match=f"none of {len(genes)} genes"):
            align_vectors(table, genes, missing=missing)
        return
    counts = rng.integers(0, 9, len(genes))
    got, report = align_vectors(table, genes, missing=missing, counts=counts)
    lost = [gene for gene in genes if gene not in known]
    assert list(got.genes) == (shared if missing == "drop" else genes)
    own = dict(zip(known, vectors, strict=True))
    mean = np.mean([own[gene] for gene in shared], axis=0, dtype=np.float64).astype(np.float32)
    for gene, vector in zip(got.genes, got.vectors, strict=True):
        np.testing.assert_array_equal(vector, own.get(gene, mean))
    number = dict(zip(genes, counts.tolist(), strict=True))
    assert report.missing == tuple(sorted(lost, key=lambda gene: -number[gene]))
    assert (report.n_genes, report.exact, report.other_name, report.ambiguous) == (len(genes), len(shared), 0, ())
    total = sum(number.values())
    assert report.missing_share == pytest.approx(sum(number[gene] for gene in lost) / total if total else 0)
    order = rng.permutation(len(known))
    again, _ = align_vectors(GeneVectors.of([known[i] for i in order], vectors[order]), genes, missing=missing)
    np.testing.assert_array_equal(again.vectors, got.vectors)


IDS = GeneMap(["ENSG00000000001", "ENSG00000000002", "ENSG00000000003"], {
    "TP53": "ENSG00000000001", "P53": "ENSG00000000001", "MARCHF1": "ENSG00000000002", "MARCH1": "ENSG00000000002",
})  # fmt: skip


@pytest.mark.parametrize("swap", [False, True])
def test_symbols_and_ensembl_ids_find_each_other(swap):
    symbols, ids = ["TP53", "MARCH1"], ["ENSG00000000001.7", "ENSG00000000002"]
    known, genes = (ids, symbols) if swap else (symbols, ids)
    got, report = align_vectors(GeneVectors.of(known, np.eye(2)), [*genes, "XX"], names=IDS)
    assert got.genes == tuple(genes)
    np.testing.assert_array_equal(got.vectors, np.eye(2))
    assert (report.exact, report.other_name, report.missing) == (0, 2, ("XX",))


def test_an_ensembl_id_needs_no_table_of_names_for_its_version():
    got, report = align_vectors(GeneVectors.of(["ENSG00000000001"], [[1.0]]), ["ENSG00000000001.2", "tp53"])
    assert (got.genes, report.other_name, report.missing) == (("ENSG00000000001.2",), 1, ("tp53",))


def test_a_gene_with_two_vectors_under_other_names_has_none():
    table = GeneVectors.of(["MARCHF1", "MARCH1", "TP53"], np.eye(3))
    got, report = align_vectors(table, ["ENSG00000000002", "TP53"], names=IDS)
    assert (got.genes, report.ambiguous, report.missing) == (("TP53",), ("ENSG00000000002",), ())
    got, report = align_vectors(table, ["MARCH1", "TP53"], names=IDS)
    assert (report.exact, report.ambiguous) == (2, ()), "its own name decides"


def test_genes_without_a_vector_can_be_an_error():
    table = GeneVectors.of(["A"], [[1.0]])
    with pytest.raises(GeneError, match=r"1 of 3 genes have a vector; 2 without, 75\.00% of the counts"):
        align_vectors(table, ["A", "B", "C"], missing="error", counts=np.array([1, 1, 2]))
    with pytest.raises(ConfigError, match="did you mean 'drop'"):
        align_vectors(table, ["A"], missing="dropp")
    with pytest.raises(DataError, match=r"counts of the shape \(2,\)"):
        align_vectors(table, ["A"], counts=np.ones(2))


def test_the_report_says_how_many_which_and_how_much_they_matter():
    _, report = align_vectors(GeneVectors.of(["A"], [[1.0]]), list("ABCDEFG"), counts=np.array([1, 0, 5, 0, 2, 1, 1]))
    assert str(report) == (
        "1 of 7 genes have a vector; 6 without, 90.00% of the counts are left out (C, E, F, G, B, ...)"
    )
    assert json.loads(json.dumps(report.to_json()))["missing"] == ["C", "E", "F", "G", "B", "D"]


def test_names_of_the_annotation_are_asked_for_human_genes_only(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(align_module, "human_genes", lambda **_: asked.append(1) or IDS)
    path = GeneVectors.of(["ENSG00000000001", "ENSG00000000002"], np.eye(2)).save(tmp_path / "t.npz")
    got, _ = vectors_for(path, ["TP53", "MARCH1"])
    assert got.genes == ("TP53", "MARCH1") and len(asked) == 1
    vectors_for(path, ["ENSG00000000002"])
    assert len(asked) == 1, "every gene is there as it is written"
    path = GeneVectors.of(["ENSMUSG00000000001"], [[1.0]]).save(tmp_path / "m.npz")
    vectors_for(path, ["ENSMUSG00000000001", "ENSMUSG00000000002"])
    path = GeneVectors.of(["TP53", "ACTB", "CD4"], np.eye(3)).save(tmp_path / "h.npz")
    with pytest.raises(GeneError, match="none of 3 genes"):
        vectors_for(path, ["Trp53", "Actb", "Cd4"])
    assert len(asked) == 1


# --- several tables -------------------------------------------------------------------------------


def test_tables_side_by_side_hold_the_genes_of_all():
    first, second = GeneVectors.of(list("ABC"), np.eye(3)), GeneVectors.of(list("CXA"), 2 * np.ones((3, 2)))
    both = side_by_side([first, second])
    assert both.genes == ("A", "C") and both.width == 5
    np.testing.assert_array_equal(both.vectors, [[1, 0, 0, 2, 2], [0, 0, 1, 2, 2]])
    assert both.facts["widths"] == [3, 2]
    with pytest.raises(GeneError, match="without a gene in common"):
        side_by_side([first, GeneVectors.of(["Z"], [[1.0]])])
    with pytest.raises(DataError, match="no tables"):
        side_by_side([])


def test_a_table_cannot_be_changed_by_accident():
    given_vectors = VECTORS.copy()
    with pytest.raises(ValueError, match="read-only"):
        GeneVectors.of(GENES, given_vectors).vectors[0, 0] = 1
    given_vectors[0, 0] = 1
