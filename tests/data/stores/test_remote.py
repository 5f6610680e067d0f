"""Remote bytes: S3, HTTP and fsspec give the same bytes as a file, through faults, or one clear error."""

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmf.core.errors import ConfigError, DataError
from scmf.data.stores.files.byte_ranges import LocalFiles
from scmf.data.stores.files.remote import is_remote, open_remote
from scmf.data.stores.files.remote_files import plan_parts
from scmf.data.stores.files.retries import Retries
from tests.fixtures.servers import FAULTS

pytest.importorskip("obstore", reason="obstore is not installed")

BODY = np.random.default_rng(0).integers(0, 256, 3 << 20, dtype=np.uint8).tobytes()
RANGES = [
    (2_000_000, 2_000_100),
    (5, 5),
    (0, 70_000),
    (60_000, 61_000),
    (len(BODY) - 7, len(BODY)),
    (900_000, 1_700_000),
]


def quick(tries=4):
    return Retries(tries, first_wait_s=0.001, longest_wait_s=0.01)


def read(source, name, ranges):
    outs = [bytearray(stop - start) for start, stop in ranges]
    source.read_ranges(name, ranges, [memoryview(out) for out in outs])
    return [bytes(out) for out in outs]


def truth(ranges, body=BODY):
    return [body[start:stop] for start, stop in ranges]


