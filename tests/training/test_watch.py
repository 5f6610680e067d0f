"""Several processes: one that is killed, stopped, hangs or never comes ends the others soon, and is named."""

import os
import re
import subprocess
import sys
import time

import pytest

from scmf.core.errors import TrainingError
from scmf.core.watch import _Watch
from tests import ROOT
from tests.fixtures.forked import ranks
from tests.fixtures.watched import work


def start(how, victim, *, size=3, which=None, limit=4):
    """Start processes as a cluster does, without torchrun, which would end them itself."""
    environment = {"SCMF_RANK_TIMEOUT": str(limit), "TORCH_CPP_LOG_LEVEL": "FATAL"}
    return ranks(work, how, victim, limit + 3, size=size, which=which, environment=environment)


def ended(processes, *, but=None):
    """What the processes said, and their exit codes; the one that was stopped is ended here."""
    said = []
    for rank, process in enumerate(processes):
        if rank != but:
            said.append((process.communicate(timeout=120)[1], process.returncode))
    if but is not None:
        processes[but].kill()
        processes[but].wait()
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "victim", "why"),
    [
        ("kill", 1, "process 1 of 3"),
        ("stop", 0, "process 0 of 3.*said nothing"),
        ("hang", 1, "process 1 of 3.*it hangs"),
        ("error", 2, "process 2 of 3.*ended with code 3"),
    ],
)
def test_a_lost_process_ends_the_others_and_is_named(how, victim, why):
    processes = start(how, victim)
    until = time.monotonic() + 120
    while "now" not in processes[victim].stdout and time.monotonic() < until:
        time.sleep(0.02)
    before = time.monotonic()
    said = ended(processes, but=victim)
    assert time.monotonic() - before < 60
    assert all(code == 5 for _, code in said), said
    text = "\n".join(error for error, _ in said)
    assert re.search(why, text, re.DOTALL) and "Traceback" not in text, text
    assert f"process id {processes[victim].pid}" in text


@pytest.mark.slow
def test_a_main_process_that_works_alone_for_long_is_waited_for():
    assert [code for _, code in ended(start("busy", 9, size=2, limit=3))] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("came", [(1,), (0, 2)])
def test_a_process_that_never_comes_is_one_error(came):
    size = 3 if len(came) == 2 else 2
    said = ended(start("none", 9, size=size, which=came))
    for error, code in said:
        assert code == 5 and "never came" in error and "Traceback" not in error and error.count("found:") == 1
    missing = sorted(set(range(size)) - set(came))[0]
    assert f"process {missing}" in said[0][0]


def test_a_process_ends_when_the_one_that_started_it_is_gone():
    worker = "import sys, time; from scmf.core import watch; watch.follow(int(sys.argv[1])); time.sleep(100)"
    shell = f"{sys.executable} -c '{worker}' $$ & echo $!; wait"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "0"}
    started = subprocess.Popen(
        ["/bin/sh", "-c", shell], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started.stdout.readline()
    started.kill()
    _, said = started.communicate(timeout=60)  # until the worker has closed its end, too
    assert f"the process that started this one ({started.pid}) is gone" in said and "resumes" in said


class Store(dict):
    """A store in memory."""

    def set(self, key, value):
        self[key] = value.encode()

    def multi_get(self, keys):
        return [self[key] for key in keys]


def watch(monkeypatch, now, *, limit="10"):
    monkeypatch.setenv("SCMF_RANK_TIMEOUT", limit)
    monkeypatch.setattr("scmf.core.watch.time.monotonic", lambda: now[0])
    store = Store({f"beat/{i}": b"0 0 0" for i in range(3)})
    return store, _Watch(store, rank=0, size=3, names=["a", "b", "c"])


def test_who_talks_is_never_lost_however_long_all_wait(monkeypatch):
    now = [0.0]
    store, own = watch(monkeypatch, now)
    for second in range(0, 500, 5):
        now[0] = float(second)
        for other in (1, 2):
            store.set(f"beat/{other}", f"{second} 7 0")
        own.count = 7
        own.beat()
        own.look()
        assert own.lost() is None


def test_who_is_behind_all_others_for_too_long_hangs_and_who_is_busy_does_not(monkeypatch):
    for busy, lost in (("0", True), ("1", False)):
        now = [0.0]
        store, own = watch(monkeypatch, now)
        for second in range(0, 30, 5):
            now[0] = float(second)
            store.set("beat/1", f"{second} 6 {busy}")
            store.set("beat/2", f"{second} 7 0")
            own.count = 7
            own.look()
        found = own.lost()
        assert (found is not None) == lost
        if found:
            assert found[0] == 1 and "hangs" in found[1]


def test_who_left_in_order_is_not_missed(monkeypatch):
    now = [0.0]
    store, own = watch(monkeypatch, now)
    store.set("beat/1", "left 0")
    store.set("beat/2", "left 0")
    own.look()
    now[0] = 1000.0
    assert own.lost() is None
    store.set("beat/2", "left 4")
    own.look()
    assert own.lost() == (2, "it ended with code 4")


def test_a_limit_that_is_no_number_is_one_error(monkeypatch):
    with pytest.raises(TrainingError, match="SCMF_RANK_TIMEOUT is 'soon'"):
        watch(monkeypatch, [0.0], limit="soon")
