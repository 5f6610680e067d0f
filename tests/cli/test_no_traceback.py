"""No command ends in a traceback, a crash or a hang: damaged files, odd YAML trees, random calls.

Each example runs in a child process of a server (`tests.fixtures.command_server`), in a copy of a small folder. Twenty
examples run by default, always the same; ``SCMF_EXAMPLES=2000`` draws that many anew.
"""

import json
import os
from pathlib import Path

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scmf.cli import main as cli
from scmf.core.yaml import load_yaml
from tests.fixtures.small_world import World

N_EXAMPLES = int(os.environ.get("SCMF_EXAMPLES", "20"))
SECONDS = 120
"""An example that takes longer hangs."""


def examples(share):
    asked = "SCMF_EXAMPLES" in os.environ
    return settings(
        max_examples=max(1, round(N_EXAMPLES * share)), deadline=None, derandomize=not asked, database=None,
        print_blob=False, suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = World(tmp_path_factory.mktemp("small"), seconds=SECONDS)
    yield made
    made.close()


def check(world, change, *calls):
    assert not list(world.problems(change, *calls))


# --- damaged files --------------------------------------------------------------------------------

CELLS = [
    ["check", "{file}", "--split", "split.tsv"],
    ["embed", "{file}", "--model", "run"],
    ["data", "stats", "{file}", "--out", "new.json", "--n-counts", "depth"],
    ["data", "genes", "{file}", "--vocabulary", "genes.txt"],
    ["data", "convert", "{file}", "few.h5ad", "--out", "new.zarr"],
    ["data", "hvg", "{file}", "--out", "new.txt", "--batch-key", "study", "--flavor", "seurat"],
    ["data", "split", "{file}", "--by", "donor_id", "--out", "new.tsv"],
    ["data", "tokenize", "{file}", "--out", "new", "--vocabulary", "run/model", "--max-length", "16"],
    ["train", "--config", "config.yaml", "--out", "new", "--set", "data.files={file}"],
    ["train", "--config", "streamed.yaml", "--out", "new", "--set", "data.files={file}"],
]
RUN = [
    ["embed", "cells.h5ad", "--model", "run"],
    ["evaluate", "run"],
    ["train", "--config", "config.yaml", "--out", "run"],
    ["compare", "run"],
    ["publish", "run", "--repo", "a/b", "--dry-run"],
    ["train", "--config", "config.yaml", "--out", "new", "--set", "model.checkpoint=run/model"],
]
READERS = {
    "cells.h5ad": CELLS,
    "packed.h5ad": CELLS,
    "cells.zarr": CELLS,
    "collection.zarr": CELLS,
    "run": RUN,
    "split.tsv": [["check", "cells.h5ad", "--split", "{file}"], ["train", "--config", "config.yaml", "--out", "new"]],
    "split.tsv.gz": [
        ["check", "cells.h5ad", "cells.h5ad", "--split", "{file}"],
        ["data", "hvg", "cells.h5ad", "--out", "new.txt", "--split", "{file}"],
    ],
    "config.yaml": [["train", "--config", "{file}", "--out", "new"], ["check", "cells.h5ad", "--config", "{file}"]],
    "toy.yaml": [["data", "info", "{file}"], ["data", "check", "{file}"]],
    "recipe/expected.yaml": [["compare", "recipe", "run"]],
    "suite.yaml": [["tasks", "--suite", "{file}"], ["evaluate", "run", "--tasks", "all", "--suite", "{file}"]],
    "genes.txt": [["data", "genes", "cells.h5ad", "--vocabulary", "{file}"]],
    "genes.json": [["data", "genes", "cells.h5ad", "--vocabulary", "{file}"]],
    "stats.state.npz": [["data", "stats", "cells.h5ad", "--out", "stats.json"]],
    "tokens": [["train", "--config", "config.yaml", "--out", "new", "--set", "data={{tokens: tokens}}",
                "--set", "tokenizer.vocabulary=run/model"]],
    "cache": [["train", "--config", "streamed.yaml", "--out", "new"]],
}  # fmt: skip


@st.composite
def damages(draw):
    """Which file, what happens to its bytes, who reads it."""
    name = draw(st.sampled_from(sorted(READERS)))
    where = draw(st.floats(0, 1, exclude_max=True))
    kind = draw(st.sampled_from(["flip", "flips", "cut", "zeros", "insert", "empty"]))
    near = draw(st.booleans())  # the head of a file, where its structure is
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=1 if kind == "flip" else 12))
    bit = draw(st.integers(0, 7))
    calls = draw(st.lists(st.sampled_from(READERS[name]), min_size=1, max_size=2, unique_by=tuple))
    return name, where, kind, near, places, bit, calls


