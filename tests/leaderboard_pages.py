"""A small ledger for the tests of the leaderboard."""

from scmf.results.result import Absence, Result, ResultInterval


def result(
    method, *, recipe="geneformer", variant="mini", benchmark="annotation", protocol="linear_probe", seed=0, **more
):
    """A result with sensible facts; ``metrics`` maps a name to a value or to (value, low, high)."""
    given = more.pop("metrics", {"accuracy": 0.8})
    metrics = {name: value[0] if isinstance(value, tuple) else value for name, value in given.items()}
    spans = {
        name: ResultInterval(low=value[1], high=value[2], level=0.95, unit="cells", n_units=100, draws=10)
        for name, value in given.items()
        if isinstance(value, tuple)
    }
    facts = {
        "recipe": recipe, "variant": variant, "tier": "embedded", "benchmark": benchmark, "dataset": "pancreas",
        "split": "donor", "protocol": protocol, "method": method, "seed": seed, "metrics": metrics,
        "definitions": dict.fromkeys(metrics, "a definition"), "intervals": spans,
        "higher_is_better": {name: name not in ("mse_top20", "l2_top1000", "valid_loss") for name in metrics},
        "n_cells": 100, "recipe_digest": "d" * 64, "command": f"scmf evaluate runs/x --tasks {method}", "seconds": 2.0,
        "peak_memory_mb": 900.0, "provenance": {
            "time": "2026-11-25T00:00:00+00:00", "git": {"commit": "c" * 40, "dirty": False}, "python": "3.11.7",
            "platform": "Linux", "cpu": "a cpu", "cpu_count": 2, "packages": {"numpy": "2.4.6"},
            "data": {"dataset": "pancreas", "sha256": "a" * 64, "split_sha256": "b" * 64},
        },
    }  # fmt: skip
    return Result(**{**facts, **more})


def ledger():
    """Models and baselines under every benchmark, with an absence, a leak, a ceiling and a tie."""

    def of(accuracy, f1):
        return {"accuracy": accuracy, "macro_f1": f1}

    per_class = {"per_class": {"alpha": {"f1": 0.9, "n_test": 60}, "beta <b>": {"f1": 0.5, "n_test": 40}}}
    base = {"recipe": "baselines", "variant": "reference", "seed": None}
    found = [
        result("pretrained", seed=seed, metrics=of(0.80 + seed / 100, 0.7), details=per_class, parameters=1000)
        for seed in (0, 1, 2)
    ]
    found += [
        result("hvg", recipe=name, seed=None, metrics=of((0.86, 0.84, 0.88), (0.8, 0.7, 0.9)), details=per_class)
        for name in ("geneformer", "scgpt")
    ]
    found += [
        result("pretrained", recipe="scgpt", metrics=of((0.855, 0.83, 0.88), (0.8, 0.7, 0.9)), details=per_class),
        result("pretrained", recipe="leaky", metrics=of((0.5, 0.4, 0.6), (0.4, 0.3, 0.5)), corpora=("pancreas.study",)),
        result("majority", **base, protocol="constant", metrics=of(0.2, 0.05)),
        result("shuffled_labels", **base, metrics=of((0.1, 0.05, 0.15), (0.1, 0.05, 0.15))),
    ]
    screen = {"benchmark": "perturbation", "protocol": "unseen_perturbation", "dataset": "norman", "split": "gears"}
    for method, value in (("train_mean", 0.4), ("no_change", 0.0), ("ceiling", 0.9)):
        each = {"per_perturbation": {"pearson_delta": {"A": value, "B": value / 2}}}
        metrics = {"pearson_delta": value, "mse_top20": 1 - value, "pearson_delta.seen1": value}
        found.append(result(method, **base, **screen, metrics=metrics, details=each))
    found.append(
        result(
            "any", **screen, metrics={}, definitions={}, higher_is_better={},
            absence=Absence(kind="not_applicable", reason="it gives no predicted cells"),
        ).model_copy(update={"protocol": "any"})
    )  # fmt: skip
    network = {"benchmark": "gene_network", "protocol": "trrust"}
    found += [
        result("correlation", **base, **network, metrics={"epr": 2.0, "auroc": 0.6}),
        result("pretrained-attention", **network, metrics={"epr": 1.1, "auroc": 0.5}),
    ]
    atlas = {"benchmark": "integration", "protocol": "scib"}
    found += [
        result("pca", **base, **atlas, metrics={"overall": 0.6, "bio_conservation": 0.7, "batch_correction": 0.4}),
        result("pretrained", **atlas, metrics={"overall": 0.5, "bio_conservation": 0.5, "batch_correction": 0.5}),
    ]
    return found
