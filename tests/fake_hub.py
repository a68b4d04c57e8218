"""A Hugging Face hub on 127.0.0.1, as far as a download of single files sees one."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants


class FakeHub:
    """Holds the files of one commit, by their paths in the repository; `requests` are the URLs it was asked for."""

    def __init__(self, repo: str, revision: str, files: dict[str, bytes]) -> None:
        self.revision = revision
        self.files = {f"/{repo}/resolve/{revision}/{path}": content for path, content in files.items()}
        self.requests: list[str] = []

    @contextmanager
    def serving(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Let this process's huggingface_hub, which read its environment when it was imported, ask this hub."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        self.hub.requests.append(self.path)
        content = self.hub.files.get(self.path, b"")
        found = self.path in self.hub.files
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        of_file = {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
        headers = of_file if found else {"X-Error-Code": "EntryNotFound"}
        self.send_response(200 if found else 404)
        for name, value in {**headers, "X-Repo-Commit": self.hub.revision, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `requests` is the log."""
