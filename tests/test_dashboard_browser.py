"""The dashboard in a real browser: what AppTest cannot see."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from dashboard import examples
from dashboard.evaluations import fast_methods
from dashboard.examples import Example
from tests.browser import (
    HOSTILE,
    MARKS,
    TEXT,
    browser,
    colours,
    does_not_scroll_sideways,
    expect,
    link,
    page,
    server,
    strip,
    tokens,
    until,
)
from tests.test_dashboard import save_run
from tests.test_dashboard_trust import keep

pytestmark = MARKS


def test_text_goes_in_and_a_token_shows_its_alternatives(page, server):
    page.goto(server.url)
    page.get_by_placeholder("Type or paste the text").fill(TEXT)
    page.get_by_role("button", name="Write", exact=True).click()
    tokens(page, "Output").first.wait_for()
    expect(tokens(page, "Source")).to_have_text([*TEXT.split(), "</s>"])
    tokens(page, "Output").nth(1).click()
    page.wait_for_url("**step=1**")
    page.get_by_text("Step 1: what it weighed").wait_for()
    expect(tokens(page, "Output").nth(1)).to_have_attribute("aria-pressed", "true")


def test_a_reload_keeps_the_view(page, server):
    page.goto(link(server, step=0))
    tokens(page, "Output").nth(2).click()
    page.wait_for_url("**step=2**")
    page.reload()
    expect(tokens(page, "Output").nth(2)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_placeholder("Type or paste the text")).to_have_value(TEXT)


def test_the_keyboard_moves_and_locks(page, server):
    page.goto(link(server, step=0))
    tokens(page, "Output").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url("**step=2**")
    expect(tokens(page, "Output").nth(2)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Home")
    expect(tokens(page, "Output").first).to_be_focused()
    assert tokens(page, "Output").evaluate_all("all => all.filter(one => one.tabIndex === 0).length") == 1


def test_an_output_token_lights_up_the_source(page, server):
    page.goto(link(server, "attribution", step=1, method="input_x_gradient"))
    tokens(page, "Output").nth(3).wait_for()
    until(page, lambda: len(set(colours(page, "Source"))) > 2)
    before = colours(page, "Source")
    tokens(page, "Output").nth(3).hover()
    until(page, lambda: colours(page, "Source") != before)
    hovered = colours(page, "Source")
    tokens(page, "Output").nth(3).click()
    page.wait_for_url("**step=3**")
    page.mouse.move(5, 5)
    until(page, lambda: colours(page, "Source") == hovered)
    tokens(page, "Source").first.hover()
    expect(strip(page, "Source").locator(".readout")).to_contain_text("score")


def test_a_head_is_chosen_on_the_canvas_and_by_keys(page, server):
    page.goto(link(server, "attention"))
    canvas = page.locator(".heads canvas")
    canvas.wait_for()
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] - 20, "y": box["height"] - 20})
    page.wait_for_url("**layer=1&head=1**")
    page.get_by_text("layer 1 · head 1", exact=True).wait_for()
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_url("**layer=1&head=0**")


def test_hostile_text_is_shown_as_text(page, server):
    page.goto(link(server, source=HOSTILE))
    for name in ("Generate", "Attention", "Attribution"):
        page.get_by_role("link", name=name, exact=True).click()
        until(page, lambda name=name: name == "Generate" or name.lower() in page.url)
        tokens(page, "Source").first.wait_for()
        if name != "Generate":
            page.get_by_test_id("stPlotlyChart").first.wait_for()
        until(page, lambda: tokens(page, "Source").all_text_contents() == [*HOSTILE.split(), "</s>"])
        assert page.locator("img[src*=evil]").count() == 0


def test_a_hostile_error_is_shown_as_text(page, server):
    id_ = examples.save(server.place, Example(HOSTILE, None, {}))
    page.goto(f"{server.url}/?example={id_}")
    alert = page.get_by_test_id("stAlert")
    expect(alert).to_contain_text("![x](http://evil/x.png)")
    expect(alert).to_contain_text("<script>alert(1)</script>")
    assert alert.locator("img, a").count() == 0


def test_pages_keep_their_view_between_them(page, server):
    page.goto(link(server, step=2))
    tokens(page, "Output").nth(2).wait_for()
    page.get_by_role("link", name="Attribution").click()
    page.get_by_text("Why did it write that word?").wait_for()
    until(page, lambda: "step=2" in page.url)
    expect(tokens(page, "Output").nth(2)).to_have_attribute("aria-pressed", "true")


def test_a_narrow_page_does_not_scroll_sideways(page, server):
    page.set_viewport_size({"width": 390, "height": 800})
    for where in ("", "attention", "attribution", "trust", "train"):
        page.goto(link(server, where, temperature=150))
        page.locator("h1").wait_for()
        if where not in ("trust", "train"):
            page.get_by_test_id("stPlotlyChart").first.wait_for()
        page.wait_for_timeout(300)
        does_not_scroll_sideways(page)


@pytest.fixture
def checked(server) -> Iterator[str]:
    """The name of a model with an evaluation, whose other runs the other tests do not see."""
    before = set(server.runs.iterdir())
    keep(save_run(server.runs, "checked"))
    (server.runs / "words.tsv").write_text(f"source\ttarget\n{TEXT}\t\n", encoding="utf-8")
    yield "checked"
    for path in set(server.runs.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_from_the_ranking_to_a_card_to_a_map_and_back(page, server, checked):
    page.goto(link(server, "trust", model=checked))
    rows = page.locator(".ranking tbody tr")
    rows.first.wait_for()
    shown = "all => all.map(one => one.classList.contains('off'))"
    until(page, lambda: rows.evaluate_all(shown) == [False, False, True, True, True])
    grey, black = (rows.nth(at).evaluate("row => getComputedStyle(row).color") for at in (2, 0))
    assert grey != black
    rows.nth(2).get_by_role("button").press("Enter")
    page.wait_for_url("**card=occlusion**")
    until(page, lambda: "picked" in rows.nth(2).get_attribute("class"))
    until(page, lambda: page.locator(".st-key-trust_card").bounding_box()["y"] < 600)
    page.get_by_role("button", name="Explain with Occlusion").click()
    page.wait_for_url("**/attribution?**method=occlusion**")
    page.get_by_text("failed its checks on this model").wait_for()
    page.mouse.move(5, 5)  # what is pointed at is not pale
    strips_of = page.locator('[class*="st-key-paler_strips"]')
    until(page, lambda: float(strips_of.evaluate("one => getComputedStyle(one).opacity")) < 0.9)
    page.get_by_role("button", name="Use Attention").click()
    page.get_by_text("Its strongest influence is one the answer needs").wait_for()
    expect(page.get_by_text("failed its checks")).to_have_count(0)
    card = page.get_by_role("button", name="Its trust card")
    until(page, lambda: card.count() == 1)  # what the map before left behind is gone
    card.click()
    page.wait_for_url("**/trust?**card=attention**")
    page.reload()
    until(page, lambda: "picked" in rows.first.get_attribute("class"))
    page.set_viewport_size({"width": 390, "height": 800})
    page.get_by_test_id("stPlotlyChart").first.wait_for(state="attached")
    page.wait_for_timeout(300)
    does_not_scroll_sideways(page)


def test_an_evaluation_is_started_once_and_its_result_appears(page, server, checked):
    page.goto(f"{server.url}/trust?model=tiny&scope=fast&count=1&data=file:words.tsv")
    page.get_by_role("button", name="Evaluate", exact=True).dblclick()
    page.get_by_text("Evaluating the methods on tiny").wait_for()
    page.get_by_text("The ranking").wait_for(timeout=180_000)
    assert len(list(server.runs.glob("evaluate-tiny*"))) == 1
    until(page, lambda: page.locator(".ranking tbody tr").count() == len(fast_methods()) + 1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Page (HTML)").click()
    assert download.value.suggested_filename == "evaluation.html"
