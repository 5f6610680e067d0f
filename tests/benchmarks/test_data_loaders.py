"""The benchmark of loaders on a tiny corpus: what it builds, what it measures, what it refuses."""

import argparse
import json
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp

from tests import ROOT

FOLDER = ROOT / "benchmarks" / "data_loaders"
NAMES = ["cases", "corpus", "endurance", "environments", "limits", "measure", "ours", "peer_bionemo_scdl", "plot",
         "processes", "run", "summary", "token_rows"]  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    """The modules, which import each other by their bare names as scripts do."""
    import importlib

    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def small(bench, tmp_path_factory):
    corpus = bench.corpus.Corpus(tmp_path_factory.mktemp("work") / "corpus-600", 600, 2)
    return corpus, bench.corpus.make(corpus)


def options(corpus, **more):
    given = {"corpus": corpus.folder, "store": corpus.folder / "h5ad", "setting": "h5ad", "output": "tokens",
             "batch": 64, "token_threads": 0, "workers": 0, "cells": 600, "seconds": 0.0, "seed": 0}  # fmt: skip
    return argparse.Namespace(**given | more)


def test_corpus_is_realistic(small):
    _, facts = small
    assert 1_800 < facts["stored_values_a_cell"] < 2_200
    assert 0.6 < facts["share_of_ones"] < 0.85
    low, high = facts["stored_values_a_cell_p05_p95"]
    assert low < 1_300 and high > 2_800


