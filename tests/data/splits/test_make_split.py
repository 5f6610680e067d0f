"""Splits keep whole what they promise, come near the wanted shares, and cut through donors only when asked."""

import contextlib
import itertools

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, DataError
from scmf.core.files import sha256_file
from scmf.data.cards.card import Split as CardSplit
from scmf.data.splits.assign import assign_groups
from scmf.data.splits.make import make_split
from scmf.data.splits.perturbation import subgroups
from scmf.data.splits.read import SPLITS, read_codes, read_table, shared_groups
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from tests.conftest import synthetic_cells


def cells_of(**columns):
    n = len(next(iter(columns.values())))
    obs = pd.DataFrame(columns, index=[f"c{i}" for i in range(n)])
    var = pd.DataFrame(index=["ENSG00000000001", "ENSG00000000002"])
    return ad.AnnData(sp.csr_matrix(np.ones((n, 2), np.float32)), obs=obs, var=var)


def cost(sizes, parts, shares):
    return sum(abs(sizes[parts == p].sum() / sizes.sum() - share) for p, share in enumerate(shares))


# --- whole groups ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 300), min_size=3, max_size=7), st.integers(0, 5))
def test_sizes_are_as_near_the_shares_as_trying_everything_finds(sizes, seed):
    shares = np.array([0.6, 0.15, 0.25])
    sizes = np.array(sizes)
    found = assign_groups(sizes[:, None], shares, rng=np.random.default_rng(seed))
    assert set(found) == {0, 1, 2}
    every = (np.array(parts) for parts in itertools.product(range(3), repeat=len(sizes)))
    best = min(cost(sizes, parts, shares) for parts in every if set(parts) == {0, 1, 2})
    assert cost(sizes, found, shares) <= best + 0.05


def test_no_donor_is_cut_and_the_shares_are_met():
    cells = synthetic_cells(2000)
    cells.obs["donor_id"] = [f"d{i}" for i in np.random.default_rng(1).integers(60, size=2000)]
    split = make_split(cells, by="donor_id", stratify_by="cell_type")
    assert shared_groups(split.parts, cells.obs["donor_id"]) == {}
    sizes = split.parts.value_counts(normalize=True)
    assert abs(sizes - pd.Series({"train": 0.8, "valid": 0.1, "test": 0.1})).max() < 0.01
    table = pd.crosstab(split.parts.to_numpy(), cells.obs["cell_type"].to_numpy(), normalize="columns")
    assert table.loc["test"].between(0.07, 0.13).all()


def test_stratifying_evens_out_a_label_that_donors_hold_unevenly():
    rng = np.random.default_rng(0)
    donors = rng.integers(40, size=4000)
    rare = rng.random(4000) < np.where(donors % 5 == 0, 0.2, 0.01)
    cells = cells_of(donor_id=[f"d{d}" for d in donors], cell_type=np.where(rare, "rare", "common"))

    def miss(split):
        share = pd.crosstab(split.parts.to_numpy(), rare, normalize="columns")[True]
        return abs(share - pd.Series({"train": 0.8, "valid": 0.1, "test": 0.1})).sum()

    even, not_asked = (
        np.mean([miss(make_split(cells, by="donor", stratify_by=s, seed=i)) for i in range(5)])
        for s in ("cell_type", None)
    )
    assert even < 0.06 < not_asked


def test_equal_arguments_give_an_equal_split_and_another_seed_another():
    cells = cells_of(donor_id=[f"d{i % 50}" for i in range(3000)])
    one, same, other = (make_split(cells, by="donor", seed=seed).codes for seed in (3, 3, 4))
    assert (one == same).all() and (one != other).any()


def test_several_columns_join_what_shares_a_value_of_any():
    cells = cells_of(donor_id=["a", "a", "b", "c", "d", "e", "f", "g"], study=["1", "2", "2", "3", "3", "4", "5", "6"])
    split = make_split(cells, by=["donor_id", "study"], fractions=(0.5, 0.25, 0.25))
    for column in ("donor_id", "study"):
        assert shared_groups(split.parts, cells.obs[column]) == {}
    assert len(set(split.parts.iloc[:3])) == 1, "donor a joins the studies 1 and 2, study 2 joins a and b"


