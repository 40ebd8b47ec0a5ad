"""A server asked over a socket: the scenarios of hostile and unlucky clients, by their number."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h11
import psutil
import pytest
from conftest import SMALL, draw_folders
from PIL import Image
from serving import MODEL, PNG, Answer, Server, drawn, form, loopback
from uvicorn.protocols.http.flow_control import FlowControl

import headstart as hs
from headstart.serve import server as servers
from headstart.serve.inference import AT_ONCE
from headstart.serve.limits import Limits

ROUTES = ("/", "/page.js", "/page.css", "/model", "/metrics", "/openapi.json", "/health/ready", "/nothing")
SECONDS = float(os.environ.get("HEADSTART_LOAD_SECONDS", "4"))  # of each test under load


pytestmark = pytest.mark.usefixtures("_this_machine_only")
_this_machine_only = pytest.fixture(loopback)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of a file share, and leave as it was."""
    folder = tmp_path_factory.mktemp("server")
    started = Server(folder / "log", MODEL, "--port", 0, environment={"HEADSTART_CACHE": str(folder / "cache")})
    yield started.wait()
    assert started.stop() == 0, started.written


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of one test."""
    started: list[Server] = []

    def start(*arguments: object, model: Path = MODEL, **more: Any) -> Server:
        port = () if "--port" in arguments else ("--port", 0)
        started.append(Server(tmp_path / f"log-{len(started)}", model, *port, *arguments, **more))
        return started[-1] if port == () else started[-1].wait()

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


@contextmanager
def halted(server: Server) -> Iterator[None]:
    """Have nothing computed meanwhile."""
    children = server.children
    for child in children:
        child.suspend()
    try:
        yield
    finally:
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.resume()


def taken(server: Server) -> float:
    """How many pictures are computed, or wait for that."""
    return server.metric("headstart_batch_pictures_sum") + server.metric("headstart_waiting_pictures")


def free_port() -> int:
    """A port that nobody listens at; it is none of those that the system gives to whoever wants any."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def problem(answer: Answer, status: int) -> str:
    """Check that an answer is a refusal in the one shape, and return its words."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json
    assert told["status"] == status
    assert told["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.body.decode()
    assert str(Path.home()) not in answer.body.decode()
    return told["detail"]


# --- F1, F2: bodies that are too large


def test_F1_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(server: Server):
    with server.connect() as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000000000\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_F1_a_body_in_chunks_is_cut_off_at_the_limit(serve: Callable[..., Server]):
    server = serve("--most-megabytes", 1)
    before = server.metric("process_resident_memory_bytes")
    with server.connect() as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\n")
        client.sendall(b"transfer-encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            for _ in range(200):
                client.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        with suppress(ConnectionError):  # or it was closed under what was still on its way
            assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    assert server.metric("process_resident_memory_bytes") - before < 30e6
    assert server.metric("headstart_held_bytes") == 0
    assert server.predict(drawn(0)).status == 200


def test_F2_a_compressed_body_is_not_unpacked(server: Server):
    bomb = gzip.compress(bytes(10_000_000))
    assert "not unpacked" in problem(server.predict(bomb, {"content-encoding": "gzip"}), 415)


def test_F2_a_picture_within_json_is_not_taken(server: Server):
    body = json.dumps({"picture": base64.b64encode(drawn(0)).decode()})
    problem(server.ask("POST", "/predict", body, {"content-type": "application/json"}), 415)


# --- F3: slow clients


def raise_open_files(most: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < most:
        pytest.skip(f"no more than {hard} files may be open here")
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@pytest.mark.slow
def test_F3_a_thousand_slow_clients_are_dropped_and_keep_nobody_out(serve: Callable[..., Server]):
    raise_open_files(1500)
    server = serve("--patience", 3)
    kinds = [
        b"",
        b"POST /predict HT",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-le",
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: 50000\r\n\r\nabc",
    ]
    with ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(1000)]
        for number, client in enumerate(slow):
            client.sendall(kinds[number % len(kinds)])
        for seed in range(5):  # while they wait
            assert server.predict(drawn(seed)).status == 200
        for client in slow:
            client.settimeout(20)
            with suppress(ConnectionError):
                while client.recv(4096):
                    pass  # a refusal, and then the end
    assert server.metric("process_open_fds") < 60


@pytest.mark.slow
def test_F3_who_sends_on_a_kept_connection_too_slowly_is_dropped(serve: Callable[..., Server]):
    server = serve("--patience", 3)
    with server.connect() as client:
        client.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        received = b""
        while not received.endswith(b"}"):
            assert (more := client.recv(4096)), received
            received += more
        client.sendall(b"GET /health")
        client.settimeout(10)
        with suppress(ConnectionError):
            assert client.recv(4096) == b""


# --- F4, F12: pictures that cannot be used


def bomb() -> bytes:
    """A PNG of few bytes that says it has 60,000 × 60,000 pixels."""
    inner = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\r" + inner + zlib.crc32(inner).to_bytes(4, "big")


def saved(kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((320, 200), 90).convert("RGB").save(file, kind, **options)
    return file.getvalue()


def sliver() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4000, 2)).save(file, "PNG")
    return file.getvalue()


HOSTILE = {
    "bomb": bomb(),
    "truncated": saved("JPEG")[:3000],
    "sliver": sliver(),
    "text": b"GIF it to me",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "zeros": bytes(1000),
    "scans": b"\xff\xd8" + b"\xff\xda\x00\x02" * 1000,
    "tiff": b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(100),
    "webp": b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(50),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_F4_a_hostile_picture_is_refused_and_the_next_one_answered(server: Server, name: str):
    before = [child.pid for child in server.children]
    assert "cannot be used" in problem(server.predict(HOSTILE[name]), 422)
    assert server.predict(drawn(1)).status == 200
    assert [child.pid for child in server.children] == before


def test_F12_a_bad_picture_among_good_ones_fails_alone(server: Server):
    parts = [("a.png", drawn(1)), ("b.png", b"no picture"), ("c.png", drawn(2)), ("d.png", b"")]
    answer = server.ask("POST", "/predict", *form(*parts))
    assert answer.status == 200
    told = answer.json["predictions"]
    assert [one["status"] for one in told] == ["ok", "error", "ok", "error"]
    assert [one["path"] for one in told] == ["a.png", "b.png", "c.png", "d.png"]
    assert told[2]["top"] == server.predict(drawn(2)).said["top"]


# --- F5, F6, F7: more than it can do


@pytest.mark.slow
def test_F5_overload_is_refused_and_nobody_gets_anothers_answer(serve: Callable[..., Server]):
    server = serve("--queue", 6, "--batch", 2, "--most-pictures", 2, "--deadline", 60)
    pictures = [drawn(seed, (900, 700)) for seed in range(12)]
    right = [server.predict(one).said["top"] for one in pictures]
    assert len({json.dumps(one) for one in right}) == len(pictures)
    end, seen, seconds = time.monotonic() + SECONDS, Counter[int](), list[float]()

    def ask(number: int) -> None:
        while time.monotonic() < end:
            begun = time.monotonic()
            try:
                answer = server.predict(pictures[number % len(pictures)])
            except ConnectionError:  # it was refused, and too slow to send the rest and read why
                time.sleep(0.05)
                continue
            seen[answer.status] += 1
            if answer.status == 200:
                assert answer.said["top"] == right[number % len(pictures)]
                seconds.append(time.monotonic() - begun)
            else:
                assert int(answer.headers["retry-after"]) >= 1
                assert problem(answer, 503) == "Too many pictures wait."
                time.sleep(0.05)

    with ThreadPoolExecutor(48) as pool:
        list(pool.map(ask, range(48)))
    assert set(seen) == {200, 503}
    assert seen[200] > 10
    assert sorted(seconds)[int(0.99 * len(seconds))] < 20  # six wait, and two batches of two are on their way
    begun = time.monotonic()
    assert server.predict(pictures[0]).status == 200
    assert time.monotonic() - begun < 15


@pytest.mark.slow
def test_F6_who_leaves_while_waiting_costs_nothing(serve: Callable[..., Server]):
    server = serve("--batch", 1, "--deadline", 60, "--patience", 60)
    data = drawn(3, (1500, 1400))
    head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n" % len(
        data
    )
    with halted(server):
        with ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(server.connect()).sendall(head + data)
            while taken(server) < 60:
                time.sleep(0.05)
        while server.metric("headstart_held_bytes"):
            time.sleep(0.05)
        assert server.metric("headstart_waiting_pictures") == 0
    assert 'route="/predict",status="499"} 60.0' in server.ask("GET", "/metrics").body.decode()
    assert server.predict(drawn(1)).status == 200
    assert server.metric("headstart_batch_pictures_count") == AT_ONCE + 1
    assert server.metric("headstart_pictures_total") == 1


@pytest.mark.slow
def test_F7_who_waits_longer_than_the_deadline_is_told_so(serve: Callable[..., Server]):
    server = serve("--batch", 1, "--deadline", 6)
    data = drawn(4, (900, 700))
    with halted(server), ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: server.predict(data), range(40)))
    assert {problem(answer, 504) for answer in answers} == {"There was no answer within 6 seconds."}
    assert server.predict(drawn(1)).status == 200
    assert server.metric("headstart_batch_pictures_count") == AT_ONCE + 1  # what waited is given up, not computed


# --- F8, F9, F10: beginning, dying, ending


@pytest.mark.slow
def test_F8_what_is_in_flight_is_answered_before_it_ends(serve: Callable[..., Server]):
    server = serve("--batch", 4, "--deadline", 60, "--drain", 5, "--queue", 100)
    pictures = [drawn(seed, (500, 400)) for seed in range(10)]
    right = [server.predict(one).said["top"] for one in pictures]
    with ThreadPoolExecutor(101) as pool:
        with halted(server):
            asked = [pool.submit(server.predict, pictures[number % 10]) for number in range(100)]
            while taken(server) < len(pictures) + len(asked):
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            while server.ask("GET", "/health/ready").status == 200:
                time.sleep(0.01)
            assert server.ask("GET", "/health/live").headers["connection"] == "close"
            time.sleep(1)
            asked.append(pool.submit(server.predict, pictures[0]))  # by who has not heard of it yet
            with suppress(ConnectionRefusedError):
                while True:
                    server.connect().close()
                    time.sleep(0.05)
        answers = [one.result() for one in asked]
    assert [one.status for one in answers] == [200] * 101
    assert all(one.said["top"] == right[number % 10] for number, one in enumerate(answers))
    assert server.process.wait(30) == 0
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_ctrl_c_ends_it_in_order_too(serve: Callable[..., Server]):
    server = serve("--drain", 0)
    children = server.children
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0
    assert "Stopped" in server.written
    assert not any(child.is_running() for child in children)


@pytest.mark.slow
def test_told_twice_to_stop_it_waits_for_nothing(serve: Callable[..., Server]):
    server = serve("--batch", 1, "--deadline", 60, "--drain", 5)
    children, data = server.children, drawn(6)
    for child in children:
        child.suspend()
    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(server.predict, data) for _ in range(30)]
        while server.metric("headstart_waiting_pictures") < 15:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        while server.ask("GET", "/health/ready").status == 200:  # two signals at once may come as one
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        assert not any(child.is_running() for child in children)
        assert [one for one in asked if one.exception() is not None or one.result().status != 200]


@pytest.mark.slow
def test_F9_a_process_that_is_killed_is_begun_again(serve: Callable[..., Server]):
    server = serve("--batch", 1, "--deadline", 60)
    right, (child,) = server.predict(drawn(5)).said["top"], server.children
    child.suspend()
    with ThreadPoolExecutor(20) as pool:
        data = drawn(5, (900, 700))  # more than a pipe holds: it dies while it is told
        asked = [pool.submit(server.predict, data) for _ in range(20)]
        while server.metric("headstart_waiting_pictures") < 10:
            time.sleep(0.01)
        child.kill()
        seen = Counter(one.result().status for one in asked)
    assert seen[503] >= 1
    assert set(seen) <= {200, 503}
    while server.ask("GET", "/health/ready").status != 200:
        assert server.ask("GET", "/health/live").status == 200
        time.sleep(0.05)
    assert server.predict(drawn(5)).said["top"] == right
    assert server.metric("headstart_process_begun") == 2


@pytest.mark.slow
def test_the_process_that_answers_ends_with_a_server_that_is_killed(serve: Callable[..., Server]):
    server = serve()
    (child,) = server.children
    server.process.kill()
    server.process.wait()
    child.wait(20)


def test_F10_it_lives_before_it_is_ready(serve: Callable[..., Server]):
    port = free_port()
    server = serve("--port", port)
    server.port = port
    seen: list[tuple[int, int]] = []
    while not seen or seen[-1][1] != 200:
        assert server.process.poll() is None, server.written
        time.sleep(0.01)
        with suppress(ConnectionRefusedError):
            seen.append((server.ask("GET", "/health/live").status, server.ask("GET", "/health/ready").status))
            answer = server.predict(drawn(0))  # which may be ready by now
            assert answer.status == 200 or problem(answer, 503)
    assert {live for live, _ in seen} == {200}
    assert seen[0][1] == 503
    assert server.predict(drawn(0)).status == 200


def test_a_model_that_cannot_be_loaded_ends_it_with_the_reason(tmp_path: Path, run: Callable[..., object]):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text("{}")
    started = Server(tmp_path / "log", tmp_path / "model", "--port", 0)
    assert started.process.wait(60) == 1
    assert "error:" in started.written
    assert "Traceback" not in started.written


# --- F11, F26: the right answers


@pytest.mark.slow
def test_F11_many_at_once_get_each_its_own_answer(server: Server):
    pictures = [drawn(seed) for seed in range(32)]
    alone = [server.predict(one).said["top"] for one in pictures]
    with ThreadPoolExecutor(32) as pool:
        together = [one.said["top"] for one in pool.map(server.predict, pictures)]
    assert together == alone
    assert len({json.dumps(one) for one in alone}) == len(pictures)


def test_F26_server_command_line_and_api_say_the_same(server: Server, tmp_path: Path, run: Callable[..., Any]):
    path = tmp_path / "picture.png"
    path.write_bytes(drawn(7))
    told = server.predict(drawn(7)).said
    printed = json.loads(run("predict", MODEL, path, "--json", "--quiet").out)
    assert told | {"path": printed["path"]} == printed
    assert told == hs.load(MODEL).predict(drawn(7)).to_dict() | {"path": "picture"}
    by_form = server.ask("POST", "/predict", *form(("picture", drawn(7)))).said
    assert by_form == told


# --- F13 to F19: what clients may not do


@pytest.mark.parametrize(
    "name", ["../../x", "a" * 10_000, "nul\x00byte", "<img src=x onerror=alert(1)>.png", "é中\u202e"]
)
def test_F13_a_name_is_given_back_and_opens_nothing(server: Server, tmp_path: Path, name: str):
    answer = server.ask("POST", "/predict", *form((name, drawn(1))))
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert answer.said["path"] == name[:255]
        assert answer.headers["content-type"] == "application/json"
    assert name not in server.written


@pytest.mark.parametrize(
    "path", ["/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd", "//etc/passwd", "/C:\\Windows\\win.ini", "/page.js/../x"]
)
def test_F14_no_path_leads_out(server: Server, path: str):
    with server.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain", ""])
def test_F15_an_address_is_not_fetched(server: Server, kind: str):
    body = b'{"url": "http://169.254.169.254/latest/meta-data"}'
    problem(server.ask("POST", "/predict", body, {"content-type": kind}), 415)


def test_F15_a_form_with_an_address_is_refused(server: Server):
    body = b'--limit\r\ncontent-disposition: form-data; name="url"\r\n\r\nhttp://169.254.169.254\r\n--limit--\r\n'
    problem(server.ask("POST", "/predict", body, {"content-type": "multipart/form-data; boundary=limit"}), 400)


def test_F16_with_a_token_every_route_but_live_asks_for_it(serve: Callable[..., Server], tmp_path: Path):
    token = "correct horse à"  # its last byte in UTF-8 is one that text would lose with its blanks
    (tmp_path / "token").write_text(f"{token}\n", encoding="utf-8")
    server = serve("--token-file", tmp_path / "token")
    basic, bearer = base64.b64encode(f"anybody:{token}".encode()).decode(), f"Bearer {token}".encode().decode("latin-1")
    for path in ROUTES:
        for given in ({}, {"authorization": "Bearer correct"}, {"authorization": "Basic !"}, {"authorization": "x"}):
            refused = server.ask("GET", path, headers=given)
            assert refused.status == 401, path
            assert "Basic" in refused.headers["www-authenticate"]
        for right in (bearer, f"Basic {basic}"):
            assert server.ask("GET", path, headers={"authorization": right}).status == (
                404 if path == "/nothing" else 200
            )
    assert server.predict(drawn(0)).status == 401
    assert server.predict(drawn(0), {"authorization": bearer}).status == 200
    assert server.ask("GET", "/health/live").status == 200
    assert "correct horse" not in server.written


def test_F16_the_token_may_come_from_the_environment(serve: Callable[..., Server]):
    server = serve(environment={"HEADSTART_TOKEN": "secret"})
    assert server.ask("GET", "/model").status == 401
    assert server.ask("GET", "/model", headers={"authorization": "Bearer secret"}).status == 200


def test_F17_only_this_machine_may_ask_unless_told_otherwise(server: Server, serve: Callable[..., Server]):
    assert f"http://127.0.0.1:{server.port}" in server.written
    assert "warning" not in server.written
    assert "warning: whoever reaches http://0.0.0.0:" in serve("--host", "0.0.0.0").written


def test_F18_another_sites_page_may_not_ask(server: Server):
    foreign = {"origin": "http://evil.example"}
    preflight = server.ask("OPTIONS", "/predict", headers=foreign | {"access-control-request-method": "POST"})
    assert preflight.status == 403
    refused = server.predict(drawn(0), foreign)
    assert "another site" in problem(refused, 403)
    for answer in (preflight, refused, server.ask("GET", "/model", headers=foreign)):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert server.predict(drawn(0), {"origin": f"http://127.0.0.1:{server.port}"}).status == 200


def test_F18_a_rebound_name_of_another_site_is_refused(server: Server, serve: Callable[..., Server]):
    assert "--name" in problem(server.ask("GET", "/model", headers={"host": "evil.example"}), 400)
    for name in ("localhost", f"localhost:{server.port}", "127.0.0.1", "[::1]:80", "192.168.1.7"):
        assert server.ask("GET", "/model", headers={"host": name}).status == 200, name
    named = serve("--name", "Photos.example.org")
    assert named.ask("GET", "/model", headers={"host": "photos.example.org:8000"}).status == 200


def test_F19_requests_that_make_no_sense_are_refused_in_words(server: Server):
    boundary = {"content-type": "multipart/form-data; boundary=limit"}
    problem(server.ask("POST", "/predict", b"", PNG), 422)
    problem(server.ask("POST", "/predict", *form()), 422)
    problem(server.ask("POST", "/predict", b"no form", boundary), 400)
    problem(server.ask("POST", "/predict", b"", {"content-type": "multipart/form-data"}), 400)
    problem(server.ask("POST", "/explain", *form(("a", drawn(0)), ("b", drawn(1)), field="picture")), 413)
    problem(server.ask("POST", "/predict", *form(*[("a", b"x")] * 33)), 413)
    problem(server.ask("POST", "/predict", *form(*[("a", b"x")] * 400)), 400)
    problem(server.ask("GET", "/predict"), 405)
    problem(server.ask("DELETE", "/model"), 405)


def test_F19_headers_of_fifty_megabytes_are_not_kept(server: Server):
    before = server.metric("process_resident_memory_bytes")
    with server.connect() as client, suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 50_000_000)
        assert client.recv(100).startswith(b"HTTP/1.1 400 ")
    assert server.metric("process_resident_memory_bytes") - before < 20e6


# --- F20 to F25


@pytest.mark.slow
def test_F20_no_request_that_the_description_allows_or_forbids_breaks_it(server: Server, tmp_path: Path):
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json"),
        *("--max-examples", "25", "--checks", "not_a_server_error,status_code_conformance,content_type_conformance"),
        *("--phases", "examples,coverage,fuzzing", "--seed", "1", "--suppress-health-check", "all", "--no-color"),
        *("--request-timeout", "60"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert server.predict(drawn(0)).status == 200


@pytest.mark.slow
def test_F21_nothing_grows_while_it_works(serve: Callable[..., Server]):
    server = serve()
    pictures = [drawn(seed, (500, 400)) for seed in range(8)]

    def work(seconds: float) -> None:
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(8) as pool:
            while time.monotonic() < end:
                assert {one.status for one in pool.map(server.predict, pictures)} == {200}
                assert server.predict(b"broken").status == 422

    work(SECONDS)
    files, memory = server.metric("process_open_fds"), server.metric("process_resident_memory_bytes")
    inner = sum(child.memory_info().rss for child in server.children)
    work(SECONDS)
    assert server.metric("process_open_fds") <= files + 5
    assert server.metric("process_resident_memory_bytes") < memory + 20e6
    assert sum(child.memory_info().rss for child in server.children) < inner + 40e6


def test_F22_neither_answers_nor_log_tell_of_paths_or_pictures(server: Server):
    answer = server.ask("POST", "/predict", *form(("private/holiday.png", b"broken")))
    assert problem(answer, 422)
    while answer.headers["x-request-id"] not in server.written:  # which is told once the answer has gone
        time.sleep(0.01)
    log = server.written.partition("\n")[2]  # the first line says what is served, to who started it
    for secret in ("holiday", str(MODEL), "Traceback"):
        assert secret not in log
    assert str(MODEL.parent) not in server.ask("GET", "/model").body.decode()


def test_F23_what_clients_send_makes_no_new_figures(server: Server):
    for number in range(50):
        server.ask("GET", f"/random-{number}")
        server.ask("POST", "/predict", *form((f"name-{number}", b"x")))
    text = server.ask("GET", "/metrics").body.decode()
    assert "random" not in text
    assert "name-" not in text
    assert len(text.splitlines()) < 250


def test_F24_nothing_loads_another_model(server: Server):
    described = server.ask("GET", "/openapi.json").json
    assert sorted(described["paths"]) == sorted(
        ["/predict", "/explain", "/model", "/metrics", "/health/live", "/health/ready"]
    )
    for path in ("/predict?model=/etc", "/model?path=/etc", "/models/x/load"):
        assert "/etc" not in server.ask("GET", path).body.decode()


def test_F25_every_answer_forbids_scripts_of_others(server: Server):
    for path in (*ROUTES, "/health/live"):
        answer = server.ask("GET", path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
    assert "server" not in answer.headers


# --- explanations and what is told


@pytest.mark.slow
def test_why_a_picture_gets_its_answer(server: Server):
    answer = server.ask("POST", "/explain", drawn(7), PNG)
    assert answer.status == 200, answer
    told = answer.json["explanation"]
    predicted = server.predict(drawn(7))
    assert answer.json["model"] == predicted.json["model"]
    assert {name: told[name] for name in predicted.said} == predicted.said
    for uri in (told["seen"], told["speaks_for"]["picture"], told["speaks_for_rival"]["picture"]):
        kind, _, data = uri.partition(",")
        assert kind == "data:image/webp;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 64)
    assert told["speaks_for"]["label"] == told["label"]
    assert told["speaks_for_rival"]["label"] == told["top"][1]["label"]
    problem(server.ask("POST", "/explain", b"broken", PNG), 422)


@pytest.mark.slow
def test_what_is_most_alike_of_the_learned_is_shown_unless_that_is_hidden(
    serve: Callable[..., Server], tmp_path: Path, run: Callable[..., Any]
):
    photos, model = draw_folders(tmp_path / "photos"), tmp_path / "model"
    settings = (f"--set={name}={value}" for name, value in SMALL.items())
    assert run("train", photos, "--out", model, "--quiet", *settings).code == 0
    data = (photos / "ash" / "ash_03.png").read_bytes()
    shown, hidden = (
        serve(*flags, model=model).ask("POST", "/explain", data, PNG).json["explanation"]["nearest"]
        for flags in ([], ["--hide-learned"])
    )
    assert hidden == []
    assert len(shown) == 3
    assert shown[0]["label"] == "ash"
    assert shown[0]["similarity"] > 0.9
    assert shown[0]["picture"].startswith("data:image/webp;base64,")


def test_the_model_tells_of_itself(server: Server):
    told = server.ask("GET", "/model").json
    assert told["classes"] == list(hs.load(MODEL).classes)
    assert told["limits"]["most_pictures"] == 32
    assert told["digest"] == server.predict(drawn(0)).json["model"]


def test_a_port_that_is_taken_is_told(server: Server, run: Callable[..., Any]):
    ran = run("serve", MODEL, "--port", server.port)
    assert ran.code == 2
    assert f"127.0.0.1:{server.port} cannot be listened at" in ran.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--queue", 3], "would always be refused"),
        (["--deadline", 0], "--deadline is 0"),
        (["--batch", -1], "--batch is -1"),
        (["--token-file", "/nowhere"], "cannot be read"),
    ],
)
def test_bounds_that_leave_nothing_are_refused(run: Callable[..., Any], flags: list[object], told: str):
    ran = run("serve", MODEL, "--port", 0, *flags)
    assert ran.code == 2
    assert told in ran.err


@pytest.mark.parametrize("ended", ["timeout_keep_alive_handler", "shutdown"])
def test_who_does_not_read_what_is_left_is_not_waited_for(ended: str):
    told, later = [], []
    transport = SimpleNamespace(
        is_closing=lambda: "close" in told, close=lambda: told.append("close"), abort=lambda: told.append("abort")
    )
    kind = servers._patient(Limits(patience=3))
    connection = kind.__new__(kind)
    connection.transport, connection.conn, connection.cycle = transport, h11.Connection(h11.SERVER), None
    connection.loop = SimpleNamespace(call_later=lambda seconds, then: later.append((seconds, then)))
    getattr(connection, ended)()
    ((seconds, then),) = later
    then()
    assert (seconds, told) == (3, ["close", "abort"])


@pytest.mark.parametrize("event", ["next request", "some was read", "answered"])
def test_who_does_not_read_an_answer_is_not_waited_for_whatever_else_happens(event: str):
    """Requests without reading their answers, or a connection that is to be closed: the timer is not stopped."""
    told = []
    closing = event != "next request"
    transport = SimpleNamespace(is_closing=lambda: closing, abort=lambda: told.append("abort"))
    kind = servers._patient(Limits(patience=3))
    connection = kind.__new__(kind)
    connection.transport, connection.conn, connection.flow = (
        transport,
        h11.Connection(h11.SERVER),
        FlowControl(transport),
    )
    connection.cycle = SimpleNamespace(response_complete=False)
    connection.timeout_keep_alive_task, connection.server_state = None, SimpleNamespace(total_requests=0)
    connection.loop = SimpleNamespace(
        call_later=lambda _, then: SimpleNamespace(cancel=lambda: told.append("stopped"), then=then)
    )
    if event == "answered":
        connection.on_response_complete()
    else:
        connection.pause_writing()
        if event == "next request":
            connection.data_received(b"G")
        else:
            connection.resume_writing()
    assert told == []
    connection.timer.then()
    assert told == ["abort"]
