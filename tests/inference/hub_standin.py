"""A stand-in for the Hugging Face Hub on this machine: one repository, and the ways in which it can refuse."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

REPOSITORY = "tests/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model-00001-of-00002.safetensors": b"1" * 3000,
    "model-00002-of-00002.safetensors": b"2" * 2000,
    "model.safetensors.index.json": b"{}",
    "tokenizer.json": b"{}" * 50,
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"Read me.",
    "pytorch_model.bin": b"pickle" * 1000,
    "consolidated.safetensors": b"again" * 1000,
    "original/model.safetensors": b"and again" * 1000,
    "original/params.json": b"{}",
}
WANTED = (
    "chat_template.jinja",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
)


@dataclass(frozen=True)
class Refusal:
    """What the Hub says no with; the client reads the code, people the message."""

    status: int
    code: str | None = None
    message: str | None = None


@dataclass
class Hub:
    """What the stand-in has and how it behaves; a test may change it at any time.

    Attributes:
        files: by path, in the revision `COMMIT`, which "main" is too.
        other_files: the same of the revision `OTHER_COMMIT`, which is there if it has any.
        listing_refused: how asking for the list of files is refused, if it is.
        file_refused: the same for each file, by path.
        lies: the size of a file is said to be another one than it is, by path.
        token: the only one that is known.
        access_refused: how asking whether files would be given is refused, if it is.
        ahead_s: how much its clock is ahead of ours.
        requests: "METHOD path" of each, in order.
        authorizations: what was sent to prove who asks; None for nothing.
        sent_bytes: how much of the files went out.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    other_files: dict[str, bytes] = field(default_factory=dict)
    listing_refused: Refusal | None = None
    file_refused: dict[str, Refusal] = field(default_factory=dict)
    lies: dict[str, int] = field(default_factory=dict)
    token: str = "hf_valid"
    access_refused: Refusal | None = None
    ahead_s: float = 0.0
    requests: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    sent_bytes: int = 0


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:  # noqa: C901  a class with all its methods
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path == "/api/agent-harnesses":  # the client looks who starts it; no business of ours
                self._refuse(Refusal(404))
                return
            hub.requests.append(f"{self.command} {path}")
            hub.authorizations.append(self.headers.get("Authorization"))
            if path == "/api/whoami-v2":
                self._whoami()
            elif path == f"/api/models/{REPOSITORY}/auth-check":
                if hub.access_refused is None:
                    self._json({})
                else:
                    self._refuse(hub.access_refused)
            elif path.startswith(f"/api/models/{REPOSITORY}"):
                self._api(path.removeprefix(f"/api/models/{REPOSITORY}/"))
            elif path.startswith(
                (f"/{REPOSITORY}/resolve/{COMMIT}/", f"/{REPOSITORY}/resolve/{OTHER_COMMIT}/")
            ):
                commit, _, file = path.removeprefix(f"/{REPOSITORY}/resolve/").partition("/")
                self._file(commit, file)
            else:
                self._refuse(Refusal(404, "RepoNotFound", "Repository not found"))

        do_HEAD = do_GET  # noqa: N815  the names are http.server's

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a test reads `hub.requests`."""

        def _whoami(self) -> None:
            if self.headers.get("Authorization") == f"Bearer {hub.token}":
                self._json({"type": "user", "id": "1", "name": "somebody"})
            else:
                self._refuse(Refusal(401, None, "Invalid username or password."))

        def date_time_string(self, timestamp: float | None = None) -> str:
            """The Date header's."""
            return super().date_time_string(time.time() + hub.ahead_s)

        def _api(self, what: str) -> None:
            kind, _, revision = what.partition("/")
            if hub.listing_refused is not None:
                self._refuse(hub.listing_refused)
            elif revision not in ("main", COMMIT, *([OTHER_COMMIT] if hub.other_files else [])):
                self._refuse(Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}"))
            elif kind == "revision":
                siblings = [
                    {"rfilename": path, "size": len(data), "blobId": _etag(data)}
                    for path, data in self._files(revision).items()
                ]
                sha = OTHER_COMMIT if revision == OTHER_COMMIT else COMMIT
                self._json(
                    {"_id": "1", "id": REPOSITORY, "modelId": REPOSITORY, "sha": sha, "siblings": siblings}
                )
            else:
                files = self._files(revision)
                folders = sorted({path.rpartition("/")[0] for path in files if "/" in path})
                self._json(
                    [{"type": "directory", "oid": "0" * 40, "size": 0, "path": folder} for folder in folders]
                    + [
                        {"type": "file", "oid": _etag(data), "size": len(data), "path": path}
                        for path, data in files.items()
                    ]
                )

        def _files(self, revision: str) -> dict[str, bytes]:
            return hub.other_files if revision == OTHER_COMMIT else hub.files

        def _file(self, commit: str, path: str) -> None:
            if refusal := hub.file_refused.get(path):
                self._refuse(refusal)
                return
            data = self._files(commit)[path]
            if (asked := self.headers.get("Range")) and self.command == "GET":
                first, last = (int(end or len(data) - 1) for end in asked.removeprefix("bytes=").split("-"))
                part = data[first : last + 1]
                hub.sent_bytes += len(part)
                where = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
                self._send(206, part, {"ETag": f'"{_etag(data)}"', "Content-Range": where})
                return
            hub.sent_bytes += len(data) if self.command == "GET" else 0
            size = hub.lies.get(path, len(data)) if self.command == "HEAD" else len(data)
            self._send(200, data, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit}, size)

        def _json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _refuse(self, refusal: Refusal) -> None:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send(refusal.status, b"{}", {name: text for name, text in headers.items() if text})

        def _send(self, status: int, body: bytes, headers: dict[str, str], size: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if size is None else size))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _etag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The stand-in, answering until the block is left."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def client_of(url: str, cache: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The Hub's client asks `url` and keeps files in `cache`; it retries as often as ever, but at once."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _detect_agent, _http

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_detect_agent, "_registry", {"standardEnvVars": [], "harnesses": {}})
    at_once = SimpleNamespace(sleep=lambda _: None)
    monkeypatch.setattr(_http, "time", at_once)
    monkeypatch.setattr(file_download, "time", at_once)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    _http.close_session()
    try:
        yield
    finally:
        _http.close_session()
