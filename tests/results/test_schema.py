"""Results of earlier versions of the JSON are read as those of today; rewriting files moves no number."""

import copy
import json
import runpy

import pytest

from scmf.core.errors import ConfigError
from scmf.results.ledger import read_results, write_result
from scmf.results.result import Result
from scmf.results.schema import SCHEMA_VERSION, upgrade
from tests import ROOT

OLD = json.loads((ROOT / "tests" / "fixtures" / "result_v1.json").read_text(encoding="utf-8"))
KEPT = ("metrics", "intervals", "details", "seconds", "recipe_digest", "provenance", "higher_is_better")


def test_a_file_of_version_1_reads_as_one_of_today():
    result = Result.from_json(OLD)
    assert result.schema_version == SCHEMA_VERSION == 2
    assert result.tier == "mini" and result.command == "scmf reproduce toy --variant mini --tier mini --seeds 0"
    assert result.columns[:2] == ("accuracy", "macro_f1") and "unseen_share" not in result.heads
    assert result.labels == {"macro_f1": "macro F1"}
    assert result.definitions["accuracy"] == "share of 15 nearest neighbors"
    for key in KEPT:
        assert result.to_json()[key] == OLD[key], key


def test_upgrading_leaves_its_input_alone_and_does_nothing_twice():
    before = copy.deepcopy(OLD)
    once = upgrade(OLD)
    assert before == OLD and upgrade(once) == once


def test_what_is_no_result_is_left_to_the_reader():
    assert upgrade([1]) == [1] and upgrade({"schema_version": 7}) == {"schema_version": 7}
    with pytest.raises(ConfigError, match="schema_version"):
        Result.from_json({**OLD, "schema_version": 7})
    with pytest.raises(ConfigError, match="missing"):
        Result.from_json({"schema_version": 1})


def test_the_script_rewrites_old_files_once_and_moves_no_number(tmp_path):
    main = runpy.run_path(str(ROOT / "leaderboard" / "upgrade_results.py"))["main"]
    path = write_result(tmp_path, Result.from_json(OLD))
    today = path.read_bytes()
    path.write_text(json.dumps(OLD), encoding="utf-8")
    assert main([str(tmp_path)]) == 0 and path.read_bytes() == today
    assert main([str(tmp_path)]) == 0 and path.read_bytes() == today
    assert read_results(tmp_path) == [Result.from_json(OLD)]


def test_the_script_writes_nothing_when_a_file_is_no_result(tmp_path):
    main = runpy.run_path(str(ROOT / "leaderboard" / "upgrade_results.py"))["main"]
    good = write_result(tmp_path, Result.from_json(OLD))
    good.write_text(json.dumps(OLD), encoding="utf-8")
    (tmp_path / "zz.json").write_text('{"schema_version": 1}', encoding="utf-8")
    assert main([str(tmp_path)]) == 1 and json.loads(good.read_text(encoding="utf-8")) == OLD


def test_every_committed_result_is_of_today():
    for path in sorted((ROOT / "leaderboard" / "results").rglob("*.json")):
        assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == SCHEMA_VERSION, path
