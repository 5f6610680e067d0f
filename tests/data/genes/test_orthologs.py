"""Orthologs of human and mouse: which pairs are kept, what is said about the others, and known facts."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, SourceError
from scmf.data.cards.card import load_card
from scmf.data.genes.ids import GeneMap
from scmf.data.genes.orthologs import OrthologMap, check_orthologs, load_orthologs, read_orthologs
from scmf.data.genes.vocabulary import annotation


def human(number):
    return f"ENSG{number:011d}"


def mouse(number):
    return f"ENSMUSG{number:011d}"


TABLE = pd.DataFrame(
    [
        (human(1), mouse(1), "ortholog_one2one", 1),
        (human(2), mouse(2), "ortholog_one2one", 0),
        (human(3), mouse(3), "ortholog_one2many", 1),  # duplicated in the mouse
        (human(3), mouse(4), "ortholog_one2many", 0),
        (human(5), mouse(5), "ortholog_one2many", 1),  # duplicated in human
        (human(6), mouse(5), "ortholog_one2many", 1),
        (human(7), mouse(7), "ortholog_many2many", 1),
    ],
    columns=["human", "mouse", "type", "confidence"],
)
NAMES = GeneMap([mouse(i) for i in range(1, 10)], {"Gene1": mouse(1), "Gene9": mouse(9)}, ambiguous=["Twice"])


def test_one_to_one_is_the_default_and_the_rest_is_reported():
    ids = [mouse(1), mouse(2), mouse(3), mouse(5), mouse(7), mouse(9), mouse(99), human(1), "Gene1", "gene9", "Twice"]
    mapped, report = OrthologMap(TABLE, NAMES).to_human(ids)
    assert mapped.tolist() == [human(1), human(2), "", "", "", "", "", human(1), human(1), "", ""]
    assert (report.one2one, report.summed, report.human, report.many) == (3, 0, 1, 3)
    assert (report.no_ortholog, report.ambiguous, report.unknown) == (2, 1, 1)
    assert report.collisions == {human(1): (mouse(1), human(1), "Gene1")}
    assert report.to_json()["mapped"] == 4


def test_genes_duplicated_in_the_mouse_are_summed_only_when_asked():
    mapped, report = OrthologMap(TABLE, NAMES, many="sum").to_human([mouse(i) for i in (1, 3, 4, 5, 7)])
    assert mapped.tolist() == [human(1), human(3), human(3), "", ""], (
        "a mouse gene of two human genes is never shared out"
    )
    assert (report.one2one, report.summed, report.many) == (1, 2, 2)
    assert report.collisions == {human(3): (mouse(3), mouse(4))}


def test_pairs_of_low_confidence_can_be_left_out():
    assert OrthologMap(TABLE, many="sum", high_confidence=True).pairs == {mouse(1): human(1), mouse(3): human(3)}


def test_versions_and_case_do_not_matter():
    assert OrthologMap(TABLE).to_human([mouse(1).lower(), f"{mouse(2)}.4"])[0].tolist() == [human(1), human(2)]


@given(st.lists(st.sampled_from([mouse(i) for i in range(12)] + [human(3), "Gene1", "Twice", "nobody"])))
def test_the_report_adds_up(ids):
    _, report = OrthologMap(TABLE, NAMES, many="sum").to_human(ids)
    assert report.n == len(ids) == report.mapped + report.many + report.no_ortholog + report.ambiguous + report.unknown


def test_another_policy_is_refused_with_a_hint():
    with pytest.raises(ConfigError, match="did you mean 'one2one'"):
        OrthologMap(TABLE, many="one2on")


# --- the shipped tables ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    try:
        return load_orthologs()
    except SourceError as error:
        pytest.skip(f"the card human-mouse-orthologs cannot be fetched here: {error.found.splitlines()[0]}")


@pytest.mark.parametrize(
    ("name", "gene"),
    [
        ("ENSMUSG00000059552", "ENSG00000141510"),  # Trp53, TP53
        ("Trp53", "ENSG00000141510"),
        ("ENSMUSG00000059552.14", "ENSG00000141510"),
        ("Actb", "ENSG00000075624"),
        ("Cd4", "ENSG00000010610"),
        ("mt-Co1", "ENSG00000198804"),
        ("Xist", ""),  # no protein: Compara has no pair
        ("no such gene", ""),
    ],
)
def test_known_mouse_genes_lead_to_their_human_gene(shipped, name, gene):
    assert shipped.to_human([name])[0].tolist() == [gene]


def test_the_numbers_of_pairs_are_those_of_the_card(shipped):
    assert (
        len(shipped.pairs) == len(set(shipped.pairs.values())) == 17_122 == load_card("human-mouse-orthologs").n_genes
    )
    table = read_orthologs()
    assert len(OrthologMap(table, high_confidence=True).pairs) == 16_085
    summed = OrthologMap(table, many="sum").pairs
    assert len(summed) == 17_122 + 1_984
    assert len(set(summed.values())) == 17_122 + 495


def test_nearly_every_pair_is_in_both_annotations(shipped):
    humans, mice = (set(annotation(card)["gene"]) for card in ("human-genes", "mouse-genes"))
    assert sum(human in humans and mouse in mice for mouse, human in shipped.pairs.items()) == 17_120


def test_an_independent_table_of_an_older_ensembl_agrees(shipped):
    agreement = check_orthologs()
    assert (agreement.first, agreement.second) == (17_122, 16_766)
    assert (agreement.shared, agreement.same) == (16_139, 15_986)
    assert "99.1%" in str(agreement)
