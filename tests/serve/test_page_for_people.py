"""The page of `headstart serve` in a real browser, as people use it: pictures chosen, dropped, pasted and photographed,
hostile names, no mouse, a telephone, a server that is busy or gone.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import HUES, picture, scene
from PIL import Image

from headstart.data import tables
from headstart.report import stored

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
HOSTILE = "<img src=x onerror=alert(1)>"
LONGEST = 120.0  # seconds until the server is up

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
    pytest.mark.timeout(180),
]
_connect = socket.socket.connect


class Opened(NamedTuple):
    """The page, the server's address, and what went wrong or asked another server."""

    page: Any
    address: str
    wrong: list[str]


@pytest.fixture(scope="module")
def address(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a server of the small model listens that takes at most a megabyte and has the features at hand."""
    folder = tmp_path_factory.mktemp("page")
    cache = Path((stored.read_journal(model_folder) or {})["source"]).parent / "cache"
    command = [sys.executable, "-m", "headstart", "serve", model_folder, "--port", "0", "--most-megabytes", "1"]
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "HEADSTART_CACHE": str(cache)}
        server = subprocess.Popen(command, stderr=log, stdout=log, env=environment)
        try:
            yield listening(server, folder / "log")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


@pytest.fixture(scope="module")
def ash(address: str) -> bytes:
    """A picture of the class ash that the model knows as such."""
    drawn = (png(picture(HUES["ash"], seed)) for seed in range(12))
    return next(one for one in drawn if (said := asked(address, one))["known"] and said["label"] == "ash")


@pytest.fixture(scope="module")
def stranger(address: str) -> bytes:
    """A picture of which the model says that it is of none of its classes."""
    drawn = (png(one) for one in (*map(scene, range(20)), *(picture(HUES["elm"], seed) for seed in range(20))))
    return next(one for one in drawn if not asked(address, one)["known"])


def asked(address: str, content: bytes) -> dict[str, Any]:
    headers = {"content-type": "image/png"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/predict", content, headers)) as answer:
        return json.load(answer)["predictions"][0]


def listening(server: subprocess.Popen[bytes], log: Path) -> str:
    """Return where a server listens, once it says so."""
    end = time.monotonic() + LONGEST
    while not (found := re.search(r"at (http://127\.0\.0\.1:\d+)", text := log.read_text("utf-8", "replace"))):
        assert server.poll() is None, text
        assert time.monotonic() < end, text
        time.sleep(0.1)
    return found[1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def start(address: str, browser: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Opened]]:
    """Open the page; nothing may go wrong on it, nor anything leave for elsewhere, before the test is over."""
    monkeypatch.setattr(socket.socket, "connect", _connect)  # of the browser's own process only
    contexts, wrong = [], []

    def opened(before: Callable[[Any], object] = lambda page: None, **settings: Any) -> Opened:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: heard(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda one: one.url.startswith((address, "blob:", "data:")) or wrong.append(one.url))
        before(page)
        page.goto(address)
        return Opened(page, address, wrong)

    def heard(text: str) -> None:
        if not text.startswith("Failed to load resource"):  # a browser says so of every answer that is no success
            wrong.append(text)

    yield opened
    assert wrong == []
    for context in contexts:
        context.close()


def png(drawn: Image.Image) -> bytes:
    file = io.BytesIO()
    drawn.save(file, "png")
    return file.getvalue()


def upload(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": content}


def choose(page: Any, *files: tuple[str, bytes]) -> None:
    page.set_input_files("#choose", [upload(*file) for file in files])


def send(page: Any, event: str, name: str, content: bytes) -> None:
    """Drop or paste a file, as a browser would tell the page of it."""
    page.evaluate(
        """([event, name, content]) => {
            const brought = new DataTransfer();
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            brought.items.add(new File([bytes], name, { type: "image/png" }));
            const about = { bubbles: true, cancelable: true };
            document.body.dispatchEvent(event === "paste"
                ? new ClipboardEvent(event, { ...about, clipboardData: brought })
                : new DragEvent(event, { ...about, dataTransfer: brought }));
        }""",
        [event, name, base64.b64encode(content).decode()],
    )


def settled(page: Any) -> Any:
    """Return the cards once each has its answer."""
    page.wait_for_selector("[aria-busy=true]", state="detached")
    return page.locator(".card")


def announced(page: Any, text: str) -> None:
    page.locator("#status", has_text=text).wait_for(state="attached")


def test_a_picture_that_is_chosen_is_answered_with_its_reasons(start: Callable[..., Opened], ash: bytes):
    page, address, _ = start()
    with page.expect_response("**/predict") as answer:
        choose(page, ("rex.png", ash))
    card = settled(page)
    assert card.locator(".verdict bdi").text_content() == "ash"
    assert re.fullmatch(r"(>\s)?\d+\s%", card.locator(".verdict .number").text_content())
    assert "Such lists hold the true class in" in card.locator(".said").text_content()
    assert card.locator(".look img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 48
    announced(page, "rex.png: ash, ")
    assert answer.value.json()["predictions"] == [asked(address, ash)]  # the bytes were sent as they are
    card.locator(".views img").first.wait_for()
    assert card.locator(".views figcaption").all_text_contents()[:2] == ["As the network sees it", "Speaks for ash"]
    assert card.locator(".near li").count() > 0
    assert "similarity" in card.locator(".near li").first.text_content()


def test_a_picture_is_dropped_anywhere(start: Callable[..., Opened], ash: bytes):
    page, *_ = start()
    send(page, "dragover", "a.png", ash)
    assert page.locator("#drop").is_visible()
    send(page, "drop", "a.png", ash)
    assert not page.locator("#drop").is_visible()
    assert settled(page).locator(".verdict bdi").text_content() == "ash"


def test_a_link_that_is_dropped_leaves_the_page_where_it_is(start: Callable[..., Opened]):
    page, *_ = start()
    page.locator("#classes li").first.wait_for()
    page.evaluate(
        """() => {
            const brought = new DataTransfer();
            brought.setData("text/uri-list", "https://example.org/rex.jpg");
            const drop = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: brought });
            if (document.body.dispatchEvent(drop)) throw new Error("the browser goes there");
        }"""
    )
    assert "There was no file in it." in page.text_content("#notice")
    assert page.locator(".card").count() == 0


def test_a_picture_is_pasted_and_gets_a_name(start: Callable[..., Opened], ash: bytes):
    page, *_ = start()
    send(page, "paste", "image.png", ash)
    send(page, "paste", "copied.png", ash)
    assert settled(page).locator("h3").all_text_contents() == ["copied.png", "pasted 1.png"]


@pytest.mark.parametrize("name", [f"{HOSTILE}.png", "n" * 300, "../../x", "a\u202egnp.exe", "=1+1.png"])
def test_a_hostile_name_is_text(start: Callable[..., Opened], name: str, ash: bytes):
    page, *_ = start(viewport={"width": 320, "height": 700})
    send(page, "drop", name, ash)
    card = settled(page)
    shown = card.locator("h3").text_content()
    assert shown == (f"{name[:119]}…" if len(name) > 120 else name.replace("\u202e", "\ufffd"))
    assert card.locator("h3 bdi").evaluate("title => title.childElementCount") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_F25_a_hostile_class_is_text(start: Callable[..., Opened], ash: bytes):
    def renamed(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace('"ash"', json.dumps(HOSTILE)))

    page, *_ = start(lambda page: page.route(re.compile("/(model|predict|explain)$"), renamed))
    page.locator("#classes li").first.wait_for()
    assert page.locator("#classes li").first.text_content() == HOSTILE
    choose(page, ("a.png", ash))
    card = settled(page)
    assert card.locator(".verdict bdi").text_content() == HOSTILE
    announced(page, f"a.png: {HOSTILE}, ")
    card.locator(".near li").first.wait_for()
    assert HOSTILE in card.locator(".near").text_content()
    assert card.locator("bdi > *").count() == 0


def test_the_classes_are_filtered(start: Callable[..., Opened]):
    page, *_ = start()
    page.locator("#classes li").first.wait_for()
    page.fill("#find", "BIR")
    assert page.locator("#classes li:visible").all_text_contents() == ["birch"]
    assert page.text_content("#counted") == "1 of 3 classes"
    assert "“none of these”yes" in page.text_content("#facts")


def test_none_of_these_is_said_loud_and_clear(start: Callable[..., Opened], stranger: bytes):
    page, *_ = start()
    choose(page, ("odd.png", stranger))
    card = settled(page)
    assert card.locator(".verdict").text_content() == "None of these"
    assert "Nearest class" in card.text_content()
    assert card.locator(".bar").count() == 0
    announced(page, "odd.png: none of these")


def test_of_many_classes_that_come_into_question_the_first_are_named(start: Callable[..., Opened], ash: bytes):
    def many(route: Any) -> None:
        answer = route.fetch()
        said = answer.json()
        said["predictions"][0]["set"] = [f"class_{place}" for place in range(10)]
        route.fulfill(response=answer, json=said)

    page, *_ = start(lambda page: page.route("**/predict", many))
    choose(page, ("a.png", ash))
    words = settled(page).locator(".said")
    assert words.text_content().startswith("It may be one of these: class 0, class 1, ")
    assert not words.get_by_text("class 9").is_visible()
    words.get_by_text("and 2 more").click()
    assert words.get_by_text("class 9").is_visible()


def test_what_is_no_picture_is_said_in_plain_words(start: Callable[..., Opened]):
    page, *_ = start()
    choose(page, ("letter.jpg", b"Dear Sir"), ("nothing.png", b""), ("large.png", bytes(1_200_000)))
    cards = settled(page)
    assert cards.locator(".verdict").all_text_contents() == ["Cannot be used"] * 3
    assert "Not one of JPEG" in cards.nth(0).text_content()
    assert "The file is empty." in cards.nth(1).text_content()
    assert "It has 1.2 MB; the server takes at most 1 MB." in cards.nth(2).text_content()
    assert page.locator(".again:visible, .reason:visible").count() == 0


def test_several_are_asked_at_once_but_not_too_many(start: Callable[..., Opened], ash: bytes):
    page, *_ = start()
    now, most = set(), [0]

    def begun(one: Any) -> None:
        if one.url.endswith("/predict"):
            now.add(one)
            most.append(len(now))

    page.on("request", begun)
    page.on("requestfinished", lambda one: now.discard(one))
    choose(page, *((f"{place}.png", png(picture(HUES["birch"], place))) for place in range(12)))
    choose(page, ("later.png", ash))
    cards = settled(page)
    assert cards.locator("h3").all_text_contents() == ["later.png", *(f"{place}.png" for place in range(12))]
    assert 1 < max(most) <= 4
    assert page.text_content("#tally") == "13 pictures"
    assert page.locator(".reason[aria-expanded=true]").count() == 1


def test_the_answers_are_saved_as_a_table_that_no_spreadsheet_runs(
    start: Callable[..., Opened], tmp_path: Path, ash: bytes, stranger: bytes
):
    page, *_ = start()
    choose(page, ("=1+1.png", ash), ('a "b", c.png', stranger), ("letter.jpg", b"Dear Sir"))
    settled(page)
    with page.expect_download() as saved:
        page.click("#save")
    saved.value.save_as(tmp_path / "answers.csv")
    table = tables.read_table(tmp_path / "answers.csv")
    assert table.header == ("image_id", "label", "probability", "known", "p_value", "set", "error")
    assert [row[0] for row in table.rows] == ["'=1+1.png", 'a "b", c.png', "letter.jpg"]
    assert [row[3] for row in table.rows] == ["yes", "no", ""]
    assert 0.3 < float(table.rows[0][2]) <= 1
    assert table.rows[0][1] == "ash"
    assert table.rows[0][5].startswith("ash")
    assert "not one of JPEG" in table.rows[2][6]


def test_everything_is_done_by_the_keyboard(start: Callable[..., Opened], ash: bytes):
    page, *_ = start()
    page.on("filechooser", lambda _: None)  # from now on it is not the system's that opens
    page.locator("#classes li").first.wait_for()
    focused = lambda: page.evaluate("document.activeElement.className || document.activeElement.id")  # noqa: E731
    page.keyboard.press("Tab")
    assert focused() == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused() == "choose"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([upload("a.png", ash)])
    settled(page).locator(".views").wait_for()
    passed = []
    while not passed or passed[-1] != "reason":
        page.keyboard.press("Tab")
        passed.append(focused())
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid"
    assert passed == ["save", "clear", "remove", "reason"]
    page.keyboard.press("Enter")
    assert not page.locator(".inside").is_visible()
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Escape")
    assert not page.locator(".inside").is_visible()
    assert focused() == "reason"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 0
    assert focused() == "choose"


def test_what_is_removed_is_let_go(start: Callable[..., Opened]):
    count = """window.held = new Set();
        const [make, drop] = [URL.createObjectURL, URL.revokeObjectURL];
        URL.createObjectURL = (one) => { const made = make(one); held.add(made); return made; };
        URL.revokeObjectURL = (one) => { held.delete(one); drop(one); };"""
    page, *_ = start(lambda page: page.add_init_script(count))
    choose(page, *((f"{place}.png", png(picture(HUES["birch"], place))) for place in range(3)))
    settled(page)
    page.locator(".look img").nth(2).wait_for()
    assert page.evaluate("held.size") == 3
    page.click(".card:first-child .remove")
    assert page.text_content("#tally") == "2 pictures"
    page.click("#clear")
    assert page.evaluate("held.size") == 0
    assert not page.locator("#answers").is_visible()


def busy(times: int, status: int = 503, seconds: str = "1") -> Callable[[Any], None]:
    """Return what answers a request so many times with a problem, and then lets it pass."""
    left = [times]

    def answer(route: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            route.continue_()
            return
        problem = '{"title": "No", "status": 0, "detail": "There is a reason."}'
        headers = {"retry-after": seconds, "content-type": "application/problem+json"}
        route.fulfill(status=status, headers=headers, body=problem)

    return answer


def test_a_busy_server_is_asked_again(start: Callable[..., Opened], ash: bytes):
    page, *_ = start(lambda page: page.route("**/predict", busy(1, seconds="5")))
    choose(page, ("a.png", ash))
    busily = re.compile(r"The server is busy. Asking again in [5-8] seconds, try 2 of 6\.")
    page.locator(".state", has_text=busily).wait_for()
    assert settled(page).locator(".verdict bdi").text_content() == "ash"


def test_a_mistake_of_the_server_can_be_tried_again(start: Callable[..., Opened], ash: bytes):
    page, *_ = start(lambda page: page.route("**/predict", busy(1, status=500)))
    choose(page, ("a.png", ash))
    card = settled(page)
    assert card.locator(".verdict").text_content() == "No answer"
    assert "There is a reason." in card.text_content()
    card.locator(".again").click()
    card.locator(".verdict bdi").wait_for()


def test_pictures_wait_while_the_model_is_loaded(start: Callable[..., Opened], ash: bytes):
    page, *_ = start(lambda page: page.route("**/model", busy(1, seconds="5")))
    page.locator("#notice", has_text="The model is being loaded.").wait_for()
    choose(page, ("a.png", ash))
    assert "Waiting" in page.text_content(".card")
    assert settled(page).locator(".verdict bdi").text_content() == "ash"
    assert not page.locator("#notice").is_visible()


def test_a_server_that_is_gone_is_said_and_the_pictures_are_kept(start: Callable[..., Opened], ash: bytes):
    page, *_ = start()
    page.locator("#classes li").first.wait_for()
    page.route("**/*", lambda route: route.abort())
    choose(page, ("a.png", ash), ("b.png", ash))
    page.locator("#notice", has_text="The server cannot be reached. The pictures are kept.").wait_for()
    page.locator(".state", has_text="Waiting").nth(1).wait_for()
    page.unroute("**/*")
    page.click("#notice button")
    assert settled(page).locator(".verdict bdi").all_text_contents() == ["ash", "ash"]


def test_a_picture_that_breaks_the_connection_holds_up_no_other(start: Callable[..., Opened], ash: bytes):
    def cut(page: Any) -> None:
        page.add_init_script(
            """const send = window.fetch;
            window.fetch = (to, how) => how?.body?.name === "broken.png"
                ? Promise.reject(new TypeError("Failed to fetch")) : send(to, how);"""
        )

    page, *_ = start(cut)
    page.locator("#classes li").first.wait_for()
    choose(page, ("broken.png", ash), ("a.png", ash))
    for _ in range(2):
        page.locator("#notice button").click()
    cards = settled(page)
    assert cards.nth(0).locator(".verdict").text_content() == "No answer"
    assert cards.nth(0).locator(".again").is_visible()
    assert cards.nth(1).locator(".verdict bdi").text_content() == "ash"


def test_where_no_heat_map_is_to_be_had_the_page_says_so(start: Callable[..., Opened], ash: bytes):
    page, *_ = start(lambda page: page.route("**/explain", busy(1, status=501)))
    choose(page, ("a.png", ash), ("b.png", ash))
    settled(page)
    page.locator(".inside", has_text="There is no heat map: There is a reason.").wait_for()
    page.click(".card:last-child .reason")
    assert (
        page.locator(".inside:visible .state").all_text_contents() == ["There is no heat map: There is a reason."] * 2
    )


def violations(page: Any) -> list[tuple[str, str]]:
    """Return what axe finds."""
    from axe_playwright_python.base import AXE_FILE_PATH

    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))  # past the page's own policy
    found = page.evaluate("axe.run().then(found => found.violations)")
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_nothing_runs_over_the_edge(
    start: Callable[..., Opened], scheme: str, ash: bytes, stranger: bytes
):
    page, *_ = start(color_scheme=scheme, reduced_motion="reduce")
    page.locator("#classes li").first.wait_for()
    assert violations(page) == []
    choose(page, ("a.png", ash), ("odd.png", stranger), ("letter.jpg", b"Dear Sir"), ("n" * 300, ash))
    settled(page)
    page.locator(".views img").first.wait_for()
    page.evaluate("document.getElementById('notice').hidden = false")
    for width in (1280, 390, 320):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []


def test_who_has_a_camera_and_no_mouse_may_photograph(start: Callable[..., Opened], ash: bytes):
    page, *_ = start(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    assert page.locator(".photograph").is_visible()
    assert page.get_attribute("#photograph", "capture") == "environment"
    page.set_input_files("#photograph", [upload("image.png", ash)])
    assert settled(page).locator(".verdict bdi").text_content() == "ash"
