"""In-silico perturbation: edits, cosines and statistics against plain code written for the tests."""

import numpy as np
import pytest
import torch
from scipy.stats import ranksums

from scmf.data.stores.ragged import Ragged, offsets_of
from scmf.evaluation.in_silico.edits import Frame, RankEditor, in_front
from scmf.evaluation.in_silico.plan import Targets, sample
from scmf.evaluation.in_silico.shifts import Measure, Shifts, measure
from scmf.evaluation.in_silico.statistics import Wanted, summary
from scmf.models.transformer_encoder import TransformerEncoderConfig, TransformerEncoderForMaskedLM

CLS, EOS, LONGEST, FIRST = 2, 3, 16, 4
"""Special tokens, positions, the first gene."""


def network(*, specials):
    torch.manual_seed(0)
    ids = {"cls_token_id": CLS, "eos_token_id": EOS} if specials else {}
    config = TransformerEncoderConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=LONGEST, initializer_range=0.4, pad_token_id=0, **ids,
    )  # fmt: skip
    return TransformerEncoderForMaskedLM(config).eval()


def cells(lengths, *, specials, seed=0):
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.arange(FIRST, 30))[:n] for n in lengths]
    return [np.concatenate([[CLS], row, [EOS]]) if specials else row for row in rows]


def ragged(rows):
    ids = np.concatenate(rows).astype(np.int32)
    return Ragged(offsets_of(np.array([len(row) for row in rows])), {"input_ids": ids})


def perturbed(rows, tokens, kind, *, specials, every=False, states=None, batch_size=64, match_official=False):
    frame = Frame(LONGEST, *((1, 1) if specials else (0, 0)))
    targets = Targets(tokens, every=every)
    editor = RankEditor(ragged(rows), targets, kind, frame, by_gene=not specials, match_official=match_official)
    how = Measure(
        -1, "cls" if specials else "cell", batch_size, by_gene=not specials,
        special_ids=(CLS, EOS) if specials else (),
    )  # fmt: skip
    plan = editor.plan()
    return measure(network(specials=specials), editor, plan, targets, how, states=states or {}), plan


def hidden(ids, *, specials):
    """Vectors of one cell after the last but one layer, float64 (L, D)."""
    with torch.no_grad():
        found = network(specials=specials)(torch.tensor(np.asarray(ids)[None]), output_hidden_states=True)
    return found.hidden_states[1][0].double().numpy()


def plain_cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def plain_edit(ids, genes, kind, *, specials):
    """Deletion, or genes in front with the end dropped; and the cell as it was without as many genes."""
    front, back = ([CLS], [EOS]) if specials else ([], [])
    ranked = [t for t in ids if t not in (CLS, EOS)]
    others = [t for t in ranked if t not in genes]
    if kind == "delete":
        return front + others + back, front + ranked + back
    room = LONGEST - len(front) - len(back)
    moved = [*genes, *others]
    dropped = max(len(moved) - room, 0)
    return front + moved[:room] + back, front + ranked[: len(ranked) - dropped] + back


@pytest.mark.parametrize("specials", [True, False], ids=["cls", "genes"])
@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_a_list_of_genes_is_perturbed_one_by_one_and_together(kind, specials):
    rows = cells((6, 9, 3, 14 if specials else 16, 13), specials=specials)
    genes = ((7,), (11,), (7, 11))
    states = {"one": np.arange(16.0), "two": np.ones(16)}
    shifts, plan = perturbed(rows, genes, kind, specials=specials, states=states)
    found = {}
    for target, group in enumerate(genes):
        has = [cell for cell, ids in enumerate(rows) if set(group) <= set(ids.tolist())]
        expected = has if kind == "delete" else list(range(len(rows)))
        mine = shifts.target_E == target
        assert shifts.cell_E[mine].tolist() == expected
        assert plan.lacking_T[target] == (len(rows) - len(has) if kind == "delete" else 0)
        for cell, cosine, shift_S in zip(
            shifts.cell_E[mine], shifts.cosine_E[mine], shifts.shift_ES[mine], strict=True
        ):
            after, before = plain_edit(rows[cell].tolist(), group, kind, specials=specials)
            a, b = (hidden(ids, specials=specials) for ids in (before, after))
            if specials:
                similarity, vectors = plain_cosine(a[0], b[0]), (a[0], b[0])
            else:
                same = [t for t in after if t not in group and t in before]
                at = [[ids.index(t) for t in same] for ids in (before, after)]
                similarity, vectors = plain_cosine(a[at[0]], b[at[1]]).mean(), (a.mean(0), b.mean(0))
            moved = [plain_cosine(vectors[1], s) - plain_cosine(vectors[0], s) for s in states.values()]
            assert abs(cosine - similarity) < 1e-6 and np.abs(shift_S - moved).max() < 1e-6
            found[target, cell] = cosine
    assert len(found) >= 4 and min(found.values()) < 0.999


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_every_gene_alone_is_the_list_of_that_gene(kind):
    rows = cells((5, 8, 1), specials=True)
    tokens = tuple((t,) for t in range(FIRST, 30))
    every, plan = perturbed(rows, tokens, kind, specials=True, every=True)
    alone, _ = perturbed(rows, tokens, kind, specials=True)
    table = {(c, t): x for c, t, x in zip(alone.cell_E, alone.target_E, alone.cosine_E, strict=True)}
    expected = {(c, int(t) - FIRST) for c, row in enumerate(rows) for t in row[1 + (kind == "overexpress") : -1]}
    if kind == "delete":
        lonely = int(rows[2][1]) - FIRST
        assert plan.emptied_T[lonely] == 1 and plan.emptied_T.sum() == 1
        expected -= {(2, lonely)}
    assert set(zip(every.cell_E.tolist(), every.target_E.tolist(), strict=True)) == expected
    same = [table[key] for key in zip(every.cell_E, every.target_E, strict=True)]
    assert np.abs(every.cosine_E - same).max() < 1e-6


