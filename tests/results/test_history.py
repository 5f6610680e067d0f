"""Which change moved which number, on small repositories made by the tests."""

import json
import subprocess

import pytest

from scmf.core.errors import ConfigError
from scmf.results.expected import ExpectedCell, MeasuredWith, write_expected
from scmf.results.history import find_changes, versions, write_history
from scmf.results.judge import band
from scmf.results.ledger import write_result
from scmf.results.result import Result
from tests import ROOT

SAMPLES = {1: 0.80, 2: 0.81, 3: 0.82, 4: 0.83, 5: 0.84}


class Repository:
    """A git repository with code, one recipe and a ledger."""

    def __init__(self, root):
        self.root = root
        self.git("init", "-q", "-b", "main")
        self.write("scmf/a.py", "0")
        common = {"variant": "mini", "dataset": "toy", "split": "donor", "benchmark": "annotation",
                  "higher_is_better": True, "min_band": 0.005,
                  "measured_with": MeasuredWith(digest="d" * 64)}  # fmt: skip
        common |= {"protocol": "linear_probe", "method": "pretrained", "metric": "accuracy", "samples": SAMPLES}
        (root / "recipes" / "toy").mkdir(parents=True)
        write_expected(root / "recipes" / "toy" / "expected.yaml", [ExpectedCell(**common)])
        self.commit("first code")

    def git(self, *words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        run = subprocess.run(["git", *identity, *words], cwd=self.root, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self, subject):
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")

    def measure(self, value, *, seed=0, commit=None, day=1, metric="accuracy", packages=None, **other):
        """File a result measured now, or by ``commit``."""
        state = {"commit": commit or self.git("rev-parse", "HEAD"), "dirty": False}
        facts = {
            "recipe": "toy", "variant": "mini", "tier": "mini", "benchmark": "annotation", "dataset": "toy",
            "split": "donor", "protocol": "linear_probe", "method": "pretrained", "seed": seed,
            "metrics": {metric: value}, "definitions": {metric: "d"}, "higher_is_better": {metric: True},
            "recipe_digest": "d" * 64, "command": "scmf reproduce toy",
            "provenance": {"git": state, "time": f"2026-01-{day:02d}T00:00:00+00:00", "packages": packages or {}},
        }  # fmt: skip
        return write_result(self.root / "leaderboard" / "results", Result(**{**facts, **other}))

    def page(self):
        return write_history(self.root, self.root / "page.md").read_text()


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def test_a_first_measurement_is_no_move(repository):
    repository.measure(0.82)
    assert not find_changes(repository.root)
    assert "No number has moved." in repository.page()


def test_a_move_names_values_bands_and_the_commits_between_that_touch_code_or_recipe(repository):
    first = repository.git("rev-parse", "HEAD")
    repository.measure(0.82)
    repository.commit("results")
    repository.write("scmf/a.py", "1")
    repository.commit("Heads are scaled by their width")
    repository.write("docs/a.md", "words")
    repository.commit("words only")
    repository.write("recipes/toy/recipe.yaml", "lr: 2")
    repository.commit("A higher rate")
    repository.write("recipes/other/recipe.yaml", "lr: 2")
    last = repository.commit("another recipe")
    repository.measure(0.86, day=2)
    (change,) = find_changes(repository.root)
    assert (change.before, change.after) == (first[:9], last[:9])
    assert [subject for _, subject in change.commits] == ["A higher rate", "Heads are scaled by their width"]
    (move,) = change.moves
    assert (move.before, move.after, move.seed, move.key.metric) == (0.82, 0.86, 0, "accuracy")
    width = band(list(SAMPLES.values()), 1, min_band=0.005, alpha=0.05)
    assert move.bands == pytest.approx(0.04 / width)
    page = repository.page()
    assert "| 0 | 0.8200 | 0.8600 | +0.0400 |" in page and f"`{first[:9]}` → `{last[:9]}`" in page
    assert "Heads are scaled by their width" in page and "words only" not in page and "another recipe" not in page


def test_the_page_is_the_same_before_and_after_the_results_are_committed(repository):
    repository.measure(0.82)
    repository.commit("results")
    repository.write("scmf/a.py", "1")
    repository.commit("code")
    repository.measure(0.83, day=2)
    repository.measure(0.5, seed=1, day=2)
    before = repository.page()
    repository.commit("results again")
    assert repository.page() == before
    repository.commit("nothing")
    assert repository.page() == before


def test_measured_again_and_the_same_is_no_move_and_is_counted(repository):
    repository.measure(0.82)
    repository.commit("results")
    repository.measure(0.82, day=2)
    assert not find_changes(repository.root)
    assert "| toy | 1 | 0 | 1 | 0 |" in repository.page()


def test_what_came_back_has_moved_twice_newest_first(repository):
    for day, value in enumerate((0.82, 0.83, 0.82), start=1):
        repository.write("scmf/a.py", str(day))
        repository.commit(f"code {day}")
        repository.measure(value, day=day)
        repository.commit("results")
    found = find_changes(repository.root)
    assert [(c.moves[0].before, c.moves[0].after, c.time[:10]) for c in found] == [
        (0.83, 0.82, "2026-01-03"),
        (0.82, 0.83, "2026-01-02"),
    ]
    (history,) = versions(repository.root).values()
    assert [value["metrics"]["accuracy"] for value in history] == [0.82, 0.83, 0.82]


def test_the_furthest_move_stands_first_and_a_lost_number_is_said(repository):
    for seed, value in ((0, 0.82), (1, 0.82), (2, 0.82)):
        repository.measure(value, seed=seed)
    repository.commit("results")
    repository.measure(0.821, seed=0, day=2)
    repository.measure(0.7, seed=1, day=2)
    absence = {"kind": "failed", "reason": "diverged"}
    repository.measure(0, seed=2, day=2, metrics={}, absence=absence)
    (change,) = find_changes(repository.root)
    assert [(move.seed, move.after) for move in change.moves] == [(1, 0.7), (0, 0.821), (2, None)]
    assert "| 2 | 0.8200 | — | not measured | — |" in repository.page()


def test_packages_and_recipe_that_differ_are_said_besides(repository):
    repository.measure(0.82, packages={"torch": "2.13.0"})
    repository.commit("results")
    repository.measure(0.83, day=2, packages={"torch": "2.14.0"}, recipe_digest="e" * 64)
    (change,) = find_changes(repository.root)
    assert change.besides == ("the recipe: digest dddddddd → eeeeeeee", "torch: 2.13.0 → 2.14.0")
    assert "No commit between them touches the code or the recipe." in repository.page()


def test_a_commit_that_is_not_here_is_said_and_many_commits_are_counted(repository):
    first = repository.git("rev-parse", "HEAD")
    repository.measure(0.82, commit="a" * 40)
    repository.measure(0.82, seed=1, commit=first)
    repository.commit("results")
    for i in range(11):
        repository.write("scmf/a.py", f"step {i}")
        repository.commit(f"step {i}")
    repository.measure(0.83, day=2)
    repository.measure(0.83, seed=1, day=2)
    page = repository.page()
    assert "unknown, one of the two is not in this repository" in page
    assert "step 10" in page and "step 3" in page and "step 2" not in page and "and 3 more" in page


def test_a_merge_counts_once_and_broken_files_do_not_matter(repository):
    repository.measure(0.82)
    repository.write("leaderboard/results/toy/mini/toy.donor/broken.json", "{")
    repository.commit("results")
    repository.git("checkout", "-q", "-b", "side")
    repository.measure(0.83, day=2)
    repository.commit("measured on the side")
    repository.measure(0.84, day=3)
    repository.commit("and again")
    repository.git("checkout", "-q", "main")
    repository.write("docs/a.md", "words")
    repository.commit("words")
    repository.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    (change,) = find_changes(repository.root)
    assert [(move.before, move.after) for move in change.moves] == [(0.82, 0.84)]


def test_a_shallow_clone_is_one_clear_error_and_so_is_no_repository(repository, tmp_path_factory):
    repository.measure(0.82)
    repository.commit("results")
    clone = tmp_path_factory.mktemp("clone")
    subprocess.run(["git", "clone", "-q", "--depth", "1", repository.root.as_uri(), str(clone)], check=True)
    with pytest.raises(ConfigError, match="a shallow clone") as caught:
        versions(clone)
    assert "--unshallow" in caught.value.fix
    with pytest.raises(ConfigError, match="no git repository"):
        versions(tmp_path_factory.mktemp("plain"))


@pytest.mark.nightly  # the small repositories above have histories of every kind
def test_the_committed_ledger_is_read_whole():
    if not (ROOT / ".git").exists() or json.loads(
        subprocess.run(["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True).stdout
    ):
        pytest.skip("not a checkout with its history")
    found = versions(ROOT)
    files = {path.relative_to(ROOT / "leaderboard" / "results").as_posix()
             for path in (ROOT / "leaderboard" / "results").glob("*/*/*/*.json")}  # fmt: skip
    assert files <= set(found)
