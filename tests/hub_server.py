"""A Hugging Face Hub on loopback: enough of its protocol for huggingface_hub to make, fill, read and load repositories.

It speaks HTTP with git-LFS for large files and no Xet (HF_HUB_DISABLE_XET=1). A commit is one request and happens
whole or not at all. Faults are put in by hand, see `Hub.faults`. The client is the real one; that this server answers
as the real Hub does is only as sure as the client is strict.
"""

import base64
import hashlib
import http.server
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_loopback"
LARGE = (".safetensors", ".bin", ".h5ad")
MODEL = r"/api/models/([\w.-]+/[\w.-]+)"


@dataclass(frozen=True)
class File:
    """Content of a file, large (LFS) or not."""

    content: bytes
    large: bool = False

    @property
    def sha256(self):
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob(self):
        """Checksum by which git calls it: of the content, or of the pointer to it."""
        content = self.content
        if self.large:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
            content = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Commits, oldest first: sha and files."""

    private: bool = False
    commits: list[tuple[str, dict[str, File]]] = field(default_factory=list)

    def __post_init__(self):
        self.commit({".gitattributes": File(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")})

    def commit(self, files):
        text = json.dumps([len(self.commits), sorted((path, file.blob) for path, file in files.items())])
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), files))
        return self.head

    @property
    def head(self):
        return self.commits[-1][0]

    @property
    def files(self):
        return self.commits[-1][1]

    def at(self, revision):
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Hub:
    """The state of the server.

    ``faults`` maps the start of ``"METHOD /path"`` to a status code, or to None: the connection ends without an
    answer. ``spoil`` maps the path of a file to what is stored in its place.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, int | None] = field(default_factory=dict)
    spoil: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def environment(self, home):
        """What a process needs to use this Hub and no other."""
        return {
            "HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip


class _Refused(Exception):
    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def _handler(hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def log_message(self, *_):
            pass

        def answer(self):
            path = urlsplit(self.path).path
            request = f"{self.command} {path}"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with hub.lock:
                hub.requests.append(request)
                fault = next((key for key in hub.faults if request.startswith(key)), None)
                if fault is not None and hub.faults[fault] is None:
                    self.close_connection = True
                    return
                try:
                    if fault is not None:
                        raise _Refused(hub.faults[fault], "Injected", "a fault of the test")
                    self.route(path, body)
                except _Refused as no:
                    headers = {"X-Error-Code": no.code, "X-Error-Message": no.message}
                    self.send({"error": no.message}, status=no.status, headers=headers)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

        def send(self, content, *, status=200, headers=None):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.wfile.flush()

        @property
        def known(self):
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def repository(self, name):
            found = hub.repositories.get(name)
            if found is None or (found.private and not self.known):
                raise _Refused(404 if self.known else 401, "RepoNotFound", "Repository not found")
            return found

        def route(self, path, body):
            for method, pattern, act in ROUTES:
                if (method == self.command or (method, self.command) == ("GET", "HEAD")) and (
                    found := re.fullmatch(pattern, path)
                ):
                    if method != "GET" and not path.startswith("/lfs/") and not self.known:
                        raise _Refused(401, "Unauthorized", "Invalid credentials")
                    return act(self, *map(unquote, found.groups()), body)
            raise _Refused(404, "NotFound", f"{self.command} {path} is not known here")

        # --- repositories

        def create(self, body):
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            if asked.get("organization") == "others":
                raise _Refused(403, "Forbidden", "You don't have the rights to create a model under others")
            if name in hub.repositories:
                raise _Refused(409, "Conflict", "You already created this model repo")
            hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
            self.send({"url": f"{hub.url}/{name}", "name": name, "id": name})

        def info(self, name, revision, body=b""):
            repository = self.repository(name)
            commit = repository.at(revision)
            if commit is None:
                raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            sha, files = commit
            card = files.get("README.md")
            data = yaml.safe_load(card.content.decode().split("---\n")[1]) if card else {}
            self.send({
                "id": name, "modelId": name, "sha": sha, "private": repository.private, "gated": False, "downloads": 0,
                "likes": 0, "tags": data.get("tags", []), "library_name": data.get("library_name"), "cardData": data,
                "siblings": [{"rfilename": path} for path in sorted(files)],
            })  # fmt: skip

        def tree(self, name, revision, body):
            commit = self.repository(name).at(revision)
            self.send([
                {"type": "file", "path": path, "size": len(file.content), "oid": file.blob}
                | ({"lfs": {"oid": file.sha256, "size": len(file.content), "pointerSize": 134}} if file.large else {})
                for path, file in sorted(commit[1].items())
            ])  # fmt: skip

        # --- writing

        def valid(self, body):
            text = json.loads(body)["content"]
            data = yaml.safe_load(text.split("---\n")[1])
            errors = [] if isinstance(data.get("license"), str) else [{"message": '"license" must be a string'}]
            self.send({"errors": errors, "warnings": []}, status=400 if errors else 200)

        def preupload(self, name, revision, body):
            files = self.repository(name).files
            self.send({"files": [
                {
                    "path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False, "oid": files[file["path"]].blob if file["path"] in files else None,
                }
                for file in json.loads(body)["files"]
            ]})  # fmt: skip

        def batch(self, name, body):
            objects = []
            for item in json.loads(body)["objects"]:
                place = f"{hub.url}/lfs/{item['oid']}"
                entry = {"oid": item["oid"], "size": item["size"]}
                if item["oid"] not in hub.large:
                    entry["actions"] = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
                objects.append(entry)
            self.send({"transfer": "basic", "objects": objects})

        def put_large(self, sha256, body):
            if hashlib.sha256(body).hexdigest() != sha256:
                raise _Refused(400, "BadDigest", "sha256 differs")
            hub.large[sha256] = body
            self.send(b"")

        def verify_large(self, sha256, body):
            if sha256 not in hub.large:
                raise _Refused(404, "NotFound", "no such object")
            self.send({})

        def commit(self, name, revision, body):
            repository = self.repository(name)
            files = dict(repository.files)
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header" and value.get("parentCommit", repository.head) != repository.head:
                    raise _Refused(412, "PreconditionFailed", "A commit has happened since")
                if item["key"] == "file":
                    files[value["path"]] = File(hub.spoil.get(value["path"]) or base64.b64decode(value["content"]))
                elif item["key"] == "lfsFile":
                    if value["oid"] not in hub.large:
                        raise _Refused(400, "LfsMissing", "the object was not uploaded")
                    files[value["path"]] = File(hub.spoil.get(value["path"]) or hub.large[value["oid"]], large=True)
                elif item["key"] == "deletedFile":
                    del files[value["path"]]
            sha = repository.commit(files)
            self.send({"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{name}/commit/{sha}"})

        # --- reading

        def resolve(self, name, revision, path, body):
            commit = self.repository(name).at(revision)
            if commit is None:
                raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            file = commit[1].get(path)
            headers = {"X-Repo-Commit": commit[0]}
            if file is None:
                missing = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
                self.send({}, status=404, headers=headers | missing)
                return
            headers["ETag"] = f'"{file.sha256 if file.large else file.blob}"'
            if file.large:
                headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(file.content))}
            self.send(file.content, headers=headers)

    ROUTES = (
        ("POST", r"/api/repos/create", Handler.create),
        ("POST", r"/api/validate-yaml", Handler.valid),
        ("GET", MODEL, lambda handler, name, body: handler.info(name, "main")),
        ("GET", rf"{MODEL}/revision/([^/]+)", Handler.info),
        ("GET", rf"{MODEL}/tree/([^/]+)", Handler.tree),
        ("POST", rf"{MODEL}/preupload/([^/]+)", Handler.preupload),
        ("POST", rf"{MODEL}/commit/([^/]+)", Handler.commit),
        ("POST", r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", Handler.batch),
        ("PUT", r"/lfs/([0-9a-f]{64})", Handler.put_large),
        ("POST", r"/lfs/([0-9a-f]{64})/verify", Handler.verify_large),
        ("GET", r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", Handler.resolve),
    )
    return Handler


@contextmanager
def serve():
    """A `Hub` without repositories, served until the block ends."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
