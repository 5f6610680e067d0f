"""The report: equal input gives equal bytes, every kind of verdict is shown, nothing is fetched."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from scmf.results.expected import Expected, ExpectedCell, MeasuredWith, PublishedValue, judge_results
from scmf.results.pages.reproduction import write_report
from scmf.results.pages.reproduction_plots import (
    ConfusionInput,
    EmbeddingInput,
    FigureInputs,
    read_loss_log,
    smooth,
    umap_coordinates,
)
from scmf.results.pages.table import VERDICTS, number, parity_rows, sentences, table_rows
from scmf.results.pages.terminal import render_terminal
from scmf.results.parity import ParityCase
from scmf.results.result import Absence, Result

DIGEST = "3f0c9ab1" * 8
TYPES = ("acinar", "alpha", "beta", "delta", "ductal", "endothelial", "epsilon", "gamma", "stellate")
STUDIES = ("Baron 2016", "Muraro 2016", "Segerstolpe 2016", "Enge 2017")
SCORES = {  # method: (protocol, accuracy, macro F1, samples are seeds)
    "pretrained": (("linear_probe", 0.957, 0.902), ("knn_probe", 0.938, 0.861), ("finetuned_head", 0.951, 0.884)),
    "untrained": (("linear_probe", 0.913, 0.803), ("knn_probe", 0.842, 0.655)),
    "majority": (("baseline", 0.331, 0.055),),
    "pca_logreg": (("baseline", 0.948, 0.871),),
    "hvg_logreg": (("baseline", 0.969, 0.928),),
}
SEEDED = ("pretrained", "untrained")


def result(method="pretrained", *, protocol="linear_probe", seed=0, metrics=None, **changes):
    metrics = {"accuracy": 0.95} if metrics is None else metrics
    fields = {
        "recipe": "geneformer",
        "variant": "mini",
        "tier": "mini",
        "benchmark": "annotation",
        "dataset": "pancreas",
        "split": "donor",
        "protocol": protocol,
        "method": method,
        "seed": seed,
        "metrics": metrics,
        "definitions": {name: f"sklearn.metrics.{name}, scikit-learn 1.7.2, test cells" for name in metrics},
        "higher_is_better": dict.fromkeys(metrics, True),
        "n_cells": 812,
        "n_train": 2190,
        "recipe_digest": DIGEST,
        "provenance": {
            "time": "2026-11-22T12:00:00+00:00",
            "git": {"commit": "ea78aac317eedb5c2e39dc52f2c344fec3a27cfd", "dirty": False},
            "python": "3.11.7",
            "cpu": "Example CPU at 2 GHz",
            "packages": {"numpy": "2.4.6", "scikit-learn": "1.7.2", "torch": "2.13.0"},
        },
        "command": f"scmf reproduce geneformer --variant mini --tier mini --seed {0 if seed is None else seed}",
        "seconds": 61.25,
        "peak_memory_mb": 1210.0,
    }
    return Result(**{**fields, **changes})


def cell(of, metric, samples, *, min_band=0.005, digest=DIGEST):
    return ExpectedCell(
        **of.key(metric)._asdict(),
        higher_is_better=True,
        min_band=min_band,
        samples=samples,
        measured_with=MeasuredWith(digest=digest, commit="ea78aac", packages={"numpy": "2.4.6"}),
    )


def published(**changes):
    fields = {
        "id": "m1", "model": "official 6L", "task": "cell type annotation", "dataset": "spleen", "split": "random",
        "metric": "accuracy", "value": 0.991567, "level": "B", "source": "owner/repo @abc: notebook.ipynb",
        "comparable": "Not comparable: other cells.",
    }  # fmt: skip
    return PublishedValue(**{**fields, **changes})


def everything(tmp_path=None, *, n_cells=600):
    """Input of realistic shape in which every kind of verdict occurs once at least."""
    rng = np.random.default_rng(7)
    results, cells = [], []
    for method, protocols in SCORES.items():
        for protocol, *means in protocols:
            scores = dict(zip(("accuracy", "macro_f1"), means, strict=True))
            seeds = range(3) if method in SEEDED else [None]
            runs = [
                result(
                    method,
                    protocol=protocol,
                    seed=seed,
                    metrics={name: mean + (seed is not None) * rng.normal(0, 0.004) for name, mean in scores.items()},
                )
                for seed in seeds
            ]
            results += runs
            for name, mean in scores.items():
                samples = {None: mean} if seeds == [None] else {s: mean + rng.normal(0, 0.004) for s in range(10, 15)}
                cells.append(cell(runs[0], name, samples))
    shift = {  # one of each kind, in a second benchmark
        "close": ([0.50, 0.51, 0.52, 0.51, 0.50], [0.5300] * 3),
        "off_up": ([0.50, 0.51, 0.52, 0.51, 0.50], [0.7] * 3),
        "off_down": ([0.50, 0.51, 0.52, 0.51, 0.50], [0.3] * 3),
        "undecided": ([0.50, 0.51, 0.52, 0.51, 0.50], [0.3]),
        "few": ([0.50, 0.51], [0.5]),
        "unmeasured": ([0.50, 0.51, 0.52, 0.51, 0.50], []),
    }
    for metric, (expected, observed) in shift.items():
        made = [
            result(benchmark="integration", protocol="scib", seed=i, metrics={metric: x}, split="study")
            for i, x in enumerate(observed)
        ]
        like = result(benchmark="integration", protocol="scib", metrics={metric: 0.5}, split="study")
        cells.append(cell(like, metric, dict(enumerate(expected, start=10))))
        results += [one.model_copy(update={"protocol": f"scib_{metric}"}) for one in made]
        cells[-1] = cells[-1].model_copy(update={"protocol": f"scib_{metric}"})
    absent = result(
        benchmark="integration", protocol="scib_failed", metrics={}, split="study",
        absence=Absence(kind="failed", reason="scib-metrics ran out of memory"),
    )  # fmt: skip
    old = result(benchmark="integration", protocol="scib_old", metrics={"ilisi": 0.5}, split="study")
    other = result(
        benchmark="integration", protocol="scib_extra", metrics={"clisi": 0.9}, split="study", tier="published"
    )
    cells += [
        cell(absent, "nmi", dict.fromkeys(range(5), 0.5)),
        cell(old, "ilisi", dict.fromkeys(range(5), 0.5), digest="00" * 32),
    ]
    results += [absent, old, other]
    expected = Expected(mini=tuple(cells), published=(published(), published(id="m2", metric="macro_f1", value=0.97)))
    cases = [
        ParityCase("tok/plain.V1", "17 cells, 31,020 tokens", True, 0, 0),
        ParityCase("tok/ties.V2", "17 cells, 9,000 tokens", False, 3, 0, "cell 4, position 17: 812 instead of 903"),
        ParityCase("model/logits", "tensor logits (8, 120, 320)", True, 2.1e-6, 1e-5),
    ]
    figures = FigureInputs()
    if tmp_path is not None:
        figures = pictures(tmp_path, n_cells)
    return {
        "recipe": "geneformer",
        "results": results,
        "expected": expected,
        "verdicts": judge_results(expected, results),
        "parity_cases": cases,
        "figures_inputs": figures,
    }


def pictures(folder, n_cells):
    rng = np.random.default_rng(3)
    logs = {}
    for seed in range(3):
        lines = []
        for step in range(1, 301):
            loss = 3.2 + 3.4 * np.exp(-step / 60) + rng.normal(0, 0.12)
            lines.append({"step": step, "epoch": 1 + (step - 1) // 100, "loss": loss, "lr": 1e-3})
            if step % 100 == 0:
                lines.append({"epoch": step // 100, "step": step, "valid_loss": loss + 0.1})
        logs[f"seed {seed}"] = folder / f"log{seed}.jsonl"
        logs[f"seed {seed}"].write_text("\n".join(map(json.dumps, lines)) + "\n")
    kinds, studies = rng.integers(0, 9, n_cells), rng.integers(0, 4, n_cells)
    center = rng.normal(0, 6, (9, 2)) + 0
    xy = center[kinds] + rng.normal(0, 0.7, (n_cells, 2)) + 0.5 * studies[:, None]
    counts = (np.eye(9) * rng.integers(20, 200, 9)).astype(int) + rng.integers(0, 4, (9, 9))
    return FigureInputs(
        loss_logs=logs,
        embedding=EmbeddingInput(xy, [TYPES[k] for k in kinds], [STUDIES[k] for k in studies], "mini, seed 0"),
        confusion=ConfusionInput(TYPES, counts, "linear probe, pretrained, seed 0"),
    )


class Page(HTMLParser):
    """Fails on tags that do not nest; collects text, tags and attributes."""

    VOID = {"meta", "img", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.attributes, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{tag} closes nothing at {self.getpos()}"

    def handle_data(self, data):
        self.words.append(data)


def test_equal_input_gives_equal_bytes(tmp_path):
    inputs = everything(tmp_path)
    first = write_report(tmp_path / "a", **inputs)
    second = write_report(tmp_path / "b", **inputs)
    assert [p.name for p in first] == [p.name for p in second]
    assert {"geneformer.md", "geneformer.html", "loss.png", "umap.png", "confusion.png"} <= {p.name for p in first}
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """All inputs but pictures, and the two pages of them."""
    inputs = everything()
    return inputs, *(path.read_text() for path in write_report(tmp_path_factory.mktemp("report"), **inputs)[:2])


def test_pages_show_every_kind_of_verdict(report):
    inputs, markdown, html = report
    assert {verdict.kind for verdict in inputs["verdicts"].values()} == set(VERDICTS)
    for page in (markdown, html):
        for text in (
            *VERDICTS.values(),
            "off ↓ (undecided)",
            "scib-metrics ran out of memory",
            "fewer than 5 expected",
        ):
            assert text in page


def test_html_nests_and_fetches_nothing(tmp_path):
    html = write_report(tmp_path, **everything(tmp_path))[1].read_text()
    page = Page(html)
    assert not re.search(r"(?:https?:)?//\w", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) >= 4
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    assert "script" not in page.tags


def test_html_rows_unfold_to_command_and_raw_samples(report):
    inputs, _, html = report
    text = " ".join(Page(html).words)
    for one in inputs["results"]:
        for value in one.metrics.values():
            assert repr(value) in text
    assert "scmf reproduce geneformer --variant mini --tier mini --seed 0" in text
    assert "torch 2.13.0" in text


def test_markdown_tables_have_as_many_cells_as_columns(report):
    _, markdown, _ = report
    tables = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)
    assert len(tables) == 4  # two benchmarks, published, parity
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_text_from_files_cannot_break_a_page(tmp_path):
    evil = published(id="x", model="a|b <script>alert(1)</script>", comparable="line\nbreak *bold*")
    paths = write_report(tmp_path, recipe="geneformer", results=[], expected=Expected(published=(evil,)), verdicts={})
    markdown, html = (path.read_text() for path in paths)
    assert "<script>" not in html and "<script>" not in markdown
    assert "a\\|b" in markdown and "line break \\*bold\\*" in markdown


def test_what_is_absent_is_a_dash_with_the_reason(tmp_path):
    for page in write_report(tmp_path, recipe="geneformer", results=[], expected=Expected(), verdicts={}):
        text = page.read_text()
        assert re.search(r"—.*nothing was measured", text)
        assert re.search(r"—.*no training log was given", text)
        assert re.search(r"—.*outputs of the official code were not at hand", text)
        assert re.search(r"—.*no published value is recorded", text)


def test_mean_over_an_incomplete_set_does_not_exist():
    failed = result(seed=2, metrics={}, absence=Absence(kind="failed", reason="killed"))
    results = [result(seed=0), result(seed=1), failed]
    expected = Expected(mini=(cell(results[0], "accuracy", dict.fromkeys(range(5), 0.95)),))
    (row,) = table_rows(results=results, expected=expected, verdicts=judge_results(expected, results))
    assert (row["verdict"], row["reason"]) == ("failed", "seed 2: killed")
    assert row["observed_mean"] is None and len(row["observed_samples"]) == 2


def rows_of(scores, *, higher=True):
    results = [
        result(method, protocol=protocol, metrics={"score": value}, higher_is_better={"score": higher})
        for (method, protocol), value in scores.items()
    ]
    return table_rows(results=results, expected=Expected(), verdicts=judge_results(Expected(), results))


def test_best_method_is_marked_even_when_it_is_a_baseline():
    rows = rows_of({("pretrained", "knn_probe"): 0.8, ("untrained", "knn_probe"): 0.5, ("hvg_logreg", "baseline"): 0.9})
    assert [row["method"] for row in rows if row["best"]] == ["hvg_logreg"]
    assert sentences(rows) == [
        "score: pretrained (knn probe) beats untrained by 0.3000; higher still is HVG + logistic regression by 0.1000."
    ]


def test_lower_is_better_turns_best_and_sentence():
    scores = {("pretrained", "x"): 2.0, ("untrained", "x"): 6.0, ("majority", "baseline"): 3.0}
    rows = rows_of(scores, higher=False)
    assert [row["method"] for row in rows if row["best"]] == ["pretrained"]
    assert sentences(rows) == [
        "score: pretrained (x) beats untrained by 4.0000; "
        "no other baseline is lower (nearest: majority class, 1.0000 behind)."
    ]


def test_sentence_says_when_pretraining_does_not_help():
    rows = rows_of(
        {("pretrained", "x"): 0.4, ("untrained", "x"): 0.5, ("pca", "x"): 0.6, ("pca", "y"): 0.55, ("hvg", "x"): 0.7}
    )
    assert sentences(rows) == [
        "score: pretrained (x) loses to untrained by 0.1000; higher still are HVG (x) by 0.3000 and PCA (x) by 0.2000."
    ]


def test_published_value_stands_beside_the_recipe_on_the_same_cells_only():
    value = published(dataset="pancreas", split="donor")
    results = [result(), result("majority", seed=None)]
    expected = Expected(published=(value,))
    rows = table_rows(results=results, expected=expected, verdicts=judge_results(expected, results))
    assert [(row["method"], row["paper"]) for row in rows] == [("pretrained", value.value), ("majority", None)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (0.12345, "0.1235"), (-1e-9, "0.0000"), (-0.5, "−0.5000"), (123.456, "123.46"), (54321.9, "54322")],
)
def test_number_is_short_and_has_no_negative_zero(value, text):
    assert number(value) == text


def test_parity_summary_names_the_worst_case():
    cases = everything()["parity_cases"]
    rows = {row["part"]: row for row in parity_rows(cases)}
    assert (rows["tok"]["passed"], rows["tok"]["cases"], rows["tok"]["worst"]) == (1, 2, "tok/ties.V2")
    assert rows["model"]["difference"] == 2.1e-6 and rows["model"]["failed"] == []


@pytest.mark.parametrize("width", [80, 160])
def test_terminal_table_shows_every_row_and_reason_at_any_width(width):
    import io

    import rich.console

    inputs = everything()
    rows = table_rows(**{name: inputs[name] for name in ("results", "expected", "verdicts")})
    console = rich.console.Console(width=width, record=True, file=io.StringIO())
    console.print(render_terminal(rows, title="geneformer [mini]"))
    text = console.export_text()
    assert "geneformer [mini]" in text and "★ HVG + logistic" in text and "…" not in text
    words = set(text.split())
    for row in rows:
        assert number(row["observed_mean"]) in words
        assert {word for word in row["reason"].split() if len(word) < 9} <= words


def test_rows_are_plain_json():
    inputs = everything()
    rows = table_rows(**{name: inputs[name] for name in ("results", "expected", "verdicts")})
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_loss_log_is_read_in_step_order_and_a_broken_line_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": 2, "epoch": 1, "loss": 1.5}\n{"step": 1, "loss": 2}\n{"step": 2, "epoch": 1, "valid_loss": 3}\n'
    )
    train, valid = read_loss_log(path)
    assert train.tolist() == [[1, 2], [2, 1.5]] and valid.tolist() == [[2, 3]]
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo')
    with pytest.raises(Exception, match="line 2 is not a log entry"):
        read_loss_log(path)


def test_smoothing_keeps_a_constant_and_starts_without_bias():
    assert smooth(np.full(50, 3.0), window=10) == pytest.approx(3.0)
    assert smooth(np.array([4.0, 0.0]), window=3)[0] == 4.0


@pytest.mark.slow
def test_umap_is_the_same_every_time():
    pytest.importorskip("umap")
    embedding = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    first = umap_coordinates(embedding)
    assert first.shape == (60, 2)
    assert np.array_equal(first, umap_coordinates(embedding))
