"""A Hugging Face Hub of one folder on this machine, as far as ``huggingface_hub`` asks for one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 100_000  # from here on a file has a sha256, as those in Git LFS have


@dataclass
class Hub:
    """``repo`` is served from ``folder``. ``breaks`` ends the first answer with this file after so many bytes."""

    repo: str
    folder: Path
    url: str = ""
    tokens: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    breaks: dict[str, int] = field(default_factory=dict)
    tampered: set[str] = field(default_factory=set)

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def etag(self, path: Path) -> str:
        content = path.read_bytes()
        if len(content) >= LARGE:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer at ``hub.url`` for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
            if token := self.headers.get("Authorization"):
                hub.tokens.add(token)
            if path.startswith(f"api/models/{hub.repo}"):
                self.say(json.dumps(self.listing(path)).encode(), {"Content-Type": "application/json"}, body)
            elif path.startswith(f"{hub.repo}/resolve/"):
                self.send_file(hub.folder / path.split("/", 4)[4], body)
            else:
                self.say(b"{}", {"X-Error-Code": "RepoNotFound"}, body, status=404)

        def listing(self, path: str) -> object:
            names = [str(file.relative_to(hub.folder)) for file in hub.files()]
            if "/tree/" in path:
                return [
                    {"type": "file", "path": name, "size": (hub.folder / name).stat().st_size, "oid": COMMIT}
                    for name in names
                ]
            return {"id": hub.repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}

        def send_file(self, file: Path, body: bool) -> None:
            if not file.is_file():
                self.say(b"", {"X-Error-Code": "EntryNotFound"}, body, status=404)
                return
            content, etag = file.read_bytes(), hub.etag(file)
            if file.name in hub.tampered:
                content = content[:-1] + bytes([content[-1] ^ 1])
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.say(
                content[start:], headers, body, 206 if start else 200, hub.breaks.pop(file.name, None) if body else None
            )

        def say(
            self, content: bytes, headers: dict[str, str], body: bool, status: int = 200, most: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content if most is None else content[:most])
            if most is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
