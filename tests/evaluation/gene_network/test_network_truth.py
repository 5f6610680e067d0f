"""CellLabels networks and lists of regulators: what of each file counts, against what its provenance says."""

import gzip
import os
from pathlib import Path

import pandas as pd
import pytest

from scmf.core.errors import ConfigError, EvaluationError
from scmf.data.cards.card import IndexSource, MirrorSource, load_card
from scmf.evaluation.gene_network import truth as network_truth
from scmf.evaluation.gene_network.truth import TRUTHS, read_regulators, read_truth

TRUTH_DIR = Path(os.environ.get("SCMF_DATA_DIR", "/nowhere")) / "grn_truth"
needs_truth = pytest.mark.skipif(not TRUTH_DIR.is_dir(), reason="SCMF_DATA_DIR holds no grn_truth")


@pytest.fixture
def served(monkeypatch):
    """Serve a file of the test instead of that of the card."""
    return lambda path: monkeypatch.setattr(network_truth, "fetch_file", lambda *_, **__: path)


@needs_truth
@pytest.mark.parametrize(
    ("name", "n_regulators", "fewest"),
    [
        ("collectri", 1178, 42_000),  # 1,186 in the file, eight of them with no target but themselves
        ("trrust", 794, 8_000),
        ("dorothea_chip", 296, 129_000),
        ("dorothea_curated", 593, 188_000),
    ],
)
def test_truth_files_hold_what_their_provenance_says(name, n_regulators, fewest):
    truth = read_truth(name)
    assert len(truth.regulators) == n_regulators and len(truth.edges) > fewest
    assert all(a != b for a, b in truth.edges)
    assert truth.genes == set(truth.regulators) | set(truth.targets)
    assert truth.name == name and len(truth.sha256) == 64


@needs_truth
def test_edges_of_the_textbooks_are_there():
    assert ("TP53", "CDKN1A") in read_truth("trrust").edges & read_truth("collectri").edges
    assert ("GATA1", "HBB") in read_truth("collectri").edges


def test_inferred_edges_and_binding_sites_of_dorothea_never_count(tmp_path, served):
    table = pd.DataFrame({
        "tf": ["A", "B", "C", "D"], "target": ["X", "Y", "Z", "Z"],
        "is_evidence_chip_seq": [True, False, False, False], "is_evidence_curated": [False, True, False, False],
        "is_evidence_inferred": [True, True, True, False], "is_evidence_tfbs": [False, False, False, True],
    })  # fmt: skip
    table.to_parquet(tmp_path / "d.parquet")
    served(tmp_path / "d.parquet")
    assert read_truth("dorothea_chip").edges == {("A", "X")}
    assert read_truth("dorothea_curated").edges == {("B", "Y")}
    assert not [name for name in TRUTHS if "inferred" in name or name == "dorothea"]


@pytest.mark.parametrize("packed", [False, True])
def test_sets_of_encode_are_those_of_human_factors(tmp_path, served, packed):
    lines = "GATA1_K562_hg19\t\tHBB\tklf1,2.0\tGATA1\nGATA1_MEL cell line_mm9\t\tSOX2\n"
    lines += "POLR2AphosphoS2_K562_hg19\t\tACTB\nGATA1_HepG2_hg19\t\tALB\n"
    path = tmp_path / ("e.txt.gz" if packed else "e.txt")
    path.write_bytes(gzip.compress(lines.encode()) if packed else lines.encode())
    served(path)
    assert read_truth("encode").edges == {("GATA1", "HBB"), ("GATA1", "KLF1"), ("GATA1", "ALB")}


def test_symbols_are_capitals_once_and_a_gene_is_no_target_of_itself(tmp_path, served):
    path = tmp_path / "t.tsv"
    path.write_text("Gata1\tHbb\tActivation\t1\nGATA1\tHBB\tRepression\t2\nGATA1\tGATA1\tUnknown\t3\n")
    served(path)
    assert read_truth("trrust").edges == {("GATA1", "HBB")}
    path.write_text("GATA1\tGATA1\tUnknown\t3\n")
    with pytest.raises(EvaluationError, match="no edge"):
        read_truth("trrust")


def test_an_unknown_network_is_refused_with_a_hint():
    with pytest.raises(ConfigError, match="did you mean 'collectri'"):
        read_truth("colectri")


@needs_truth
def test_the_list_of_factors_is_that_of_lambert():
    found = read_regulators()
    assert len(found) == 1639 == len(set(found)) and {"GATA1", "TP53", "SOX2"} <= set(found)
    assert not {"EP300", "POLR2A"} & set(found)


def test_an_empty_list_of_factors_is_refused(tmp_path, served):
    (tmp_path / "l.txt").write_text("\n")
    served(tmp_path / "l.txt")
    with pytest.raises(EvaluationError, match="no symbol"):
        read_regulators()


def test_cards_say_where_each_network_can_be_had():
    kinds = {
        name: [type(source) for file in load_card(name).files for source in file.sources]
        for name in ("collectri", "dorothea", "trrust", "encode-chipseq", "lambert-tfs")
    }
    assert kinds["trrust"] == kinds["lambert-tfs"] == [MirrorSource, IndexSource]
    assert kinds["encode-chipseq"] == [IndexSource]
    for name in ("collectri", "dorothea"):  # made from a file of a repository, on no index
        assert kinds[name] == [MirrorSource] and "SCMF_DATA_DIR" in load_card(name).description
