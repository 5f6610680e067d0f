"""`scmf reproduce perturbation-metrics`: every case of a folder is counted, known by what it holds, never left out."""

import json
import shutil

import numpy as np
import pytest

from scmf.core.paths import reference_dir
from scmf.data.splits.perturbation import gears_groups, gears_simulation
from scmf.experiments.metric_parity import inputs
from tests.fixtures.commands import scmf

GOLDEN = None if reference_dir() is None else reference_dir() / "perturbation"
needs_golden = pytest.mark.skipif(
    GOLDEN is None or not GOLDEN.is_dir(), reason="SCMF_REFERENCE_DIR names no folder with outputs of the packages"
)
EVALUATION = 6
"""Exit code of an error of an evaluation."""

CONDITIONS = [f"{a}+ctrl" for a in "ABCDEFGH"] + ["A+B", "C+D", "E+F", "G+H", "A+H", "B+G"]


@pytest.fixture
def walk(tmp_path, monkeypatch, capsys):
    """Walk over tmp_path/perturbation: exit code, JSON or what was said."""
    monkeypatch.setenv("SCMF_REFERENCE_DIR", str(tmp_path))

    def run(*arguments):
        capsys.readouterr()
        code = scmf("reproduce", "perturbation-metrics", "--tier", "parity", *arguments)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, json.loads(said.out) if "--json" in arguments and code < 2 else said.out + said.err

    return run


def split_case(folder):
    """A golden file of the split of GEARS, of our own making."""
    parts, groups = gears_simulation([*CONDITIONS, "ctrl"], seed=3), gears_groups([*CONDITIONS, "ctrl"], seed=3)
    held = {
        part: {g: [c for c in groups if groups[c] == g and parts[c] == part] for g in set(groups.values())}
        for part in ("valid", "test")
    }
    names = {"train": "train", "val": "valid", "test": "test"}
    split = {
        "list": "mine", "seed": 3, "split": "simulation",
        "parts": {theirs: [c for c in CONDITIONS if parts[c] == ours] for theirs, ours in names.items()},
        "val_subgroup": held["valid"], "test_subgroup": held["test"],
    }  # fmt: skip
    folder.mkdir(parents=True)
    path = folder / "expected.json"
    path.write_text(json.dumps({"conditions": {"mine": CONDITIONS}, "splits": [split]}))
    return path


def test_a_case_under_any_name_is_compared_and_a_wrong_value_fails(walk, tmp_path):
    path = split_case(tmp_path / "perturbation/never/seen")
    code, found = walk("--json")
    assert code == 0 and found["ok"] and {case["name"].rsplit("/", 4)[0] for case in found["parity"]} >= {"never/seen"}
    golden = json.loads(path.read_text())
    golden["splits"][0]["parts"]["train"].pop()
    path.write_text(json.dumps(golden))
    code, found = walk("--json")
    assert code == 1 and not found["ok"]
    assert [case["name"] for case in found["parity"] if not case["passed"]] == [
        "never/seen/mine/simulation/seed3/train"
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("new.json", b'{"package": "another 1.0", "values": [1, 2]}'),
        ("new/expected.json", b"[1, 2]"),
        ("broken.json", b"{"),
        ("broken.npz", b"no archive"),
        ("table.csv", b"a,b"),
    ],
)
def test_a_case_that_is_not_understood_fails_and_is_not_left_out(walk, tmp_path, name, content):
    split_case(tmp_path / "perturbation/known")
    path = tmp_path / "perturbation" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    code, found = walk("--json")
    failed = [case for case in found["parity"] if not case["passed"]]
    assert (
        code == 1
        and len(failed) == 1
        and failed[0]["name"].startswith(path.name.split(".")[0].replace("expected", "new"))
    )
    assert failed[0]["detail"]


def test_a_case_that_lacks_a_file_fails(walk, tmp_path):
    folder = tmp_path / "perturbation/screen"
    folder.mkdir(parents=True)
    (folder / "expected.json").write_text('{"predictions": {}, "control": "c", "baseline": {}}')
    code, found = walk("--json")
    assert code == 1 and "real.h5ad" in found["parity"][0]["detail"]