def test_held_out_groups_are_the_whole_part_and_the_rest_keeps_its_proportion():
    cells = cells_of(donor_id=[f"d{i % 18}" for i in range(1800)])
    split = make_split(cells, by="donor", hold_out={"test": ["d4", "d5"]}, fractions=(0.8, 0.2, 0.0))
    assert split.groups["test"] == ("d4", "d5") and split.held_out == {"test": ("d4", "d5")}
    assert split.sizes == {"train": 1300, "valid": 300, "test": 200}
    with pytest.raises(DataError, match="no donor_id 'd99'"):
        make_split(cells, by="donor", hold_out={"test": ["d99"]})
    with pytest.raises(ConfigError, match="'d1' in two parts"):
        make_split(cells, by="donor", hold_out={"test": ["d1"], "valid": ["d1"]})


def test_held_out_cell_types_are_unseen_in_train_and_said_to_be_missing():
    cells = synthetic_cells()
    split = make_split(cells, by="cell_type", hold_out={"test": ["beta"]}, fractions=(1, 0, 0), stratify_by="cell_type")
    assert set(cells.obs["cell_type"][split.parts.to_numpy() == "train"]) == {"alpha", "delta"}
    assert split.missing_labels == {"train": ("beta",), "test": ("alpha", "delta")}
    assert "train has no beta" in split.description


# --- what is refused ------------------------------------------------------------------------------


def test_cells_are_cut_one_by_one_only_when_asked_for_by_name():
    cells = synthetic_cells()
    with pytest.raises(ConfigError) as caught:
        make_split(cells)
    assert caught.value.wanted and caught.value.where and "random" in caught.value.fix
    split = make_split(cells, strategy="random", stratify_by="cell_type")
    assert split.by == () and "cells of one donor can lie in several parts" in split.description
    table = pd.crosstab(split.parts.to_numpy(), cells.obs["cell_type"].to_numpy())
    assert (abs(table.loc["test"] - 0.1 * table.sum()) <= 1).all()
    with pytest.raises(ConfigError, match="one or the other"):
        make_split(cells, by="donor_id", strategy="random")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "donors"}, "did you mean 'donor_id'"),
        ({"by": "donor", "fractions": (0.8, 0.3, 0.1)}, "sum 1"),
        ({"by": "donor", "strategy": "best"}, "one of group, random"),
        ({"by": "donor", "hold_out": {"dev": ["d1"]}}, "part 'dev'"),
        ({"by": "study"}, "(?s)2 groups for 3 parts.*fewer parts"),
        ({"by": "hole"}, "240 of 240 cells have no 'hole'"),
        ({"by": "batch"}, "no column 'batch'"),
    ],
)
def test_what_cannot_be_is_one_clear_error(arguments, message):
    cells = synthetic_cells()
    cells.obs["hole"] = np.nan
    with pytest.raises((ConfigError, DataError), match=message):
        make_split(cells, **arguments)


def test_a_word_means_what_the_card_says_and_never_one_of_two():
    cells = synthetic_cells()
    cells.obs["donor"] = "x"
    assert make_split(cells, by="donor", fractions=(1, 0, 0)).by == ("donor",)
    cells.obs["patient"] = cells.obs.pop("donor")
    with pytest.raises(DataError, match="2 columns could be the donor"):
        make_split(cells, by="donor")
    assert make_split(cells, by="donor", keys={"donor": "donor_id"}).by == ("donor_id",)


# --- perturbations --------------------------------------------------------------------------------

GENES = [f"G{i:02d}" for i in range(30)]
PAIRS = ["+".join(p) for p in itertools.combinations(GENES[:14], 2)][::2]
SCREEN = [*["control"] * 200, *np.repeat([*[f"{g}+ctrl" for g in GENES], *PAIRS], 20)]


def screen(**arguments):
    cells = cells_of(condition=SCREEN)
    return cells, make_split(cells, by="perturbation", **arguments)


