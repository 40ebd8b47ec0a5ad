"""A server in a process of its own, asked over a real socket of this machine."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from conftest import picture

import headstart

MODEL = Path(__file__).parent / "artifacts" / "v5"
PNG = {"content-type": "image/png"}
_connect = socket.socket.connect


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def said(self) -> dict[str, Any]:
        """What is said of the only picture."""
        (one,) = self.json["predictions"]
        return one


class Server:
    """A server that was started; what it writes goes to a file."""

    def __init__(self, log: Path, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self.log = log
        environment = os.environ | {"PYTHONPATH": str(Path(headstart.__file__).parents[1])} | (environment or {})
        command = [sys.executable, "-m", "headstart", "serve", *map(str, arguments)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        self.port = 0

    def wait(self) -> Server:
        """Wait until it serves."""
        while not (found := re.search(r"Serving .* at http://\S+:(\d+)", self.written)):
            try:
                assert self.process.wait(0.05) is None, self.written
            except subprocess.TimeoutExpired:
                continue
        self.port = int(found[1])
        return self

    @property
    def written(self) -> str:
        return self.log.read_text()

    @property
    def children(self) -> list[psutil.Process]:
        """Those of its processes that hold a model."""
        inner = psutil.Process(self.process.pid).children()
        return [one for one in inner if "resource_tracker" not in " ".join(one.cmdline())]

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            with connection.getresponse() as response:
                return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def predict(self, data: bytes, headers: dict[str, str] | None = None) -> Answer:
        return self.ask("POST", "/predict", data, PNG | (headers or {}))

    def metric(self, name: str) -> float:
        """The sum of a figure over its labels."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{re.escape(name)}[ {{]", line))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def drawn(seed: int, size: tuple[int, int] = (160, 150)) -> bytes:
    """A picture as a file, different for every seed."""
    file = io.BytesIO()
    picture((40 + 13 * seed % 180, 220 - 17 * seed % 170, 60 + 29 * seed % 150), seed, size).save(file, "PNG")
    return file.getvalue()


def form(*parts: tuple[str, bytes], field: str = "pictures") -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a form with files."""
    lines = b"".join(
        b'--limit\r\ncontent-disposition: form-data; name=%s; filename="%s"\r\n\r\n%s\r\n'
        % (field.encode(), name.encode(), data)
        for name, data in parts
    )
    return lines + b"--limit--\r\n", {"content-type": "multipart/form-data; boundary=limit"}


def loopback(_offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixture: the test may connect, to this machine alone."""

    def connect(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), address
        _connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
