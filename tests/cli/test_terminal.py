"""What reaches a terminal: no control characters of labels, paths and messages, markup as text, no secrets."""

import json
import logging
import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from scmf.cli import output
from scmf.core import progress
from scmf.core.printable import printable
from scmf.core.yaml import load_yaml
from scmf.results.pages.terminal import render_terminal
from tests.cli.test_cli import command  # noqa: F401  (fixture)

EVIL = "[red]a[/red] \x1b[31mred\x1b]0;title\x07 \x9b1m \u202eabc [link=https://x]y[/link]"
SHOWN = "[red]a[/red] \\x1b[31mred\\x1b]0;title\\x07 \\x9b1m \\u202eabc [link=https://x]y[/link]"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ADDRESS, HIDDEN = "https://u:p4ssw0rd@h/x?sig=s1gn", "https://***@h/x?sig=***"


def test_control_characters_are_written_as_escapes_and_all_else_stays():
    assert printable(EVIL) == SHOWN
    assert printable("a\tb\nc é 細胞 α − ±") == "a\tb\nc é 細胞 α − ±"
    assert printable("\udcff\r") == "\\udcff\\x0d"


def test_a_table_shows_labels_as_they_are(capsys):
    output.print_table((EVIL, "b"), [(EVIL, ADDRESS)])
    out = capsys.readouterr().out
    assert out.count(SHOWN) == 2 and HIDDEN in out and not RAW.search(out)


def test_yaml_and_json_give_the_same_text_back(capsys):
    answer = {"label": EVIL, EVIL: 1, "file": ADDRESS}
    output.print_answer(answer, as_json=False)
    out = capsys.readouterr().out
    assert load_yaml(out) == {"label": EVIL, EVIL: 1, "file": HIDDEN} and not RAW.search(out)
    output.print_json({**answer, "password": "x"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"label": EVIL, EVIL: 1, "file": HIDDEN, "password": "***"} and not RAW.search(out)


def test_messages_and_lines_are_escaped(capsys):
    output.say(f"wrote {EVIL} {ADDRESS}")
    output.complain(f"{EVIL} {ADDRESS}")
    handler = output._Stderr()
    handler.emit(logging.LogRecord("scmf.x", logging.WARNING, "", 0, "%s %s", (EVIL, ADDRESS), None))
    for text, times in zip(capsys.readouterr(), (1, 2), strict=True):
        assert text.count(SHOWN) == times and text.count(HIDDEN) == times and not RAW.search(text)


def test_bars_show_titles_and_notes_as_they_are(capsys):
    with progress.bar(f"{EVIL} {ADDRESS}", 2) as bar:
        bar.advance(note=EVIL)
        bar.move_to(2, note=EVIL)
    err = capsys.readouterr().err.replace("\n", "")
    assert "[red]a[/red]" in err and "\\x1b" in err and "p4ssw0rd" not in err and not RAW.search(err)


def test_the_table_of_a_reproduction_is_escaped(capsys):
    from rich.console import Console

    row = {
        **dict.fromkeys(("variant", "dataset", "split", "benchmark", "metric", "label", "protocol", "reason"), EVIL),
        "best": True, "baseline": False, "expected_mean": 1.0, "observed_mean": 1.0, "delta": 0.0, "band": 0.1,
        "verdict": "match", "undecided": False,
    }  # fmt: skip
    Console(width=400).print(render_terminal([row], title=EVIL))
    out = capsys.readouterr().out
    assert out.count("[red]a[/red] \\x1b[31mred") >= 3 and not RAW.search(out)


@pytest.fixture(scope="module")
def evil_file(tmp_path_factory):
    """An .h5ad whose name, labels, cells and genes hold escape sequences."""
    folder = tmp_path_factory.mktemp("evil")
    cells = ad.AnnData(
        sp.csr_matrix(np.eye(4, dtype=np.float32) * 3),
        obs=pd.DataFrame({"label": [EVIL, EVIL, "b", "b"]}, index=[f"{EVIL}{i}" for i in (1, 2, 3, 3)]),
        var=pd.DataFrame(index=[f"{EVIL}{i}" for i in range(4)]),
    )
    path = folder / "a\x1b[31m.h5ad"
    with pytest.warns(UserWarning, match="not unique"):
        cells.write_h5ad(path)
    return path


@pytest.mark.parametrize("verb", [
    ["check", "{}"],
    ["check", "{}", "--json"],
    ["data", "genes", "{}", "--vocabulary", "human_protein_coding"],
    ["data", "split", "{}", "--by", EVIL, "--out", "{}.tsv"],
    ["data", "hvg", "{}", "--out", "{}.txt", "--batch-key", "label"],
    ["evaluate", "{}x", "--tasks", "all"],
    ["evaluate", "baselines", "--tasks", EVIL],
    ["compare", EVIL],
    ["embed", "{}x", "--model", EVIL],
    ["data", "info", EVIL],
    ["train", "--config", EVIL, "--out", "x"],
    ["train", "--config", "geneformer", "--out", "x", "--variant", EVIL],
    ["train", "--config", "geneformer", "--out", "x", "--set", f"training.lr={EVIL}"],
    ["publish", "{}", "--repo", EVIL],
    ["data", "info", "x", f"{ADDRESS}{EVIL}"],
    ["check", f"--{EVIL}"],
    [EVIL],
], ids=lambda words: " ".join(words[:3]))  # fmt: skip
def test_no_verb_sends_control_characters(command, evil_file, verb):  # noqa: F811
    code, out, err = command(*(word.replace("{}", str(evil_file)) for word in verb))
    assert not RAW.search(out) and not RAW.search(err), (out, err)
    assert "Traceback" not in err and (code or out) and "p4ssw0rd" not in err and "s1gn" not in err


def test_an_error_that_nobody_foresaw_is_shown_without_secrets(capsys):
    try:
        raise ValueError(f"{ADDRESS} {EVIL}")
    except ValueError as error:
        output.show_traceback(type(error), error, error.__traceback__)
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.endswith(f"ValueError: {HIDDEN} {SHOWN}\n") and not RAW.search(err)
