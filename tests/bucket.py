"""An object store on loopback, as much of S3 as is spoken here, and with the faults of a network: for tests alone."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

CHANGED = "Mon, 02 Nov 2026 08:00:00 GMT"
KEY, SECRET = "CANARYKEY0123456789", "CANARY/SECRET/of+forty+characters0000000"


@dataclass
class Bucket:
    """What lies in it, what is asked of it, and what goes wrong next: each fault is for one request."""

    objects: dict[str, bytes] = field(default_factory=dict)
    faults: deque[str] = field(default_factory=deque)  # busy, drop, torn, short, reset, slow, denied
    broken: set[str] = field(default_factory=set)  # keys that come torn each time
    denied: set[str] = field(default_factory=set)  # keys that are refused each time
    asked: list[tuple[str, str]] = field(default_factory=list)  # method and key; ranges as KEY[begin-end]
    signed: set[bool] = field(default_factory=set)  # whether requests for objects were
    page: int = 5
    url: str = ""

    def fill(self, folder: Path, prefix: str = "") -> None:
        """Put the files of a folder under a prefix."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.objects[f"{prefix}{file.relative_to(folder).as_posix()}"] = file.read_bytes()

    def counts(self) -> Counter[str]:
        """Return how often each method was asked for; a list of names is a LIST."""
        return Counter(method for method, _ in self.asked)

    def tag(self, key: str) -> str:
        """Return the ETag of an object."""
        return f'"{hashlib.md5(self.objects[key]).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).removeprefix("/").partition("/")
        if "list-type" in parse_qs(parts.query):
            self._list(parse_qs(parts.query))
        else:
            self._object(key)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).removeprefix("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.bucket.asked.append(("PUT", key))
        if self._fault(key):
            return
        number = parse_qs(parts.query).get("partNumber")
        self.bucket.objects[f"{key}\0{int(number[0]):05d}" if number else key] = body
        self._answer(200, b"", ETag='"put"')

    def do_DELETE(self) -> None:
        self._answer(204, b"")

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        _, _, key = unquote(parts.path).removeprefix("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.bucket.asked.append(("POST", key))
        if parts.query.startswith("delete"):
            gone = re.findall(r"<Key>(.*?)</Key>", body.decode())
            for name in gone:
                self.bucket.objects.pop(name, None)
            told = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in gone)
            text = f"<DeleteResult>{told}</DeleteResult>"
        elif "uploads" in parts.query:
            text = "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
        else:
            several = sorted(name for name in self.bucket.objects if name.startswith(f"{key}\0"))
            self.bucket.objects[key] = b"".join(self.bucket.objects.pop(name) for name in several)
            text = "<CompleteMultipartUploadResult><ETag>&quot;put&quot;</ETag></CompleteMultipartUploadResult>"
        self._answer(200, text.encode())

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        self.bucket.asked.append(("LIST", prefix))
        if self._fault():
            return
        names = sorted(name for name in self.bucket.objects if name.startswith(prefix) and name > after)
        shown = names[: self.bucket.page]
        more = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if len(names) > len(shown) else ""
        content = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.bucket.objects[name])}</Size><ETag>"
            f"{escape(self.bucket.tag(name))}</ETag><LastModified>2026-11-02T08:00:00.000Z</LastModified></Contents>"
            for name in shown
        )
        told = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
        self._answer(200, f"<ListBucketResult>{told}{more}{content}</ListBucketResult>".encode())

    def _object(self, key: str) -> None:
        spans = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.bucket.asked.append((self.command, f"{key}[{spans[1]}-{spans[2]}]" if spans else key))
        self.bucket.signed.add("Authorization" in self.headers)
        if self._fault(key):
            return
        if key not in self.bucket.objects:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        data, told = self.bucket.objects[key], {"ETag": self.bucket.tag(key), "Last-Modified": CHANGED}
        if spans:
            begin, end = int(spans[1]), min(int(spans[2]), len(data) - 1)
            told["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
            data = data[begin : end + 1]
        self._answer(206 if spans else 200, data, **told)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fault(self, key: str = "") -> bool:
        """Let go wrong what shall, and return whether it did."""
        kind = "torn" if key in self.bucket.broken and self.command == "GET" else ""
        kind = "denied" if key in self.bucket.denied else kind
        kind = kind or (self.bucket.faults.popleft() if self.bucket.faults else "")
        if kind == "busy":
            self._answer(503, b"<Error><Code>SlowDown</Code><Message>token=CANARYTOKEN</Message></Error>")
        elif kind == "denied":
            self._answer(403, f"<Error><Code>AccessDenied</Code><Message>{KEY}</Message></Error>".encode())
        elif kind == "short":  # as a proxy that cuts, and believes it
            half = self.bucket.objects[key][: len(self.bucket.objects[key]) // 2]
            self._answer(200, half, ETag=self.bucket.tag(key), Last_Modified=CHANGED)
        elif kind in ("torn", "reset"):
            data = self.bucket.objects.get(key, b"x" * 100)
            self.send_response(200)
            told = {"Content-Length": str(len(data)), "ETag": '"x"', "Last-Modified": CHANGED}
            for name, value in told.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self._hang_up(reset=kind == "reset")
        elif kind == "drop":
            self._hang_up(reset=False)
        elif kind == "slow":
            time.sleep(1.5)
            self._hang_up(reset=False)
        return bool(kind)

    def _hang_up(self, *, reset: bool) -> None:
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of connections that were hung up."""


@contextmanager
def serving() -> Iterator[Bucket]:
    """Serve a bucket, whatever it is called, until the end."""
    bucket = Bucket()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"bucket": bucket}))
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()


def environment(url: str) -> dict[str, str]:
    """Return what leads to such a bucket."""
    told = {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "eu-central-1"}
    return told | {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
