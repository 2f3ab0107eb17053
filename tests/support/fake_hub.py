"""A hub of our own on this machine: the endpoints that the Hub's client speaks to, repositories in memory.

Content, refs and commits are kept as the Hub keeps them; faults (an expired token, a broken connection, altered bytes)
are switched on by name. Every request is noted, so that tests can count them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".skops", ".pth")
TOKEN = "hf_test_token_of_nobody"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Repository:
    """Commits (oldest first) with all their files, and what points to them."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], message: str = "test", branch: str = "main") -> str:
        """Make all files of a branch those given."""
        parent = self.branches.get(branch)
        oid = hashlib.sha1(f"{self.name} {len(self.commits)} {parent}".encode()).hexdigest()
        self.commits[oid], self.branches[branch], self.parents[oid] = dict(files), oid, parent
        self.messages.append(message)
        return oid

    def resolve(self, revision: str) -> str | None:
        revision = unquote(revision)
        known = self.branches.get(revision) or self.tags.get(revision)
        return known or (revision if revision in self.commits else None)


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(values: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(values).encode(), {"Content-Type": "application/json"})


def error(status: int, code: str = "", message: str = "", **headers: str) -> Answer:
    named = {"X-Error-Code": code} if code else {}
    named |= {"X-Error-Message": message} if message else {}
    return Answer(status, json.dumps({"error": message or code}).encode(), named | headers)


