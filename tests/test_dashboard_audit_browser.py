"""The page Audit in a real browser: from a suspect to a verdict that is still there after a reload."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import pytest

import explain
from explain.audit import load_audit
from explain.audit.reviews import load_reviews
from tests.audits import audited
from tests.browser import MARKS, browser, expect, page, server, tokens, until
from tests.gallery import settle

pytestmark = MARKS


@pytest.fixture(scope="module")
def audit(server):
    model = explain.load(str(server.runs / "tiny"))
    return audited(server.runs, "audit", model, server.runs / "tiny")


def test_a_suspect_is_looked_at_judged_and_still_judged_after_a_reload(page, server, audit):
    second = load_audit(audit.path).suspects[1].number
    page.goto(f"{server.url}/audit?model=tiny&run=audit")
    settle(page)
    listed = page.locator(".suspects button")
    expect(listed).to_have_count(3)
    listed.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**finding={second}**")
    settle(page)
    expect(listed.nth(1)).to_have_attribute("aria-current", "true")
    # A token of the output lights up what it was read off.
    tokens(page, "Output").nth(1).click()
    page.wait_for_url("**step=1**")
    settle(page)
    page.get_by_role("radio", name="Wrong", exact=True).click()
    page.get_by_placeholder("Why, for who reads the report").fill("<b>no</b> cat in the source")
    page.get_by_placeholder("Your name").fill("Ada")
    page.get_by_role("button", name="Save the verdict").click()
    until(page, lambda: bool(load_reviews(audit.path)))
    page.reload()
    settle(page)
    page.get_by_text("<b>no</b> cat in the source").first.wait_for()
    expect(page.locator(".suspects button .said")).to_have_text(["✗ wrong"])
    expect(page.get_by_text("a precision of 100")).to_have_count(1)
    page.get_by_role("button", name="Explain it on the page Attribution").click()
    page.wait_for_url("**/attribution?**")
    settle(page)
    words = list(load_audit(audit.path).suspects[1].tokens)
    until(page, lambda: tokens(page, "Output").all_text_contents() == words)
