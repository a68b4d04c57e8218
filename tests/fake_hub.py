"""A Hugging Face hub on 127.0.0.1, as far as a download of single files and a look at folders see one, that can also misbehave."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote


class Request(NamedTuple):
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass(kw_only=True)
class FakeHub:
    """What it holds, how it misbehaves, and what it was asked. Keys are paths in the repository."""

    repo: str
    revision: str
    files: dict[str, bytes]
    forged: dict[str, bytes] = field(default_factory=dict)  # served in place of what the headers promise
    refused: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)  # status and headers
    cut_at: dict[str, int] = field(default_factory=dict)  # the connection is closed after so many bytes, once
    stall_at: dict[str, int] = field(default_factory=dict)  # the rest waits for `resume`, once
    branches: dict[str, str] = field(default_factory=dict)  # to commits
    redirected_to: str = ""  # storage on another address that has the content
    requests: list[Request] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    resume: threading.Event = field(default_factory=threading.Event)
    endpoint: str = ""

    def asked(self, method: str, path: str) -> list[Request]:
        return [request for request in self.requests if request.method == method and request.path == path]

    @contextmanager
    def serving(self) -> Iterator["FakeHub"]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.resume.set()
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `requests` is the log."""

    def _answer(self) -> None:
        if self.path.startswith(f"/api/{self.hub.repo}"):
            self._describe(*self.path.partition("?")[0].partition("/tree/")[::2])
            return
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, path = rest.partition("/")
        self.hub.requests.append(
            Request(self.command, path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        if path in self.hub.refused:
            self._refuse(*self.hub.refused[path])
        elif repo != self.hub.repo:
            self._refuse(401, {"X-Error-Code": "RepoNotFound"})
        elif self.hub.branches.get(revision, revision) != self.hub.revision:
            self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        elif path not in self.hub.files:
            self._refuse(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": revision})
        else:
            self._send_file(path)

    def _describe(self, repo: str, revision_and_folder: str) -> None:
        revision, _, folder = revision_and_folder.partition("/")
        inside = [path for path in self.hub.files if path.startswith(f"{unquote(folder)}/")]
        if repo != f"/api/{self.hub.repo}" or (revision and not inside):
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})
            return
        told = [{"type": "file", "path": path, "size": len(self.hub.files[path]), "oid": path} for path in inside]
        of_repo = {"id": self.hub.repo.partition("/")[2], "sha": self.hub.revision, "siblings": []}
        content = json.dumps(told if revision else of_repo).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: str) -> None:
        promised = self.hub.files[path]
        content = self.hub.forged.get(path, promised) if self.command == "GET" else promised
        wanted, first = self.headers.get("Range"), 0
        if wanted:
            first = int(wanted.removeprefix("bytes=").partition("-")[0])
        if self.hub.redirected_to:
            self.send_response(302)
            self.send_header("Location", self.hub.redirected_to + self.path)
        else:
            self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        etag = hashlib.sha256(promised).hexdigest()
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(len(promised)))
        self.send_header("X-Repo-Commit", self.hub.revision)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", "0" if self.hub.redirected_to else str(len(content) - first))
        self.end_headers()
        if self.hub.redirected_to:
            return
        if self.command == "GET":
            self._send_content(path, content, first)

    def _send_content(self, path: str, content: bytes, first: int) -> None:
        end = self.hub.cut_at.pop(path, len(content))
        middle = self.hub.stall_at.pop(path, None)
        try:
            self.wfile.write(content[first : end if middle is None else middle])
            if middle is not None:
                self.wfile.flush()
                self.hub.stalled.set()
                self.hub.resume.wait()
                self.wfile.write(content[middle:end])
        except ConnectionError:  # whoever asked was killed
            self.close_connection = True
        if end < len(content):
            self.close_connection = True
