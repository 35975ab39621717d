"""A hub of model folders on this machine, as the real `huggingface_hub` client sees one.

`python -m tests.hub FOLDER --port N` serves every `FOLDER/owner/name` as the repository
`owner/name`: its description, its list of files, and the files themselves, in ranges too. Clients
find it by HF_ENDPOINT. It needs nothing but Python's own library, so that it can run anywhere.
"""

import argparse
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 64 * 1024  # files from this size on have the etag of large files, a SHA-256
PIECES_PER_S = 20
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?")
_TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass(slots=True)
class Hub:
    """The server; `with` starts and ends it. What it does may change while it runs.

    `bytes_per_s`: of each answer; 0: as fast as it goes. `gated`: repositories that want a token,
    and which. `break_after`: a file's connection breaks after so many bytes, as often as
    `breaks` says. `stalled`: large files are promised and no byte of them comes. `sent`: bytes of
    each file that were sent.
    """

    folder: Path
    port: int = 0
    host: str = "127.0.0.1"
    bytes_per_s: int = 0
    gated: dict[str, str] = field(default_factory=dict)
    break_after: int = 0
    breaks: int = 0
    stalled: bool = False
    sent: Counter[str] = field(default_factory=Counter)
    _server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer((self.host, self.port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True, name="hub").start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://{self.host}:{self.port}"

    def files(self, name: str) -> dict[str, Path]:
        """A repository's files by their paths in it; none where there is no such repository."""
        folder = (self.folder / name).resolve()
        if not folder.is_relative_to(self.folder.resolve()) or not folder.is_dir():
            return {}
        return {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def commit(self, name: str) -> str:
        """Changes with the repository's files."""
        told = [(path, _etag(file)) for path, file in self.files(name).items()]
        return hashlib.sha1(json.dumps(told).encode()).hexdigest()


def _etag(file: Path) -> str:
    about = file.stat()
    return _digest(file, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1024)
def _digest(file: Path, size: int, changed_ns: int) -> str:
    """As the hub's: SHA-256 of a large file, Git's SHA-1 of a small one."""
    if size >= LARGE_BYTES:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    return hashlib.sha1(b"blob %d\0" % size + file.read_bytes()).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            if hub._server is None:  # a connection that was kept open
                self.close_connection = True
                return
            path = unquote(urlsplit(self.path).path)
            for pattern, answer in ((_TREE, self._tree), (_INFO, self._info), (_FILE, self._file)):
                if match := pattern.fullmatch(path):
                    files = pattern is _FILE
                    if self._may(match[1], match[2], files=files):
                        answer(*match.groups(), body=body)
                    return
            self._refuse(404, "", "nothing here")

        def _may(self, name: str, revision: str | None, *, files: bool) -> bool:
            token = hub.gated.get(name) if files else None  # what there is, everybody may know
            offered = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hub.files(name):
                # The real one does not tell strangers what there is.
                self._refuse(404 if offered else 401, "RepoNotFound", "Repository not found")
            elif token is not None and offered != token:
                text = f"Access to model {name} is restricted."
                self._refuse(403 if offered else 401, "GatedRepo", text)
            elif revision not in (None, "main", hub.commit(name)):
                self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                return True
            return False

        def _info(self, name: str, revision: str | None, *, body: bool) -> None:
            siblings = [{"rfilename": path} for path in hub.files(name)]
            self._tell({"id": name, "modelId": name, "sha": hub.commit(name), "siblings": siblings})

        def _tree(self, name: str, revision: str, *, body: bool) -> None:
            self._tell([_entry(path, file) for path, file in hub.files(name).items()])

        def _file(self, name: str, revision: str, path: str, *, body: bool) -> None:
            file = hub.files(name).get(path)
            if file is None:
                self._refuse(404, "EntryNotFound", "Entry not found")
                return
            size = file.stat().st_size
            start = _start(self.headers.get("Range", ""))
            if start >= size > 0:
                self._refuse(416, "", "no such range")
                return
            self.send_response(206 if start else 200)
            self.send_header("X-Repo-Commit", hub.commit(name))
            self.send_header("ETag", f'"{_etag(file)}"')
            if size >= LARGE_BYTES:
                self.send_header("X-Linked-ETag", f'"{_etag(file)}"')
                self.send_header("X-Linked-Size", str(size))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(size - start))
            self.end_headers()
            if body:
                self._send(f"{name}/{path}", file, start)

        def _send(self, key: str, file: Path, start: int) -> None:
            sent = 0
            for piece in _pieces(file, start, hub.bytes_per_s // PIECES_PER_S):
                while hub.stalled and file.stat().st_size >= LARGE_BYTES:
                    time.sleep(0.05)
                if hub.breaks and hub.break_after and sent + len(piece) > hub.break_after:
                    hub.breaks -= 1
                    self.close_connection = True
                    return
                try:
                    self.wfile.write(piece)
                except OSError:
                    self.close_connection = True
                    return
                sent += len(piece)
                hub.sent[key] += len(piece)
                if hub.bytes_per_s:
                    time.sleep(1 / PIECES_PER_S)

        def _tell(self, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _refuse(self, status: int, code: str, message: str) -> None:
            content = b"" if self.command == "HEAD" else json.dumps({"error": message}).encode()
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


def _entry(path: str, file: Path) -> dict[str, Any]:
    size, etag = file.stat().st_size, _etag(file)
    entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": etag[:40]}
    if size >= LARGE_BYTES:
        entry["lfs"] = {"oid": etag, "size": size, "pointerSize": 134}
    return entry


def _start(range_header: str) -> int:
    match = re.fullmatch(r"bytes=(\d+)-", range_header.strip())
    return int(match[1]) if match else 0


def _pieces(file: Path, start: int, piece_bytes: int) -> Iterator[bytes]:
    with file.open("rb") as content:
        content.seek(start)
        while piece := content.read(piece_bytes or 256 * 1024):
            yield piece


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds the repositories, owner/name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which is printed")
    parser.add_argument("--bytes-per-s", type=int, default=0, help="of each file; 0: no limit")
    parser.add_argument("--gated", action="append", default=[], metavar="OWNER/NAME=TOKEN")
    options = parser.parse_args()
    gated = dict(each.split("=", 1) for each in options.gated)
    with Hub(
        options.folder, options.port, options.host, bytes_per_s=options.bytes_per_s, gated=gated
    ) as hub:
        print(hub.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
