"""`scmf finetune` by the command line: what is trained and what is not, which cells, which epoch, resumed, refused."""

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from scmf.models.run_folder import RunFolder
from scmf.training import loop
from tests.conftest import synthetic_cells
from tests.fixtures.commands import everything, scmf
from tests.fixtures.tiny_runs import FAMILIES, tiny  # noqa: F401  (fixture)


@pytest.fixture
def tune(tiny, tmp_path, capsys):  # noqa: F811
    """Run `scmf finetune` on a tiny run: its answer, or its exit code and what it said."""

    def call(*words, out="tuned", base=None, data=None, family="transformer_encoder", fails=False, epochs=2):
        base = base or tiny(family)
        capsys.readouterr()
        code = scmf(
            "finetune", "--base-model", base, "--data", data or tiny.cells, "--out", tmp_path / out, "--json",
            "--epochs", epochs, *words,
        )  # fmt: skip
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        if fails:
            return code, said.out + said.err
        assert code == 0, said.out + said.err
        return json.loads(said.out) | {"said": said.err}

    call.root = tmp_path
    return call


def weights(folder):
    """Tensors of a saved network, those of the network below a head by their names without one."""
    prefixes = ("bert.", "scgpt.", "model.")
    found = load_file(folder / "model.safetensors")
    return {name.partition(".")[2] if name.startswith(prefixes) else name: value for name, value in found.items()}


