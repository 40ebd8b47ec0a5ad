"""The page in a real browser: it sorts, filters and opens, with mouse and keyboard, and asks nothing of any network."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import draw_folders, picture

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
    pytest.mark.timeout(120),
]
_connect = socket.socket.connect


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a model that mistakes some pictures, as two classes look the same and one label is wrong."""
    from headstart.config import read_config
    from headstart.data import sources
    from headstart.report import run
    from headstart.workflows import train

    folder = tmp_path_factory.mktemp("browser")
    photos = draw_folders(folder / "photos", ("ash", "birch", "cedar"), each=10)
    (photos / "<b>elm").mkdir()
    for index in range(10):
        picture((60, 60, 60), 9000 + index).save(photos / "<b>elm" / f"elm_{index}.png")
    flags = {"encoder.backbone": "tf_efficientnet_lite0", "pictures.size": 64}
    result = train.train(sources.read(photos), read_config(None, flags=flags), cache=folder / "cache")
    run.save(result, folder / "model")
    return folder / "model" / "report.html"


@pytest.fixture
def opened(page_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[str]]]:
    """The page at 1280 px, and what went wrong or left it."""
    from playwright.sync_api import sync_playwright

    monkeypatch.setattr(socket.socket, "connect", _connect)  # of the browser's own process only
    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True).new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda one: wrong.append(one.url) if not one.url.startswith(("file:", "data:")) else None)
        page.goto(page_file.as_uri())
        yield page, wrong
        browser.close()


def column(page: Any, number: int) -> list[float]:
    cells = page.query_selector_all(f"#classes tbody tr td:nth-child({number})")
    return [float(cell.get_attribute("data-value")) for cell in cells]


def test_the_table_is_sorted_by_a_click_and_by_the_keyboard(opened: tuple[Any, list[str]]):
    page, _ = opened
    assert column(page, 3) == sorted(column(page, 3))
    header = page.locator("#classes thead th").nth(2)
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, 3) == sorted(column(page, 3), reverse=True)
    page.locator("#classes thead button").nth(3).focus()
    page.keyboard.press("Enter")
    assert column(page, 4) == sorted(column(page, 4))


def test_the_gallery_is_filtered_and_an_error_opened(opened: tuple[Any, list[str]]):
    page, wrong = opened
    cards = page.locator("#mistakes .mistake:visible")
    every = cards.count()
    assert every > 0
    parts = []
    for labels in ("doubted", "sure"):
        page.select_option("#filter-doubted", labels)
        parts.append(cards.count())
        assert page.locator("#mistakes .mistake:visible .doubt").count() == (
            cards.count() if labels == "doubted" else 0
        )
    assert sum(parts) == every
    page.select_option("#filter-doubted", "")
    page.select_option("#filter-class", label="<b>elm")
    assert 0 < cards.count() <= every
    assert page.text_content("#shown") == f"{cards.count()} shown"
    cards.first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open] .inside").is_visible()
    assert page.locator("details[open] .inside img").count() > 0
    page.keyboard.press("Escape")
    assert page.locator("details[open]").count() == 0
    assert wrong == []


def test_of_many_errors_the_first_are_shown_until_all_are_asked_for(page_file: Path, opened: tuple[Any, list[str]]):
    page, wrong = opened
    page.evaluate(
        """() => {
            const gallery = document.getElementById("mistakes");
            const card = gallery.querySelector(".mistake");
            while (gallery.children.length < 75) gallery.append(card.cloneNode(true));
            document.getElementById("filter-class").dispatchEvent(new Event("change"));
        }"""
    )
    cards, more = page.locator("#mistakes .mistake:visible"), page.locator("#more-mistakes")
    assert cards.count() == 30
    assert page.text_content("#shown") == "30 of 75 shown"
    more.focus()
    page.keyboard.press("Enter")
    assert cards.count() == 75
    assert page.text_content("#shown") == "75 shown"
    assert not more.is_visible()
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_G8_no_request_no_script_error_and_nothing_runs_over_the_edge(opened: tuple[Any, list[str]], scheme: str):
    page, wrong = opened
    page.emulate_media(color_scheme=scheme)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(i => i.loading !== 'lazy' && !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert wrong == []


def violations(page: Any) -> list[tuple[str, str]]:
    """Return what axe finds serious."""
    from axe_playwright_python.base import AXE_FILE_PATH

    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))  # past the page's own policy
    found = page.evaluate("axe.run().then(found => found.violations)")
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(opened: tuple[Any, list[str]], scheme: str):
    page, _ = opened
    page.emulate_media(color_scheme=scheme)
    assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_several_runs_is_sorted_fits_and_is_accessible(
    opened: tuple[Any, list[str]], page_file: Path, tmp_path: Path, scheme: str
):
    from headstart.report import page as pages
    from headstart.report import runs

    other = shutil.copytree(page_file.parent, tmp_path / "other")
    text = (other / "predictions.csv").read_text(encoding="utf-8")
    (other / "predictions.csv").write_text(text.replace(",cedar,cedar,", ",cedar,birch,"), encoding="utf-8")
    read = [runs.read(folder) for folder in (page_file.parent, other)]
    (tmp_path / "compare.html").write_text(pages.render_comparison(runs.of_runs(read), runs.thumbnails(read)), "utf-8")
    page, wrong = opened
    page.emulate_media(color_scheme=scheme)
    page.goto((tmp_path / "compare.html").as_uri())
    page.locator("thead button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("thead th").nth(2).get_attribute("aria-sort") == "ascending"
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
    assert wrong == []