class FakeHub:
    """Repositories, and the answers about them.

    Attributes
    ----------
    requests : list of str
        Method and path of every request since :meth:`forget`.
    expired, broken, altered, before_commit
        Faults: tokens are refused; the next download of a large file breaks off in the middle (this many times);
        downloads are of other bytes; a function called just before a commit is made.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.uploaded: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.expired = False
        self.broken = 0
        self.altered = False
        self.read_only = False
        self.before_commit: Any = None
        self.url = ""

    def forget(self) -> None:
        self.requests.clear()
        self.ranges.clear()

    def add(self, name: str, files: Mapping[str, bytes], **choices: Any) -> Repository:
        repository = Repository(name, **choices)
        repository.commit(files)
        self.repositories[name] = repository
        return repository

    def handle(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        path = urlsplit(url).path
        self.requests.append(f"{method} {path}")
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if token and (self.expired or token != TOKEN):
            return error(401, message="Invalid credentials in Authorization header")
        for pattern, name in ROUTES:
            match = re.fullmatch(pattern, f"{method} {path}")
            if match:
                parts = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                return self._route(name, parts, token, headers, body)
        return error(404, message=f"no such endpoint: {method} {path}")

    def _route(self, name: str, parts: dict[str, str], token: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if "repository" not in parts:
            return getattr(self, name)(token=token, body=body, headers=headers, **parts)
        repository = self.repositories.get(parts.pop("repository"))
        if repository is None or (repository.private and not token):
            return error(404 if token else 401, "RepoNotFound", "Repository not found")
        writes = name in ("preupload", "commit", "lfs_batch", "tag")
        if writes and not token:
            return error(401, message="Unauthorized")
        if writes and self.read_only:
            return error(403, message="Forbidden: this token cannot write")
        if repository.gated and name == "download":
            return error(403, "GatedRepo", "Access to this model is restricted")
        return getattr(self, name)(repository, body=body, headers=headers, **parts)

    def harnesses(self, **_: Any) -> Answer:
        return as_json({"standardEnvVars": [], "harnesses": {}})

    def validate(self, body: bytes, **_: Any) -> Answer:
        import yaml

        content = json.loads(body)["content"]
        try:
            meta = yaml.safe_load(content.split("---")[1])
        except (IndexError, yaml.YAMLError) as problem:
            return as_json({"errors": [{"message": str(problem)}], "warnings": []}, 400)
        if not isinstance(meta.get("license", ""), str):
            return as_json({"errors": [{"message": '"license" must be a string'}], "warnings": []}, 400)
        return as_json({"errors": [], "warnings": []})

    def whoami(self, token: str, **_: Any) -> Answer:
        user = {"name": "someone", "type": "user", "orgs": [], "auth": {"type": "access_token"}}
        return as_json(user) if token else error(401, message="Unauthorized")

    def create(self, token: str, body: bytes, **_: Any) -> Answer:
        if not token:
            return error(401, message="Unauthorized")
        if self.read_only:
            return error(403, message="Forbidden: this token cannot create repositories")
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        answer = {"url": f"{self.url}/{name}", "name": name, "id": name}
        if name in self.repositories:
            return as_json(answer | {"error": "You already created this model repo"}, 409)
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        return as_json(answer)

    def info(self, repository: Repository, revision: str = "main", **_: Any) -> Answer:
        commit = repository.resolve(revision)
        if commit is None:
            return error(404, "RevisionNotFound", "Invalid rev id")
        siblings = [{"rfilename": name} for name in repository.commits[commit]]
        return as_json(
            {
                "id": repository.name,
                "modelId": repository.name,
                "sha": commit,
                "siblings": siblings,
                "private": repository.private,
                "gated": "auto" if repository.gated else False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
            }
        )

    def tree(self, repository: Repository, revision: str, **_: Any) -> Answer:
        commit = repository.resolve(revision)
        if commit is None:
            return error(404, "RevisionNotFound", "Invalid rev id")
        return as_json([self._row(*item) for item in repository.commits[commit].items()])

    def _row(self, name: str, content: bytes) -> dict[str, Any]:
        row: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": git_oid(content)}
        if name.endswith(LARGE):
            row["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        return row

    def refs(self, repository: Repository, **_: Any) -> Answer:
        def rows(kind: str, of: Mapping[str, str]) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in of.items()]

        return as_json(
            {"branches": rows("heads", repository.branches), "tags": rows("tags", repository.tags), "converts": []}
        )

    def preupload(self, repository: Repository, revision: str, body: bytes, **_: Any) -> Answer:
        commit = repository.resolve(revision)
        there = repository.commits[commit] if commit else {}
        rows = []
        for asked in json.loads(body)["files"]:
            name = asked["path"]
            large = name.endswith(LARGE)
            row = {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if name in there:
                row["oid"] = sha256(there[name]) if large else git_oid(there[name])
            rows.append(row)
        return as_json({"files": rows})

    def commit(self, repository: Repository, revision: str, body: bytes, **_: Any) -> Answer:
        if self.before_commit is not None:
            self.before_commit, act = None, self.before_commit
            act(repository)
        lines = [json.loads(line) for line in body.splitlines() if line]
        head = next(line["value"] for line in lines if line["key"] == "header")
        now = repository.branches.get(revision)
        if head.get("parentCommit") and head["parentCommit"] != now:
            return error(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[now]) if now else {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.uploaded[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        oid = repository.commit(files, head["summary"], revision)
        return as_json({"commitOid": oid, "commitUrl": f"{self.url}/{repository.name}/commit/{oid}"})

    def tag(self, repository: Repository, revision: str, body: bytes, **_: Any) -> Answer:
        name = json.loads(body)["tag"]
        if name in repository.tags:
            return error(409, message="Tag reference exists already")
        commit = repository.resolve(revision)
        if commit is None:
            return error(404, "RevisionNotFound", "Invalid rev id")
        repository.tags[name] = commit
        return as_json({})

    def lfs_batch(self, repository: Repository, body: bytes, **_: Any) -> Answer:
        objects = []
        for asked in json.loads(body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.uploaded:
                entry["actions"] = {"upload": {"href": f"{self.url}/lfs-upload/{asked['oid']}"}}
            objects.append(entry)
        return as_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str, body: bytes, **_: Any) -> Answer:
        if sha256(body) != oid:
            return error(400, message="wrong digest")
        self.uploaded[oid] = body
        return Answer()

    def download(
        self, repository: Repository, revision: str, name: str, headers: Mapping[str, str], **_: Any
    ) -> Answer:
        commit = repository.resolve(revision)
        if commit is None:
            return error(404, "RevisionNotFound", "Invalid rev id")
        content = repository.commits[commit].get(name)
        if content is None:
            return error(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
        found = {"X-Repo-Commit": commit, "ETag": f'"{git_oid(content)}"', "Accept-Ranges": "bytes"}
        if name.endswith(LARGE):
            found |= {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
        if self.altered and name.endswith(LARGE):
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
        if asked:
            self.ranges.append(headers["Range"])
            start = int(asked[1])
            found["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return Answer(206, content[start:], found)
        return Answer(200, content, found)


NAME = r"(?P<repository>[^/]+/[^/]+)"
ROUTES = (
    (r"GET /api/agent-harnesses", "harnesses"),
    (r"POST /api/validate-yaml", "validate"),
    (r"GET /api/whoami-v2", "whoami"),
    (r"POST /api/repos/create", "create"),
    (rf"POST /api/models/{NAME}/preupload/(?P<revision>[^/]+)", "preupload"),
    (rf"POST /api/models/{NAME}/commit/(?P<revision>[^/]+)", "commit"),
    (rf"POST /api/models/{NAME}/tag/(?P<revision>[^/]+)", "tag"),
    (rf"GET /api/models/{NAME}/refs", "refs"),
    (rf"GET /api/models/{NAME}/tree/(?P<revision>[^/]+)", "tree"),
    (rf"GET /api/models/{NAME}/revision/(?P<revision>[^/]+)", "info"),
    (rf"GET /api/models/{NAME}", "info"),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"PUT /lfs-upload/(?P<oid>[0-9a-f]+)", "lfs_upload"),
    (rf"(GET|HEAD) /{NAME}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", "download"),
)


class Handler(BaseHTTPRequestHandler):
    """Bytes in, bytes out."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 20  # head and body in one packet: two would wait for each other

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        with LOCK:
            found = self.hub.handle(self.command, self.path, self.headers, body)
            breaks = self.command == "GET" and self.hub.broken > 0 and len(found.body) > 10_000
            self.hub.broken -= breaks
        self.send_response(found.status)
        for name, value in found.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(found.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(found.body[: len(found.body) // 2] if breaks else found.body)
        if breaks:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


LOCK = threading.Lock()


def serve() -> tuple[FakeHub, ThreadingHTTPServer]:
    """Begin to answer on a free port of this machine; shut the server down when done."""
    hub = FakeHub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return hub, server
