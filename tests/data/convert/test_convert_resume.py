"""A conversion that is killed or finds the disk full goes on to the same content; other arguments do not."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import anndata as ad
import numpy as np
import pytest

from scmf.core import progress
from scmf.core.errors import DataError
from scmf.data.convert.convert import convert
from scmf.data.stores.corpus import Corpus
from scmf.data.stores.memory import MemoryStore
from tests import ROOT
from tests.conftest import synthetic_cells
from tests.data.convert.test_convert import SMALL, assert_same_cells, content, corpus, two_inputs

# --- killed and gone on ---------------------------------------------------------------------------


class Killed(Exception):
    pass


def die(bar, done, note=""):
    """In place of the step of a progress bar."""
    raise Killed


@pytest.mark.nightly
@pytest.mark.parametrize("shuffle", [True, False])
def test_killed_at_random_points_it_goes_on_to_the_same_content(tmp_path, shuffle, monkeypatch):
    arguments = {"shuffle": shuffle, "cells_per_dataset": 100, "memory": SMALL, "seed": 5}
    convert(corpus(), tmp_path / "whole", **arguments)
    rng = np.random.default_rng(0)
    for turn in range(2):
        out, deaths, calls = tmp_path / f"{turn}", 0, []
        while not (out / "zarr.json").exists():
            after = int(rng.integers(2, 36))

            def die(bar, done, note="", after=after, calls=calls):
                calls.append(bar.title)
                if len(calls) == after:
                    raise Killed

            calls.clear()
            try:
                with monkeypatch.context() as patch:
                    patch.setattr(progress.Bar, "move_to", die)
                    convert(corpus(), out, **arguments)
            except Killed:
                deaths += 1
                for path in out.glob("dataset_*"):
                    ad.read_zarr(path)  # what has the final name is whole
        assert deaths or turn
        assert content(out) == content(tmp_path / "whole")


def test_going_on_does_not_read_again_what_was_read(tmp_path, monkeypatch):
    class Counting(MemoryStore):
        cells_read = 0

        def read(self, spans):
            Counting.cells_read += int((spans[:, 1] - spans[:, 0]).sum())
            return super().read(spans)

    def die(bar, done, note=""):
        if bar.title == "writing cells" and done > 250:
            raise Killed

    def stores():
        return Corpus([Counting(synthetic_cells(400), name="a.h5ad")])

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(progress.Bar, "move_to", die)
        convert(stores(), tmp_path / "o", cells_per_dataset=200)
    assert (tmp_path / "o" / "dataset_0").is_dir() and not (tmp_path / "o" / "dataset_1").exists()
    Counting.cells_read = 0
    convert(stores(), tmp_path / "o", cells_per_dataset=200)
    assert Counting.cells_read == 256  # the sample from which the space is estimated


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from tests.data.convert.test_convert import corpus, SMALL
from scmf.data.convert.convert import convert
from pathlib import Path
from scmf.core import progress
def move_to(bar, done, note=""):
    if bar.title.startswith({where!r}) and done > 190:
        print("here", flush=True)
        time.sleep(600)
progress.Bar.move_to = move_to
convert(corpus(), Path({out!r}), cells_per_dataset=200, memory=SMALL)
"""


# that one kind of file goes on is enough where a change is tried
@pytest.mark.parametrize("where", [pytest.param("reading", marks=pytest.mark.nightly), "writing"])
def test_after_sigkill_it_goes_on_to_the_same_content(tmp_path, where):
    convert(corpus(), tmp_path / "whole", cells_per_dataset=200, memory=SMALL)
    script = SCRIPT.format(tests=str(ROOT), out=str(tmp_path / "o"), where=where)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "o" / "zarr.json").exists()
    assert (tmp_path / "o" / "dataset_0").exists() == (where == "writing")
    convert(corpus(), tmp_path / "o", cells_per_dataset=200, memory=SMALL)
    assert content(tmp_path / "o") == content(tmp_path / "whole")


def test_other_inputs_or_arguments_do_not_go_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(progress.Bar, "move_to", die)
        convert(corpus(), tmp_path / "o")
    with pytest.raises(DataError, match="another seed, order"):
        convert(corpus(), tmp_path / "o", seed=1)
    with pytest.raises(DataError, match="another inputs"):
        convert(corpus(two_inputs()[0], synthetic_cells(300, seed=2)), tmp_path / "o")
    convert(corpus(), tmp_path / "o", memory=1 << 28, threads=1)  # these change no content


def test_a_finished_conversion_is_not_repeated_and_not_overwritten(tmp_path):
    first = convert(corpus(), tmp_path / "o")
    assert convert(corpus(), tmp_path / "o") == first  # also the seconds it took
    with pytest.raises(DataError, match="other inputs or with other arguments"):
        convert(corpus(), tmp_path / "o", seed=1)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(DataError, match="thesis"):
        convert(corpus(), tmp_path / "p")


def test_what_an_earlier_version_has_converted_is_read_and_what_it_has_begun_refused(tmp_path):
    first = convert(corpus(), tmp_path / "o")
    head = tmp_path / "o" / "zarr.json"
    held = json.loads(head.read_text())
    report = held["attributes"]["scmf"]["report"]
    report["dropped_columns"] = report.pop("filled_columns")
    head.write_text(json.dumps(held))
    assert convert(corpus(), tmp_path / "o") == first
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(progress.Bar, "move_to", die)
        convert(corpus(), tmp_path / "p")
    note = tmp_path / "p" / ".convert" / "convert.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "format": 1}))
    with pytest.raises(DataError, match="another the version of scmf"):
        convert(corpus(), tmp_path / "p")


# --- the disk -------------------------------------------------------------------------------------


def test_too_little_space_is_said_before_anything_is_read(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(DataError, match="for the shuffle") as error:
        convert(corpus(), tmp_path / "o")
    assert "without shuffling" in error.value.fix
    assert not list((tmp_path / "o").glob("dataset_*"))


@pytest.mark.parametrize("shuffle", [True, pytest.param(False, marks=pytest.mark.nightly)])  # the same way to write
def test_a_full_disk_leaves_nothing_half_written_and_the_same_command_goes_on(tmp_path, shuffle):
    """A limit on the size of a file stands for the full disk: the write itself fails."""
    convert(corpus(), tmp_path / "first", shuffle=shuffle)  # compiled kernels are larger than the limit
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (20_000, 40_000) if shuffle else (4_000, 6_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(DataError) as error:
                convert(corpus(), tmp_path / "o", shuffle=shuffle, cells_per_dataset=100)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "same command again" in str(error.value) and "GB more" in str(error.value)
        assert not list((tmp_path / "o").glob(".dataset*"))
        for path in (tmp_path / "o").glob("dataset_*"):
            ad.read_zarr(path)
    inputs = two_inputs()
    convert(corpus(), tmp_path / "o", shuffle=shuffle, cells_per_dataset=100)
    assert_same_cells(tmp_path / "o", *inputs)


def test_a_cell_lost_on_the_way_is_found(tmp_path, monkeypatch):
    from scmf.data.convert import zarr_writer

    append = zarr_writer.DatasetWriter.append

    def careless(self, lengths, indices, data):
        data = data.copy()
        data[len(data) // 2] += 1
        append(self, lengths, indices, data)

    monkeypatch.setattr(zarr_writer.DatasetWriter, "append", careless)
    with pytest.raises(DataError, match="what was read"):
        convert(corpus(), tmp_path / "o")
    assert not (tmp_path / "o" / "zarr.json").exists()
