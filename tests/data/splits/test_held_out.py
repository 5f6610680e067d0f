"""Splits of screens: what is held out, and that every cell has a part."""

import numpy as np
import pytest

from scmf.core.errors import DataError
from scmf.data.splits.conditions import CONTROLS, genes_of
from scmf.data.splits.held_out import all_doubles, cell_parts, held_out_conditions, held_out_doubles
from scmf.data.splits.perturbation import gears_simulation

GENES = [f"G{i}" for i in range(40)]
CONDITIONS = [*GENES[:30], *(f"{GENES[i]}+{GENES[i + 3]}" for i in range(35))]


def test_doubles_are_halved_and_singles_train():
    parts = held_out_doubles(CONDITIONS, seed=3)
    doubles = [name for name in CONDITIONS if "+" in name]
    assert {parts[name] for name in CONDITIONS if "+" not in name} == {"train"}
    counts = [sum(parts[name] == part for name in doubles) for part in ("train", "valid", "test")]
    assert sum(counts) == len(doubles) and counts[0] in (17, 18) and abs(counts[1] - counts[2]) <= 1
    assert set(all_doubles(CONDITIONS).values()) == {"train", "test"}


def test_norman_has_the_published_sizes():
    names = [
        *(f"s{i}" for i in range(100)),
        *(f"s{i}+s{i + 1}" for i in range(62)),
        *(f"s{i}+s{i + 30}" for i in range(62)),
    ]
    parts = held_out_doubles(names, seed=1)
    found = {part: sum(value == part for value in parts.values()) for part in ("train", "valid", "test")}
    assert found == {"train": 162, "valid": 31, "test": 31}


def test_conditions_are_held_out_and_never_all():
    assert sorted(set(held_out_conditions(["a", "b"]).values())) == ["test", "train"]
    parts = held_out_conditions([f"c{i}" for i in range(20)], seed=2)
    assert sum(part == "test" for part in parts.values()) == 5
    with pytest.raises(DataError, match="at least two"):
        held_out_conditions(["a"])


def test_control_cells_train_whatever_is_held_out():
    conditions, kinds = ["control", "x", "control", "x"], ["a", "a", "b", "b"]
    parts = cell_parts(conditions, kinds, control="control", held_covariates={"b": "test"})
    assert parts.tolist() == ["train", "train", "train", "test"]
    parts = cell_parts(conditions, kinds, control="control", condition_parts={"x": "test"})
    assert np.array_equal(parts, ["train", "test", "train", "test"])


@pytest.mark.parametrize("split", [gears_simulation, held_out_doubles, all_doubles, held_out_conditions])
def test_spellings_of_one_condition_have_one_part_and_controls_train(split):
    turned = [*CONDITIONS, *("+".join(reversed(name.split("+"))) for name in CONDITIONS if "+" in name)]
    turned += [*(f"{gene}+ctrl" for gene in GENES[:9]), *(f"ctrl+{gene}" for gene in GENES[5:12]), "ctrl", "ctrl+ctrl"]
    for seed in range(5):
        more = {} if split is all_doubles else {"seed": seed}
        parts, plain = split(turned, **more), split(CONDITIONS, **more)
        assert set(parts) == set(turned) and parts["ctrl"] == parts["ctrl+ctrl"] == "train"
        of_genes = {}
        for name, part in parts.items():
            assert of_genes.setdefault(genes_of(name, separator="+", controls=CONTROLS), part) == part, name
        values = [parts[name] for name in CONDITIONS]
        for part in () if split is gears_simulation else ("train", "valid", "test"):  # genes are drawn, not conditions
            assert values.count(part) == list(plain.values()).count(part)


def test_a_control_is_no_gene_whatever_it_is_called():
    for separator in ("_", None):
        assert genes_of("non_targeting", separator=separator, controls=["non_targeting"]) == ()
    assert genes_of("A_non_targeting", separator="_", controls=["non_targeting"]) == ("A",)
    assert genes_of("A", separator=None, controls=["non_targeting"]) == ("A",)
    assert genes_of("B+A", separator="+", controls=CONTROLS) == ("A", "B")
