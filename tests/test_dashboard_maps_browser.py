"""Attention and Attribution in a real browser: spans, two methods, foils, lines, keys, and large maps."""

# ruff: noqa: F401, F811 - fixtures are imported, and parameters have their names

from __future__ import annotations

import json

import numpy as np
import pytest

from dashboard.components import asset, packed
from dashboard.components.strips import Bar, Strip
from explain.results import Token
from tests.browser import MARKS, browser, colours, expect, link, page, server, strip, tokens, until

pytestmark = MARKS
WORDS = "אחת שתיים שלוש"


def drag(page, first, last) -> None:
    begin, end = first.bounding_box(), last.bounding_box()
    page.mouse.move(begin["x"] + begin["width"] / 2, begin["y"] + begin["height"] / 2)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=6)
    page.mouse.up()


def pressed(page, label: str = "Output") -> list[int]:
    return tokens(page, label).evaluate_all(
        "all => all.flatMap((one, i) => one.getAttribute('aria-pressed') === 'true' ? [i] : [])"
    )


def test_a_span_is_dragged_explained_as_one_and_left_again(page, server):
    page.goto(link(server, "attribution", step=0, method="input_x_gradient"))
    output = tokens(page, "Output")
    output.nth(3).wait_for()
    drag(page, output.nth(1), output.nth(3))
    page.wait_for_url("**step=1**end=4**")
    page.get_by_text("3 tokens as one").wait_for()
    page.mouse.move(5, 5)
    until(page, lambda: pressed(page) == [1, 2, 3])
    until(page, lambda: not page.locator(".strips.waiting").count())
    until(page, lambda: len(set(colours(page, "Source"))) > 2)
    span = colours(page, "Source")
    late = strip(page, "Output so far").locator(".token.unable")
    until(page, lambda: late.count() >= 3)
    output.nth(2).hover()
    until(page, lambda: colours(page, "Source") != span)
    page.mouse.move(5, 5)
    until(page, lambda: colours(page, "Source") == span)
    page.reload()
    page.get_by_text("3 tokens as one").wait_for()
    output.nth(2).click()
    page.wait_for_url(lambda url: "step=2" in url and "end=" not in url)
    until(page, lambda: pressed(page) == [2])


def test_a_span_is_made_by_keys(page, server):
    page.goto(link(server, "attribution", step=1, method="attention"))
    tokens(page, "Output").nth(1).focus()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    until(page, lambda: pressed(page) == [1, 2, 3])
    page.keyboard.press("Enter")
    page.wait_for_url("**step=1**end=4**")
    page.get_by_text("3 tokens as one").wait_for()
    tokens(page, "Output").nth(3).focus()
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "end=" not in url)


def test_two_methods_stand_side_by_side(page, server):
    page.goto(link(server, "attribution", step=1, method="input_x_gradient", second="attention"))
    page.get_by_text("Do the two agree?").wait_for()
    left, right = (strip(page, f"Source, by {name}") for name in ("Input × gradient", "Attention"))
    right.wait_for()

    def beside() -> bool:
        one, two = left.bounding_box(), right.bounding_box()
        return one["x"] + one["width"] <= two["x"] and abs(one["y"] - two["y"]) < 2

    until(page, beside)
    second = "Source, by Attention"
    until(page, lambda: any(colours(page, second)))
    before = colours(page, second)
    tokens(page, "Output").nth(3).hover()
    until(page, lambda: colours(page, second) != before)
    page.set_viewport_size({"width": 390, "height": 800})
    until(page, lambda: abs(left.bounding_box()["x"] - right.bounding_box()["x"]) < 2)


def test_an_alternative_becomes_the_contrast(page, server):
    page.goto(link(server, "attribution", step=1, method="input_x_gradient"))
    pills = page.locator(".st-key-foils button")
    pills.first.wait_for()
    name = pills.first.text_content().rsplit(" ", 1)[0]
    pills.first.click()
    page.wait_for_url("**foil=**")
    expect(page.get_by_role("textbox", name="Rather than")).to_have_value(name)
    strip(page, "Source").get_by_text("for the contrast").wait_for()
    page.locator(".st-key-foils button").first.click()
    page.wait_for_url(lambda url: "foil=" not in url and "contrast=" not in url)


def test_lines_lead_from_a_token_to_where_it_looked(page, server):
    page.goto(link(server, "attention", step=1, drawn="lines", layer=1, head=0))
    right = page.locator(".lines .column.right button")
    right.first.wait_for()
    paths = page.locator(".lines svg path")
    until(page, lambda: paths.count() > 0)
    numbers = page.locator(".lines .column.left .number").all_text_contents()
    total = sum(float(number) for number in numbers if number)
    assert total == pytest.approx(1, abs=0.06)
    right.nth(1).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**step=2**")
    until(page, lambda: right.nth(2).get_attribute("aria-pressed") == "true")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".lines .readout")).to_contain_text("is looked at most by")
    until(page, lambda: paths.count() > 0)


def test_escape_takes_a_head_back(page, server):
    page.goto(link(server, "attention", layer=1, head=0))
    canvas = page.locator(".heads canvas")
    canvas.wait_for()
    canvas.focus()
    page.keyboard.press("Escape")
    page.wait_for_url(lambda url: "layer=" not in url and "head=" not in url)
    page.get_by_text("mean over layers · mean over heads", exact=True).wait_for()


