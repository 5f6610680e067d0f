"""Tables of tables: the headline counts outcomes, ranks exist over complete sets only."""

from scmf.experiments.leaderboard import known_leaks
from scmf.results.pages.leaderboard_summary import headline, summaries
from scmf.results.pages.leaderboard_tables import tables
from tests.fixtures.leaderboard_pages import ledger, result

LEAKS = known_leaks()
BASE = {"recipe": "baselines", "variant": "reference", "seed": None}


def of(*results):
    return tables(results, leaks=LEAKS, verdicts={})


def pair(protocol, model, base, **more):
    return [
        result("pretrained", protocol=protocol, metrics={"accuracy": model}, **more),
        result("pca", protocol=protocol, metrics={"accuracy": base}, **BASE),
    ]


def test_the_headline_counts_what_was_compared_and_what_was_not():
    won = pair("linear_probe", (0.5, 0.49, 0.51), (0.9, 0.89, 0.91))
    tied = pair("knn_probe", (0.5, 0.4, 0.6), (0.5, 0.3, 0.7))
    lost = pair("knn_transfer", (0.9, 0.89, 0.91), (0.5, 0.49, 0.51))
    bare = pair("cross_validated", 0.5, 0.9)
    said = headline(of(*won, *tied, *lost, *bare))
    assert said.startswith("No model is shown to beat the simple baselines in 2 of 3 tables: a baseline is better")
    assert "1 more table holds single samples that were not compared; the baseline is ahead in 1" in said
    better = result("untrained", protocol="knn_probe", metrics={"accuracy": 0.6})
    assert headline(of(*won, *tied, better)).endswith("an untrained one has the best number in 1 of all 2 tables.")
    assert summaries(of(*won, *tied, better))[0].untrained == 1
    assert headline([]) == "No table holds both models and baselines."
    assert headline(of(result("pretrained"))) == "No table holds both models and baselines."


def test_ranks_are_over_complete_sets():
    (block,) = summaries(of(*(r for r in ledger() if r.benchmark == "annotation")))
    assert all(row.rank is None and row.why for row in block.rows)  # one table has no rank of its own
    more = pair("knn_probe", 0.9, 0.5) + [result("pretrained", recipe="scgpt", protocol="knn_probe")]
    (block,) = summaries(of(*pair("linear_probe", 0.9, 0.5), *more))
    ranks = {row.name: row.rank for row in block.rows}
    assert ranks == {"geneformer mini, pretrained": 1, "PCA": 2, "scgpt mini, pretrained": None}
    assert next(row.why for row in block.rows if row.rank is None).startswith("stands in 1 of 2 tables")


def test_tables_without_models_take_no_part_in_ranks_and_falling_metrics_rank_downwards():
    lonely = result("pca", protocol="cross_validated", metrics={"accuracy": 0.9}, **BASE)
    (block,) = summaries(of(*pair("linear_probe", 0.9, 0.5), *pair("knn_probe", 0.4, 0.5), lonely))
    assert {row.name: row.rank for row in block.rows} == {"geneformer mini, pretrained": 1.5, "PCA": 1.5}
    assert len(block.tables) == 3 and len(block.to_json()["over"]) == 2
    screens = [
        result(
            method, recipe=recipe, seed=None, benchmark="perturbation", protocol=p, dataset="norman", split="gears",
            metrics={"mse_top20": value},
        )
        for p in ("unseen_combination", "unseen_perturbation")
        for method, recipe, value in (("pretrained", "scgpt", 0.1), ("linear", "baselines", 0.4))
    ]  # fmt: skip
    (block,) = summaries(of(*screens))
    assert [row.rank for row in block.rows] == [1, 2] and block.rows[0].name == "scgpt mini, pretrained"


def test_pretraining_losses_are_no_summary_and_chance_has_no_rank():
    loss = result("pretrained", benchmark="pretraining", protocol="masked", metrics={"valid_loss": 1.0})
    assert summaries(of(loss)) == []
    chance = [
        result("shuffled_labels", protocol=p, metrics={"accuracy": 1.0}, **BASE) for p in ("knn_probe", "linear_probe")
    ]
    (block,) = summaries(of(*chance, *pair("linear_probe", 0.9, 0.5), *pair("knn_probe", 0.9, 0.5)))
    assert {row.name: row.rank for row in block.rows}["shuffled labels (chance)"] is None
