"""Sources against stand-ins on this machine: an index page as the simple API defines it, a Hub, an address.

No test here leaves the machine.
"""

import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import textwrap
import threading
import zipfile

import pytest
import yaml

from scmf.core.errors import ChecksumError, SourceError
from scmf.data.cards.card import load_card
from scmf.data.cards.sources import fetch

CONTENT = b"ten cells, three genes\n" * 5000


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """An empty cache, no mirror, no index of this machine's own, no proxy."""
    for name in ("SCMF_DATA_DIR", "SCMF_INDEX_URL", "PIP_INDEX_URL", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SCMF_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def serve():
    """Start servers: path -> (status, headers, body); a body longer than what is sent drops the connection."""
    running = []

    def start(answer):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, headers, body = answer.get(self.path, (404, {}, b"no"))
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)
                self.server.seen.append(self.path)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.seen = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}", server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def card_with(folder, *sources, sha256=None):
    file = {"name": "cells.h5ad", "sha256": sha256 or sha(CONTENT), "sources": list(sources)}
    card = {
        "name": "demo", "title": "t", "kind": "cells", "organism": "o", "license": "l", "citation": "c",
        "files": [file],
    }  # fmt: skip
    path = folder / "cards" / "demo.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(card))
    return load_card(path)


def wheel(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def sdist(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def index_answer(filename, artifact):
    page = f"""<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.0">
    <title>Links for demo-data</title></head><body><h1>Links for demo-data</h1>
    <a href="../../files/{filename}#sha256={sha(artifact)}" data-requires-python="&gt;=3.9">{filename}</a><br/>
    </body></html>""".encode()
    return {
        "/simple/demo-data/": (200, {"Content-Type": "text/html"}, page),
        f"/files/{filename}": (200, {"Content-Type": "application/octet-stream"}, artifact),
    }


def index_source(filename, artifact, member, **over):
    return {
        "kind": "index", "project": "demo-data", "version": "1.0", "artifact": filename, "sha256": sha(artifact),
        "member": member, **over,
    }  # fmt: skip


MIRROR = {"kind": "mirror", "path": "demo/cells.h5ad"}


def leftovers(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_file_of_the_mirror_is_used_where_it_lies(tmp_path, monkeypatch):
    file = tmp_path / "mirror" / "demo" / "cells.h5ad"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    monkeypatch.setenv("SCMF_DATA_DIR", str(tmp_path / "mirror"))
    assert fetch(card_with(tmp_path, MIRROR)) == {"cells.h5ad": file}
    assert leftovers(tmp_path) == []


def test_a_card_given_by_path_finds_files_beside_itself(tmp_path):
    card = card_with(tmp_path, MIRROR)
    file = card.folder / "demo" / "cells.h5ad"
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    assert fetch(card.path) == {"cells.h5ad": file}


def test_another_file_in_the_mirror_is_an_error_and_not_skipped(tmp_path, monkeypatch, serve):
    url, _ = serve({"/cells.h5ad": (200, {}, CONTENT)})
    file = tmp_path / "mirror" / "demo" / "cells.h5ad"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT + b"!")
    monkeypatch.setenv("SCMF_DATA_DIR", str(tmp_path / "mirror"))
    with pytest.raises(ChecksumError) as caught:
        fetch(card_with(tmp_path, MIRROR, {"kind": "url", "url": f"{url}/cells.h5ad"}))
    assert caught.value.found.startswith(f"sha256 {sha(CONTENT + b'!')}")
    assert caught.value.wanted == f"sha256 {sha(CONTENT)}"
    assert caught.value.where == file and caught.value.fix


def test_a_git_lfs_pointer_is_called_by_its_name(tmp_path, monkeypatch):
    file = tmp_path / "mirror" / "demo" / "cells.h5ad"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5\n")
    monkeypatch.setenv("SCMF_DATA_DIR", str(tmp_path / "mirror"))
    with pytest.raises(ChecksumError, match="Git LFS pointer"):
        fetch(card_with(tmp_path, MIRROR))


@pytest.mark.parametrize(
    ("filename", "build"),
    [("demo_data-1.0-py3-none-any.whl", wheel), ("demo_data-1.0.tar.gz", sdist)],
    ids=["wheel", "sdist"],
)
@pytest.mark.parametrize("variable", ["SCMF_INDEX_URL", "PIP_INDEX_URL"])
def test_a_member_of_an_artefact_on_the_index_is_fetched_once(tmp_path, monkeypatch, serve, filename, build, variable):
    member = "demo_data-1.0/data/cells.h5ad"
    artifact = build({"demo_data-1.0/setup.py": b"raise SystemExit('this must not run')", member: CONTENT})
    url, server = serve(index_answer(filename, artifact))
    monkeypatch.setenv(variable, f"{url}/simple/")
    card = card_with(tmp_path, MIRROR, index_source(filename, artifact, member))
    path = fetch(card)["cells.h5ad"]
    assert path.read_bytes() == CONTENT
    assert path == tmp_path / "cache" / "demo" / f"{sha(CONTENT)[:12]}-cells.h5ad"
    assert leftovers(tmp_path) == [path.name]
    seen = len(server.seen)
    assert fetch(card) == {"cells.h5ad": path}
    assert len(server.seen) == seen, "the second time nothing is asked"


def test_another_artefact_under_the_name_on_the_index_is_refused(tmp_path, monkeypatch, serve):
    filename, artifact = "demo_data-1.0-py3-none-any.whl", wheel({"a": CONTENT})
    url, _ = serve(index_answer(filename, artifact))
    monkeypatch.setenv("SCMF_INDEX_URL", f"{url}/simple/")
    with pytest.raises(ChecksumError, match=filename):
        fetch(card_with(tmp_path, index_source(filename, artifact, "a", sha256="0" * 64)))
    assert leftovers(tmp_path) == []


def test_another_member_in_the_right_artefact_is_refused(tmp_path, monkeypatch, serve):
    filename, artifact = "demo_data-1.0-py3-none-any.whl", wheel({"a": b"other"})
    url, _ = serve(index_answer(filename, artifact))
    monkeypatch.setenv("SCMF_INDEX_URL", f"{url}/simple/")
    with pytest.raises(ChecksumError, match=sha(b"other")):
        fetch(card_with(tmp_path, index_source(filename, artifact, "a")))
    assert leftovers(tmp_path) == []


def test_a_changed_file_in_the_cache_is_an_error(tmp_path, serve):
    url, _ = serve({"/cells.h5ad": (200, {}, CONTENT)})
    card = card_with(tmp_path, {"kind": "url", "url": f"{url}/cells.h5ad"})
    path = fetch(card)["cells.h5ad"]
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ChecksumError, match="delete"):
        fetch(card)


def test_all_sources_failing_lists_each_with_its_reason(tmp_path, monkeypatch, serve):
    url, _ = serve({"/simple/demo-data/": (200, {"Content-Type": "text/html"}, b"<html><body></body></html>")})
    monkeypatch.setenv("SCMF_DATA_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("SCMF_INDEX_URL", url.replace("//", "//user:secret@") + "/simple/")
    filename = "demo_data-1.0.tar.gz"
    card = card_with(
        tmp_path,
        MIRROR,
        {"kind": "installed", "package": "no_such_package_x", "path": "a"},
        index_source(filename, b"", "a"),
        {"kind": "url", "url": f"{url}/gone.h5ad"},
        {"kind": "url", "url": "http://127.0.0.1:9/cells.h5ad"},
    )
    with pytest.raises(SourceError) as caught:
        fetch(card)
    lines = caught.value.found.splitlines()
    for line, words in zip(
        lines[1:],
        ("no such file in", "not installed", f"no {filename}", "404", "ConnectionError"),
        strict=True,
    ):
        assert words in line
    assert "secret" not in str(caught.value)
    assert "$SCMF_DATA_DIR/demo/cells.h5ad" in caught.value.fix
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", ["url", "index"])
def test_a_connection_that_drops_midway_leaves_nothing_behind(tmp_path, monkeypatch, serve, kind):
    filename, artifact = "demo_data-1.0-py3-none-any.whl", wheel({"a": CONTENT})
    answers = index_answer(filename, artifact)
    full = {"Content-Length": str(len(CONTENT))}
    answers["/cells.h5ad"] = (200, full, CONTENT[:70_000])
    answers[f"/files/{filename}"] = (200, full, artifact[:70_000])
    url, _ = serve(answers)
    monkeypatch.setenv("SCMF_INDEX_URL", f"{url}/simple/")
    source = {"url": {"kind": "url", "url": f"{url}/cells.h5ad"}, "index": index_source(filename, artifact, "a")}[kind]
    with pytest.raises(SourceError, match="(?i)incomplete|broken"):
        fetch(card_with(tmp_path, source))
    assert leftovers(tmp_path) == []


def test_the_next_source_is_tried_when_one_fails(tmp_path, serve):
    url, _ = serve({"/cells.h5ad": (200, {}, CONTENT)})
    gone, here = ({"kind": "url", "url": f"{url}/{name}"} for name in ("gone", "cells.h5ad"))
    assert fetch(card_with(tmp_path, gone, here))["cells.h5ad"].read_bytes() == CONTENT


def test_a_file_of_an_installed_package_is_used_and_another_version_of_it_is_not(tmp_path, monkeypatch):
    package = tmp_path / "site" / "demo_package_scmf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('this must not run')")
    (package / "cells.h5ad").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path / "site")
    source = {"kind": "installed", "package": "demo_package_scmf", "path": "cells.h5ad"}
    assert fetch(card_with(tmp_path, source)) == {"cells.h5ad": package / "cells.h5ad"}
    (package / "cells.h5ad").write_bytes(b"changed")
    with pytest.raises(SourceError, match="brings another file"):
        fetch(card_with(tmp_path, source))