def test_corpus_is_the_same_whatever_the_number_of_threads(bench, small):
    corpus, _ = small
    one, two = (bench.corpus.draw_file(corpus, 1, threads=n) for n in (1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    other = bench.corpus.draw_file(corpus._replace(seed=1), 1)
    assert not np.array_equal(one.indptr, other.indptr)


def test_draws_follow_the_popularity_of_genes(bench):
    share = np.array([0.5, 0.25, 0.125, 0.125, 0.0])
    accept, other = np.empty((1, 5), np.uint32), np.empty((1, 5), np.int32)
    bench.corpus.alias_table(share, accept[0], other[0])
    indptr, indices, data = np.empty(2, np.int64), np.empty(5, np.uint16), np.empty(5, np.uint16)
    depth = 50_000
    end = bench.corpus.draw_cells(
        np.array([depth]), np.array([0]), accept, other, np.uint64(88172645463325252), indptr, indices, data
    )
    found = np.zeros(5)
    found[indices[:end]] = data[:end]
    assert found.sum() == depth
    assert np.abs(found / depth - share).max() < 5 * math.sqrt(0.25 / depth)


def test_files_raw_arrays_and_obs_hold_the_same_cells(small):
    import anndata as ad

    corpus, facts = small
    raw = [np.load(corpus.folder / "raw" / f"{name}.npy") for name in ("data", "indices", "indptr")]
    parts = [ad.read_h5ad(corpus.folder / "h5ad" / name) for name in corpus.names]
    zipped = [ad.read_h5ad(corpus.folder / "h5ad_gzip" / name) for name in corpus.names]
    joined = sp.vstack([part.X for part in parts]).tocsr()
    assert (joined != sp.csr_matrix(tuple(raw), shape=joined.shape)).nnz == 0
    assert all((a.X != b.X).nnz == 0 for a, b in zip(parts, zipped, strict=True))
    assert np.concatenate([part.obs["row"] for part in parts]).tolist() == list(range(600))
    assert {"donor", "assay"} <= set(parts[0].obs)
    assert json.loads((corpus.folder / "corpus.json").read_text()) == facts


def test_tokens_of_the_benchmark_are_those_of_the_tokenizer(bench, small):
    import datasets

    corpus, facts = small
    raw = bench.limits.RawCsr(corpus.folder / "raw")
    ids_BL = bench.token_rows.Tokenize(corpus.folder / "tables.npz")(raw.rows(np.array([5, 599, 0])))
    saved = datasets.load_from_disk(str(corpus.folder / "tokens_int16"))
    for row, cell in zip(ids_BL, (5, 599, 0), strict=True):
        assert row[row > 0].tolist() == saved[cell]["input_ids"]
    assert ids_BL.dtype == np.int32 and ids_BL.shape[1] <= bench.token_rows.LONGEST


def test_counts_with_columns_out_of_order_give_the_same_tokens(bench, small):
    corpus, _ = small
    counts = bench.limits.RawCsr(corpus.folder / "raw").rows(np.array([1]))
    tokenize = bench.token_rows.Tokenize(corpus.folder / "tables.npz")
    turned = bench.token_rows.Csr(counts.indptr, counts.indices[::-1].astype(np.int64), counts.data[::-1])
    assert np.array_equal(tokenize(counts), tokenize(turned))


def test_digest_does_not_depend_on_order_or_padding_and_sees_a_changed_token(bench):
    digest, edges = bench.token_rows.digest_rows, np.array([0, 3, 6])
    a = digest(np.array([5, 6, 7, 8, 9, 0], np.int32), edges)
    assert a == digest(np.array([8, 9, 0, 5, 6, 7], np.int16), edges)
    assert a == digest(np.array([8, 9, 5, 6, 7], np.int32), np.array([0, 2, 5]))
    assert a != digest(np.array([5, 7, 6, 8, 9, 0], np.int32), edges)


def test_entropy_counts_source_blocks(bench):
    entropy = bench.measure.batch_entropy
    assert entropy([np.arange(64)]) == 0
    assert entropy([np.arange(64) * 64]) == pytest.approx(6)
    assert entropy([np.arange(64) * 64], block=512) == pytest.approx(3)
    assert entropy([np.repeat([0, 64], 32), np.arange(64)]) == pytest.approx(0.5)
    assert entropy([]) is None


def test_block_shuffle_takes_each_row_once_and_mixes(bench):
    order = bench.peer_bionemo_scdl.block_shuffled(40_000, 3)
    assert np.array_equal(np.sort(order), np.arange(40_000))
    batches = [order[i : i + 64] for i in range(0, 39_936, 64)]
    assert 5.4 < bench.measure.batch_entropy(batches) < 6


@pytest.mark.parametrize(("setting", "store"), [("h5ad", "h5ad"), ("h5ad", "h5ad_gzip"), ("cache", "tokens_int16")])
def test_ours_gives_every_cell_once_with_the_tokens_of_the_tokenizer(bench, small, setting, store):
    corpus, facts = small
    given = options(corpus, setting=setting, store=corpus.folder / store)
    found = bench.measure.verified(bench.ours.make(given), given)
    assert found == {"cells": 600, "each_row_once": True, "digest_of_tokens": facts["digest_of_tokens"]}


@pytest.mark.parametrize("threads", [0, 2])
def test_limit_of_raw_arrays_gives_the_same_tokens_with_and_without_threads(bench, small, threads):
    corpus, facts = small
    given = options(corpus, setting="raw", token_threads=threads)
    found = bench.measure.verified(bench.limits.make(given), given)
    assert found["digest_of_tokens"] == facts["digest_of_tokens"] and found["each_row_once"]


def test_a_run_reports_clocks_order_and_cells(bench, small):
    corpus, _ = small
    given = options(corpus, output="native", cells=600)
    found = bench.measure.timed(bench.ours.make(given), given)
    assert found["cells"] == found["distinct_rows"] == 600
    assert found["wall_s"] > found["first_batch_s"] > 0 and found["cpu_s"] > 0
    assert found["cells_per_s"] == pytest.approx(600 / found["wall_s"])
    assert set(found["entropy_bits"]) == {"64", "512"}


def test_a_slow_loader_is_stopped_after_its_seconds(bench, small):
    import itertools
    import time

    def epoch(seed):
        for _ in itertools.count():
            time.sleep(0.02)
            yield np.arange(64), None

    corpus, _ = small
    given = options(corpus, output="native", cells=10**9, seconds=0.3)
    found = bench.measure.timed(bench.measure.Loader((), epoch), given)
    assert 0.3 <= found["wall_s"] < 5


def test_watch_sees_memory_of_children_and_stops_what_hangs(bench):
    child = "x = bytearray(150_000_000); import time; time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    outcome = bench.processes.watch([sys.executable, "-c", parent], env=os.environ, timeout=60)
    assert outcome.code == 0 and outcome.anonymous_peak_mb > 150
    hung = bench.processes.watch([sys.executable, "-c", "import time; time.sleep(60)"], env=os.environ, timeout=0.5)
    assert hung.code is None and hung.seconds < 30


def test_a_peer_that_fails_is_reported_with_its_reason(bench, small):
    corpus, _ = small
    given = argparse.Namespace(measured=64, seconds=1.0)
    case = bench.cases.Case("broken", "limits", "raw", "no such setting", "tokens")
    case = case._replace(output="nonsense")
    found = bench.run.one(case, "measure", corpus, corpus.folder.parent, given, 0)
    assert "nonsense" in found["failed"]


def test_ratios_are_taken_within_a_round(bench):
    ours = [{"cells_per_s": 10.0, "cells_per_cpu_s": 5.0}, {"cells_per_s": 100.0, "cells_per_cpu_s": 5.0}]
    peer = [{"cells_per_s": 5.0, "cells_per_cpu_s": 5.0}, {"cells_per_s": 50.0, "cells_per_cpu_s": 1.0}]
    ratio = bench.summary.ratio_of(ours, peer)
    assert ratio["wall"] == {"median": 2.0, "rounds": [2.0, 2.0]}
    assert ratio["cpu"]["rounds"] == [1.0, 5.0]
    assert bench.summary.ratio_of(ours, [{"failed": "x"}, peer[1]])["wall"]["rounds"] == [2.0]
    assert bench.summary.ratio_of(ours, [{"failed": "x"}] * 2) is None


def test_every_case_has_a_script_and_every_ratio_its_cases(bench):
    keys = [case.key for case in bench.cases.CASES]
    assert len(keys) == len(set(keys))
    assert all((FOLDER / case.script).is_file() for case in bench.cases.CASES)
    assert {key for pair in bench.cases.RATIOS for key in pair} <= set(keys)
    for case in bench.cases.CASES:
        assert case.peer in ("ours", "limits") or bench.environments.environment_of(case.peer)


def test_endurance_counts_every_cell_and_draws_two_panels(bench, small, tmp_path):
    corpus, _ = small
    record = bench.endurance.stream_all(corpus.folder, "h5ad", 1_500, interval=0.05)
    assert record["cells"] == 1_800 and record["stores"] == 6 and record["each_cell_once"]
    assert record["samples"] and record["samples"][-1]["rss_mb"] > 0
    bench.plot.over_time(record, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5_000


@pytest.mark.nightly
def test_the_command_measures_and_writes_report_and_chart(bench, small, tmp_path, capsys):
    corpus, _ = small
    out = tmp_path / "data_loaders.json"
    code = bench.run.main([
        "--work", str(corpus.folder.parent), "--cells", "600", "--files", "2", "--rounds", "1", "--seconds", "2",
        "--only", "^ours h5ad tokens$|^limit: mapped", "--skip-verify", "--out", str(out),
    ])  # fmt: skip
    report = json.loads(out.read_text())
    assert code in (0, 1) and code == int(not all(goal["met"] for goal in report["goals"].values()))
    assert set(report["cases"]) == {"ours h5ad tokens", "limit: mapped raw CSR to tokens"}
    line = report["cases"]["ours h5ad tokens"]
    assert line["median"]["cells_per_s"] > 0 and line["runs"][0]["versions"]["numba"]
    assert line["median"]["rss_peak_mb"] > 50
    assert "cells/s" in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 5_000
