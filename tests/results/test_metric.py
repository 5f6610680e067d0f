"""The table of the metrics of a benchmark: one entry is enough, and every list derives from it."""

import pytest

from scmf.core.errors import EvaluationError
from scmf.results.metric import Metric, MetricTable
from scmf.results.pages.leaderboard_tables import tables
from scmf.results.score import Score
from tests.fixtures.leaderboard_pages import result

NEW = MetricTable(
    Metric("warmth", "how warm ({by})", label="WARMTH", higher_is_better=False, place="head", min_band=0.1),
    Metric("split_size", "a fact of the split", place="column"),
    Metric("other", "{{braces}}"),
)


def test_one_entry_says_everything_that_scores_and_pages_need():
    facts = NEW.facts(["warmth", "warmth.cold_days", "other"], subgroup="; {group} alone", by="thermo 1.0")
    assert facts["definitions"] == {
        "warmth": "how warm (thermo 1.0)", "warmth.cold_days": "how warm (thermo 1.0); cold_days alone",
        "other": "{braces}",
    }  # fmt: skip
    assert facts["higher_is_better"] == {"warmth": False, "warmth.cold_days": False, "other": True}
    assert facts["labels"] == {"warmth": "WARMTH", "warmth.cold_days": "WARMTH.cold days"}
    assert facts["columns"] == ("warmth", "split_size") and facts["heads"] == ("warmth",)
    assert NEW.min_bands == {"warmth": 0.1}


def test_a_page_of_a_benchmark_that_it_does_not_know_has_its_columns_labels_and_directions():
    facts = NEW.facts(["warmth", "other"], by="thermo")
    score = Score("weather", "noon", "pretrained", {"warmth": 0.5, "other": 1.0}, n_cells=1, n_train=None, seconds=0.0,
                  **facts)  # fmt: skip
    pair = [
        result(method, benchmark="weather", protocol="noon", metrics={"warmth": value, "other": 1.0},
               higher_is_better=score.higher_is_better, **{key: facts[key] for key in ("labels", "columns", "heads")})
        for method, value in (("pretrained", 0.5), ("untrained", 0.4))
    ]  # fmt: skip
    (table,) = tables(pair, leaks={}, verdicts={})
    assert table.metrics == ("warmth",) and table.first == "warmth" and table.label("warmth") == "WARMTH"
    assert [row.method for row in table.rows] == ["untrained", "pretrained"]
    assert score.lower_is_better == ("warmth",)


def test_a_fact_of_the_split_never_heads_a_table():
    first = result("pretrained", metrics={"split_size": 1.0, "warmth": 0.5}, columns=("split_size", "warmth"),
                   heads=("warmth",))  # fmt: skip
    (table,) = tables([first], leaks={}, verdicts={})
    assert table.metrics == ("split_size", "warmth") and table.first == "warmth"


def test_two_entries_of_one_name_are_refused():
    with pytest.raises(EvaluationError, match="two metrics called 'a'"):
        MetricTable(Metric("a", ""), Metric("b", ""), Metric("a", ""))
