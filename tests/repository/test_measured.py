"""Every figure of docs/measured.md is in a file of the repository."""

import json
import statistics

import pytest

from scmf.results.expected import load_expected
from tests import ROOT

TEXT = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
RECIPES = {
    "geneformer": "Geneformer", "scgpt": "scGPT", "scfoundation": "scFoundation", "transcriptformer": "TranscriptFormer"
}  # fmt: skip
EXPECTED = {name: load_expected(ROOT / "recipes" / name / "expected.yaml").cells("mini") for name in RECIPES}
COLUMNS = {  # of the table of scores
    ("linear_probe", "accuracy"): 2,
    ("constant", "accuracy"): 2,
    ("knn_probe", "accuracy"): 3,
    ("finetuned_head", "accuracy"): 4,
    ("scib", "overall"): 5,
}
BASELINES = {"pca": "*PCA (", "hvg": "*HVG (", "majority": "*majority class*"}


def shown(samples):
    """A mean as the page writes it."""
    values = list(samples.values())
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        pytest.param(name, cell, id=f"{name}-{cell.protocol}-{cell.method}-{cell.metric}")
        for name, cells in EXPECTED.items()
        for cell in cells.values()
        if (cell.protocol, cell.metric) in COLUMNS
    ],
)
def test_scores_are_those_of_the_expected_values(name, cell):
    start = BASELINES.get(cell.method) or (
        f"| {RECIPES[name]} |" if cell.method == "pretrained" else f"| *{RECIPES[name]}, untrained* |"
    )
    row = next(line for line in TEXT.splitlines() if line.removeprefix("| ").startswith(start.removeprefix("| ")))
    assert row.split("|")[COLUMNS[cell.protocol, cell.metric]].strip() == shown(cell.samples)


def test_throughput_is_that_of_the_benchmark_file():
    figures = json.loads((ROOT / "benchmarks" / "tokenizer_throughput.json").read_text(encoding="utf-8"))
    rates = {name: value["cpu"] for name, value in figures["cells_per_second"].items()}
    for rate in rates.values():
        assert f"| {rate:,} |" in TEXT
    assert f"{figures['ratios']['rank']['cpu']:.1f} times as fast" in TEXT
    assert f"{figures['ratios']['end to end']['cpu']:.1f} times as fast (int16)" in TEXT
    assert f"{rates['end to end: ours, int32'] / rates['end to end: official path']:.1f} (int32)" in TEXT


def test_input_pipelines_are_those_of_the_benchmark_file():
    found = json.loads((ROOT / "benchmarks" / "input_pipelines.json").read_text(encoding="utf-8"))["pipelines"]
    for name, pipeline in found.items():
        ours, official = (f"{pipeline['cells_per_second'][of]['cpu']:,}" for of in ("ours", "official"))
        assert f"| {name} | {ours} | {official} | {pipeline['ratio']['cpu']:.0f} |" in TEXT
        assert pipeline["ratio"]["cpu"] >= pipeline["bar"]


def test_throughput_on_a_disk_is_that_of_its_file():
    path = ROOT / "benchmarks" / "tokenizer_throughput_disk.json"
    rates = {k: v["cpu"] for k, v in json.loads(path.read_text(encoding="utf-8"))["cells_per_second"].items()}
    official = rates["end to end: official path"]
    ours, wide = rates["end to end: ours"] / official, rates["end to end: ours, int32"] / official
    assert f"{ours:.1f} (int16) and {wide:.1f} (int32)" in TEXT


def test_loaders_are_those_of_the_benchmark_file():
    found = json.loads((ROOT / "benchmarks" / "data_loaders.json").read_text(encoding="utf-8"))
    table = TEXT[TEXT.index("| loader | cells/s") :].split("\n\n")[0].splitlines()[2:]
    for line in table:
        key, *shown_values = (part.strip() for part in line.strip("|").split("|"))
        median = found["cases"][key]["median"]
        mixing = (median.get("entropy_of_maximum") or {}).get("64")
        assert shown_values == [
            f"{median['cells_per_s']:,.0f}",
            f"{median['cells_per_cpu_s']:,.0f}",
            "" if mixing is None else f"{mixing:.2f}",
            f"{median['rss_peak_mb']:,.0f}",
        ]
    ratios = {name: f"{value['wall']['median']:.1f}" for name, value in found["ratios"].items()}
    converted = "ours converted zarr tokens"
    assert f"is {ratios[f'{converted} / annbatch tokens']} times as fast as annbatch" in TEXT
    assert f"({ratios[f'{converted} / annbatch tokens, 2 token threads']} times when" in TEXT
    assert f"own files {ratios['ours zarr tokens / annbatch tokens']} times" in TEXT
    assert f"{ratios[f'{converted} / scDataset tokens']} times as fast as scDataset" in TEXT


def test_endurance_is_that_of_its_file():
    found = json.loads((ROOT / "benchmarks" / "data_loaders_endurance.json").read_text(encoding="utf-8"))
    assert found["each_cell_once"]
    assert f"{found['cells_per_s']:,.0f} cells/s over {found['wall_s']:.0f} s" in TEXT
    assert f"at most {found['rss_peak_mb']:,.0f} MB, growing by {found['rss_growth_mb']:.0f} MB" in TEXT
