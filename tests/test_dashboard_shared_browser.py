"""What holds on every page, in a real browser: hostile text, accessibility, saving, sessions, restarts."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import explain
from dashboard import examples
from dashboard.catalogue import Place
from dashboard.examples import Example
from explain.runs import Run, pack
from explain.training.data import Pair
from tests.audits import audited
from tests.browser import (
    MARKS,
    TEXT,
    WAIT,
    browser,
    does_not_scroll_sideways,
    expect,
    link,
    page,
    server,
    tokens,
    until,
)
from tests.gallery import ROUTES, served, settle
from tests.test_dashboard import save_run

pytestmark = MARKS
PAGES = [path.stem for path in sorted(ROUTES.glob("[a-z]*.py"))]
FIXED = "<div/style='position:fixed;inset:0;background:red'>x</div>"
HOSTILE = (
    "<script>alert(1)</script>",
    "![x](http://evil/x.png)",
    "<img/src=http://evil/y.png/onerror=alert(1)>",
    FIXED,
    "\u202egnirts\u202c",
    "👩‍👩‍👧‍👦",
    "a" * 10_000,
)


def path_of(name: str) -> str:
    return "" if name == "generate" else name


@pytest.fixture(scope="module")
def suspicious(server) -> Run:
    """An audit of hostile texts, which the page Audit opens of itself."""
    model = explain.load(str(server.runs / "tiny"))
    pairs = [Pair(f"{HOSTILE[0]} {i}", " ".join(HOSTILE[: i + 2])) for i in range(5)]
    run = audited(
        server.runs, "audited", model, server.runs / "tiny", pairs=pairs, maps=0, allow_unknown=True
    )
    run.update(title=" ".join(HOSTILE[:5]))
    return run


@pytest.fixture
def kept(server, suspicious) -> Iterator[Run]:
    """A run with hostile names in it, gone again for the other tests."""
    before = set(server.runs.iterdir())
    run = save_run(server.runs, "kept")
    run.update(title=" ".join(HOSTILE[:5]), result={"exact_match": 0.5, "note": HOSTILE[0]})
    (run.path / "report.html").write_text(
        f"<!DOCTYPE html><html><body><h1>In</h1>{''.join(HOSTILE[:4])}"
        "<script src='http://evil/z.js'></script><a href='http://evil/'>out</a></body></html>"
    )
    yield run
    for path in set(server.runs.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_is_text_on_every_page(page, server, kept, name):
    """The page fixture fails on any request, script or message that such a text brings about."""
    page.goto(link(server, path_of(name), source=" ".join(HOSTILE), run="kept", model="tiny"))
    settle(page)
    assert page.locator("[src*=evil]").count() == 0
    covering = page.evaluate(
        "() => getComputedStyle(document.elementFromPoint(innerWidth - 30, innerHeight - 30)).backgroundColor"
    )
    assert covering != "rgb(255, 0, 0)"
    does_not_scroll_sideways(page)
    if name == "generate":
        until(page, lambda: tokens(page, "Source").all_text_contents()[:2] == list(HOSTILE[:2]))
    if name == "runs":
        # From outside: a script of this test inside the frame would be blocked like any other.
        sheet = page.locator(".sheet iframe")
        sheet.evaluate("frame => frame.contentDocument.querySelector('a').click()")
        page.wait_for_timeout(300)
        assert sheet.evaluate("frame => frame.contentDocument.querySelector('h1').textContent") == "In"
        assert (
            sheet.evaluate("frame => frame.contentDocument.querySelectorAll('script, [onerror]').length") == 0
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_no_page_has_a_serious_barrier(browser, server, kept, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, color_scheme=scheme)
    opened = context.new_page()
    opened.set_default_timeout(WAIT)
    opened.goto(link(server, path_of(name), run="kept", model="tiny", step=1))
    settle(opened)
    found = axe.run(opened).response["violations"]
    context.close()
    assert [
        (barrier["id"], node["html"][:150])
        for barrier in found
        if barrier["impact"] in ("serious", "critical")
        for node in barrier["nodes"]
    ] == []


def test_a_figure_is_saved_in_four_ways(page, server, tmp_path):
    page.goto(link(server, "attribution", method="input_x_gradient", step=1))
    settle(page)
    ways = {"Picture (PNG)": "png", "Picture (SVG)": "svg", "Page (HTML)": "html", "Numbers (CSV)": "csv"}
    for label, ending in ways.items():
        offered = page.get_by_test_id("stPopoverBody").get_by_role("button", name=label, exact=True)
        if not offered.count():
            page.locator('[class*="st-key-save_map_attribution"] button').first.click()
        with page.expect_download() as download:
            offered.click()
        assert download.value.suggested_filename == f"explain-attribution.{ending}"
        download.value.save_as(tmp_path / ending)
    assert (tmp_path / "png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "svg").read_text()
    assert (tmp_path / "csv").read_text().startswith('"series"')


def test_two_sessions_do_not_disturb_each_other(browser, server):
    contexts = [browser.new_context(viewport={"width": 1280, "height": 1000}) for _ in range(2)]
    pages = [context.new_page() for context in contexts]
    for at, opened in enumerate(pages):
        opened.set_default_timeout(WAIT)
        given = Example(TEXT if at else f"{TEXT} {TEXT}", "le chat la maison", {"allow_unknown": True})
        opened.goto(f"{server.url}/attention?example={examples.save(server.place, given)}&step=0")
    for at, opened in enumerate(pages):
        settle(opened)
        tokens(opened, "Output").nth(1 + at).click()
    for at, opened in enumerate(pages):
        opened.wait_for_url(f"**step={1 + at}**")
        settle(opened)
        expect(tokens(opened, "Output").nth(1 + at)).to_have_attribute("aria-pressed", "true")
        count = len(TEXT.split()) * (2 - at) + 1
        expect(tokens(opened, "Source")).to_have_count(count)
    for context in contexts:
        context.close()


def test_a_restart_and_a_reload_lose_nothing(browser, tmp_path):
    save_run(tmp_path, "tiny")
    id_ = examples.save(Place(tmp_path), Example("the old cat sleeps", None, {"max_new_tokens": 6}))
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(WAIT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with served(tmp_path, port) as address:
        opened.goto(f"{address}/attention?example={id_}&step=0")
        settle(opened)
        tokens(opened, "Output").nth(2).click()
        opened.wait_for_url("**step=2**")
    with served(tmp_path, port):
        opened.reload()
        settle(opened)
        expect(tokens(opened, "Output").nth(2)).to_have_attribute("aria-pressed", "true")
        expect(tokens(opened, "Source")).to_have_count(5)
    context.close()


def test_a_run_goes_out_in_again_and_away(page, server, kept, tmp_path):
    with pack(kept) as archive:
        (tmp_path / "mine.zip").write_bytes(archive.read())
    (tmp_path / "evil.zip").write_bytes(b"PK no zip")
    page.goto(f"{server.url}/runs?run=kept")
    settle(page)
    page.get_by_role("button", name="Bring in").click()
    page.locator('input[type="file"]').set_input_files(tmp_path / "evil.zip")
    page.get_by_role("button", name="Bring it in").click()
    page.get_by_text("not a zip file").wait_for()
    page.locator('input[type="file"]').set_input_files(tmp_path / "mine.zip")
    page.get_by_text("not a zip file").wait_for(state="hidden")
    page.get_by_role("button", name="Bring it in").click()
    page.wait_for_url("**run=kept-2**")
    settle(page)
    page.locator(".shelf .name", has_text="kept-2").wait_for()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    until(page, lambda: not (server.runs / "kept-2").exists())
    until(page, lambda: page.locator(".shelf .name", has_text="kept-2").count() == 0)
    assert kept.path.is_dir()


def test_the_list_of_keys_opens_by_its_key_and_not_while_typing(page, server):
    page.goto(server.url)
    settle(page)
    page.keyboard.press("?")
    page.locator(".keys dialog[open]").wait_for()
    page.keyboard.press("Escape")
    page.locator(".keys dialog[open]").wait_for(state="detached")
    page.get_by_placeholder("Type or paste the text").click()
    page.keyboard.type("why?")
    assert page.locator(".keys dialog[open]").count() == 0
    expect(page.get_by_placeholder("Type or paste the text")).to_have_value("why?")
