"""Servers on loopback that speak the real protocols: S3 (moto), and HTTP with ranges and faults on command.

Beside them an empty ``memory://``. The fixtures reach every test through conftest.
"""

import http.server
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import md5

import pytest

FAULTS = ("drop", "503", "429", "short", "shift", "stall")


@dataclass
class HttpFiles:
    """Files behind HTTP/1.1 with ranges, ETag and If-Match.

    ``faults`` is a list of what to do to the next GET requests, one each: ``drop`` (half of the body, then the
    connection ends), ``503``, ``429``, ``short`` (a complete answer with half of the bytes), ``shift`` (an answer for
    another range), ``stall`` (an answer too late). ``None`` lets one request pass.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[str | None] = field(default_factory=list)
    etags: bool = True
    ranges: bool = True
    status: int | None = None
    stall_s: float = 1.0
    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    injected: Counter = field(default_factory=Counter)
    before: object = None  # called with (method, path) before each answer
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_fault(self) -> str | None:
        with self.lock:
            fault = self.faults.pop(0) if self.faults else None
            self.injected[fault] += 1
            return fault

    def sent(self, method: str) -> list[tuple[str, str, str | None]]:
        return [request for request in self.requests if request[0] == method]


def serve(folder, kind: str, http_files: HttpFiles) -> str:
    """Put a file, or every file of a folder, behind HTTP; its address."""
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).parts[0] == kind:
            http_files.files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return f"{http_files.url}/{kind}"


def _handler(state: HttpFiles) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet for the head and the body

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, *, body):
            path = self.path.lstrip("/")
            with state.lock:
                state.requests.append((self.command, path, self.headers.get("Range")))
            if state.before is not None:
                state.before(self.command, path)
            fault = state.next_fault() if body and path in state.files else None
            if state.status is not None or fault in ("503", "429"):
                return self.refuse(state.status or int(fault))
            content = state.files.get(path)
            if content is None:
                return self.refuse(404)
            etag = f'"{md5(content).hexdigest()}"'
            wanted = self.headers.get("If-Match")
            if state.etags and wanted not in (None, etag):
                return self.refuse(412)
            start, stop, status = 0, len(content), 200
            if state.ranges and (asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
                start, status = int(asked[1]), 206
                stop = min(len(content), int(asked[2]) + 1) if asked[2] else len(content)
                if start >= len(content):
                    return self.refuse(416)
            if fault == "short":
                stop = start + (stop - start) // 2
            if fault == "shift":
                start, stop = start + 1, stop + 1
            if fault == "stall":
                time.sleep(state.stall_s)
            self.send_response(status)
            self.send_header("Content-Length", str(stop - start))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            self.send_header("Last-Modified", "Sun, 22 Nov 2026 22:08:28 GMT")
            if state.etags:
                self.send_header("ETag", etag)
            self.end_headers()
            if body:
                part = content[start:stop]
                self.wfile.write(part[: len(part) // 2] if fault == "drop" else part)
                self.wfile.flush()
            if fault == "drop":
                self.close_connection = True

        def refuse(self, status):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            self.wfile.flush()

    return Handler


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_):
        """A reader that goes away in the middle of an answer is part of the tests."""


@pytest.fixture
def http_files():
    """An empty `HttpFiles`, served."""
    state = HttpFiles()
    server = _Server(("127.0.0.1", 0), _handler(state))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass(frozen=True)
class S3:
    """A bucket of an S3 server on loopback; ``options`` are storage options that reach it."""

    endpoint: str
    bucket: str
    client: object

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    @property
    def options(self) -> dict:
        return {"endpoint_url": self.endpoint, "key": "testing", "secret": "testing", "region": "us-east-1"}

    @property
    def tiledb(self) -> dict:
        """The same as a TileDB configuration."""
        return {
            "vfs.s3.endpoint_override": self.endpoint.removeprefix("http://"),
            "vfs.s3.scheme": "http",
            "vfs.s3.use_virtual_addressing": "false",
            "vfs.s3.region": "us-east-1",
            "vfs.s3.aws_access_key_id": "testing",
            "vfs.s3.aws_secret_access_key": "testing",
        }

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def put_folder(self, folder, prefix: str) -> None:
        """Upload every file below ``folder``."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.fixture(scope="session")
def s3_server():
    """The S3 server alone."""
    pytest.importorskip("moto", reason="moto[server] is not installed")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """An empty bucket `S3`; the environment holds fake credentials and no endpoint."""
    import boto3

    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=s3_server)
    bucket = f"cells-{time.time_ns()}"
    client.create_bucket(Bucket=bucket)
    yield S3(s3_server, bucket, client)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=item["Key"])
    client.delete_bucket(Bucket=bucket)


@pytest.fixture
def memory():
    """The empty ``memory://`` file system of fsspec."""
    filesystem = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")

    def clear():
        filesystem.store.clear()
        filesystem.pseudo_dirs[:] = [""]

    clear()
    yield filesystem
    clear()