def moved(before, after):
    """Names of the tensors of both that differ."""
    return {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_of_every_family_learns_labels_and_is_taken_by_other_verbs(family, tune, tiny, capsys):  # noqa: F811
    made = tune("--task", "cell_type_annotation", "--split-key", "donor_id", family=family)
    assert set(made["classes"]) == {"alpha", "beta", "delta"} and made["method"] == "full"
    out = tune.root / "tuned"
    before, after = weights(tiny(family) / "model"), weights(out / "model")
    assert len(moved(before, after)) > 10 and any("classifier" in name or "fc1" in name for name in after)
    file = tune.root / "vectors.h5ad"
    assert scmf("embed", tiny.cells, "--model", out, "--output", file, "--quiet") == 0
    (key,) = ad.read_h5ad(file).obsm
    assert ad.read_h5ad(file).obsm[key].shape[0] == 60
    capsys.readouterr()
    assert scmf("predict", out, tiny.cells, "--out", tune.root / "labels.h5ad", "--json", "--quiet") == 0
    assert sum(json.loads(capsys.readouterr().out)["labels"].values()) == 60


def test_donors_stay_whole_and_the_run_keeps_its_split(tune, tiny):  # noqa: F811
    made = tune("--split-key", "donor_id")
    table = pd.read_csv(tune.root / "tuned" / "split.tsv", sep="\t", index_col="cell_id")["split"]
    donors = ad.read_h5ad(tiny.cells).obs["donor_id"].astype(str)
    assert table.groupby(donors.reindex(table.index)).nunique().max() == 1
    assert made["cells"] == {part: int((table == part).sum()) for part in ("train", "valid", "test")}
    assert "one by one" not in made["said"] and "one by one" in tune(out="other")["said"]


def test_a_split_of_the_users_is_taken_and_two_are_refused(tune, tiny):  # noqa: F811
    names = ad.read_h5ad(tiny.cells).obs_names
    parts = np.where(np.arange(60) < 40, "train", np.where(np.arange(60) < 50, "valid", "test"))
    split = tune.root / "mine.tsv"
    pd.DataFrame({"cell_id": names, "split": parts}).to_csv(split, sep="\t", index=False)
    assert tune("--split", split)["cells"] == {"train": 40, "valid": 10, "test": 10}
    code, said = tune("--split", split, "--split-key", "donor_id", out="both", fails=True)
    assert code == 2 and "one of them" in said and not (tune.root / "both").exists()


def test_cells_without_a_label_take_no_part_and_are_counted(tune, tiny):  # noqa: F811
    adata = ad.read_h5ad(tiny.cells)
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[:7] = np.nan
    adata.obs["cell_type"] = labels
    adata.write_h5ad(tune.root / "some.h5ad")
    made = tune(data=tune.root / "some.h5ad")
    assert made["left_out"] == {"without_label": 7} and "7 of 60 cells have no label" in made["said"]
    assert sum(made["cells"].values()) == 53 and sum(made["classes"].values()) == made["cells"]["train"]
    assert "" not in made["classes"] and "nan" not in made["classes"]


def test_labels_of_validation_cells_that_were_not_trained_are_counted(tune, tiny):  # noqa: F811
    adata = ad.read_h5ad(tiny.cells)
    names, types = adata.obs_names, adata.obs["cell_type"].astype(str)
    parts = np.where(types == "delta", "valid", np.where(np.arange(60) % 3 == 0, "valid", "train"))
    split = tune.root / "mine.tsv"
    pd.DataFrame({"cell_id": names, "split": parts}).to_csv(split, sep="\t", index=False)
    made = tune("--split", split)
    assert set(made["classes"]) == {"alpha", "beta"}
    assert made["left_out"] == {"validation_label_not_trained": int((types == "delta").sum())}


@pytest.mark.parametrize("words", [("--freeze", 1), ("--method", "frozen")])
def test_what_is_frozen_stays_as_it_was(words, tune, tiny):  # noqa: F811
    tune(*words, "--lr", 0.05)
    before, after = weights(tiny() / "model"), weights(tune.root / "tuned" / "model")
    changed = moved(before, after)
    assert not {name for name in changed if ".layer.0." in name}
    assert bool(changed) is (words[0] == "--freeze")


def test_the_statistics_of_a_frozen_network_stay_too(tune, tiny):  # noqa: F811
    tune("--method", "frozen", family="masked_autoencoder")
    before, after = weights(tiny("masked_autoencoder") / "model"), weights(tune.root / "tuned" / "model")
    assert len(before.keys() & after.keys()) > 10
    assert not {name for name in moved(before, after) if "calls_since" not in name}


def test_balanced_weights_count_every_class_the_same():
    from scmf.training.finetune import Examples
    from scmf.training.objectives.cell_classification import CellClassification

    labels = np.array([0] * 6 + [1] * 2 + [2])
    examples = Examples(("a", "b", "c"), np.arange(9), labels, np.arange(0), np.arange(0), {})
    weights_C = np.array(examples.weights("balanced"))
    assert np.allclose(np.bincount(labels) * weights_C, 3) and examples.weights("none") == ()
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    output = type("Output", (), {"logits": logits, "loss": torch.tensor(-1.0)})()
    inputs = {"labels": torch.from_numpy(labels)}
    each = -torch.log_softmax(logits, 1)[torch.arange(9), inputs["labels"]]
    wanted = (each * torch.tensor(weights_C, dtype=torch.float32)[inputs["labels"]]).mean()
    assert torch.allclose(CellClassification(weights=tuple(weights_C.tolist())).loss(output, inputs), wanted)
    assert CellClassification().loss(output, inputs) == -1


def test_class_weights_are_used(tune):
    plain, even = tune(), tune("--class-weights", "balanced", out="even")
    assert plain["selection"]["valid_loss"] != even["selection"]["valid_loss"]


def test_the_epoch_with_the_lowest_validation_loss_is_kept_and_named(tune, monkeypatch):
    losses = iter([0.9, 0.5, 0.7, 0.6, 0.1])
    seen = []

    def values(self, epoch, step):
        with self.trainee.evaluated() as network:
            seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"valid_loss": next(losses)}

    monkeypatch.setattr(loop.Validation, "__call__", values)
    made = tune("--patience", 2, epochs=5)
    assert made["selection"]["epoch"] == 2 and made["selection"]["epochs"] == 4
    assert made["selection"]["stopped_early"] and "lowest validation loss, of" in made["selection"]["rule"]
    saved = load_file(tune.root / "tuned" / "model" / "model.safetensors")
    assert not moved(saved, seen[1]) and moved(saved, seen[3])
    note = json.loads((tune.root / "tuned" / "run.json").read_text())["finetuning"]
    assert note["selection"] == made["selection"]
    assert len(list((tune.root / "tuned" / "pretraining").glob("best-*.safetensors"))) == 1