@pytest.mark.parametrize("specials", [True, False])
def test_batches_and_the_order_of_cells_change_nothing(specials):
    rows = cells((6, 9, 3, 12, 13, 7), specials=specials)
    genes = tuple((t,) for t in range(5, 15))
    whole, _ = perturbed(rows, genes, "overexpress", specials=specials, states={"s": np.arange(16.0)})
    for size in (1, 3, 7):
        other, _ = perturbed(
            rows, genes, "overexpress", specials=specials, batch_size=size, states={"s": np.arange(16.0)}
        )
        assert (other.cell_E == whole.cell_E).all() and (other.target_E == whole.target_E).all()
        assert np.abs(other.cosine_E - whole.cosine_E).max() < 1e-6
        assert np.abs(other.shift_ES - whole.shift_ES).max() < 1e-6
    order = np.random.default_rng(0).permutation(len(rows))
    moved, _ = perturbed([rows[i] for i in order], genes, "overexpress", specials=specials)
    table = {(order[c], t): x for c, t, x in zip(moved.cell_E, moved.target_E, moved.cosine_E, strict=True)}
    same = [table[key] for key in zip(whole.cell_E, whole.target_E, strict=True)]
    assert np.abs(whole.cosine_E - same).max() < 1e-6


@pytest.mark.parametrize(
    ("length", "genes", "ours", "official"),
    [
        (10, (40,), 10, 10),
        (16, (40,), 15, 15),  # full: one gene out of both
        (15, (40,), 15, 14),  # one fits: the official count takes one from the cell as it was all the same
        (16, (40, 41), 14, 14),
        (14, (40, 41), 14, 12),
        (16, (5,), 16, 16),  # in the cell already: nothing is added
        (16, (5, 40), 15, 15),
    ],
)
def test_what_no_longer_fits_is_dropped_at_the_end(length, genes, ours, official):
    ids = np.array([CLS, *range(4, 2 + length), EOS], np.int32)
    assert len(ids) == length
    frame = Frame(16, 1, 1)
    new, old = in_front(ids, genes, frame, match_official=False)
    assert len(old) == ours and new[0] == CLS and new[-1] == EOS and tuple(new[1 : 1 + len(genes)]) == genes
    assert len(new) <= 16 and set(old.tolist()) - set(genes) == set(new.tolist()) - set(genes)
    new, old = in_front(ids, genes, frame, match_official=True)
    assert len(old) == official and old[-1] == EOS and len(new) == min(16, length + sum(g >= 40 for g in genes))


def test_a_gene_of_the_dropped_tail_that_goes_to_the_front_stays_in_both():
    ids = np.array([CLS, *range(10, 24), EOS], np.int32)
    new, old = in_front(ids, (23, 99), Frame(16, 1, 1), match_official=False)
    assert new.tolist() == [CLS, 23, 99, *range(10, 22), EOS]
    assert old.tolist() == [CLS, *range(10, 22), 23, EOS]


def test_samples_are_drawn_as_the_official_code_draws_them():
    assert sample(5, None, seed=42).tolist() == sample(5, 5, seed=42).tolist() == [0, 1, 2, 3, 4]
    datasets = pytest.importorskip("datasets")
    shuffled = datasets.Dataset.from_dict({"cell": list(range(50))}).shuffle(seed=42)
    assert sample(50, 7, seed=42).tolist() == sorted(shuffled["cell"][:7])


def test_a_plan_takes_so_many_cells_of_each_gene():
    rows = cells([8] * 40, specials=True)
    targets = Targets(((5,), (6,), (5, 6)))
    plan = RankEditor(ragged(rows), targets, "delete", Frame(LONGEST, 1, 1)).plan()
    fewer = plan.limited(4, seed=1)
    for target, group in enumerate(targets.tokens):
        has = np.array([cell for cell, row in enumerate(rows) if set(group) <= set(row.tolist())])
        chosen = has[sample(len(has), 4, seed=1)]
        assert sorted(fewer.cell_E[fewer.target_E == target]) == chosen.tolist()
    assert (fewer.lacking_T == plan.lacking_T).all()