def damaged(old, kind, near, places, bit):
    stored, length = bytearray(old), min(len(old), 4096) if near else len(old)
    at = [int(place * length) for place in places]
    if kind in ("flip", "flips") and stored:
        for place in at:
            stored[place] ^= 1 << bit
    elif kind == "cut":
        del stored[at[0] :]
    elif kind == "zeros":
        stored[at[0] : at[0] + 64] = bytes(len(stored[at[0] : at[0] + 64]))
    elif kind == "insert":
        stored[at[0] : at[0]] = bytes([bit, 255 - bit])
    elif kind == "empty":
        stored.clear()
    return bytes(stored)


@examples(0.4)
@given(damages())
def test_damaged_files(world, damage):
    check(world, *of_damage(damage))


def of_damage(damage):
    """The change to the folder, and the calls after it."""
    name, where, kind, near, places, bit, calls = damage

    def change(folder):
        path = folder / name
        if path.is_dir():
            files = sorted(one for one in path.rglob("*") if one.is_file())
            path = files[int(where * len(files))]
        if path.is_file():
            path.write_bytes(damaged(path.read_bytes(), kind, near, places, bit))

    return change, *([word.format(file=name) for word in words] for words in calls)


# --- YAML trees -----------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([2**31, 2**63, 10**20, -(2**63), 1 << 200]),
    st.floats(), st.text(max_size=8),
    st.sampled_from(["fit", "auto", "nan", "../..", "a/b", "~", "run", "X", "é" * 99]),
    st.lists(st.integers(-1, 3), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.recursive(st.just([]), lambda inner: st.lists(inner, min_size=1, max_size=1), max_leaves=40),
)  # fmt: skip
LONG = {"max_epochs", "max_steps", "num_layers", "threads", "n_bins", "hidden_dim", "ffn_dim", "batch_size"}
"""Keys whose larger values mean more work or memory, and no error."""

TREES = {
    "config.yaml": READERS["config.yaml"] + [["evaluate", "run", "--config", "config.yaml"]],
    "streamed.yaml": [["train", "--config", "streamed.yaml", "--out", "new"]],
    "recipe/recipe.yaml": [["reproduce", "recipe", "--tier", "mini"], ["compare", "recipe", "run"]],
    "recipe/expected.yaml": [["compare", "recipe", "run"], ["reproduce", "recipe", "--tier", "parity"]],
    "toy.yaml": [["data", "info", "toy.yaml"], ["data", "check", "toy.yaml"], ["data", "fetch", "toy.yaml"]],
    "suite.yaml": READERS["suite.yaml"],
}


def paths_in(tree, before=()):
    """Every place in a tree."""
    yield before
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from paths_in(value, (*before, key))


@st.composite
def trees(draw):
    name = draw(st.sampled_from(sorted(TREES)))
    changes = draw(
        st.lists(st.tuples(st.floats(0, 1, exclude_max=True), ODD, st.integers(0, 5)), min_size=1, max_size=3)
    )
    syntax = draw(st.sampled_from(["", "", "", "alias", "loop", "tag", "twice", "tab", "deep"]))
    return name, changes, syntax, draw(st.sampled_from(TREES[name]))


def mutated(tree, changes):
    for place, value, kind in changes:
        found = list(paths_in(tree))
        path = found[int(place * len(found))]
        if not path:
            if kind == 0:
                return value
            if isinstance(tree, dict):
                tree[str(value)[:20]] = value
            continue
        node = tree
        for key in path[:-1]:
            node = node[key]
        if path[-1] in LONG and isinstance(value, int) and 3 < value < 10**15:
            value = -value
        if kind == 1:
            del node[path[-1]]
        elif kind == 2 and isinstance(node, dict):
            node[f"{path[-1]}x"] = value
        else:
            node[path[-1]] = value
    return tree


ENDS = {
    "alias": "\nx: &a {y: 1}\nz: *a\n",
    "loop": "\nloop: &l [*l]\n",
    "tag": "\nx: !!python/object/apply:os.system [true]\n",
    "twice": "\ndata: {}\ndata: {}\n",
    "tab": "\n\tx: 1\n",
    "deep": "\nx: " + "[" * 3000 + "]" * 3000 + "\n",
}