class Killed(BaseException):
    """What a kill looks like to the loop."""


@pytest.mark.parametrize("method", ["full", "frozen"])
def test_a_killed_fine_tuning_resumes_to_the_same_weights(method, tune, monkeypatch):
    whole = tune("--method", method, out="whole", epochs=3)
    step, calls = loop._step, []

    def dies(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return step(*arguments, **keywords)

    monkeypatch.setattr(loop, "_step", dies)
    with pytest.raises(Killed):
        tune("--method", method, epochs=3)
    monkeypatch.undo()
    again = tune("--method", method, epochs=3)
    assert again["resumed_from"] and again["selection"] == whole["selection"]
    assert not moved(weights(tune.root / "whole" / "model"), weights(tune.root / "tuned" / "model"))
    finished = tune("--method", method, epochs=3)
    assert finished["resumed_from"] == finished["steps"] == whole["steps"]


def test_another_run_is_not_touched(tune):
    tune()
    before = everything(tune.root / "tuned")
    for words in (("--lr", 1e-3), ("--split-key", "donor_id"), ("--seed", 5)):
        code, said = tune(*words, fails=True)
        assert code and "another run" in said, said
    assert everything(tune.root / "tuned") == before


def test_a_file_says_the_same_as_options(tune, tiny, capsys):  # noqa: F811
    text = (
        f"data: {{files: [{tiny.cells}], label_key: cell_type}}\nmodel: {{checkpoint: {tiny()}}}\n"
        "eval: {benchmarks: [annotation], finetune: {max_epochs: 2, patience: 3}}\n"
    )
    (tune.root / "tune.yaml").write_text(text)
    assert scmf("finetune", "--config", tune.root / "tune.yaml", "--out", tune.root / "file", "--quiet") == 0
    tune("--label-key", "cell_type")
    assert not moved(weights(tune.root / "file" / "model"), weights(tune.root / "tuned" / "model"))


def test_the_run_is_scored_by_its_own_head_beside_the_baselines(tune):
    made = tune("--eval", "annotation", "--split-key", "donor_id", "--seed", 1, data=None)
    found = {(score["protocol"], score["method"]) for score in made["scores"]}
    assert ("finetuned_head", "pretrained") in found and ("constant", "majority") in found
    assert {("linear_probe", method) for method in ("hvg", "pca", "pretrained", "untrained")} <= found


def test_pretraining_goes_on_as_train_does(tune, tiny, capsys):  # noqa: F811
    made = tune("--task", "pretraining", "--batch-size", 16, "--lr", 1e-3, epochs=1)
    assert made["task"] == "pretraining" and moved(weights(tiny() / "model"), weights(tune.root / "tuned" / "model"))
    config = json.loads((tune.root / "tuned" / "run.json").read_text())["config"]
    assert config["training"]["pretraining_task"] == "masked_gene_prediction" and config["eval"]["finetune"] is None
    code, said = tune("--task", "pretraining", "--method", "lora", out="no", fails=True)
    assert code == 2 and "method lora with task pretraining" in said
    code, said = tune("--task", "pretraining", "--split-key", "donor_id", out="no", fails=True)
    assert code == 2 and "scmf data split" in said and not (tune.root / "no" / "model").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "perturbation_prediction"), "one of cell_type_annotation, pretraining"),
        (("--task", "cell_type_anotation"), "did you mean 'cell_type_annotation'?"),
        (("--eval", "perturbench"), "one of annotation, integration"),
        (("--method", "qlora"), "did you mean 'lora'?"),
        (("--label-key", "nothing"), "nothing"),
        (("--split-key", "nothing"), "no column 'nothing'"),
        (("--freeze", 9), "9 layers to freeze"),
        (("--lr", 0), "eval.finetune.lr"),
        (("--set", "training.lr=0.5"), "set eval.finetune.lr"),
        (("--set", "tokenizer.max_length=99"), "leave out the section tokenizer"),
        (("--set", "model.hidden_dim=16"), "leave out the section model"),
        (("--set", "data.stream={}"), "cells in memory"),
        (("--eval", "integration"), "--batch-key COLUMN"),
    ],
)
def test_what_cannot_be_is_one_error_and_leaves_nothing(words, said, tune):
    code, found = tune(*words, fails=True)
    assert code in (2, 3, 4, 5, 6) and said in found, found
    assert not (tune.root / "tuned" / "model").exists()


