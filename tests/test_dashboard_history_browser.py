"""The browser's own buttons: going back and forward restores what was looked at."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

from tests.browser import MARKS, browser, expect, link, page, server, tokens

pytestmark = MARKS
# Click a token, and go back as soon as the link says so: the page is still being drawn.
_HASTY = """async (index) => {
  const roots = [...document.querySelectorAll("*")].map((one) => one.shadowRoot).filter(Boolean);
  const strip = roots.map((root) => root.querySelector('.strip[aria-label="Output"]')).find(Boolean);
  strip.querySelectorAll(".tokens .token")[index].click();
  while (!location.search.includes(`step=${index}`)) await new Promise((done) => setTimeout(done, 1));
  history.back();
}"""


def test_back_and_forward_restore_the_view(page, server):
    page.goto(link(server, "attribution", step=0))
    output = tokens(page, "Output")
    expect(output.nth(0)).to_have_attribute("aria-pressed", "true")
    for place in (1, 2):
        output.nth(place).click()
        page.wait_for_url(f"**step={place}*")
    for place, go in ((1, page.go_back), (0, page.go_back), (1, page.go_forward)):
        go()
        expect(output.nth(place)).to_have_attribute("aria-pressed", "true")
        page.wait_for_url(f"**step={place}*")
    page.get_by_role("link", name="Attention", exact=True).click()
    page.wait_for_url("**/attention?*step=1*")
    expect(page.get_by_role("heading", name="Where did it look?")).to_be_visible()
    output.nth(2).click()
    page.wait_for_url("**/attention?*step=2*")
    page.go_back()
    expect(output.nth(1)).to_have_attribute("aria-pressed", "true")


def test_who_goes_back_before_a_click_is_answered_sees_what_was_before(page, server):
    page.goto(link(server, "attribution", step=1))
    output = tokens(page, "Output")
    for _ in range(5):
        expect(output.nth(1)).to_have_attribute("aria-pressed", "true")
        page.wait_for_timeout(500)
        page.evaluate(_HASTY, 2)
        page.wait_for_url("**step=1*")
    expect(output.nth(1)).to_have_attribute("aria-pressed", "true")
