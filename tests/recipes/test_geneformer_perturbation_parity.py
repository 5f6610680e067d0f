"""The parity walk of in-silico perturbation: it passes on official outputs and fails on anything else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from scmf.core.paths import reference_dir
from tests.recipes.test_geneformer_model_parity import load_recipe_module

parity = load_recipe_module("parity_perturbation")
RECORDED = reference_dir()
pytestmark = pytest.mark.skipif(
    RECORDED is None or not list((RECORDED / "geneformer" / "model").glob(f"*{parity.SUFFIX}")),
    reason="SCMF_REFERENCE_DIR names no folder with perturbations of the official code",
)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A copy of the official outputs, to be damaged."""
    assert RECORDED is not None
    target = tmp_path / "model"
    target.mkdir()
    for path in (RECORDED / "geneformer" / "model").iterdir():
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        if path.is_dir() or path.name.endswith((parity.SUFFIX, ".io.safetensors", ".pkl")):
            copy(path, target / path.name)
    for path in target.rglob("*"):
        path.chmod(0o755)
    return tmp_path


def changed(folder: Path, change) -> dict[str, str]:
    """Failed cases and why, after a change of every recorded file."""
    for path in (folder / "model").glob(f"*{parity.SUFFIX}"):
        runs = json.loads(path.read_text())
        change(runs)
        path.write_text(json.dumps(runs))
    return {case.name.rpartition("/")[2]: case.detail for case in parity.cases(folder) if not case.passed}


def test_every_official_run_is_reproduced() -> None:
    assert RECORDED is not None
    cases = list(parity.cases(RECORDED))
    assert not [case for case in cases if not case.passed]
    runs = [json.loads(p.read_text()) for p in (RECORDED / "geneformer" / "model").glob(f"*{parity.SUFFIX}")]
    assert len(cases) == sum(map(len, runs)) >= 12
    assert {case.tolerance for case in cases} == {1e-6}


def first(runs: dict, run: str) -> dict:
    return next(iter(runs[run]["out"].values()))


def test_a_changed_number_fails_its_run(official: Path) -> None:
    def change(runs: dict) -> None:
        next(iter(first(runs, "overexpress.two.nogoal").values()))[1] += 2e-6
        next(iter(first(runs, "delete.all.goal")["b"].values()))[0] -= 2e-6

    assert changed(official, change) == {"overexpress.two.nogoal": "", "delete.all.goal": ""}


def test_other_genes_cells_states_and_kinds_fail(official: Path) -> None:
    def change(runs: dict) -> None:
        runs["delete.one.nogoal"]["genes"] = [72]
        next(iter(first(runs, "overexpress.one.nogoal").values())).pop()
        first(runs, "delete.two.goal").pop("c")
        runs["inhibit.one.goal"] = runs["delete.one.goal"]
        runs["overexpress.one.goal"] = {}

    failed = changed(official, change)
    assert set(failed) == {
        "delete.one.nogoal", "overexpress.one.nogoal", "delete.two.goal", "inhibit.one.goal", "overexpress.one.goal",
    }  # fmt: skip
    assert (
        "another number of cells" in failed["overexpress.one.nogoal"] and "no known kind" in failed["inhibit.one.goal"]
    )


def test_changed_weights_and_states_fail(official: Path) -> None:
    for weights in (official / "model").glob("*/model.safetensors"):
        state = load_file(weights)
        state["bert.encoder.layer.0.attention.self.value.weight"][3] += 0.05
        save_file(state, weights, {"format": "pt"})
    assert len(changed(official, lambda runs: None)) >= 10


def test_a_file_without_runs_or_cells_fails(official: Path) -> None:
    (official / "model" / f"stranger{parity.SUFFIX}").write_text("{}")
    failed = changed(official, lambda runs: [runs.pop(run) for run in list(runs) if ".all." in run])
    assert "stranger" in failed and len(failed) >= 9
    assert not list(parity.cases(official / "model" / "nowhere"))