@pytest.mark.parametrize("strategy", ["group", "unseen", "combinations", "simulation"])
def test_controls_are_always_in_train_and_no_condition_is_cut(strategy):
    cells, split = screen(strategy=strategy)
    assert set(split.parts[(cells.obs["condition"] == "control").to_numpy()]) == {"train"}
    assert shared_groups(split.parts, cells.obs["condition"]) == {}
    assert set(split.parts) == set(SPLITS)


def genes(split, part):
    return {g for name in split.groups[part] for g in name.split("+")} - {"ctrl", "control"}


def test_unseen_genes_of_test_occur_in_no_other_part():
    _, split = screen(strategy="unseen", fractions=(0.6, 0.2, 0.2))
    kept = genes(split, "train") | genes(split, "valid")
    for name in split.groups["test"]:
        assert set(name.split("+")) - {"ctrl"} - kept
    assert "unseen_single" in split.subgroups["test"] and "combo_seen2" not in split.subgroups["test"]
    _, fixed = screen(strategy="unseen", hold_out={"test": ["G03"]})
    assert "G03+ctrl" in fixed.groups["test"] and not {"G03"} & (genes(fixed, "train") | genes(fixed, "valid"))


def test_combinations_leave_every_single_in_train():
    _, split = screen(strategy="combinations", fractions=(0.5, 0.25, 0.25))
    assert {f"{g}+ctrl" for g in GENES} < set(split.groups["train"])
    assert set(split.subgroups["test"]) == {"combo_seen2"}
    assert len(split.groups["test"]) == pytest.approx(len(PAIRS) / 4, abs=1)


def test_the_simulation_has_the_sizes_of_gears():
    # GEARS prepare_split: int(n * .75) train genes; combinations of two train genes: int(m * .75) stay; then .9
    _, split = screen(strategy="simulation", seed=1)
    test = split.subgroups["test"]
    left = genes(split, "train") | genes(split, "valid")
    assert len(test["unseen_single"]) == 30 - int(30 * 0.75) and len(left) == int(30 * 0.75)
    both = [p for p in PAIRS if set(p.split("+")) <= left]
    assert len(test["combo_seen2"]) == len(both) - int(len(both) * 0.75)
    one = [p for p in PAIRS if len(set(p.split("+")) & left) == 1]
    none = [p for p in PAIRS if not set(p.split("+")) & left]
    assert sorted(test["combo_seen1"]) == one and sorted(test.get("combo_seen0", ())) == none


def test_subgroups_by_hand():
    part = {"ctrl": 0, "A": 0, "B+ctrl": 0, "A+B": 2, "A+C": 2, "C+D": 2, "C": 2, "D": 1, "A+E": 1, "D+E": 2}
    assert subgroups(part) == {
        "valid": {"combo_seen1": ("A+E",), "unseen_single": ("D",)},
        "test": {
            "combo_seen1": ("A+C", "C+D"),  # D counts as seen: it is in valid
            "combo_seen2": ("A+B", "D+E"),
            "unseen_single": ("C",),
        },
    }


def test_a_separator_and_a_control_of_ones_own():
    cells = cells_of(condition=np.repeat(["NT", "A", "B", "C", "A_B", "A_C", "B_C"], 5))
    split = make_split(
        cells, by="condition", strategy="combinations", separator="_", control="NT", hold_out={"test": ["A_C"]},
        fractions=(0.5, 0.5, 0),
    )  # fmt: skip
    assert split.groups["test"] == ("A_C",) and "NT" in split.groups["train"]
    with pytest.raises(DataError, match="no condition 'A\\+B'"):
        make_split(cells, by="condition", strategy="combinations", separator="_", hold_out={"test": ["A+B"]})
    with pytest.raises(DataError, match="no combination"):
        make_split(cells, by="condition", strategy="combinations", separator="|")


# --- files ----------------------------------------------------------------------------------------


