"""A hub on 127.0.0.1 that serves folders, as a mirror would be set by HF_ENDPOINT."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

SHA = "5" * 40
_API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/[^/]+(?:/(.*))?)?"
)
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)")


@contextmanager
def serve_hub(root: Path) -> Iterator[str]:
    """Serve `models/owner/name` and `datasets/owner/name` below a folder; gives the endpoint."""

    class Handler(_Hub):
        folder = root

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that is read, never written."""

    folder: Path

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if found := _API.fullmatch(path):
            kind, name, what, below = found.groups()
            repository = self.folder / kind / name
            if not repository.is_dir():
                self._answer(404, b"")
            elif what == "tree":
                self._json(_entries(repository, below or ""))
            else:
                files = [{"rfilename": entry["path"]} for entry in _entries(repository, "")]
                self._json({"id": name, "sha": SHA, "siblings": files, "tags": []})
        elif found := _FILE.fullmatch(path):
            kind, name, file = found.groups()
            asked = self.folder / ("datasets" if kind else "models") / name / file
            if asked.is_file():
                self._answer(200, asked.read_bytes())
            else:
                code = "EntryNotFound" if asked.parents[0].is_dir() else "RepoNotFound"
                self._answer(404, b"", **{"X-Error-Code": code})
        else:
            self._answer(404, b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        found = _API.fullmatch(unquote(urlparse(self.path).path))
        if found is None or found[3] != "paths-info":
            self._answer(404, b"")
            return
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        entries = _entries(self.folder / found[1] / found[2], "")
        self._json([entry for entry in entries if entry["path"] in asked])

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", SHA)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _entries(repository: Path, below: str) -> list[dict[str, Any]]:
    files = sorted(path for path in (repository / below).rglob("*") if path.is_file())
    return [
        {
            "type": "file",
            "path": path.relative_to(repository).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]
