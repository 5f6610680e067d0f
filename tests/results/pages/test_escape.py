"""Payloads in labels, names, packages, commands and reasons: no page becomes markup, no cell of CSV a formula."""

import csv
import html
import html.parser
import io
import json
import re

import markdown_it
import numpy as np
import pytest

from scmf.core.printable import printable
from scmf.experiments.tokenizer_grid import Row, Sweep
from scmf.results.expected import Expected, PublishedValue
from scmf.results.judge import Verdict
from scmf.results.pages import leaderboard_plots, reproduction
from scmf.results.pages.escape import code, csv_cell, fence, markdown, place
from scmf.results.pages.history import Change, Move, sections
from scmf.results.pages.leaderboard import build_leaderboard, write_leaderboard
from scmf.results.pages.parity import parity_table
from scmf.results.pages.regression import Check, Checked, Line
from scmf.results.pages.reproduction_plots import ConfusionInput, plot_confusion
from scmf.results.parity import ParityCase
from scmf.results.result import Absence
from tests.fixtures.leaderboard_pages import result

PAYLOADS = (
    "<img src=x onerror=alert(1)>",
    "</td></tr></table><script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "a | b | c",
    "`code` ``` more",
    "line\n\n<script>alert(1)</script>\n# heading",
    "=HYPERLINK(1)\x1b[31m\x9b1m\u202e",
    "<javascript:alert(1)>",
    "&lt;img src=x&gt; **bold** _it_ ~~gone~~",
)
EVIL = " ".join(PAYLOADS)
ALLOWED = re.compile(r"</?(?:details|summary|sub)>|<br>")
"""HTML that the templates write themselves."""


def html_of(text):
    """Markdown as GitHub renders it, raw HTML included."""
    return markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(text)


def assert_harmless(page, *, wanted=True):
    """Raw HTML of the page is that of the templates, no link leads to a script, and the payload is shown as text."""
    tokens = markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(page)
    inner = [child for token in tokens for child in (token, *(token.children or ()))]
    raw = "".join(token.content for token in inner if token.type in ("html_inline", "html_block"))
    assert not re.sub(r"<!--.*?-->", "", ALLOWED.sub("", raw)).strip("\n ").startswith("<"), raw
    assert "onerror" not in raw and "script" not in raw, raw
    links = [token.attrs.get("href", "") for token in inner if token.type == "link_open"]
    assert not any(str(link).lower().lstrip().startswith(("javascript:", "data:", "vbscript:")) for link in links)
    assert "\x1b" not in page and "\x9b" not in page and "\u202e" not in page
    if wanted:
        assert "alert(1)" in html_of(page), "the text itself is shown"


def evil_result(method="pretrained", **more):
    facts = {
        "metrics": {"accuracy": 0.5, EVIL: 0.4}, "labels": {"accuracy": EVIL}, "columns": ("accuracy", EVIL),
        "heads": ("accuracy",), "command": f"scmf evaluate {EVIL}", "corpora": (EVIL,),
        "details": {"per_class": {EVIL: {"f1": 0.9, "n_test": 60}, "$x_{$": {"f1": 0.1, "n_test": 2}}},
        "provenance": {
            "packages": {EVIL: EVIL}, "python": EVIL, "cpu": EVIL, "platform": EVIL, "time": EVIL,
            "git": {"commit": EVIL}, "data": {"dataset": EVIL, "sha256": EVIL, "split_sha256": EVIL},
        },
    }  # fmt: skip
    made = result(method, **{**facts, **more})
    return made.model_copy(update={"definitions": dict.fromkeys(made.metrics, EVIL), "recipe_digest": EVIL})


