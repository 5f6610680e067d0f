"""Parity of a recipe as a table in its README."""

import pytest

from scmf.core.errors import EvaluationError
from scmf.results.pages.parity import BEGIN, END, case_rows, parity_table, write_parity_table
from scmf.results.parity import ParityCase

CASES = [
    ParityCase("tok/real", "4 cells, 30 tokens", True, 0, 0, "2 exact ties compared as sets"),
    ParityCase("model/small/logits", "tensor (2, 3)", True, 2e-6, 1e-5),
    ParityCase("model/small/grads/a", "tensor (3,)", True, 5e-5, 1e-4),
    ParityCase("model/other/logits", "tensor (2, 3)", False, float("nan"), 1e-5, "shapes differ"),
]


def test_one_row_a_case_and_the_difference_closest_to_what_is_allowed():
    rows = {row["case"]: row for row in case_rows(CASES)}
    assert list(rows) == ["model/other", "model/small", "tok/real"]
    small = rows["model/small"]
    assert (small["official"], small["ours"]) == ("2 outputs", "2 of 2 equal")
    assert (small["largest difference"], small["allowed"]) == ("5.0e-05", "1e-04")
    assert rows["tok/real"]["ours"] == "equal; 2 exact ties compared as sets"
    assert rows["tok/real"]["allowed"] == "identical"
    assert rows["model/other"]["ours"].startswith("0 of 1 equal")


def test_the_table_stands_between_the_marks_and_is_replaced_there(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n", encoding="utf-8")
    write_parity_table(readme, CASES[:1])
    write_parity_table(readme, CASES)
    text = readme.read_text(encoding="utf-8")
    assert text == f"above\n{BEGIN}\n\n{parity_table(CASES)}\n\n{END}\nbelow\n"
    assert "3 of 4 comparisons" in text


def test_a_readme_without_the_marks_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="no place for the parity table"):
        write_parity_table(readme, CASES)