# ---- components by themselves ----------------------------------------------------------------------------


def component(page, name: str, data: dict) -> None:
    """Draw a component on an empty page, and wait until the browser has painted it."""
    page.set_content(f"<style>{asset(f'{name}.css')}</style><div id=parent><div class={name}></div></div>")
    script = asset(f"{name}.js").replace("export default function", "window.component = function")
    page.add_script_tag(content=f"{{{script}}}")  # a block, so that names do not meet those of before
    page.evaluate(
        """async (data) => {
          const parentElement = document.querySelector("#parent");
          window.sent = [];
          component({ data, parentElement, setTriggerValue: (name, value) => window.sent.push(value) });
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        }""",
        data,
    )


@pytest.fixture
def blank(browser):
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    opened.close()
    assert complaints == []


def nodes(page) -> int:
    """How many elements the component is made of: what a long text must not multiply."""
    return page.evaluate("document.querySelectorAll('#parent *').length")


def test_a_grid_of_twelve_by_twelve_heads_is_one_canvas(blank):
    maps = np.random.default_rng(0).integers(0, 256, (144, 64, 64), dtype=np.uint8)
    component(
        blank,
        "heads",
        {
            "maps": packed(maps, "u1"),
            "rows": 64,
            "columns": 64,
            "heads": [12] * 12,
            "layer": -1,
            "head": -1,
            "colours": [f"#{8 * i:02x}{8 * i:02x}ff" for i in range(21)],
            "high": "1.00",
            "tags": [["alignment"] * 12] * 12,
            "notes": [["a head"] * 12] * 12,
        },
    )
    canvas = blank.locator("canvas")
    assert canvas.count() == 1
    assert nodes(blank) < 100
    assert canvas.bounding_box()["height"] < 1000
    canvas.hover(position={"x": 100, "y": 60})
    expect(blank.locator(".readout")).to_have_text("layer 0, head 0 · a head")


def long_tokens(count: int) -> tuple[tuple[Token, ...], str]:
    words = [f"word{i}" for i in range(count)]
    text, found, reached = " ".join(words), [], 0
    for i, word in enumerate(words):
        found.append(Token(word, i, reached, reached + len(word)))
        reached += len(word) + 1
    return tuple(found), text


def test_five_hundred_tokens_stay_few_elements(blank):
    found, text = long_tokens(500)
    scores = np.random.default_rng(0).normal(size=(500, 500)).astype(np.float32)
    bar = Bar("diverging", 3.0, "nats")
    shown = [
        Strip("output", "Output", found, text, role="pick", notes=["a note"] * 500),
        Strip("source", "Source", found, text, "lit", scores, bar),
        Strip("prefix", "Output so far", found, text, "lit", np.tril(scores, -1), bar, legend=False),
    ]
    data = {
        "strips": [each.to_dict("light") for each in shown],
        "picked": [3, 4],
        "spans": True,
        "span_note": "",
    }
    component(blank, "strips", data)
    assert nodes(blank) < 3 * 3 * 500  # three strips; a token is a button and its mark
    # Pointing at a token recolours what is there and makes nothing new.
    before = nodes(blank)
    was = colours(blank, "Source")
    tokens(blank, "Output").nth(200).hover()
    until(blank, lambda: colours(blank, "Source") != was)
    assert nodes(blank) == before
    lines = {
        "left": shown[1].to_dict("light"),
        "right": shown[0].to_dict("light"),
        "weights": packed(np.abs(scores), "f4"),
        "bar": Bar("sequential", 3.0, "weight").to_dict("light"),
        "picked": 250,
    }
    component(blank, "lines", lines)
    assert blank.locator("svg path").count() <= 240
    assert blank.locator(".column.left button").count() <= 26
    assert blank.locator(".lines").bounding_box()["height"] < 2000


def test_right_to_left_tokens_run_from_right_to_left(blank):
    spans = [(0, 3), (4, 10), (11, 15)]
    found = tuple(Token(WORDS[a:b], i, a, b) for i, (a, b) in enumerate(spans))
    shown = Strip("output", "Output", found, WORDS, role="pick")
    data = {"strips": [shown.to_dict("light")], "picked": None, "spans": True, "span_note": ""}
    component(blank, "strips", data)
    places = blank.locator(".token").evaluate_all("all => all.map(one => one.getBoundingClientRect().x)")
    assert places == sorted(places, reverse=True)
    blank.locator(".token").first.focus()
    blank.keyboard.press("ArrowLeft")
    blank.keyboard.press("Shift+ArrowLeft")
    blank.keyboard.press("Enter")
    assert json.loads(json.dumps(blank.evaluate("window.sent")))[0]["step"] == 1
    assert blank.evaluate("window.sent")[0]["end"] == 3


def test_right_to_left_outputs_stand_beside_each_other_from_the_right(blank):
    """A language code before the text, which is left to right, does not turn it round."""
    words = [{"t": word, "g": " ", "s": False} for word in WORDS.split()]
    row = {"name": "A", "tokens": [{"t": "he_IL", "g": "", "s": True}, *words], "mean": "-0.1"}
    component(blank, "beside", {"rows": [row, {**row, "name": "B"}], "muted": "#555"})
    places = (
        blank.locator(".text")
        .first.locator("span")
        .evaluate_all("all => all.map(one => one.getBoundingClientRect().x)")
    )
    assert places == sorted(places, reverse=True)
