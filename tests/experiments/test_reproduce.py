"""Reproduction from end to end on synthetic cells: record, match, and a changed number that fails."""

import json
import shutil

import numpy as np
import pytest

from scmf.core.config.recipe import load_recipe
from scmf.core.errors import ConfigError, EvaluationError
from scmf.experiments import reproduce as reproduction
from scmf.experiments import seeds
from scmf.experiments.reproduce import reproduce
from scmf.experiments.seeds import SeedRun
from scmf.results.expected import load_expected
from scmf.results.ledger import read_results
from scmf.results.pages.reproduction import write_report
from scmf.results.parity import ParityCase

EMBEDDED = ("mini",)


@pytest.fixture(scope="module", autouse=True)
def quick_pages():
    """No pages, which take most of the time; the test of pages brings them back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduction, "write_report", lambda *arguments, **keywords: [])
        yield


def folders(root):
    return {"runs": root / "runs", "results_dir": root / "ledger", "reports": root / "reports"}


@pytest.fixture(scope="module")
def recorded(toy, tmp_path_factory):
    """A recipe whose expected values are five seeds of its own."""
    root = tmp_path_factory.mktemp("recorded")
    for name in ("recipe.yaml", "expected.yaml", "toy.yaml", "toy.donor.tsv.gz"):
        shutil.copy(toy / name, root / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMF_DATA_DIR", str(toy / "mirror"))
        patch.setenv("SCMF_CACHE_DIR", str(root / "cache"))
        reproduce(str(root), tiers=EMBEDDED, seeds=range(1, 6), record=True, **folders(root))
    return root


def again(recorded, tmp_path, **keywords):
    return reproduce(str(recorded), tiers=EMBEDDED, **{**folders(tmp_path), **keywords})


@pytest.fixture(scope="module")
def unchanged(recorded, toy, tmp_path_factory):
    """What the unchanged program gives, with its pages, and the folder of all that it wrote."""
    root = tmp_path_factory.mktemp("unchanged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCMF_DATA_DIR", str(toy / "mirror"))
        patch.setenv("SCMF_CACHE_DIR", str(root / "cache"))
        patch.setattr(reproduction, "write_report", write_report)
        return again(recorded, root), root


def test_recorded_samples_are_raw_and_complete(recorded):
    cells = load_expected(recorded / "expected.yaml").cells("tiny")
    loss = next(cell for cell in cells.values() if cell.metric == "valid_loss")
    assert sorted(loss.samples) == [1, 2, 3, 4, 5]
    assert len(set(loss.samples.values())) == 5
    majority = next(cell for cell in cells.values() if cell.method == "majority")
    assert list(majority.samples) == [None]


def test_an_unchanged_program_reproduces(unchanged):
    outcome, root = unchanged
    assert outcome.ok, {str(key): verdict for key, verdict in outcome.verdicts.items() if not verdict.ok}
    assert {verdict.kind for verdict in outcome.verdicts.values()} <= {"match", "close"}
    page = (root / "reports" / "toy.md").read_text()
    assert "untrained" in page and "majority class" in page
    assert (root / "reports" / "toy.html").stat().st_size > 50_000


def test_results_are_filed_with_provenance_and_read_back_equal(recorded, unchanged):
    outcome, root = unchanged
    filed = read_results(root / "ledger")
    assert sorted(map(str, (r.path for r in filed))) == sorted(map(str, (r.path for r in outcome.results)))
    first = filed[0]
    assert first.provenance["data"]["sha256"] and first.provenance["packages"]["torch"]
    assert first.command.startswith(f"scmf reproduce {recorded.name} --variant tiny")
    assert first.recipe_digest == outcome.recipe.digest


def test_a_loss_with_one_changed_weight_is_off(recorded, toy_env, tmp_path, monkeypatch):
    from scmf.models import transformer_encoder

    honest = transformer_encoder.cross_entropy
    monkeypatch.setattr(transformer_encoder, "cross_entropy", lambda *a, **k: honest(*a, **k) * 1.1)
    outcome = again(recorded, tmp_path)
    verdicts = {key.metric: verdict for key, verdict in outcome.verdicts.items() if key.metric == "valid_loss"}
    assert verdicts["valid_loss"].kind == "off_up"
    assert verdicts["valid_loss"].n_obs == 3  # two more seeds were run before it was called off
    assert not outcome.ok


def test_a_better_number_is_off_too(recorded, toy_env, tmp_path, monkeypatch):
    from scmf.models import transformer_encoder

    honest = transformer_encoder.cross_entropy
    monkeypatch.setattr(transformer_encoder, "cross_entropy", lambda *a, **k: honest(*a, **k) * 0.9)
    outcome = again(recorded, tmp_path)
    assert "off_down" in {verdict.kind for verdict in outcome.verdicts.values()}
    assert not outcome.ok


def test_a_changed_expected_median_of_samples_is_off(recorded, toy_env, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(recorded, copy, ignore=shutil.ignore_patterns("runs", "ledger", "reports", "cache"))
    text = (copy / "expected.yaml").read_text()
    assert "metric: accuracy" in text
    expected = load_expected(copy / "expected.yaml")
    majority = next(cell for cell in expected.mini if cell.method == "majority" and cell.metric == "accuracy")
    (copy / "expected.yaml").write_text(text.replace(repr(majority.samples[None]), repr(majority.samples[None] + 0.02)))
    outcome = reproduce(str(copy), tiers=EMBEDDED, **folders(tmp_path))
    kinds = {
        key.method: verdict.kind
        for key, verdict in outcome.verdicts.items()
        if key.metric == "accuracy" and key.method == "majority"
    }
    assert kinds == {"majority": "off_down"}
    assert not outcome.ok


def test_changed_settings_are_stale_and_not_judged(recorded, toy_env, tmp_path):
    outcome = again(recorded, tmp_path, overrides=("training.lr=1e-3",))
    assert {verdict.kind for verdict in outcome.verdicts.values()} == {"stale"}
    assert not outcome.ok


def test_a_killed_reproduction_goes_on_and_gives_the_same_numbers(recorded, unchanged, toy_env, tmp_path, monkeypatch):
    whole, _ = unchanged

    class Killed(Exception):
        pass

    def dying(*arguments, **keywords):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(seeds, "scores_of_recipe", dying)
        with pytest.raises(Killed):
            again(recorded, tmp_path / "parts")
    parts = again(recorded, tmp_path / "parts")
    assert [r.metrics for r in parts.results] == [r.metrics for r in whole.results]


def test_other_code_never_goes_on_from_old_weights(recorded, unchanged, toy_env, tmp_path, monkeypatch):
    from scmf.core import provenance

    shutil.copytree(unchanged[1] / "runs", tmp_path / "runs")
    monkeypatch.setattr(provenance, "code_digest", lambda: "f" * 64)
    again(recorded, tmp_path)
    codes = {folder.name.split("-")[1] for folder in (tmp_path / "runs" / "toy-tiny").iterdir()}
    assert len(codes) == 2 and "f" * 8 in codes


def test_a_published_variant_cannot_be_the_embedded_tier(tmp_path):
    with pytest.raises(ConfigError, match="not of the mini tier"):
        reproduce("geneformer", tiers=EMBEDDED, variant="v2-104m", **folders(tmp_path))


def with_values(recorded, monkeypatch, values):
    """Put seeds with these validation losses in place of training."""
    recipe = load_recipe(str(recorded))
    filed = read_results(recorded / "ledger")
    known = next(r for r in filed if "valid_loss" in r.metrics)

    def quick(_, seed, *arguments, **keywords):
        one = known.model_copy(update={"seed": seed, "metrics": {"valid_loss": values[seed]}})
        return SeedRun(seed, recorded, [one], None, None)

    monkeypatch.setattr(reproduction, "run_seed", quick)
    monkeypatch.setattr(reproduction.SharedInputs, "of", lambda *arguments, **keywords: None)
    return next(c for k, c in load_expected(recorded / "expected.yaml").cells(recipe.variant).items()
                if k.metric == "valid_loss")  # fmt: skip


def test_three_seeds_after_a_missed_first_look_are_close_and_not_a_match(recorded, tmp_path, monkeypatch):
    values = {}
    cell = with_values(recorded, monkeypatch, values)
    mean, sd = np.mean(list(cell.samples.values())), np.std(list(cell.samples.values()), ddof=1)
    far = max(cell.min_band, 4 * sd)
    values |= {0: mean + far, 100: mean - far / 2, 101: mean - far / 2}
    outcome = again(recorded, tmp_path)
    verdict = next(v for k, v in outcome.verdicts.items() if k.metric == "valid_loss")
    assert (verdict.kind, verdict.n_obs, abs(verdict.delta) < far / 100) == ("close", 3, True)


def test_one_expected_seed_is_left_out_of_the_band_and_two_are_refused_before_training(recorded, tmp_path, monkeypatch):
    values = {}
    cell = with_values(recorded, monkeypatch, values)
    values |= cell.samples
    verdict = next(v for k, v in again(recorded, tmp_path, seeds=(3,)).verdicts.items() if k.metric == "valid_loss")
    assert verdict.n_exp == 4 and "without the expected sample of seed 3" in verdict.reason
    with pytest.raises(ConfigError, match="seeds 2, 3 are expected samples themselves"):
        again(recorded, tmp_path, seeds=(0, 2, 3))


# --- parity ---------------------------------------------------------------------------------------


def parity_recipe(root, body):
    (root / "recipe.yaml").write_text(
        "identity: {name: toy, title: t, paper: p, doi: d, code: c, license: l, default_variant: tiny}\n"
        "data: {dataset: pancreas}\nvariants: {tiny: {description: d, tier: mini}}\n"
    )
    (root / "parity_toy.py").write_text(
        "from scmf.results.parity import ParityCase\ndef cases(folder, data_dir=None):\n" + body
    )
    return str(root)


def test_parity_walks_over_what_it_finds_and_one_difference_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("scmf.core.registry._trusted", True)
    monkeypatch.setenv("SCMF_REFERENCE_DIR", str(tmp_path))
    (tmp_path / "a.good").touch()
    recipe = parity_recipe(
        tmp_path,
        "    for path in sorted(folder.glob('a.*')):\n"
        "        yield ParityCase(path.name, 'one', path.suffix == '.good', 0.0, 0.0)\n",
    )
    seen = []
    assert reproduce(recipe, tiers=("parity",), on_case=seen.append).ok
    assert seen == [ParityCase("a.good", "one", True, 0.0, 0.0)]
    (tmp_path / "a.bad").touch()
    assert not reproduce(recipe, tiers=("parity",)).ok


def test_parity_without_any_case_is_an_error_not_a_success(tmp_path, monkeypatch):
    monkeypatch.setattr("scmf.core.registry._trusted", True)
    monkeypatch.setenv("SCMF_REFERENCE_DIR", str(tmp_path))
    recipe = parity_recipe(tmp_path, "    yield from ()\n")
    with pytest.raises(EvaluationError, match="no case"):
        reproduce(recipe, tiers=("parity",))


def test_parity_asked_for_alone_needs_the_oracle(monkeypatch):
    monkeypatch.delenv("SCMF_REFERENCE_DIR", raising=False)
    with pytest.raises(EvaluationError, match="SCMF_REFERENCE_DIR is not set"):
        reproduce("geneformer", tiers=("parity",))


def test_the_log_of_a_run_holds_the_number_that_was_judged(unchanged):
    outcome, root = unchanged
    log = next((root / "runs").rglob("*-seed0/pretraining/log.jsonl"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    loss = next(r.metrics["valid_loss"] for r in outcome.results if "valid_loss" in r.metrics and r.seed == 0)
    assert [line["valid_loss"] for line in lines if "valid_loss" in line][-1] == loss
    assert np.isfinite(loss)
