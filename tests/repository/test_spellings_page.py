"""The tables of docs/configuration.md are those of the code."""

import re

import pytest

from scmf.core import registry
from scmf.core.config.spellings import BENCHMARKS, CENSUS, MOVED
from scmf.core.toml import load_toml
from tests import ROOT

PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
TABLES = {
    "may be written": {f"data.source: {CENSUS}": "data.census: {}"}
    | {".".join(old): ".".join(new) for old, new in MOVED.items()},
    "value of `eval.benchmarks`, also its names here": BENCHMARKS,
    "value of `tokenizer.strategy`": registry.ALIASES["tokenizers"],
    "value of `model.architecture`": registry.ALIASES["models"],
}


@pytest.mark.parametrize("head", TABLES)
def test_a_table_of_spellings_is_that_of_the_code(head):
    (table,) = (part for part in PAGE.split("\n\n") if part.startswith(f"| {head} |"))
    rows = ROW.findall(table)
    assert len(rows) == len(table.splitlines()) - 2
    assert dict(rows) == TABLES[head] and len(rows) == len(TABLES[head])


def test_the_toml_of_the_page_is_read(tmp_path):
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "a.toml").write_text(text)
    assert load_toml(tmp_path / "a.toml") == {"data": {"files": ["my_cells.h5ad"]}, "training": {"lr": 1e-4}}
