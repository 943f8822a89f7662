"""A stand-in for the Hugging Face hub: as much of its interface as its own library asks for.

Repositories are kept in memory. Large files go by the LFS of the hub, others inside the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_test"  # noqa: S105 - no secret
_LARGE = (".safetensors", ".png")


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()[:40]


@dataclass
class StandIn:
    """What is on it, and what it was asked for: method and path."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""

    def downloads(self) -> list[str]:
        """Files that were read, in order."""
        return [
            path.split("/resolve/")[1].partition("/")[2]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """It, on a free port of this machine, until the end of the block."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    timeout = 10

    def log_message(self, format: str, *_: Any) -> None:  # noqa: A002
        """Nothing."""

    def _answer(self, status: int, value: Any = None, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value or {}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, each in headers.items():
            self.send_header(name.replace("_", "-"), each)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        status = {"RepoNotFound": 404, "EntryNotFound": 404, "RevisionNotFound": 404}.get(code, 403)
        self._answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _found(self, name: str) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._known):
            self._refuse("RepoNotFound")
            return None
        return repository

    def _asked(self) -> list[str]:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        return path.strip("/").split("/")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        asked = self._asked()
        if asked[:2] == ["api", "models"]:
            name, rest = "/".join(asked[2:4]), asked[4:]
            if (repository := self._found(name)) is None:
                return
            if rest[:1] == ["revision"] and rest[1] not in ("main", repository.commit):
                self._refuse("RevisionNotFound")
            elif rest[:1] == ["tree"]:
                self._answer(200, [_entry(*each) for each in repository.files.items()])
            else:
                self._answer(200, self._described(name, repository))
        elif len(asked) > 4 and asked[2] == "resolve":
            repository = self._found("/".join(asked[:2]))
            if repository is not None:
                self._file(repository, "/".join(asked[4:]))
        else:
            self._answer(404)

    def _described(self, name: str, repository: Repository) -> dict[str, Any]:
        siblings = [{"rfilename": each} for each in repository.files]
        return {
            "id": name,
            "modelId": name,
            "sha": repository.commit,
            "private": repository.private,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }

    def _file(self, repository: Repository, file: str) -> None:
        if file not in repository.files:
            self._refuse("EntryNotFound")
            return
        content = repository.files[file]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._answer(200, content, ETag=etag, X_Repo_Commit=repository.commit)

    def do_PUT(self) -> None:
        asked = self._asked()
        self.hub.objects[asked[-1]] = self._body()
        self._answer(200)

    def do_POST(self) -> None:
        asked, body = self._asked(), self._body()
        if not self._known:
            self._answer(401, {"error": "Invalid credentials"})
        elif asked == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif asked[:2] == ["api", "models"] and asked[4:5] == ["preupload"]:
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(_LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif asked[2:] == ["info", "lfs", "objects", "batch"]:
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif asked[:2] == ["api", "models"] and asked[4:5] == ["commit"]:
            self._commit("/".join(asked[2:4]), body)
        else:
            self._answer(200)

    def _create(self, wanted: dict[str, Any]) -> None:
        owner, name = wanted.get("organization") or "me", wanted["name"]
        name = name if "/" in name else f"{owner}/{name}"
        private = wanted.get("private") or wanted.get("visibility") == "private"
        if name.startswith("somebody/"):
            self._refuse("Forbidden")
        elif name in self.hub.repositories:
            url = f"{self.hub.address}/{name}"
            self._answer(409, {"error": "You already created this model repo", "url": url})
        else:
            self.hub.repositories[name] = Repository(bool(private))
            self._answer(200, {"url": f"{self.hub.address}/{name}", "name": name})

    def _commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del repository.files[value["path"]]
        url = f"{self.hub.address}/{name}/commit/{repository.commit}"
        self._answer(
            200, {"commitUrl": url, "commitOid": repository.commit, "pullRequestUrl": None}
        )


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": hashlib.sha256(content).hexdigest()[:40],
    }
