"""A real HTTP server that speaks the few words of the hub's language that downloads need.

    GET /api/models/OWNER/NAME[/revision/REV]   the commit and what is stated of each file
    GET /OWNER/NAME/resolve/REV/PATH            a small file, or a redirection to another host
    GET /content/OWNER/NAME/PATH                a large file, whole or from a position on (Range)

It can be told to misbehave: break the line, send other bytes, answer 503.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class FakeHub:
    """What the server has, how it misbehaves, and what it was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)  # "METHOD path [range]"
    tokens: dict[str, set[str]] = field(default_factory=dict)  # Authorization by host
    break_after: dict[str, list[int]] = field(default_factory=dict)  # bytes, one break a request
    corrupt: set[str] = field(default_factory=set)  # files that are sent with a flipped byte
    unavailable: int = 0  # so many answers are 503
    ignore_ranges: bool = False
    small_limit: int = 4096  # larger files are stated with SHA-256, as in git LFS
    on_bytes: Callable[[], None] = lambda: None
    url: str = ""

    def publish(self, repository: str, folder: Path) -> None:
        """Serve a folder's files as a new commit of a repository."""
        self.repositories[repository] = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def commit(self, repository: str) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for path, content in sorted(self.repositories[repository].items()):
            digest.update(path.encode() + hashlib.sha256(content).digest())
        return digest.hexdigest()

    def files_asked(self) -> list[str]:
        """Paths of files that were downloaded, in order."""
        found = (re.search(r"/resolve/[0-9a-f]+/(\S+)", request) for request in self.requests)
        return [match[1] for match in found if match]

    def info(self, repository: str) -> dict[str, Any]:
        siblings = []
        for path, content in self.repositories[repository].items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            entry: dict[str, Any] = {
                "rfilename": path,
                "size": len(content),
                "blobId": blob.hexdigest(),
            }
            if len(content) > self.small_limit:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
            siblings.append(entry)
        return {"id": repository, "sha": self.commit(repository), "siblings": siblings}


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Run the server on a free port of this machine; sets hub.url."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"GET {path} {self.headers.get('Range', '')}".strip())
            host = str(self.headers.get("Host")).split(":")[0]
            hub.tokens.setdefault(host, set()).add(self.headers.get("Authorization", ""))
            if hub.unavailable > 0:
                hub.unavailable -= 1
                return self.answer(503, b"busy")
            about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/\w+)?", path)
            if about and about[1] in hub.repositories:
                return self.answer(200, json.dumps(hub.info(about[1])).encode())
            file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", path)
            if file and file[2] == (file[1] in hub.repositories and hub.commit(file[1])):
                content = hub.repositories[file[1]].get(file[3])
                if content is not None and len(content) <= hub.small_limit:
                    return self.send_file(file[3], content)
                if content is not None:
                    elsewhere = hub.url.replace("127.0.0.1", "localhost")
                    location = f"{elsewhere}/content/{file[1]}/{file[3]}"
                    return self.answer(302, b"", {"Location": location})
            large = re.fullmatch(r"/content/([^/]+/[^/]+)/(.+)", path)
            if large and large[1] in hub.repositories:
                return self.send_file(large[2], hub.repositories[large[1]][large[2]])
            known = any(path.startswith(f"/{name}/resolve/") for name in hub.repositories)
            code = "RevisionNotFound" if known else "RepoNotFound"
            return self.answer(404, b"{}", {"X-Error-Code": code})

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def send_file(self, path: str, content: bytes) -> None:
            if path in hub.corrupt:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start, wanted = 0, self.headers.get("Range")
            if wanted and not hub.ignore_ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    return self.answer(416, b"")
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.end_headers()
            breaks = hub.break_after.get(path)
            end = start + breaks.pop(0) if breaks else len(content)
            for position in range(start, min(end, len(content)), 65_536):
                self.wfile.write(content[position : min(position + 65_536, end)])
                hub.on_bytes()
            if end < len(content):
                self.close_connection = True
            return None

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