def test_a_written_split_reads_back_and_its_block_fits_a_card(tmp_path):
    cells = synthetic_cells()
    split = make_split(cells, by="donor", fractions=(0.5, 0.25, 0.25))
    sha256 = split.write(tmp_path / "mine.tsv.gz")
    assert sha256 == sha256_file(tmp_path / "mine.tsv.gz")
    assert read_table(tmp_path / "mine.tsv.gz").to_dict() == split.parts.astype(str).to_dict()
    said = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    block = CardSplit(**said["card"])
    assert (block.sha256, block.by) == (sha256, "donor_id")
    assert {d for part in block.parts.values() for d in part} == set(cells.obs["donor_id"])
    assert (said["seed"], said["strategy"], said["cells"]) == (0, "group", split.sizes)


def test_a_corpus_is_split_like_its_cells_in_one_file(tmp_path):
    cells = synthetic_cells(300)
    other = cells[:120].copy()
    corpus = Corpus([MemoryStore(cells, name="one.h5ad"), MemoryStore(other, name="two.h5ad")])
    split = make_split(corpus, by="donor_id", fractions=(0.5, 0.25, 0.25))
    assert split.codes.dtype == np.uint8 and shared_groups(split.parts, corpus.obs(["donor_id"])["donor_id"]) == {}
    split.write(tmp_path / "both.tsv.gz")
    assert (read_codes(tmp_path / "both.tsv.gz", corpus) == split.codes).all()
    assert split.parts.index[0] == "one:cell0" and split.parts.index[-1] == "two:cell119"


@pytest.mark.parametrize("hole", [np.nan, None, "", "nan"])
@pytest.mark.parametrize("arguments", [{"by": "donor_id"}, {"by": "batch"}, {"by": "condition"}, {"stratify": 1}])
def test_a_cell_without_a_value_is_refused_and_no_group_is_called_nan(hole, arguments):
    cells = cells_of(donor_id=[f"d{i % 9}" for i in range(90)], cell_type=["a", "b", "c"] * 30)
    column = arguments.get("by", "cell_type")
    values = np.array([f"x{i % 9}" for i in range(90)], dtype=object)
    values[[7, 30]] = hole
    cells.obs[column] = pd.Series(values, cells.obs_names)
    more = {"by": "donor_id", "stratify_by": "cell_type"} if "stratify" in arguments else arguments
    with pytest.raises(DataError, match=rf"2 of 90 cells have no '{column}', the first is number 7"):
        make_split(cells, **more)


# --- conditions are sets of genes -----------------------------------------------------------------

ORDERS = ["ctrl", "A+ctrl", "ctrl+A", "A", "A+B", "B+A", "B + A", "B+ctrl", "C+ctrl", "A+C", "C+A", "D", "ctrl+D", "E"]


def sets_of(names, separator="+", controls=("ctrl",)):
    found = {}
    for name in names:
        key = frozenset(one.strip() for one in name.split(separator)) - set(controls)
        found.setdefault(key, set()).add(name)
    return found


@pytest.mark.parametrize("strategy", ["group", "unseen", "combinations", "simulation"])
@pytest.mark.parametrize("by", ["perturbation", "condition"])
def test_spellings_of_one_condition_lie_in_one_part(strategy, by):
    for seed in range(12):
        cells = cells_of(condition=np.array(ORDERS)[np.arange(280) % len(ORDERS)])
        fractions = (0.6, 0.4, 0) if strategy in ("combinations", "unseen") else (0.5, 0.25, 0.25)
        split = make_split(cells, by=by, strategy=strategy, seed=seed, fractions=fractions)
        part_of = {name: part for part, names in split.groups.items() for name in names}
        assert sorted(part_of) == sorted(ORDERS)
        for genes, names in sets_of(ORDERS).items():
            assert len({part_of[name] for name in names}) == 1, (genes, seed)
        assert part_of["ctrl"] == "train"
        assert "controls (ctrl) are in train" in split.description
        assert "6 other spellings of a condition" in split.description


def test_pairs_in_both_orders_are_dealt_out_as_pairs_in_one():
    turned = ["+".join(reversed(c.split("+"))) if i % 2 else c for i, c in enumerate(SCREEN)]
    for strategy in ("group", "unseen", "combinations", "simulation"):
        one = make_split(cells_of(condition=SCREEN), by="condition", strategy=strategy, seed=3)
        two = make_split(cells_of(condition=turned), by="condition", strategy=strategy, seed=3)
        part_of = {}
        for name, part in zip(turned, two.codes, strict=True):
            assert part_of.setdefault(frozenset(name.split("+")), part) == part
        assert two.sizes == one.sizes