@pytest.fixture
def local(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.bin").write_bytes(BODY)
    (tmp_path / "b.bin").write_bytes(b"xyz")
    return LocalFiles(tmp_path)


@pytest.fixture(params=["s3", "http", "fsspec"])
def source(request):
    """The same two files below three kinds of address."""
    if request.param == "s3":
        s3 = request.getfixturevalue("s3")
        s3.put("cells/d/a.bin", BODY)
        s3.put("cells/b.bin", b"xyz")
        return open_remote(f"{s3.url}/cells", s3.options, retries=quick())
    if request.param == "http":
        server = request.getfixturevalue("http_files")
        server.files.update({"cells/d/a.bin": BODY, "cells/b.bin": b"xyz"})
        return open_remote(f"{server.url}/cells/", retries=quick())
    memory = request.getfixturevalue("memory")
    memory.pipe({"/cells/d/a.bin": BODY, "/cells/b.bin": b"xyz"})
    return open_remote("memory://cells", retries=quick())


def test_a_remote_folder_reads_as_the_same_local_folder(source, local):
    assert not source.is_local
    assert read(source, "d/a.bin", RANGES) == truth(RANGES) == read(local, "d/a.bin", RANGES)
    for name in ("d/a.bin", "b.bin"):
        assert source.size(name) == local.size(name)
        assert source.read(name) == local.read(name)
        assert source.exists(name) and source.version(name) == source.version(name)
    assert not source.exists("zz") and not source.exists("d/zz")
    if "http:" not in source.root:
        assert source.list() == local.list() == ["b.bin", "d"]
        assert source.list("d") == ["a.bin"]
        with pytest.raises(FileNotFoundError):
            source.list("zz")
    assert source.retries == 0
    source.close()


def test_one_file_is_a_root_with_an_empty_name(s3, http_files):
    s3.put("x/y.h5ad", BODY)
    http_files.files["x/y.h5ad"] = BODY
    for address, options in ((f"{s3.url}/x/y.h5ad", s3.options), (f"{http_files.url}/x/y.h5ad", None)):
        source = open_remote(address, options)
        assert source.size("") == len(BODY) and source.read("") == BODY
        assert read(source, "", RANGES) == truth(RANGES)


def test_a_missing_file_is_file_not_found(source):
    for call in (lambda: source.read("zz"), lambda: source.size("zz"), lambda: read(source, "zz", [(0, 4)])):
        with pytest.raises(FileNotFoundError, match="zz"):
            call()
    assert source.retries == 0


def test_a_range_beyond_the_end_says_where_the_file_ends(source):
    with pytest.raises(DataError, match=f"the file ends at byte {len(BODY):,}"):
        read(source, "d/a.bin", [(0, 10), (len(BODY) - 4, len(BODY) + 4)])
    with pytest.raises(DataError, match="the file ends"):
        read(source, "d/a.bin", [(len(BODY) + 10, len(BODY) + 40)])


def test_threads_share_one_source(source):
    rng = np.random.default_rng(1)
    starts = rng.integers(0, len(BODY) - 5000, (40, 6))
    wanted = [[(int(start), int(start) + 4000) for start in row] for row in starts]
    with ThreadPoolExecutor(4) as pool:
        for ranges, got in zip(wanted, pool.map(lambda ranges: read(source, "d/a.bin", ranges), wanted), strict=True):
            assert got == truth(ranges)


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_again_and_counted_and_no_byte_is_lost(http_files, fault):
    http_files.files["a"] = BODY
    source = open_remote(http_files.url, {"read_timeout": "200ms"}, retries=quick())
    http_files.faults = [fault, None, fault]
    assert read(source, "a", RANGES) == truth(RANGES)
    assert source.retries == http_files.injected[fault] == 2


def test_many_faults_at_random_leave_every_byte_in_its_place(http_files):
    http_files.files["a"] = BODY
    rng = np.random.default_rng(2)
    http_files.faults = [str(one) if one else None for one in rng.choice([None, None, "drop", "503", "short"], 300)]
    source = open_remote(http_files.url, retries=quick(tries=40))
    for _ in range(10):
        starts = rng.choice(len(BODY) // 300_000, 8, replace=False) * 300_000
        ranges = [(int(start), int(start) + 20_000) for start in starts]
        assert read(source, "a", ranges) == truth(ranges)
    faults = sum(count for fault, count in http_files.injected.items() if fault)
    assert faults > 10 and source.retries == faults


@pytest.mark.parametrize("fault", ["drop", "503", "short"])
def test_a_server_that_stays_broken_ends_in_one_error_after_a_bounded_number(http_files, fault):
    http_files.files["a"] = BODY
    http_files.faults = [fault] * 1000
    source = open_remote(http_files.url, retries=quick(tries=3))
    with pytest.raises(DataError, match="3 requests failed, the last one with") as caught:
        read(source, "a", [(0, 1000)])
    assert str(caught.value.where) == f"{http_files.url}/a" and source.retries == 2
    assert len(http_files.requests) == 3


def test_a_failure_of_one_part_stops_the_others_and_nothing_is_written_afterwards(http_files):
    http_files.files["a"] = BODY
    http_files.faults = ["503"] * 1000
    source = open_remote(http_files.url, retries=quick(tries=2))
    with pytest.raises(DataError, match="requests? failed"):
        read(source, "a", RANGES)
    sent = len(http_files.requests)
    http_files.faults.clear()
    assert read(source, "a", RANGES) == truth(RANGES) and len(http_files.requests) > sent


def test_nobody_listens(http_files):
    source = open_remote("http://127.0.0.1:9", retries=quick(tries=2))
    with pytest.raises(DataError, match="2 requests failed"):
        source.size("a")


@pytest.mark.parametrize("etags", [True, False])
def test_a_replaced_file_is_an_error(http_files, etags):
    http_files.etags = etags
    http_files.files["a"] = BODY
    source = open_remote(http_files.url, retries=quick())
    assert read(source, "a", [(0, 100)]) == truth([(0, 100)])
    before = source.version("a")
    http_files.files["a"] = BODY[::-1] + b"!"
    for call in (lambda: read(source, "a", [(0, 100)]), lambda: read(source, "a", RANGES), lambda: source.read("a")):
        with pytest.raises(DataError, match="replaced or written to while it was being read"):
            call()
    assert source.version("a") != before and source.retries == 0


def test_a_file_replaced_between_two_requests_of_one_read_is_an_error(http_files):
    http_files.files["a"] = BODY
    seen = Counter()

    def swap(method, path):
        seen[method] += 1
        if seen["GET"] == 2:
            http_files.files["a"] = BODY[::-1]

    http_files.before = swap
    source = open_remote(http_files.url, retries=quick())
    with pytest.raises(DataError, match="replaced or written to"):
        read(source, "a", RANGES)


def test_a_replaced_object_is_an_error_on_s3_and_in_fsspec(s3, memory):
    s3.put("a", BODY)
    memory.pipe("/m/a", BODY)
    for root, options, replace in (
        (s3.url, s3.options, lambda: s3.put("a", b"n" * len(BODY))),
        ("memory://m", None, lambda: memory.pipe("/m/a", b"n" * len(BODY))),
    ):
        source = open_remote(root, options)
        assert read(source, "a", RANGES) == truth(RANGES)
        replace()
        with pytest.raises(DataError, match="replaced or written to"):
            read(source, "a", RANGES)


def test_a_server_without_ranges_is_named(http_files):
    http_files.files["a"] = BODY
    http_files.ranges = False
    source = open_remote(http_files.url, retries=quick())
    with pytest.raises(DataError, match="whole files only"):
        read(source, "a", [(10, 20)])
    assert source.read("a") == BODY


@pytest.mark.parametrize("status", [401, 403])
def test_refusal_hints_at_credentials_and_is_not_tried_again(http_files, status):
    http_files.status = status
    source = open_remote(http_files.url, retries=quick())
    with pytest.raises(DataError, match="does not let us read") as caught:
        source.read("a")
    assert "AWS_ACCESS_KEY_ID" in caught.value.fix and len(http_files.requests) == 1


def test_http_says_that_it_cannot_list(http_files):
    with pytest.raises(DataError, match="HTTP has no way to list") as caught:
        open_remote(http_files.url).list()
    assert "consolidate_metadata" in caught.value.fix


def test_names_are_sent_as_they_are_written(http_files):
    http_files.files["my%20cells%23.bin"] = BODY
    assert open_remote(f"{http_files.url}/my%20cells%23.bin").size("") == len(BODY)
    assert open_remote(http_files.url).size("my cells#.bin") == len(BODY)


def test_a_signed_link_keeps_its_query(http_files):
    pytest.importorskip("aiohttp")
    http_files.files["a?token=1"] = BODY
    source = open_remote(f"{http_files.url}/a?token=1", retries=quick())
    assert source.size("") == len(BODY) and read(source, "", RANGES) == truth(RANGES)
    http_files.faults = ["503", "drop"]
    assert read(source, "", RANGES) == truth(RANGES) and source.retries == 2


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "translate",
    [
        lambda s3: s3.options,
        lambda s3: {
            "endpoint": s3.endpoint,
            "access_key_id": "testing",
            "secret_access_key": "testing",
            "region": "us-east-1",
        },
        lambda s3: {"client_kwargs": {"endpoint_url": s3.endpoint, "region_name": "us-east-1"}, "timeout": "20s"},
    ],
    ids=["s3fs", "obstore", "client_kwargs"],
)
def test_storage_options_by_the_names_of_both_libraries(s3, translate):
    s3.put("a", b"abc")
    assert open_remote(s3.url, translate(s3)).read("a") == b"abc"


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_environment_is_enough(s3, monkeypatch, name):
    s3.put("a", b"abc")
    monkeypatch.setenv(name, s3.endpoint)
    assert open_remote(s3.url).read("a") == b"abc"


def test_anonymous_requests_carry_no_signature(s3):
    s3.put("a", b"abc")
    s3.client.put_object_acl(Bucket=s3.bucket, Key="a", ACL="public-read")
    assert open_remote(s3.url, {"endpoint_url": s3.endpoint, "anon": True}).read("a") == b"abc"


@pytest.mark.parametrize("root", ["s3://cells", "gs://cells", "az://cells", "https://host/cells"])
def test_an_unknown_option_is_one_clear_error(root):
    with pytest.raises(ConfigError, match="storage option 'time_out'") as caught:
        open_remote(root, {"time_out": 3})
    assert "did you mean 'timeout'" in caught.value.fix and root in str(caught.value.where)


@pytest.mark.parametrize(
    ("root", "options"),
    [
        ("gs://cells/x", {"token": "anon"}),
        ("gcs://cells", {"anon": True, "endpoint_url": "http://127.0.0.1:9"}),
        ("az://cells/x", {"account_name": "a", "account_key": "YWJj"}),
        ("abfs://cells", {"account_name": "a", "anon": True}),
        ("https://host/x", {"headers": {"Authorization": "Bearer x"}}),
    ],
)
def test_other_clouds_take_their_options(root, options):
    open_remote(root, options).close()


def test_an_unknown_protocol_is_one_clear_error():
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_remote("nosuch://cells")


def test_addresses_and_paths():
    assert is_remote("s3://b/k") and is_remote("https://h/x")
    assert not is_remote("/data/a.h5ad") and not is_remote("a.zarr") and not is_remote("file:///a")


def test_another_process_gets_an_error_and_no_hang(http_files, monkeypatch):
    http_files.files["a"] = BODY
    source = open_remote(http_files.url)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(DataError, match="forked process"):
        source.read("a")


# --- the plan of requests -------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 90)).map(lambda p: (p[0], p[0] + p[1])), max_size=30),
    st.integers(0, 30),
    st.integers(1, 60),
)
def test_requests_cover_every_byte_of_every_range_once(ranges, gap, longest):
    parts = plan_parts(ranges, gap=gap, longest=longest)
    covered = [Counter() for _ in ranges]
    for part in parts:
        assert 0 < part.stop - part.start <= longest
        for i, first, end in part.pieces:
            assert part.start <= first < end <= part.stop
            covered[i].update(range(first, end))
    for (start, stop), bytes_ in zip(ranges, covered, strict=True):
        assert bytes_ == Counter(range(start, stop))


def test_near_ranges_are_one_request_and_long_ones_several(http_files):
    http_files.files["a"] = BODY
    source = open_remote(http_files.url)
    read(source, "a", [(0, 10), (100_000, 100_010), (2_900_000, 2_900_010)])
    assert sorted(int(sent.split("=")[1].split("-")[0]) for _, _, sent in http_files.requests) == [0, 2_900_000]
    assert len(plan_parts([(0, 40 << 20)])) == 5


def test_a_wait_ends_when_the_read_is_given_up():
    retries, stop = Retries(5, first_wait_s=60), threading.Event()
    stop.set()
    assert not retries.wait(1, stop) and retries.count == 1


def test_many_sources_share_clients_and_threads(http_files):
    http_files.files.update({f"f{i}": BODY for i in range(40)})
    sources = [open_remote(f"{http_files.url}/f{i}") for i in range(40)]
    for source in sources:
        assert read(source, "", RANGES) == truth(RANGES)
    assert len({id(source._store) for source in sources}) == 1
    assert sum(thread.name.startswith("remote") for thread in threading.enumerate()) <= 16
