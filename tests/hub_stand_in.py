"""A stand-in of the Hugging Face Hub's API: what its client asks for to publish and to fetch a network."""

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_of_someone_who_may_write"
OWNER = "someone"


@dataclass
class Repo:
    """A repository: its commits, oldest first."""

    private: bool = False
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    """Hash, summary, and the files with their content."""

    def commit(self, summary: str, files: dict[str, bytes]) -> str:
        content = repr((len(self.commits), summary, sorted(files.items()))).encode()
        self.commits.append((hashlib.sha1(content).hexdigest(), summary, files))
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][2]


class Hub(ThreadingHTTPServer):
    """The server, and what it holds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failures: dict[str, int] = {}
        """Status by a part of the request; 0 cuts the connection."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = f"{self.command} {unquote(self.path.split('?')[0])}"
        self.hub.requests.append(request)
        status = next((code for part, code in self.hub.failures.items() if part in request), None)
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        if status:
            self.reply({"error": f"refused with {status}"}, status)
            return
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, request):
                getattr(self, method)(*match.groups(), *([body] if self.command in ("POST", "PUT") else []))
                return
        self.reply({"error": f"nothing at {request}"}, 404)

    def reply(self, value: Any, status: int = 200, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def repo(self, name: str) -> Repo | None:
        """A repository that the token may see; None, and an answer, for none."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.may_write()):
            self.reply({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            return None
        return repo

    def may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        there = name in self.hub.repos
        if not self.may_write():
            self.reply({"error": "Invalid username or password."}, 401)
        elif wanted["organization"] != OWNER:
            self.reply({"error": "You don't have the rights to create a model under this namespace"}, 403)
        else:
            if not there:
                self.hub.repos[name] = Repo(wanted.get("visibility") == "private")
                self.hub.repos[name].commit("initial commit", {".gitattributes": b"*.keras filter=lfs\n"})
            self.reply({"url": f"{self.hub.url}/{name}", "name": name}, 409 if there else 200)

    def info(self, name: str) -> None:
        if repo := self.repo(name):
            siblings = [{"rfilename": file} for file in repo.files]
            self.reply({"id": name, "sha": repo.commits[-1][0], "private": repo.private, "siblings": siblings})

    def validate(self, body: bytes) -> None:
        front = json.loads(body)["content"].split("---\n")[1]
        bad = "license: no-such-licence" in front
        errors = [{"message": '"license" must be one of the known ones'}] if bad else []
        self.reply({"errors": errors, "warnings": []}, 400 if bad else 200)

    def preupload(self, name: str, body: bytes) -> None:
        files = [
            {"path": f["path"], "uploadMode": "regular" if f["path"].endswith((".md", ".json")) else "lfs"}
            for f in json.loads(body)["files"]
        ]
        self.reply({"files": [{**file, "shouldIgnore": False} for file in files]})

    def batch(self, name: str, body: bytes) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/blobs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self.reply({"transfer": "basic", "objects": objects})

    def put(self, oid: str, body: bytes) -> None:
        good = hashlib.sha256(body).hexdigest() == oid
        if good:
            self.hub.blobs[oid] = body
        self.reply({}, 200 if good else 422)

    def commit(self, name: str, body: bytes) -> None:
        repo = self.repo(name)
        if repo is None:
            return
        head, *operations = (json.loads(line) for line in body.splitlines())
        if head["value"].get("parentCommit", repo.commits[-1][0]) != repo.commits[-1][0]:
            self.reply({"error": "A commit has happened since. Please refresh and try again."}, 412)
            return
        files = dict(repo.files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                del files[value["path"]]
        commit = repo.commit(head["value"]["summary"], files)
        self.reply({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})

    def resolve(self, name: str, revision: str, file: str) -> None:
        repo = self.repo(name)
        if repo is None:
            return
        found = next(((c, f) for c, _, f in reversed(repo.commits) if revision in ("main", c)), None)
        if found is None:
            self.reply({}, 404, X_Error_Code="RevisionNotFound")
        elif file not in found[1]:
            self.reply({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
        else:
            content = found[1][file]
            tag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.reply(content, X_Repo_Commit=found[0], ETag=tag, X_Linked_Etag=tag, X_Linked_Size=str(len(content)))


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (r"POST /api/repos/create", "create"),
    (rf"GET /api/models/{NAME}(?:/revision/main)?", "info"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"POST /api/models/{NAME}/preupload/main", "preupload"),
    (rf"POST /{NAME}.git/info/lfs/objects/batch", "batch"),
    (r"PUT /blobs/(\w+)", "put"),
    (rf"POST /api/models/{NAME}/commit/main", "commit"),
    (rf"(?:GET|HEAD) /{NAME}/resolve/([\w.-]+)/(.+)", "resolve"),
)


@contextlib.contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """A Hub on loopback."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