def test_progress_goes_to_stderr_and_stdout_stays_clean(tmp_path, serve, capfd):
    url, _ = serve({"/cells.h5ad": (200, {}, CONTENT)})
    fetch(card_with(tmp_path, {"kind": "url", "url": f"{url}/cells.h5ad"}))
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "cells.h5ad" in err


def test_the_hub_is_asked_for_the_pinned_commit(tmp_path, serve):
    """In a process of its own: huggingface_hub reads HF_ENDPOINT when it is imported."""
    revision = "1234567890" * 4
    headers = {"X-Repo-Commit": revision, "ETag": f'"{sha(CONTENT)}"'}
    url, server = serve({f"/owner/repo/resolve/{revision}/data/cells.h5ad": (200, headers, CONTENT)})
    source = {"kind": "hub", "repo": "owner/repo", "path": "data/cells.h5ad", "revision": revision}
    card = card_with(tmp_path, source)
    program = f"""
        from scmf.data.cards.sources import fetch
        from scmf.core.errors import SourceError
        print(fetch({str(card.path)!r})["cells.h5ad"])
        try:
            fetch({str(card.path)!r}.replace("demo.yaml", "gone/demo.yaml"))
        except SourceError as error:
            print(error.found)
    """
    gone = card.path.parent / "gone" / "demo.yaml"
    gone.parent.mkdir()
    # another sha256, or the second card would find the file of the first in the cache
    text = card.path.read_text().replace("data/cells.h5ad", "data/gone.h5ad").replace(sha(CONTENT), "f" * 64)
    gone.write_text(text)
    env = {
        **os.environ, "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "", "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=env, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    path, *reasons = run.stdout.strip().splitlines()
    assert path.endswith(f"{sha(CONTENT)[:12]}-cells.h5ad")
    assert "Hub owner/repo@123456789012, data/gone.h5ad" in "\n".join(reasons)
    assert leftovers(tmp_path) == [f"{sha(CONTENT)[:12]}-cells.h5ad"]
    assert any(revision in path for path in server.seen)