def test_a_head_that_could_not_be_loaded_again_is_refused_before_training(tune):
    code, said = tune("--set", "eval.finetune.pooling=first", family="autoregressive_transformer", fails=True)
    assert code and "'mean' (eval.finetune.pooling)" in said and not (tune.root / "tuned").exists()


def test_a_classifier_is_not_taken_for_other_labels(tune, tiny):  # noqa: F811
    tune()
    adata = synthetic_cells(60)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace({"delta": "gamma"})
    adata.write_h5ad(tune.root / "others.h5ad")
    code, said = tune(base=tune.root / "tuned", data=tune.root / "others.h5ad", out="second", fails=True)
    assert code and "a classifier of 3 classes: alpha, beta, delta" in said
    further = tune(base=tune.root / "tuned", out="third")
    assert further["classes"].keys() == {"alpha", "beta", "delta"}


def test_a_run_that_moved_is_still_taken(tune, tiny, capsys):  # noqa: F811
    tune()
    shutil.move(tune.root / "tuned", tune.root / "elsewhere")
    assert scmf("predict", tune.root / "elsewhere", tiny.cells, "--out", tune.root / "l.h5ad", "--quiet") == 0


def test_a_moved_run_keeps_its_own_split(tune, tiny, capsys):  # noqa: F811
    tune("--seed", 1)
    shutil.move(tune.root / "tuned", tune.root / "best")
    tune("--seed", 2)  # its split lies where that of the first lay
    first, second = (RunFolder(tune.root / name) for name in ("best", "tuned"))
    assert first.split.read_bytes() != second.split.read_bytes()
    assert Path(first.recipe().config.data.split).samefile(first.split)
    assert Path(second.recipe().config.data.split).samefile(second.split)
    assert scmf("evaluate", tune.root / "best", "--quiet") == 0, capsys.readouterr().err


def test_a_run_of_filtered_cells_is_scored_on_them(tune):
    made = tune("--set", "data.filter.min_genes=20", "--eval", "annotation")
    assert made["scores"]


def test_a_folder_of_weights_is_no_folder_for_a_run(tune, tiny):  # noqa: F811
    shutil.copytree(tiny() / "model", tune.root / "plain")
    before = (tune.root / "plain/model.safetensors").read_bytes()
    code, said = tune(base=tune.root / "plain", out="plain", fails=True)
    assert code and "plain" in said
    assert (tune.root / "plain/model.safetensors").read_bytes() == before
    assert not (tune.root / "plain/run.json").exists()


def test_a_classifier_is_not_pretrained_further(tune):
    tune()
    code, said = tune("--task", "pretraining", base=tune.root / "tuned", out="further", fails=True)
    assert code and "a classifier, which has no pretraining head" in said


def test_a_classifier_that_is_trained_on_reads_what_its_head_has_read(tune):
    tune("--set", "eval.finetune.pooling=mean")
    tune(base=tune.root / "tuned", out="second")
    assert RunFolder(tune.root / "second").config.eval.finetune.pooling == "mean"


def test_the_task_may_come_from_set(tune):
    made = tune("--set", "eval.finetune.task=pretraining")
    assert made["task"] == "pretraining"


def test_without_out_the_run_has_a_folder_of_its_own(tune, tiny, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tune.root)
    words = ("--base-model", tiny(), "--data", tiny.cells, "--epochs", "1", "--quiet")
    assert scmf("finetune", *words) == 0
    (run,) = (tune.root / "runs").iterdir()
    assert run.name.startswith("finetuned-") and (run / "model").is_dir()
