"""A W&B server that is not there, or that dies: as much of its protocol as a client needs to begin a run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# It is not there; or as soon as a run has begun, its process ends, it answers nothing more, or it answers nonsense.
WAYS = ("closed", "dies", "silent", "errors")

_PROJECT = {"id": "UA==", "name": "rpg_bench", "entity": {"id": "RQ==", "name": "nobody"}, "entityName": "nobody"}
_ANSWERS: dict[str, Any] = {
    "upsertBucket": {
        "upsertBucket": {
            "bucket": {
                "id": "Qg==",
                "name": "run",
                "displayName": "run",
                "config": "{}",
                "project": _PROJECT,
                "historyLineCount": 0,
            },
            "inserted": True,
        }
    },
    "createRunFiles": {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": []}},
    "bucket(": {"model": {**_PROJECT, "bucket": None}},
    "viewer": {
        "viewer": {"id": "VQ==", "username": "nobody", "entity": "nobody", "flags": "{}", "teams": {"edges": []}}
    },
    "serverInfo": {"serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": None}},
}


class Server:
    """Within the `with` block, a process of its own that behaves in one of the `WAYS`; `environment` leads there. None:
    nobody asks."""

    def __init__(self, way: str | None) -> None:
        self._way = way
        self._process: subprocess.Popen[str] | None = None
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Server:
        if self._way is None:
            return self
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = {
            "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_SILENT": "true",
        }
        self._port = port
        self.revive()
        return self

    def revive(self) -> None:
        """Start it anew, if it is one that answers at first."""
        self._end()
        if self._way not in (None, "closed"):
            command = [sys.executable, str(Path(__file__)), str(self._port), str(self._way)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert self._process.stdout is not None
            self._process.stdout.readline()  # it listens

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class _Handler(BaseHTTPRequestHandler):
    way = "dies"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/graphql"):
            query = json.loads(body)["query"]
            answer: Any = {"data": next((answer for key, answer in _ANSWERS.items() if key in query), {})}
            self._answer(200, answer)
            return
        # The first of the run's data.
        if self.way == "dies":
            os._exit(0)
        if self.way == "silent":
            time.sleep(3600)
        self._answer(500, {"error": "nonsense"})

    do_GET = do_PUT = do_POST

    def _answer(self, code: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    _Handler.way = sys.argv[2]
    listening = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler)
    print("ready", flush=True)
    listening.serve_forever()