@pytest.mark.parametrize(("separator", "control"), [("_", "non_targeting"), ("-", "non-targeting"), ("+", "a+b+c")])
@pytest.mark.parametrize("strategy", ["group", "unseen", "combinations", "simulation"])
@pytest.mark.parametrize("column", ["perturbation", "guide"])
def test_a_control_that_holds_the_separator_is_in_train(separator, control, strategy, column):
    names = [control, "A_B", "A", "B", "A_C", "D", "E", f"F_{control}", f"{control}_F", f"{control}_{control}"]
    names = [name.replace("_", separator) if name != control else name for name in names]
    for seed in range(6):
        cells = cells_of(**{column: np.array(names)[np.arange(200) % len(names)]})
        split = make_split(
            cells, by=column, strategy=strategy, separator=separator, control=control, seed=seed,
            fractions=(0.5, 0.5, 0) if strategy == "combinations" else (0.6, 0.2, 0.2),
        )  # fmt: skip
        part_of = {name: part for part, some in split.groups.items() for name in some}
        assert part_of[control] == part_of[control + separator + control] == "train"
        assert part_of[f"F{separator}{control}"] == part_of[f"{control}{separator}F"]
        assert not any("control" in kinds for kinds in split.subgroups.values())
    held = "F" if strategy in ("unseen", "simulation", "group") else f"B{separator}A"
    with contextlib.suppress(DataError):  # simulation and group may lack groups for the rest
        split = make_split(
            cells, by=column, strategy=strategy, separator=separator, control=control, hold_out={"test": [held]}
        )
        wanted = f"{control}{separator}F" if held == "F" else f"A{separator}B"
        assert wanted in split.groups["test"]


@pytest.mark.parametrize("strategy", ["group", "unseen", "combinations", "simulation"])
def test_a_control_that_no_cell_has_is_refused(strategy):
    cells = cells_of(perturbation=["non_targeting", "A_B", "A", "B", "C", "A_C", "D", "E"] * 5)
    with pytest.raises(DataError, match="(?s)no cell has the control 'non-targeting'.*'non_targeting'"):
        make_split(cells, by="perturbation", strategy=strategy, separator="_", control="non-targeting")
    with pytest.raises(DataError, match="no cell has the control 'NT'"):
        make_split(cells, by="perturbation", strategy=strategy, separator="_", control=["non_targeting", "NT"])


@pytest.mark.parametrize("strategy", ["group", "combinations"])
def test_a_control_cannot_be_held_out(strategy):
    cells = cells_of(condition=[*ORDERS] * 5)
    with pytest.raises(ConfigError, match="control 'ctrl' in test"):
        make_split(cells, by="condition", strategy=strategy, hold_out={"test": ["ctrl"]})
    with pytest.raises(ConfigError, match="in two parts"):
        make_split(cells, by="condition", strategy=strategy, hold_out={"test": ["A+B"], "valid": ["B+A"]})


def test_the_description_says_what_is_in_the_split():
    cells = cells_of(condition=["A", "B", "C", "D", "E", "F"] * 5)
    for strategy in ("group", "unseen"):
        said = make_split(cells, by="condition", strategy=strategy).description
        assert "no condition is a control" in said and "in train" not in said
    cells = cells_of(condition=["ctrl", "A", "B"] * 5)
    split = make_split(cells, by="condition", strategy="simulation", train_genes=1.0)
    assert split.sizes["test"] == 0 and "no cell is in test" in split.description


def test_few_combinations_go_to_valid_and_test_where_singles_are_in_train():
    cells = cells_of(condition=["ctrl", "A+ctrl", "ctrl+A", "A+B", "B+A", "B+ctrl", "C+ctrl", "A+C"] * 30)
    split = make_split(cells, by="condition", strategy="combinations")
    assert sorted([split.groups["valid"], split.groups["test"]]) == [("A+B", "B+A"), ("A+C",)]