@examples(0.35)
@given(trees())
def test_yaml_trees(world, tree):
    check(world, *of_tree(tree))


def of_tree(tree):
    """The change to the folder, and the call after it."""
    name, changes, syntax, call = tree

    def change(folder):
        made = mutated(load_yaml(folder / name), changes)
        text = json.dumps(made, allow_nan=True, indent=1).replace("NaN", ".nan").replace("Infinity", ".inf")
        if syntax and text.startswith("{"):
            text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in made.items())
        (folder / name).write_text(text + ENDS.get(syntax, ""), encoding="utf-8", errors="replace")

    return change, [word.format(file=name) for word in call]


# --- calls ----------------------------------------------------------------------------------------

PATHS = [
    "cells.h5ad", "packed.h5ad", "cells.zarr", "collection.zarr", "few.h5ad", "tenx.h5", "notes.txt", "genes.txt",
    "split.tsv", "split.tsv.gz", "config.yaml", "streamed.yaml", "recipe", "recipe/recipe.yaml", "toy.yaml", "run",
    "suite.yaml", "run/model", "run/results", "stats.json", "tokens", "absent", "absent/deeper/x.h5ad", "", ".", "..",
    "/dev/null", "/proc/version", "/proc/x/y", "cells.h5ad/x", "*.h5ad", "[", "x" * 300, "a\nb.h5ad", "~nobody-x/y",
    "file://cells.h5ad", "caf\u00e9.h5ad", "-", "--", "\udcff.h5ad", "out.tsv", "out.json", "out.h5ad", "out.zarr",
]  # fmt: skip
WORDS = [
    "X", "raw.X", "layers/x", "auto", "var_names", "cell_type", "donor_id", "study", "depth", "random", "group",
    "unseen", "0.8,0.1,0.1", "1,1", "nan,0,0", "test=d4", "test=", "=", "test=[", "seurat", "seurat_v3", "union",
    "0", "1", "-1", "3", "1e400", "nan", "1-3", "99999999999999999999", "a/b", "toy", "annotation", "all", "tiny",
    "mini",
    "training.max_steps=1", "training.lr=nan", "data.split=null", "a=b", "=", "model={}", "data.files=[]", "", "parity",
    "rank_value", "binned", "transformer_encoder", "masked_gene_prediction", "baselines", "cell", "cls", "parquet",
]  # fmt: skip
ROOT_COMMAND = typer.main.get_command(cli.app)


def verbs():
    for name, verb in sorted(ROOT_COMMAND.commands.items()):
        if hasattr(verb, "commands"):
            yield from (([name, inner], one) for inner, one in sorted(verb.commands.items()))
        else:
            yield [name], verb


VERBS = list(verbs())


def value(parameter):
    """A value for an option or argument: mostly of its kind."""
    kind = parameter.bare_type() if hasattr(parameter, "bare_type") else parameter.type
    if kind in (int, float):
        return st.sampled_from(["0", "1", "2", "-1", "x", "nan", "1e9", "99999999999999999999"])
    first = PATHS if kind is Path or "file" in (parameter.name or "") else PATHS + WORDS
    return st.one_of(st.sampled_from(first), st.sampled_from(PATHS + WORDS))


@st.composite
def calls(draw):
    words, verb = draw(st.sampled_from(VERBS))
    words = list(words)
    for parameter in verb.params:
        if parameter.param_type_name == "argument":
            words += [draw(value(parameter)) for _ in range(draw(st.integers(1, 2)) if parameter.nargs < 0 else 1)]
            continue
        required = parameter.required and draw(st.integers(0, 9))
        if parameter.name == "dry_run" or required or draw(st.integers(0, 3)) == 0:
            words.append(parameter.opts[0])
            if not parameter.is_flag:
                words.append(draw(value(parameter)))
    if words[0] in ("reproduce", "sweep", "train"):
        words += ["--set", "training.max_steps=1"]
    return [word for word in words if words[0] != "reproduce" or word != "all"]  # not every shipped recipe


@examples(0.25)
@given(calls())
def test_calls(world, words):
    check(world, lambda folder: None, words)


def test_every_verb_is_called():
    assert len(VERBS) >= 20