def evil_expected():
    text = dict.fromkeys(
        ("id", "task", "model", "dataset", "split", "metric", "note", "source", "comparable", "doi"), EVIL
    )
    return Expected(published=(PublishedValue(**text, value=0.5, level="A"),))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a leaderboard and of a report about one evil result; no pictures."""
    out = tmp_path_factory.mktemp("pages")
    none = result("any", metrics={}, absence=Absence(kind="failed", reason=EVIL)).model_copy(update={"protocol": "any"})
    results = [evil_result(), evil_result("hvg", seed=None), none]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaderboard_plots, "draw", lambda *_: [])
        patch.setattr(reproduction, "_figures", lambda *_: ([], [EVIL]))
        board = build_leaderboard(
            results, leaks={"pancreas": {EVIL: ("yes", EVIL)}}, expected={"x": evil_expected()}, verdicts={}, title=EVIL
        )
        write_leaderboard(out / "board", board)
        verdicts = {one.key(name): Verdict("match", EVIL) for one in results[:2] for name in one.metrics}
        cases = [ParityCase(EVIL, EVIL, 1.0, 0.1, False, EVIL)]
        reproduction.write_report(
            out / "report",
            recipe="x",
            results=results[:2],
            expected=evil_expected(),
            verdicts=verdicts,
            parity_cases=cases,
        )
    return out


@pytest.mark.parametrize("page", ["board/README.md", "report/x.md"])
def test_markdown_pages_show_payloads_as_text(pages, page):
    assert_harmless((pages / page).read_text())


@pytest.mark.parametrize("page", ["board/index.html", "report/x.html"])
def test_html_pages_hold_no_element_of_a_payload(pages, page):
    seen = []

    class Elements(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            seen.append((tag, dict(attributes)))

    text = (pages / page).read_text()
    Elements().feed(text)
    assert not [pair for pair in seen if any(name.startswith("on") for name in pair[1])]
    assert [tag for tag, _ in seen].count("script") == (1 if "index" in page else 0)
    assert "img" not in {tag for tag, _ in seen}
    assert not [a for _, a in seen if str(a.get("href", "")).lower().startswith(("javascript", "data:text"))]
    assert "alert(1)" in text
    assert "\x1b" not in text and "\x9b" not in text and "\u202e" not in text


def test_csv_has_no_formula_and_numbers_stay_numbers(pages):
    text = (pages / "board" / "leaderboard.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows and not [cell for row in rows for cell in row.values() if cell[:1] in tuple("=+-@\t\r")]
    assert {float(row["value"]) for row in rows if row["value"]} == {0.5, 0.4}
    assert "\x1b" not in text and "\x9b" not in text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", " =1", "＝1", "\n=1"])
def test_text_that_looks_like_a_formula_gets_an_apostrophe(text):
    assert csv_cell(text) == f"'{printable(text)}"


@pytest.mark.parametrize("value", [-1, -0.5, None, True, "a=b", "", "scGPT", "1e-3"])
def test_numbers_and_other_texts_stay(value):
    assert csv_cell(value) == value and type(csv_cell(value)) is type(value)


@pytest.mark.parametrize("text", PAYLOADS)
def test_every_context_of_markdown_shows_the_text(text):
    said = printable(" ".join(text.split()))
    shown = html_of(
        f"| a | b |\n|---|---|\n| {markdown(text)} | {code(text, table=True)} |\n\n- {code(text)}: {markdown(text)}\n"
    )
    assert shown.count("<td>") == 2 and shown.count("<li>") == 1 and shown.count("<code>") == 2
    bare = html.unescape(re.sub(r"</?(?:table|thead|tbody|tr|td|th|ul|li|code)>", "", shown))
    assert bare.count(said) == 4
    assert_harmless(f"[{markdown(text)}](https://doi.org/{place(text)})", wanted=False)


def test_a_fence_is_longer_than_what_it_holds():
    assert fence("a") == "```" and fence("a\n  ```\n") == "````" and code("") == "`  `"


def test_the_other_tables_escape_too():
    key = result("pretrained").key("accuracy")._replace(metric=EVIL)
    line = Line(EVIL, key, 0.1, 0.2, 0.3, Verdict("match", EVIL))
    assert_harmless(Check((Checked(EVIL, EVIL, (line,), (ParityCase(EVIL, EVIL, 1.0, 0.1, False, EVIL),)),)).markdown())
    assert_harmless(parity_table([ParityCase(EVIL, EVIL, 1.0, 0.1, False, EVIL)]))
    change = Change(EVIL, EVIL, EVIL, EVIL, ((EVIL, EVIL),), (EVIL,), (Move(EVIL, key, 0, 0.1, 0.2, None),))
    assert_harmless("\n".join(sections([change])))
    assert_harmless(Sweep(EVIL, EVIL, (0,), [Row(EVIL, EVIL, {}, {})], {EVIL: EVIL}).markdown())


def test_pictures_take_labels_with_dollar_signs():
    assert plot_confusion(ConfusionInput(["$x_{$", "\\frac{$"], np.eye(2, dtype=int), "$\\bad{$")).startswith(
        b"\x89PNG"
    )


def test_json_of_the_board_is_as_it_was_given(pages):
    board = json.loads((pages / "board" / "leaderboard.json").read_text())
    assert board["title"] == EVIL, "data are not changed, only pages"
