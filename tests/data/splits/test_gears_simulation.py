"""The simulation split of GEARS: its rules, and equality with the official code."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.data.splits.conditions import genes_of
from scmf.data.splits.perturbation import gears_simulation

GENES = [f"G{i}" for i in range(40)]
CONDITIONS = [*GENES[:30], *(f"{GENES[i]}+{GENES[i + 3]}" for i in range(35))]
OFFICIAL = Path(os.environ.get("SCMF_REFERENCE_DIR", "none"), "perturbation", "gears_splits", "expected.json")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.permutations(CONDITIONS), st.sampled_from(["gears", "rounded"]))
def test_gears_rules_hold_whatever_the_seed_and_the_order(seed, conditions, draws):
    parts = gears_simulation(conditions, seed=seed, draws=draws)
    assert set(parts) == set(CONDITIONS)
    assert parts == gears_simulation(CONDITIONS, seed=seed, draws=draws)
    known = {
        gene for name, part in parts.items() if part == "train" for gene in genes_of(name, separator="+", controls=())
    }
    singles = [name for name in parts if "+" not in name]
    # a single perturbation is held out for its gene, so that no training combination holds that gene
    for name in singles:
        if parts[name] == "test":
            assert name not in known
    assert {"train", "test"} <= set(parts.values())


@pytest.mark.parametrize("draws", ["gears", "rounded"])
def test_controls_train(draws):
    parts = gears_simulation(["ctrl", "ctrl+ctrl", *CONDITIONS], draws=draws)
    assert parts["ctrl"] == parts["ctrl+ctrl"] == "train"


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="SCMF_REFERENCE_DIR has no perturbation/gears_splits")
def test_it_is_the_split_of_the_official_code_condition_by_condition():
    held = json.loads(OFFICIAL.read_text())
    simulated = [one for one in held["splits"] if one["split"] == "simulation"]
    assert simulated
    for one in simulated:
        parts = gears_simulation(["ctrl", *held["conditions"][one["list"]]], seed=one["seed"])
        assert parts == {
            name: {"val": "valid"}.get(part, part) for part, names in one["parts"].items() for name in names
        }
