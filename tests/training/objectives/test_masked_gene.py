"""Masking: against the official collator's draws, and by its rules."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.training.objectives.masked_gene import MaskedGenePrediction
from scmf.training.objectives.masking import IGNORED

SPECIAL = (0, 1, 2, 3)


def objective(*, match_official=False, ratio=0.15, vocab=200):
    return MaskedGenePrediction(ratio, 1, vocab, SPECIAL, match_official=match_official)


def batch(rows=64, length=50, *, vocab=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, vocab, (rows, length), generator=generator)
    ids[:, 0], ids[:, -1] = 2, 3
    ids[0, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def test_draws_equal_the_official_collator_under_the_same_seed(oracle):
    from safetensors.torch import load_file

    checked = 0
    for path in sorted((oracle / "model").glob("*.io.safetensors")):
        tensors = load_file(path)
        if "mlm.labels" not in tensors:
            continue
        labels, inputs = tensors["mlm.labels"], tensors["mlm.input_ids"]
        original = torch.where(labels != IGNORED, labels, inputs)
        vocab = tensors["mlm.logits"].shape[-1]
        ours = objective(match_official=True, vocab=vocab).prepare(
            {"input_ids": original, "attention_mask": tensors["mlm.attention_mask"]},
            torch.Generator().manual_seed(42),
        )
        assert torch.equal(ours["labels"], labels)
        assert torch.equal(ours["input_ids"], inputs)
        checked += 1
    if not checked:
        pytest.skip("the oracle holds no masked batch")


@pytest.mark.parametrize("match_official", [False, True])
def test_draws_equal_the_collator_of_transformers_where_nothing_is_corrected(match_official):
    from transformers import DataCollatorForLanguageModeling

    class Vocabulary:
        mask_token, pad_token = "<mask>", "<pad>"

        def __len__(self):
            return 200

        def get_special_tokens_mask(self, ids, already_has_special_tokens=True):
            return [int(i in ((0, 1) if match_official else SPECIAL)) for i in ids]

        def convert_tokens_to_ids(self, token):
            return 1

    collator = DataCollatorForLanguageModeling(Vocabulary(), mlm_probability=0.15, seed=None)
    collator.generator = torch.Generator().manual_seed(9)
    ids = batch()["input_ids"]
    inputs, labels = collator.torch_mask_tokens(ids.clone())
    ours = objective(match_official=match_official).prepare(batch(), torch.Generator().manual_seed(9))
    assert torch.equal(ours["labels"], labels)
    same = ours["input_ids"] == inputs
    # only the random words differ: ours never draws a special token unless match_official
    assert same.all() if match_official else same[labels == IGNORED].all()


def test_shares_are_15_percent_chosen_and_80_10_10_of_them():
    source = batch(rows=2000)
    made = objective().prepare(source, torch.Generator().manual_seed(0))
    chosen = made["labels"] != IGNORED
    eligible = ~torch.isin(source["input_ids"], torch.tensor(SPECIAL))
    assert chosen.sum() / eligible.sum() == pytest.approx(0.15, abs=0.005)
    masked = (made["input_ids"] == 1) & chosen
    kept = (made["input_ids"] == source["input_ids"]) & chosen
    assert masked.sum() / chosen.sum() == pytest.approx(0.8, abs=0.01)
    assert kept.sum() / chosen.sum() == pytest.approx(0.1, abs=0.01)


def test_cls_and_eos_are_predicted_only_when_match_official():
    source = batch(rows=400)
    special = torch.isin(source["input_ids"], torch.tensor((2, 3)))
    ours = objective().prepare(source, torch.Generator().manual_seed(1))["labels"]
    official = objective(match_official=True).prepare(source, torch.Generator().manual_seed(1))["labels"]
    assert (ours[special] == IGNORED).all()
    assert (official[special] != IGNORED).any()


@given(st.integers(1, 6), st.integers(2, 12), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_what_is_not_chosen_is_untouched_and_padding_never_chosen(rows, length, seed):
    source = batch(rows, length, seed=seed)
    made = objective(ratio=0.5).prepare(source, torch.Generator().manual_seed(seed))
    kept = made["labels"] == IGNORED
    assert torch.equal(made["input_ids"][kept], source["input_ids"][kept])
    assert (made["labels"][~kept] == source["input_ids"][~kept]).all()
    assert kept[source["attention_mask"] == 0].all()
    assert not torch.isin(made["input_ids"][~kept], torch.tensor((0, 2, 3))).any()


def test_every_step_predicts_something_unless_match_official():
    source = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2, dtype=torch.long)}
    rare = objective(ratio=1e-9)
    assert rare.predictions(rare.prepare(source, torch.Generator().manual_seed(0))) == 1
    official = objective(ratio=1e-9, match_official=True)
    assert official.predictions(official.prepare(source, torch.Generator().manual_seed(0))) == 0


@pytest.mark.parametrize(("special", "genes"), [((0, 1, 2, 3), range(4, 24)), ((20, 21, 22, 23), range(20))])
def test_random_tokens_are_any_gene_alike_wherever_the_special_tokens_lie(special, genes):
    """In front of the genes or behind them, up to the first and the last gene."""
    ids = torch.full((400, 100), genes[0])
    ours = MaskedGenePrediction(0.9, special[1], 24, special, pad_token_id=special[0])
    made = ours.prepare({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.Generator().manual_seed(3))
    chosen = made["labels"] != IGNORED
    words = made["input_ids"][chosen & (made["input_ids"] != special[1])]
    times = torch.bincount(words, minlength=24)
    assert times[list(special)].sum() == 0
    others = times[[gene for gene in genes if gene != genes[0]]].double()
    wanted = chosen.sum() * 0.1 / 20
    assert (others - wanted).abs().max() < 5 * wanted**0.5
    # the first gene is also what was there: kept in a tenth of the places
    assert times[genes[0]] / chosen.sum() == pytest.approx(0.1 + 0.1 / 20, abs=0.006)
