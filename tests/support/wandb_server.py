"""As much of a W&B server as its client asks for: on loopback, in a thread, with every row that it was sent.

It can be silent, refuse the key, and die.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0" * 40
ENTITY = "somebody"


@dataclass
class ServedRun:
    """A run as the server has it."""

    upserts: list[dict[str, Any]] = field(default_factory=list)
    """Variables of each UpsertBucket."""
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    """System metrics."""


@dataclass
class WandbServer:
    """``runs`` by id. With ``is_silent`` set it takes requests and says nothing; ``refuses`` answers 401 to all."""

    url: str = ""
    runs: dict[str, ServedRun] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """What was uploaded, by path."""
    refuses: bool = False
    is_silent: threading.Event = field(default_factory=threading.Event)
    _server: ThreadingHTTPServer | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def die(self) -> None:
        """From now on connections are refused."""
        self._over.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any] | None:
        """The data of the answer; None for what it does not know."""
        name = query.replace("(", " ").split()[1]
        self.operations.append(name)
        if name == "UpsertBucket":
            identity = str(variables["name"])
            run = self.runs.setdefault(identity, ServedRun())
            run.upserts.append(variables)
            bucket = {
                "id": base64.b64encode(identity.encode()).decode(),
                "name": identity,
                "displayName": variables.get("displayName") or identity,
                "config": variables.get("config") or "{}",
                "historyLineCount": len(run.history),
                "project": {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": ENTITY}},
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": len(run.upserts) == 1}}
        if name == "RunResumeStatus":
            found = self.runs.get(str(variables["name"]))
            return {"model": {"name": "p", "entity": {"name": ENTITY}, "bucket": found and _bucket(variables, found)}}
        if name == "Viewer":
            return {"viewer": {"id": "v", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}}
        if name == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if name == "NotifyScriptableRunAlert":
            self.alerts.append(variables)
            return {"notifyScriptableRunAlert": {"success": True}}
        if name == "CreateRunFiles":
            place = f"{self.url}/put/{variables['run']}"
            files = [{"name": file, "uploadUrl": f"{place}/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return None

    def stream(self, identity: str, sent: dict[str, Any]) -> None:
        run = self.runs.setdefault(identity, ServedRun())
        for file, chunk in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"] if line.strip()] if "json" in file else []
            if file == "wandb-history.jsonl":
                run.history[chunk["offset"] :] = lines
            elif file == "wandb-summary.json":
                run.summary = lines[-1]
            elif file == "wandb-events.jsonl":
                run.events[chunk["offset"] :] = lines


def _bucket(variables: dict[str, Any], run: ServedRun) -> dict[str, Any]:
    return {
        "name": variables["name"],
        "summaryMetrics": json.dumps(run.summary),
        "displayName": variables["name"],
        "logLineCount": 0,
        "historyLineCount": len(run.history),
        "eventsLineCount": len(run.events),
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
        "eventsTail": json.dumps([json.dumps(row) for row in run.events[-1:]]),
        "config": run.upserts[-1].get("config") or "{}",
        "tags": [],
        "notes": "",
        "wandbConfig": json.dumps({"t": 1}),
    }


@contextlib.contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """One that serves until the block is left, or until it dies."""
    state = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if state.is_silent.is_set():
                state._over.wait()
                self.close_connection = True
                return
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if state.refuses:
                self._answer(401, {"errors": [{"message": "user is not logged in"}]})
                return
            sent = json.loads(body or b"{}")
            if self.path.endswith("/graphql"):
                data = state.graphql(sent["query"], sent.get("variables") or {})
                self._answer(200, {"errors": [{"message": "not known here"}]} if data is None else {"data": data})
            elif self.path.endswith("/file_stream"):
                state.stream(self.path.split("/")[-2], sent)
                self._answer(200, {})
            else:
                self._answer(404, {})

        def do_PUT(self) -> None:
            state.files[self.path] = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer(200, {})

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # a client that has gone

    server = Server(("127.0.0.1", 0), Handler)
    state._server, state.url = server, f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        state.die()
