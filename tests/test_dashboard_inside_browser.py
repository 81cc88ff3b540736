"""Inside and Compare in a real browser: silence the heads, change a word; and a beam tree is saved."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import dataclasses

from dashboard import examples
from dashboard.examples import Example
from tests.browser import MARKS, TEXT, browser, colours, link, page, server, strip, tokens, until

pytestmark = MARKS


def test_a_silenced_head_lights_up_what_it_spoke_for(page, server):
    """Inside, causes: every head is silenced, a token is picked, and the link brings it back."""
    page.goto(link(server, "inside", inside="causes"))
    figure = page.locator('[class*="st-key-wide_ablation"] .js-plotly-plot')
    figure.wait_for()
    page.get_by_role("heading", name="What the whole output loses without each head").wait_for()
    tokens(page, "Output").nth(1).click()
    page.wait_for_url("**step=1**")
    until(page, lambda: not page.get_by_role("heading", name="What the whole output loses").count())
    page.reload()
    figure.wait_for()
    assert "step=1" in page.url


def test_a_changed_word_is_compared_and_the_link_shows_the_same(page, server):
    """Compare: a word is changed, both outputs stand side by side, and a head's change is in the link."""
    first = Example(TEXT, None, {"allow_unknown": True, "max_new_tokens": 8})
    id_ = examples.save(server.place, first)
    other = dataclasses.replace(first, source=TEXT.replace("cat", "dog"), origin=id_)
    page.goto(link(server, "compare", other=examples.save(server.place, other)))
    page.locator(".beside").wait_for()
    until(page, lambda: len(set(colours(page, "Source, by A · as it is"))) > 2)
    before = colours(page, "Source, by A · as it is")
    tokens(page, "Output of A").nth(2).click()
    page.wait_for_url("**step=2**")
    until(page, lambda: colours(page, "Source, by A · as it is") != before)
    heads = page.locator(".st-key-view_shifted button")
    heads.nth(1).click()
    page.wait_for_url("**shifted=**")
    named = page.url.split("shifted=")[1].split("&")[0]
    page.reload()
    heads.nth(1).wait_for()
    assert f"shifted={named}" in page.url
    until(page, lambda: page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"))
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator(".beside").wait_for()
    until(page, lambda: page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1"))


def test_a_beam_tree_is_saved_as_a_picture_and_a_page(page, server):
    """Generate: the tree as a figure offers PNG, SVG, HTML and CSV, and the Python that makes it."""
    page.goto(link(server, beams=3))
    page.locator(".st-key-beam_figure summary").click()
    page.locator('[class*="st-key-map_beams"] .js-plotly-plot').wait_for()
    page.locator(".st-key-save_map_beams button").click()
    page.get_by_text("beam_tree_figure(search").wait_for()
    for name, said in (("Page (HTML)", "beam_tree_figure"), ("Picture (SVG)", "score")):
        with page.expect_download() as waiting:
            page.get_by_role("button", name=name).click()
        assert said in waiting.value.path().read_text(encoding="utf-8")