def test_a_cell_of_nothing_but_the_gene_is_left_out_where_the_other_genes_are_compared():
    rows = [np.array([7]), np.array([7, 9]), np.array([9, 7, 8])]
    for kind in ("delete", "overexpress"):
        for every in (False, True):
            tokens = tuple((t,) for t in range(FIRST, 30)) if every else ((7,),)
            shifts, plan = perturbed(rows, tokens, kind, specials=False, every=every)
            assert 0 not in shifts.cell_E and np.isfinite(shifts.cosine_E).all()
            assert plan.emptied_T.sum() == (not every or kind == "delete")
            assert {1, 2} == set(shifts.cell_E)


# --- statistics -----------------------------------------------------------------------------------


def some_shifts(n_targets=12, *, seed=0, moved=()):
    rng = np.random.default_rng(seed)
    target = np.sort(rng.integers(n_targets, size=400))
    shift = rng.normal(0, 1e-3, (400, 3)) + 2e-3 * np.isin(target, moved)[:, None]
    return Shifts(np.arange(400), target, 1 - np.abs(rng.normal(0, 1e-2, 400)), ("a", "b", "c"), shift)


def adjusted(p):
    """Benjamini and Hochberg, from the definition."""
    order = np.argsort(p)
    steps = np.minimum.accumulate((np.asarray(p)[order] * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]
    found = np.empty(len(p))
    found[order] = np.minimum(steps, 1)
    return found


def test_shifts_to_a_goal_are_tested_against_those_of_all_genes():
    shifts, names = some_shifts(moved=(3, 7)), [f"g{i}" for i in range(12)]
    table = summary(shifts, names, Wanted("b", ("c",)))
    assert list(table.columns) == [
        "perturbation", "n_cells", "shift_to_b", "shift_to_a", "shift_to_c", "p_value", "fdr", "p_c", "fdr_c",
        "significant",
    ]  # fmt: skip
    assert set(table["perturbation"][:2]) == {"g3", "g7"} and table["significant"][:2].all()
    table = table.set_index("perturbation").loc[names]
    for column, (p, fdr) in {1: ("p_value", "fdr"), 2: ("p_c", "fdr_c")}.items():
        values = [shifts.shift_ES[shifts.target_E == t, column] for t in range(12)]
        tested = [ranksums(shifts.shift_ES[:, column], value).pvalue for value in values]
        assert np.allclose(table[p], tested, rtol=1e-12) and np.allclose(table[fdr], adjusted(tested), rtol=1e-12)
        assert np.allclose(table[f"shift_to_{'abc'[column]}"], [value.mean() for value in values])
    assert table["n_cells"].sum() == 400 and (table["significant"] == (table["fdr"] < 0.05)).all()


def test_without_a_goal_the_cells_that_moved_most_come_first_and_one_gene_has_no_test():
    shifts = some_shifts()
    table = summary(shifts, list("abcdefghijkl"), Wanted())
    found = table[~table["significant"]]["cosine_mean"]
    assert found.is_monotonic_increasing and {"p_value", "fdr", "cosine_sd"} <= set(table)
    alone = Shifts(shifts.cell_E[:5], np.zeros(5, np.int64), shifts.cosine_E[:5], (), np.empty((5, 0)))
    table = summary(alone, ["g"], Wanted())
    assert list(table.columns) == ["perturbation", "n_cells", "cosine_mean", "cosine_sd"] and table["n_cells"][0] == 5


def test_a_null_is_the_same_genes_in_other_cells():
    shifts, null = some_shifts(moved=(3,)), some_shifts(seed=1)
    keep = null.target_E != 5
    null = Shifts(null.cell_E[keep], null.target_E[keep], null.cosine_E[keep], null.states, null.shift_ES[keep])
    names = [f"g{i}" for i in range(12)]
    table = summary(shifts, names, Wanted("b"), null=null).set_index("perturbation").loc[names]
    for t, name in enumerate(names):
        mine, other = (s.shift_ES[s.target_E == t, 1] for s in (shifts, null))
        row = table.loc[name]
        assert row["n_null"] == len(other)
        if t == 5:
            assert row["p_value"] == 1 and np.isnan(row["null_mean"])
        else:
            assert np.isclose(row["p_value"], ranksums(mine, other).pvalue) and np.isclose(
                row["difference"], mine.mean() - other.mean()
            )
    assert np.allclose(table["fdr"], adjusted(table["p_value"].to_numpy()))
    assert table.loc["g3", "significant"] and (table["significant"] == (table["fdr"] < 0.05)).all()


def test_many_shifts_are_held_against_a_draw_of_them(monkeypatch):
    import random

    monkeypatch.setattr("scmf.evaluation.in_silico.statistics.MOST_COMPARED", 100)
    shifts = some_shifts()
    table = summary(shifts, list("abcdefghijkl"), Wanted("b")).set_index("perturbation")
    random.seed(42)
    drawn = random.sample(shifts.shift_ES[:, 1].tolist(), k=100)
    p = ranksums(drawn, shifts.shift_ES[shifts.target_E == 4, 1]).pvalue
    assert np.isclose(table.loc["e", "p_value"], p, rtol=1e-12)
