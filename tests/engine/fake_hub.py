"""The Hub as huggingface_hub meets it: a server on this machine that lists models, describes one,
and sends its files, whole or in part. It notes what it was asked for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

REVISION = "0123456789abcdef0123456789abcdef01234567"
NAME = "owner/name"


class Hub:
    """One repository, `NAME`, with the files of `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.models: list[dict[str, Any]] = []  # what a search finds
        self.refuses: tuple[int, str] | None = None  # status and the Hub's own error code
        self.ranges = True
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.sent: list[tuple[str, int, int]] = []  # file, first byte, one past the last byte

    def sent_bytes(self, suffix: str) -> int:
        return sum(end - start for name, start, end in self.sent if name.endswith(suffix))

    def siblings(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            content = path.read_bytes()
            file: dict[str, Any] = {
                "rfilename": path.relative_to(self.folder).as_posix(),
                "size": len(content),
                "blobId": hashlib.sha1(content).hexdigest(),
            }
            if path.suffix in (".safetensors", ".bin", ".gguf"):
                sha = hashlib.sha256(content).hexdigest()
                file["lfs"] = {"size": len(content), "sha256": sha, "pointerSize": 134}
            found.append(file)
        return found

    def tree(self) -> list[dict[str, Any]]:
        """The same in the words of another of the Hub's answers."""
        found = []
        for f in self.siblings():
            file = {"type": "file", "path": f["rfilename"], "size": f["size"], "oid": f["blobId"]}
            if lfs := f.get("lfs"):
                file["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 134}
            found.append(file)
        return found


@contextmanager
def serve(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            hub.asked.append((url.path, parse_qs(url.query)))
            if hub.refuses:
                status, code = hub.refuses
                self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})
            elif url.path == "/api/models":
                self.answer(200, json.dumps(hub.models).encode())
            elif re.fullmatch(f"/api/models/{NAME}(/revision/(main|{REVISION}))?", url.path):
                about = {"id": NAME, "sha": REVISION, "siblings": hub.siblings()}
                self.answer(200, json.dumps(about).encode())
            elif url.path == f"/api/models/{NAME}/tree/{REVISION}":
                self.answer(200, json.dumps(hub.tree()).encode())
            elif found := re.fullmatch(f"/{NAME}/resolve/(main|{REVISION})/(.+)", url.path):
                self.send_file(hub.folder / found[2])
            else:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def send_file(self, path: Path) -> None:
            if not path.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            content = path.read_bytes()
            start, end, status = 0, len(content), 200
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
            if asked and hub.ranges:
                start, end, status = int(asked[1]), min(end, int(asked[2] or end) + 1), 206
            etag = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": REVISION}
            if status == 206:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            if self.command == "GET":
                hub.sent.append((path.relative_to(hub.folder).as_posix(), start, end))
            self.answer(status, content[start:end], headers)

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            pass  # a client that hangs up early is what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    huggingface_hub.close_session()
    try:
        yield hub
    finally:
        huggingface_hub.close_session()
        server.shutdown()
        server.server_close()
