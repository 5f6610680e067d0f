"""Gene ids: kinds, canonical form, and the one mapping."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmf.core.errors import DataError, GeneError, SourceError
from scmf.data.genes.ids import (
    GeneMap,
    canonical,
    collisions,
    detect,
    is_ensembl,
    pick_ids,
    pick_symbols,
    refuse_duplicates,
    strip_version,
)
from scmf.data.genes.species import _symbols as species_symbols
from scmf.data.genes.species import species_of
from scmf.data.genes.vocabulary import human_genes

TP53, TSPAN6 = "ENSG00000141510", "ENSG00000000003"


@pytest.mark.parametrize(
    ("written", "stripped"),
    [
        ("ENSG00000000003.15", TSPAN6),
        ("ENSG00000182378.13_PAR_Y", "ENSG00000182378"),
        ("ENSG00000182378_PAR_Y", "ENSG00000182378"),
        ("ENSMUSG00000000001.5", "ENSMUSG00000000001"),
        ("ensg00000000003.1", "ensg00000000003"),
        ("RP11-34P13.7", "RP11-34P13.7"),
        ("H3.3", "H3.3"),
        ("ENSG0000000000", "ENSG0000000000"),
    ],
)
def test_only_ensembl_ids_lose_their_version(written, stripped):
    assert strip_version(written) == stripped


def test_an_ensembl_id_is_told_from_a_symbol():
    assert all(map(is_ensembl, (TP53, "ENSMUSG00000000001.5", "ensg00000000003")))
    assert not any(map(is_ensembl, ("TP53", "ENSA", "ENSG0000000000", "")))


@given(st.text(max_size=30))
def test_canonical_is_stable(gene):
    # upper-casing is not stable for every letter of Unicode; gene names are ASCII
    ascii_gene = gene.encode("ascii", "ignore").decode()
    assert canonical(canonical(ascii_gene)) == canonical(ascii_gene)


@given(st.integers(0, 10**11 - 1), st.integers(1, 99), st.sampled_from(["", "MUS", "RNO"]))
def test_every_way_to_write_an_ensembl_id_has_one_canonical_form(number, version, species):
    gene = f"ENS{species}G{number:011d}"
    assert {canonical(form) for form in (gene, gene.lower(), f"{gene}.{version}", f" {gene.lower()}.{version} ")} == {
        gene
    }


@pytest.mark.parametrize("gene", ["Gpi1", "tp53", " Trp53", "H2-K1", "C10orf105x"])
def test_symbols_are_compared_as_they_are_written(gene):
    assert canonical(gene) == gene.strip()


def test_open_reading_frames_are_written_both_ways():
    assert {canonical(gene) for gene in ("C10orf105", "C10ORF105", "HSPB2-C11orf52")} == {
        "C10ORF105", "HSPB2-C11ORF52",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("genes", "kind", "species"),
    [
        ([TP53, TSPAN6], "ensembl", "Homo sapiens"),
        (["ENSMUSG00000000001", "ENSMUSG00000000003"], "ensembl", "Mus musculus"),
        (["ENSSSCG00000000001"], "ensembl", "species ENSSSC"),
        (["TP53", "CD3E", "MT-CO1"], "symbol", ""),
        (["Trp53", "Cd3e", "Actb"], "symbol", ""),
        (["7157", "7105"], "entrez", ""),
        (["FBgn0000001", "FBgn0000002"], "other", ""),
        ([TP53, "CD3E"], "mixed", ""),
        ([TP53, "ERCC-00002", "ERCC-00003"], "ensembl", "Homo sapiens"),
        ([], "other", ""),
    ],
)
def test_the_kind_of_ids_is_told(genes, kind, species):
    found = detect(genes)
    assert (found.kind, found.species) == (kind, species)


def test_versions_lower_case_and_spreadsheet_dates_are_counted():
    found = detect([f"{TP53}.18", TSPAN6.lower(), "ENSG00000000005"])
    assert (found.n_versioned, found.n_not_upper) == (1, 1)
    assert detect(["TP53", "1-Mar", "7-Sep"]).n_excel_dates == 2


def var(**columns):
    return pd.DataFrame(columns, index=["TP53", "TSPAN6"])


def test_auto_takes_var_names_when_they_are_ensembl():
    ids, where = pick_ids(pd.DataFrame(index=[TP53, TSPAN6]), "auto", path="f")
    assert (ids.tolist(), where) == ([TP53, TSPAN6], "var_names")


def test_auto_finds_the_column_with_ensembl_ids():
    ids, where = pick_ids(var(gene_ids=[TP53, TSPAN6]), "auto", path="f")
    assert (ids.tolist(), where) == ([TP53, TSPAN6], "gene_ids")
    assert pick_symbols(var(gene_ids=[TP53, TSPAN6]), None, ids_from=where, path="f").tolist() == ["TP53", "TSPAN6"]


def test_auto_keeps_symbols_when_there_is_nothing_else():
    assert pick_ids(var(n_cells=[1, 2]), "auto", path="f")[1] == "var_names"


def test_a_missing_column_gets_a_did_you_mean():
    with pytest.raises(DataError, match="did you mean 'gene_ids'"):
        pick_ids(var(gene_ids=[TP53, TSPAN6]), "gene_id", path="f")


def test_a_gene_without_id_has_an_empty_one():
    assert pick_ids(var(gene_ids=[TP53, None]), "gene_ids", path="f")[0].tolist() == [TP53, ""]


MAP = GeneMap([TP53, TSPAN6], {"TP53": TP53, "P53": TP53, "ENSG00000999999": TSPAN6, "GONE": "ENSG00000000000"})


def test_each_way_to_name_a_gene_is_mapped_and_counted():
    ids = [TP53, f"{TSPAN6}.15", "P53", "ENSG00000999999.2", "GONE", "p53"]
    mapped, report = MAP.map(ids)
    assert mapped.tolist() == [TP53, TSPAN6, TP53, TSPAN6, "", ""]
    assert (report.exact, report.normalized, report.alias, report.unknown, report.mapped) == (1, 1, 2, 2, 4)
    assert report.collisions == {TP53: (TP53, "P53"), TSPAN6: (f"{TSPAN6}.15", "ENSG00000999999.2")}


def test_a_known_id_wins_over_an_alias_and_the_first_table_over_the_second():
    genes = GeneMap(["A", "B", "C"], {"A": "B", "X": "B"}, {"X": "C", "Y": "C"}, ambiguous=["X", "Z"])
    mapped, report = genes.map(["A", "X", "Y", "Z"])
    assert mapped.tolist() == ["A", "B", "C", ""]
    assert (report.ambiguous, report.unknown) == (1, 0)


@given(st.lists(st.sampled_from([TP53, "TP53", "p53", TSPAN6.lower(), "nobody", "GONE"]), max_size=20))
def test_the_report_adds_up_and_mapping_twice_changes_nothing(ids):
    mapped, report = MAP.map(ids)
    assert report.exact + report.normalized + report.alias + report.ambiguous + report.unknown == report.n == len(ids)
    again, second = MAP.map(mapped[mapped != ""])
    assert again.tolist() == mapped[mapped != ""].tolist()
    assert second.exact == second.n


def test_collisions_keep_the_ids_as_written():
    assert collisions(["a", "A", "b"], ["A", "A", ""]) == {"A": ("a", "A")}


def test_an_id_that_stands_twice_is_refused_by_name():
    refuse_duplicates(np.array([TP53, TSPAN6], dtype=object), path="f")
    with pytest.raises(GeneError, match=f"(?s)1 gene ids.*{TP53}.*cells.h5ad"):
        refuse_duplicates(np.array([TP53, TSPAN6, TP53], dtype=object), path="cells.h5ad")


@pytest.fixture(scope="module")
def reference():
    try:
        return human_genes()
    except SourceError as error:
        pytest.skip(f"the card human-genes cannot be fetched here: {error.found.splitlines()[0]}")


@pytest.mark.parametrize(
    ("genes", "species"),
    [
        (["TP53", "ACTB", "GAPDH"], "Homo sapiens"),
        (["Trp53", "Actb", "Gapdh"], "Mus musculus"),
        (["FOO1", "gene_1"], ""),
        (["tp53", "actb", "gapdh"], ""),
    ],
)
def test_the_annotations_tell_the_species_of_symbols(genes, species):
    if not species_symbols():
        pytest.skip("the annotations of both species are not here")
    assert species_of(genes) == species


@pytest.mark.parametrize(
    ("name", "gene"),
    [
        ("TP53", TP53),
        ("C10ORF105", "ENSG00000214688"),
        ("C10orf105", "ENSG00000214688"),
        ("ENSG00000141510.18", TP53),
        ("P53", TP53),  # alias
        ("MARCH1", "ENSG00000145416"),  # previous symbol of MARCHF1
        ("H2AFZ", "ENSG00000164032"),  # previous symbol of H2AZ1
        ("SEPT4", "ENSG00000108387"),  # previous symbol of SEPTIN4
        ("MT-CO1", "ENSG00000198804"),
        ("5S_rRNA", ""),  # many genes
        ("no such gene", ""),
    ],
)
def test_human_names_lead_to_their_gene(reference, name, gene):
    assert reference.map([name])[0].tolist() == [gene]


def test_an_approved_symbol_is_never_taken_for_the_alias_of_another_gene(reference):
    # AIM1 was CRYBG1 and is an alias of AURKB; CD20 names no approved gene but MS4A1 by alias
    assert reference.map(["AIM1"])[0].tolist() == ["ENSG00000112297"]
    assert reference.map(["MS4A1", "CD20"])[0].tolist() == ["ENSG00000156738"] * 2
