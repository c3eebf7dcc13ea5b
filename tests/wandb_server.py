"""A local replacement for W&B's server, with as much of its protocol as the client needs.

It keeps what it is sent, and fails on demand in the ways that a real server or network fails.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "p", "name": "align", "entity": {"id": "e", "name": "us"}}


class Server(ThreadingHTTPServer):
    """Keeps the rows of each run by its id, until a test calls `fail`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows: dict[str, dict[int, dict[str, Any]]] = {}
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.fault: str | None = None
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        """The value for WANDB_BASE_URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, how: str) -> None:
        """From now on answer nothing ("hangs"), no POST ("takes no run"), or 500 ("breaks").

        "is gone" closes the server.
        """
        self.fault = how
        if how == "is gone":
            self.closing.set()
            self.shutdown()
            self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore the broken connections of a client that was killed."""


class Handler(BaseHTTPRequestHandler):
    """GraphQL, the stream of rows, and files, which are discarded."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({}, well=self.server.fault == "takes no run")

    def do_PUT(self) -> None:
        self._read()
        self._answer({})

    def do_POST(self) -> None:
        body = self._read()
        if self.server.fault is None and self.path.endswith("/file_stream"):
            self._take(self.path.split("/")[-2], json.loads(body))
            return self._answer({})
        if self.server.fault is None:
            return self._answer({"data": self._query(json.loads(body))})
        return self._answer({})

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, found: dict[str, Any], *, well: bool = False) -> None:
        if not well and self.server.fault in ("hangs", "takes no run", "is gone"):
            self.server.closing.wait()
            self.close_connection = True
            return
        content = json.dumps(found).encode()
        self.send_response(500 if self.server.fault == "breaks" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _take(self, run: str, sent: dict[str, Any]) -> None:
        part = sent.get("files", {}).get("wandb-history.jsonl")
        if part:
            rows = self.server.rows.setdefault(run, {})
            for number, line in enumerate(part["content"], part["offset"]):
                rows[number] = json.loads(line)
        if sent.get("complete"):
            self.server.ended.append(run)

    def _query(self, sent: dict[str, Any]) -> dict[str, Any]:
        query, given = sent["query"], sent.get("variables") or {}
        if "upsertBucket" in query:
            self.server.begun.append(given["name"])
            return {"upsertBucket": {"bucket": self._bucket(given["name"]), "inserted": True}}
        if "query RunResumeStatus" in query:
            known = given["name"] in self.server.rows
            bucket = self._bucket(given["name"]) if known else None
            return {"model": {**PROJECT, "bucket": bucket}}
        if "createRunFiles" in query:
            files = [
                {"name": name, "uploadUrl": f"{self.server.address}/files"}
                for name in given["files"]
            ]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            teams = {"edges": [{"node": {"name": "us"}}]}
            return {"viewer": {"id": "v", "entity": "us", "flags": "{}", "teams": teams}}
        return {"serverInfo": {"features": []}}

    def _bucket(self, name: str) -> dict[str, Any]:
        rows = self.server.rows.get(name, {})
        tail = [json.dumps(rows[max(rows)])] if rows else []
        return {
            "id": name, "name": name, "displayName": name, "description": "", "config": "{}",
            "sweepName": "", "project": PROJECT, "historyLineCount": len(rows),
            "logLineCount": 0, "eventsLineCount": 0, "historyTail": json.dumps(tail),
            "eventsTail": "[]", "summaryMetrics": "{}", "tags": [], "notes": "",
            "wandbConfig": '{"t": 1}',
        }  # fmt: skip

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def wandb_server() -> Iterator[Server]:
    """A server that works, until a test calls `fail`."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
