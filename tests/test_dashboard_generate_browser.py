"""The page Generate in a real browser: stepping, branching, the tree by keys, sliders, hostile text."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import pytest

from dashboard import examples
from dashboard.examples import Example
from tests.browser import (
    HOSTILE,
    MARKS,
    TEXT,
    browser,
    does_not_scroll_sideways,
    expect,
    link,
    page,
    server,
    tokens,
    until,
)

pytestmark = MARKS


def rows(page):
    return page.locator(".writing .row")


def focused(page) -> str:
    """The label of what has the focus, inside components as well."""
    return page.evaluate(
        "() => { let a = document.activeElement; while (a.shadowRoot) a = a.shadowRoot.activeElement;"
        " return a.getAttribute('aria-label') }"
    )


def test_pointing_shows_other_steps_and_a_choice_branches_off_and_leads_back(page, server):
    page.goto(link(server, step=1))
    rows(page).first.wait_for()
    first = page.url
    written = tokens(page, "Output").all_text_contents()
    before = rows(page).all_text_contents()
    tokens(page, "Output").nth(3).hover()
    until(page, lambda: rows(page).all_text_contents() != before)
    page.mouse.move(5, 5)
    until(page, lambda: rows(page).all_text_contents() == before)
    other = page.locator(".writing .row:not([aria-current])").nth(2)
    name = other.locator(".name").text_content()
    other.click()
    page.locator(".beside ins").first.wait_for()
    assert page.url != first
    until(page, lambda: tokens(page, "Output").nth(1).text_content() == name)
    forced = "all => all.slice(0, 3).map(one => one.classList.contains('forced'))"
    until(page, lambda: tokens(page, "Output").evaluate_all(forced) == [True, True, False])
    expect(page.locator(".beside .row").first.locator(".text")).to_contain_text(written[0])
    page.reload()
    page.locator(".beside ins").first.wait_for()
    page.get_by_role("button", name="Back to the first").click()
    until(page, lambda: tokens(page, "Output").all_text_contents() == written)
    expect(page.locator(".beside")).to_have_count(0)


def test_a_token_is_replaced_by_keys_alone(page, server):
    page.goto(link(server, step=0))
    rows(page).first.wait_for()
    tokens(page, "Output").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.wait_for_url("**step=1**")
    until(page, lambda: "write this instead" in (focused(page) or ""))
    page.keyboard.press("ArrowDown")
    wanted = focused(page).split(",")[0]
    page.keyboard.press("Escape")
    until(page, lambda: "rank" in focused(page) and "write this" not in focused(page))
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert focused(page).split(",")[0] == wanted
    page.keyboard.press("Enter")
    page.locator(".beside ins").first.wait_for()
    until(page, lambda: tokens(page, "Output").nth(1).text_content() == wanted)


def test_the_beam_tree_is_asked_for_and_walked_by_keys(page, server):
    page.goto(link(server))
    page.get_by_role("button", name="Follow 4 beams").click()
    page.wait_for_url("**beams=4**")
    lines = page.get_by_role("treeitem")
    lines.first.wait_for()
    until(page, lambda: page.locator(".beams .place").all_text_contents().count("1") == 1)
    lines.first.focus()
    page.keyboard.press("End")
    last = lines.count() - 1
    until(page, lambda: lines.nth(last).get_attribute("aria-label") == focused(page))
    page.keyboard.press("ArrowUp")
    until(page, lambda: lines.nth(last - 1).get_attribute("aria-label") == focused(page))
    chosen = focused(page)
    page.keyboard.press("Enter")
    page.locator(".beside").wait_for()
    text = chosen.split(", probability")[0].replace(" ", "")
    until(page, lambda: text in "".join(tokens(page, "Output").all_text_contents()))
    until(page, lambda: tokens(page, "Output").first.evaluate("one => one.classList.contains('forced')"))


def test_a_slider_changes_the_bars_and_the_link(page, server):
    page.goto(link(server, step=1))
    page.get_by_text("Bolder or wilder: if it drew its tokens").click()
    slider = page.get_by_role("slider").first
    slider.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_url("**temperature=120**")
    page.get_by_text("Entropy of step 1").wait_for()
    page.reload()
    page.get_by_text("Entropy of step 1").wait_for()


def test_how_sure_it_was_is_drawn_when_it_is_opened(page, server):
    page.goto(link(server, step=1))
    rows(page).first.wait_for()
    page.get_by_text("How sure it was, token by token").click()
    page.locator(".js-plotly-plot").nth(1).wait_for()
    page.get_by_test_id("stDataFrame").wait_for()
    rows(page).first.wait_for()  # the rest of the page stays


def test_a_text_survives_a_change_of_how_it_decodes(page, server):
    page.goto(server.url)
    page.get_by_placeholder("Type or paste the text").fill(TEXT)
    expect(page.get_by_placeholder("Type or paste the text")).to_have_value(TEXT)
    page.get_by_text("How it decodes").click()
    page.get_by_role("radio", name="Beam search").or_(
        page.get_by_text("Beam search", exact=True)
    ).first.click()
    page.get_by_text("Follows several outputs at once").wait_for()
    expect(page.get_by_placeholder("Type or paste the text")).to_have_value(TEXT)
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_role("treeitem").first.wait_for()
    expect(tokens(page, "Source").first).to_have_text(TEXT.split()[0])


@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_text_in_a_branch_and_a_tree_is_text(page, server, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(link(server, source=HOSTILE, beams=4, dropped=1, step=1))
    rows(page).first.wait_for()
    page.get_by_role("treeitem").first.wait_for()
    assert page.locator("img[src*=evil]").count() == 0
    page.locator(".writing .row:not([aria-current])").first.click()
    page.locator(".beside ins").first.wait_for()
    does_not_scroll_sideways(page)


def test_a_branch_of_a_text_of_another_model_is_one_line(page, server):
    id_ = examples.save(server.place, Example(TEXT, None, {}, prefix=(7,), model="sha256:other"))
    page.goto(f"{server.url}/?example={id_}")
    expect(page.get_by_test_id("stAlert")).to_contain_text("another model")