def test_no_case_and_other_options_are_one_error(walk, tmp_path, monkeypatch):
    assert walk()[0] == EVALUATION
    (tmp_path / "perturbation").mkdir()
    code, said = walk()
    assert code == EVALUATION and "no case" in said
    for other in (["--record"], ["--tier", "mini"], ["--check"]):
        code, said = walk(*other)
        assert code == 2 and "ConfigError" in said
    monkeypatch.delenv("SCMF_REFERENCE_DIR")
    code, said = walk()
    assert code == EVALUATION and "SCMF_REFERENCE_DIR is not set" in said


@needs_golden
def test_small_cases_equal_the_packages_under_other_names_and_a_changed_digit_is_seen(walk, tmp_path):
    target = tmp_path / "perturbation/elsewhere"
    target.mkdir(parents=True)
    for path in (GOLDEN / "small").iterdir():
        shutil.copy(path, target / f"case_{path.name}")
    code, found = walk("--json")
    assert code == 0 and len({case["name"].split("/")[1] for case in found["parity"]}) == len(
        {path.stem for path in target.iterdir()}
    )
    with np.load(target / "case_linear_ahlmann_eltze.npz") as saved:
        arrays = dict(saved)
    arrays["prediction"][0, 0] += 1e-4
    np.savez(target / "case_linear_ahlmann_eltze.npz", **arrays)
    code, found = walk("--json")
    failed = [case["name"] for case in found["parity"] if not case["passed"]]
    assert code == 1 and failed == ["elsewhere/case_linear_ahlmann_eltze/prediction"]


@pytest.mark.parametrize(
    ("case", "card", "rest"),
    [
        ("norman", "norman", ""), ("mcfaline_U87MG", "mcfaline", "U87MG"), ("vcc_h1", "vcc_h1", ""),
        ("kang_B_cells", "kang_ifnb", "B_cells"), ("kang_ifnb_NK cells", "kang_ifnb", "NK cells"),
    ],
)  # fmt: skip
def test_the_card_that_a_case_is_named_after(case, card, rest):
    found, kind = inputs._card_of(case)
    assert (found.name, kind) == (card, rest)


def test_a_linked_folder_is_walked(walk, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/odd.json").write_text("{}")
    (tmp_path / "perturbation").mkdir()
    (tmp_path / "perturbation/linked").symlink_to(tmp_path / "elsewhere")
    code, found = walk("--json")
    assert code == 1 and [case["passed"] for case in found["parity"]] == [False]


@needs_golden
@pytest.mark.parametrize("name", ["challenge_2026/guides_7", "control_split", "gears_splits"])
def test_a_screen_equals_the_packages(walk, tmp_path, name):
    shutil.copytree(GOLDEN / name, tmp_path / "perturbation" / name)
    if name == "control_split":  # two of them are rows of a public file, which the walk over all cases reads
        for path in (tmp_path / "perturbation/control_split").glob("[!c]*.json"):
            path.unlink()
        shutil.copytree(GOLDEN / "challenge_2026/crispri_14", tmp_path / "perturbation/challenge_2026/crispri_14")
        shutil.rmtree(tmp_path / "perturbation/challenge_2026/crispri_14/pred")
        folder = tmp_path / "perturbation/challenge_2026/crispri_14"
        golden = json.loads((folder / "expected.json").read_text())
        (folder / "expected.json").write_text(json.dumps(golden | {"predictions": {}, "scaled": {}}))
    code, found = walk("--json")
    assert code == 0, [case for case in found["parity"] if not case["passed"]]


@needs_golden
@pytest.mark.nightly
def test_every_case_equals_the_packages(monkeypatch, capsys):
    capsys.readouterr()
    assert scmf("reproduce", "perturbation-metrics", "--tier", "parity", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {case["name"].split("/")[0] for case in found["parity"]} == {
        path.name for path in GOLDEN.iterdir() if path.is_dir()
    }
