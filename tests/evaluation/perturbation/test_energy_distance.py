"""Both published energy distances, against the packages' own numbers and against pertpy."""

import importlib.util

import numpy as np
import pytest

from scmf.core.errors import EvaluationError
from scmf.evaluation.perturbation.benchmark import pertpy_distance
from scmf.evaluation.perturbation.energy_distance import energy_distance_pertpy, energy_distance_scperturb

needs_pertpy = pytest.mark.skipif(importlib.util.find_spec("pertpy") is None, reason="pertpy is not installed")


def two_sets():
    """900 cells of four types and three batches, as the program that compared the packages drew them."""
    rng = np.random.default_rng(0)
    labels, batches = rng.integers(0, 4, 900), rng.integers(0, 3, 900)
    centers, shifts = rng.normal(0, 3, (4, 10)), rng.normal(0, 1, (3, 10))
    cells = (centers[labels] + shifts[batches] + rng.normal(0, 1, (900, 10))).astype("float32")
    return cells[labels > 1], cells[labels <= 1]


def test_the_two_definitions_give_their_published_numbers():
    x, y = two_sets()
    assert energy_distance_pertpy(x, y) == pytest.approx(4.81121, abs=1e-5)
    assert energy_distance_scperturb(x, y) == pytest.approx(66.99208, abs=1e-4)


@needs_pertpy
def test_pertpy_gives_the_same():
    x, y = two_sets()
    theirs = pertpy_distance("edistance")(x, y)
    assert energy_distance_pertpy(x, y) == pytest.approx(float(theirs), rel=1e-5)


def test_equal_sets_lie_at_nothing_and_blocks_change_nothing(monkeypatch):
    x, y = two_sets()
    assert energy_distance_pertpy(x, x) == pytest.approx(0, abs=1e-9)
    whole = energy_distance_pertpy(x, y), energy_distance_scperturb(x, y)
    rows = np.random.default_rng(1).permutation(len(x))
    assert (energy_distance_pertpy(x[rows], y), energy_distance_scperturb(x[rows], y)) == pytest.approx(
        whole, rel=1e-12
    )


@pytest.mark.parametrize("bad", [np.zeros(10), np.zeros((0, 10)), np.full((3, 10), np.nan), np.zeros((3, 4))])
def test_what_is_no_set_of_cells_is_refused(bad):
    with pytest.raises(EvaluationError):
        energy_distance_pertpy(np.zeros((3, 10)), bad)
    with pytest.raises(EvaluationError):
        energy_distance_scperturb(np.zeros((3, 10)), np.zeros((1, 10)))
