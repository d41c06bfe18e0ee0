"""A server on this machine that speaks what ``huggingface_hub`` asks for data sets."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_FILE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)")
_API = re.compile(r"/api/datasets/([^/]+/[^/]+)/(commits|revision|tree)/([^/?]+)")


@dataclass(kw_only=True)
class Hub:
    """What the server holds, and what it was asked."""

    commits: list[str]
    """The last one is first."""
    files: dict[str, bytes]
    """Of the last commit, by name."""
    cut: int = 0
    """So many bytes of each file are sent, with the whole length promised; 0 for all."""
    flip: bool = False
    """Whether the last byte arrives as another one."""
    asked: list[str] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *words: object) -> None:  # noqa: A002
            pass

        def _answer(self, *, body: bool) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            api, file = _API.match(self.path), _FILE.match(self.path)
            if api is not None:
                self._send(json.dumps(_listing(hub, api[2])).encode())
            elif file is not None and file[2] in hub.commits and file[3] in hub.files:
                self._send_file(hub.files[file[3]], file[2], body=body)
            else:
                self._send(b"{}", status=404)

        def _send(self, content: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _send_file(self, content: bytes, commit: str, *, body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            if body:
                sent = content[: hub.cut] if hub.cut else content
                self.wfile.write(sent[:-1] + bytes([sent[-1] ^ 255]) if hub.flip else sent)
                if hub.cut:
                    self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listing(hub: Hub, what: str) -> object:
    if what == "commits":
        return [
            {
                "id": one,
                "title": "t",
                "message": "",
                "authors": [],
                "date": "2025-12-01T00:00:00.000Z",
            }
            for one in hub.commits
        ]
    if what == "tree":
        return [
            {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
            for name, content in hub.files.items()
        ]
    siblings = [{"rfilename": name} for name in hub.files]
    return {"id": "owner/set", "sha": hub.commits[0], "siblings": siblings}
