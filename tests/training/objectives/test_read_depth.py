"""Read-depth-aware pretraining: thinning that can be checked count by count, masks by their ratios."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.config.run import TrainingConfig
from scmf.core.config.validation import validate
from scmf.core.errors import ConfigError, TrainingError
from scmf.models.masked_autoencoder import MaskedAutoencoderConfig, MaskedAutoencoderModel
from scmf.tokenizers.continuous import ContinuousTokenizer
from scmf.tokenizers.rank_value import RankValueTokenizer
from scmf.training.objectives.read_depth import ReadDepthAware

GENES = [f"G{i:03d}" for i in range(120)]


def counts(n_cells: int = 40, seed: int = 0) -> np.ndarray:
    """Counts of 120 genes, a good half of them 0."""
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(0.4, 8.0, (n_cells, len(GENES)))).astype(np.float32)


def lognorm(x: np.ndarray) -> np.ndarray:
    return np.log1p(x / x.sum(1, keepdims=True) * 1e4)


def tokenizer(**options: Any) -> ContinuousTokenizer:
    shape = {"max_length": 130, "depth_tokens": True} | options
    return ContinuousTokenizer.fit(counts(), GENES, min_cells=1, **shape)


def objective(
    tokens: Any = None, *, match_official: bool = False, mask_ratio: float = 0.3, **options: Any
) -> ReadDepthAware:
    training = TrainingConfig(pretraining_task="read_depth_aware", mask_ratio=mask_ratio, options=options)
    return ReadDepthAware.from_settings(training, tokens or tokenizer(), match_official=match_official)


def batch_of(tokens: Any, x: np.ndarray, **kwargs: Any) -> dict[str, torch.Tensor]:
    batch = dict(tokens(x, GENES, return_tensors="pt", **kwargs))
    batch.pop("length")
    return batch


def prepared(task: ReadDepthAware, batch: dict[str, torch.Tensor], seed: int = 0) -> dict[str, torch.Tensor]:
    return task.prepare(batch, torch.Generator().manual_seed(seed))


def dense(
    ids: torch.Tensor, values: torch.Tensor, there: torch.Tensor, n_ids: int, fill: float = float("nan")
) -> np.ndarray:
    """Values by token id, (B, V), ``fill`` where there is none."""
    out = np.full((len(ids), n_ids), fill)
    rows, places = np.nonzero(there.numpy())
    out[rows, ids.numpy()[rows, places]] = values.numpy()[rows, places]
    return out


def columns(tokens: Any) -> list[int]:
    return [tokens.get_vocab()[gene] for gene in GENES]


def test_without_thinning_and_masks_the_encoder_sees_the_cell_and_both_depths_are_its_own() -> None:
    tokens, x = tokenizer(), counts(6)
    batch = batch_of(tokens, x)
    nothing = {"downsample_share": 0, "mask_ratio": 1e-9, "zero_mask_ratio": 0}
    out = prepared(objective(tokens, match_official=True, **nothing), batch)
    seen = dense(out["input_ids"], out["values"], out["attention_mask"].bool(), len(tokens), 0.0)
    np.testing.assert_allclose(seen[:, columns(tokens)], lognorm(x), rtol=1e-6)
    for name in ("<T>", "<S>"):
        np.testing.assert_allclose(seen[:, tokens.get_vocab()[name]], np.log10(x.sum(1)), rtol=1e-6)
    assert not (out["target_ids"] >= 0).any()
    out = prepared(objective(tokens, **nothing), batch)
    assert int((out["target_ids"] >= 0).sum()) == 1  # one gene is drawn, so that there is a loss


def test_a_thinned_cell_holds_whole_counts_below_the_true_ones_and_says_its_depth() -> None:
    tokens, x = tokenizer(), counts(30)
    outside = np.arange(len(x)) * 10.0  # counts of genes that have no token
    batch = batch_of(tokens, x, n_counts=x.sum(1) + outside)
    nothing = {"mask_ratio": 1e-9, "zero_mask_ratio": 0, "match_official": True}
    task = objective(tokens, downsample_share=1, rate_alpha=4e6, rate_beta=6e6, **nothing)
    out = prepared(task, batch)
    seen = dense(out["input_ids"], out["values"], out["attention_mask"].bool(), len(tokens), 0.0)
    t, s = (seen[:, tokens.get_vocab()[name]] for name in ("<T>", "<S>"))
    np.testing.assert_allclose(10**t, x.sum(1) + outside, rtol=1e-5)
    np.testing.assert_allclose(out["depth"].numpy(), np.stack([t, s], 1), rtol=1e-6)
    left = np.expm1(seen[:, columns(tokens)]) / 1e4 * 10.0 ** s[:, None]
    np.testing.assert_allclose(left, np.rint(left), atol=1e-2)
    left = np.rint(left)
    assert (left <= x).all()
    assert left.sum() / x.sum() == pytest.approx(0.4, abs=4 * float(np.sqrt(0.24 / x.sum())))
    others = np.rint(10.0**s) - left.sum(1)
    assert (others >= -0.5).all()
    assert others.sum() / outside.sum() == pytest.approx(0.4, abs=4 * float(np.sqrt(0.24 / outside.sum())))


def test_targets_are_the_values_before_thinning_and_zeros_come_from_genes_the_cell_does_not_have() -> None:
    tokens, x = tokenizer(), counts(30)
    out = prepared(objective(tokens, downsample_share=1, zero_mask_ratio=0.4), batch_of(tokens, x))
    wanted = dense(out["target_ids"], out["target_values"], out["target_ids"] >= 0, len(tokens))[:, columns(tokens)]
    chosen = ~np.isnan(wanted)
    np.testing.assert_allclose(
        wanted[chosen], np.log1p(x / x.sum(1, keepdims=True) * 1e4)[chosen], rtol=1e-5, atol=1e-6
    )
    assert (wanted[chosen] == 0).any()
    special = [i for token, i in tokens.get_vocab().items() if token not in GENES]
    assert not np.isin(out["target_ids"].numpy(), special).any()


def test_a_hidden_gene_is_not_in_the_encoder_and_every_other_one_is() -> None:
    tokens, x = tokenizer(), counts(30)
    out = prepared(objective(tokens, downsample_share=0, zero_mask_ratio=0.2), batch_of(tokens, x))
    there = dense(out["input_ids"], out["values"], out["attention_mask"].bool(), len(tokens))[:, columns(tokens)]
    goals = out["target_ids"] >= 0
    hidden = dense(out["target_ids"], out["target_hidden"].float(), goals, len(tokens))[:, columns(tokens)]
    assert np.isnan(there[hidden == 1]).all()
    assert (~np.isnan(there))[(x > 0) & (hidden != 1)].all()
    strangers = (x == 0) & ~np.isnan(there)  # genes without a count that are shown with the value of another one
    assert strangers.any()
    assert (hidden[strangers] == 0).all()
    untouched = (x > 0) & np.isnan(hidden)
    np.testing.assert_allclose(there[untouched], lognorm(x)[untouched], rtol=1e-6)
    ids, mask = out["input_ids"].numpy(), out["attention_mask"].numpy()
    assert (np.diff(mask, axis=1) <= 0).all()
    assert (ids[mask == 0] == tokens.pad_token_id).all()
    for row, real in zip(ids, mask, strict=True):
        assert len(set(row[real == 1])) == real.sum()


def test_the_shares_are_those_of_the_options() -> None:
    tokens, x = tokenizer(), counts(400, seed=1)
    out = prepared(objective(tokens, downsample_share=0), batch_of(tokens, x))
    goals = out["target_ids"] >= 0
    truth = out["target_values"][goals]
    for found, of, share in (
        (int((truth > 0).sum()), int((x > 0).sum()), 0.3),
        (int((truth == 0).sum()), int((x == 0).sum()), 0.03),
        (int(out["target_hidden"][goals].sum()), int(goals.sum()), 0.8),
    ):
        assert found / of == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / of))
    shown = dense(out["input_ids"], out["values"], out["attention_mask"].bool(), len(tokens), 0.0)
    goal_ids = out["target_ids"].clamp(min=0).numpy()
    changed = ~np.isclose(np.take_along_axis(shown, goal_ids, 1), out["target_values"].numpy(), rtol=1e-5)
    changed = changed[goals.numpy() & ~out["target_hidden"].numpy()].sum()
    assert changed / int(goals.sum()) == pytest.approx(0.1, abs=0.02)


def test_the_share_of_thinned_cells_and_their_rates_follow_the_options() -> None:
    tokens, x = tokenizer(), counts(600, seed=2)
    out = prepared(objective(tokens, downsample_share=0.25, rate_alpha=3, rate_beta=1), batch_of(tokens, x))
    rate = 10.0 ** (out["depth"][:, 1] - out["depth"][:, 0]).double().numpy()
    thinned = rate < 1 - 1e-6
    assert thinned.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 600))
    assert rate[thinned].mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.0375 / thinned.sum()))


def test_a_cell_that_may_have_been_cut_gives_no_zeros() -> None:
    x = counts(20)
    x[0, 3:] = 0
    x[0, :3] = 5
    tokens = tokenizer(max_length=22, order="value")
    out = prepared(objective(tokens, zero_mask_ratio=0.9, downsample_share=0), batch_of(tokens, x))
    goals, truth = out["target_ids"] >= 0, out["target_values"]
    assert (truth[0][goals[0]] == 0).any()
    assert not (truth[1:][goals[1:]] == 0).any()


def test_draws_come_from_the_generator_alone() -> None:
    tokens = tokenizer()
    batch = batch_of(tokens, counts(8))
    task = objective(tokens)
    torch.manual_seed(0)
    np.random.seed(0)
    one, state = prepared(task, batch, seed=3), torch.get_rng_state()
    torch.manual_seed(1)
    again = prepared(task, batch, seed=3)
    assert one.keys() == again.keys()
    assert all(torch.equal(one[name], again[name]) for name in one)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    other = prepared(task, batch, seed=4)
    assert not torch.equal(one["target_ids"][:, :5], other["target_ids"][:, :5])
    assert {name: tensor.dtype for name, tensor in one.items()} == {
        "input_ids": torch.int64, "attention_mask": torch.int64, "values": torch.float32, "depth": torch.float32,
        "target_ids": torch.int64, "target_values": torch.float32, "target_hidden": torch.bool,
    }  # fmt: skip


def test_what_stands_once_a_cell_stays() -> None:
    tokens = tokenizer()
    batch = batch_of(tokens, counts(4)) | {"batch_ids": torch.tensor([0, 1, 1, 0])}
    assert torch.equal(prepared(objective(tokens), batch)["batch_ids"], batch["batch_ids"])


@settings(max_examples=30, deadline=None)
@given(ratio=st.floats(0.05, 0.95), n_genes=st.integers(1, 4), seed=st.integers(0, 99))
def test_no_cell_is_left_without_a_token_and_no_batch_without_a_target(ratio: float, n_genes: int, seed: int) -> None:
    x = np.zeros((3, len(GENES)), np.float32)
    x[:, :n_genes] = 1 + np.arange(n_genes)
    tokens = tokenizer(depth_tokens=False)
    task = objective(tokens, mask_ratio=ratio, zero_mask_ratio=0, replace_share=1, random_share=0)
    out = prepared(task, batch_of(tokens, x), seed)
    assert out["attention_mask"].any(1).all()
    assert task.predictions(out) == int((out["target_ids"] >= 0).sum()) > 0


def test_a_tokenizer_without_depth_or_with_other_values_is_not_thinned() -> None:
    x = counts(10)
    for tokens in (tokenizer(depth_tokens=False), tokenizer(transform="clipped_counts")):
        batch = batch_of(tokens, x)
        task = objective(tokens, downsample_share=1, mask_ratio=1e-9, zero_mask_ratio=0, match_official=True)
        out = prepared(task, batch)
        before = dense(batch["input_ids"], batch["values"], batch["attention_mask"].bool(), len(tokens))
        after = dense(out["input_ids"], out["values"], out["attention_mask"].bool(), len(tokens))
        same = ~np.isnan(after)
        np.testing.assert_array_equal(after[same], before[same])
        assert "input_ids" in out
    assert "the tokenizer's values" in task.definition
    assert "10,000" in objective().definition


def test_a_tokenizer_without_values_is_refused() -> None:
    ranks = RankValueTokenizer.fit(counts(), GENES, min_cells=1, max_length=64, special_tokens=False)
    with pytest.raises(TrainingError, match="values"):
        objective(ranks)


def test_shares_beyond_one_are_refused() -> None:
    wrong = {"pretraining_task": "read_depth_aware", "options": {"replace_share": 0.9, "random_share": 0.2}}
    with pytest.raises(ConfigError, match="more than 1"):
        validate(TrainingConfig, wrong, where="here")


@pytest.mark.parametrize("decode", ["all", "masked"])
def test_a_small_model_learns_from_it(decode: str) -> None:
    tokens, x = tokenizer(), counts(64)
    batch, task = batch_of(tokens, x), objective(tokens)
    vocabulary = tokens.get_vocab()
    torch.manual_seed(0)
    model = MaskedAutoencoderModel(MaskedAutoencoderConfig(
        vocab_size=len(tokens), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        decoder_size=16, num_decoder_layers=1, num_decoder_heads=2, bin_num=10, decode=decode,
        pad_token_id=tokens.pad_token_id, mask_token_id=tokens.mask_token_id, gene_token_start=4,
        depth_token_ids=(vocabulary["<T>"], vocabulary["<S>"]),
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        loss = model(**prepared(task, batch, seed=step)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
