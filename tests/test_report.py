"""Reports: what a reader finds on the page, and what a page must never do."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import explain.report
from explain.errors import FileError, InputError, UnknownNameError
from explain.files import read_json
from explain.report import attribution_page, facts, maps, report, sections
from explain.report.labels import number
from explain.results import Attribution, Beam, Generation, Token

NAN = math.nan
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title>\u202eevil",
    "x" * 10_000,
    "👩‍👩‍👧‍👦 שלום {{ 7 * 7 }} &amp; \x00",
]
REGISTRY = [
    {
        "name": "integrated_gradients",
        "label": "Integrated gradients",
        "reads": "A token's share of the difference.",
        "paper": "Sundararajan et al. 2017",
        "objective": True,
        "contrast": True,
        "options": {"steps": 16},
    },
    {
        "name": "attention",
        "label": "Attention",
        "reads": "Where the decoder looked.",
        "paper": "Bahdanau et al. 2015",
        "objective": False,
        "contrast": False,
        "options": {"layers": None},
    },
]


def tokens(text: str, *, end: bool = True, forced: bool = False) -> tuple[Token, ...]:
    """A token for each word, the last word of several letters in two pieces, and EOS."""
    found = []
    for match in re.finditer(r"\S+", text):
        found.append(Token(match.group(), len(found), match.start(), match.end(), forced=forced))
    if found and len(found[-1].text) > 4:
        last = found.pop()
        middle = last.start + 3
        found += [
            dataclasses.replace(last, text=text[last.start : middle], end=middle),
            dataclasses.replace(last, text=text[middle : last.end], start=middle, id=len(found) + 1),
        ]
    if end:
        found.append(Token("</s>", 1, len(text), len(text), special=True, forced=forced))
    return tuple(found)


def made(source: str, target: str, *, forced: bool = False, finished: bool = True) -> Generation:
    target_tokens = tokens(target, end=finished, forced=forced)
    n = len(target_tokens)
    log_probs = -torch.linspace(0.01, 1.5, n)
    return Generation(
        source_text=source,
        target_text=target,
        source_tokens=tokens(source),
        target_tokens=target_tokens,
        decoder_start=Token("<s>", 0, 0, 0, special=True),
        log_probs=log_probs,
        entropy=-log_probs,
        ranks=torch.ones(n, dtype=torch.long),
        top_ids=torch.tensor([[token.id, 70, 71] for token in target_tokens]),
        top_log_probs=torch.stack([log_probs, log_probs - 1, log_probs - 2], 1),
        top_texts=tuple((token.text, "other", "<i>third</i>") for token in target_tokens),
        beams=(Beam(target, (1,), -0.2), Beam("second", (2,), -0.4)),
        finished=finished,
        settings={"decoding": "forced"} if forced else {"decoding": "greedy"},
    )


def explained(gen: Generation, method: str = "integrated_gradients", **changes: Any) -> Attribution:
    n, m = len(gen.target_tokens), len(gen.source_tokens)
    generator = torch.Generator().manual_seed(n * m)
    signed = method != "attention"
    source = torch.randn(n, m, generator=generator)
    prefix = torch.randn(n, n, generator=generator).tril(-1)
    nan = torch.full((n,), NAN)
    base = Attribution(
        method=method,
        objective="log_prob" if signed else "",
        contrast=None,
        units="nats of log-probability" if signed else "share",
        signed=signed,
        source_text=gen.source_text,
        target_text=gen.target_text,
        source_tokens=gen.source_tokens,
        target_tokens=gen.target_tokens,
        source=source if signed else source.abs(),
        prefix=prefix if signed else prefix.abs(),
        start=torch.full((n,), 0.1),
        within=torch.zeros(n),
        value=gen.log_probs if signed else nan,
        baseline_value=gen.log_probs - source.sum(1) - prefix.sum(1) - 0.1 if signed else nan,
        completeness_error=torch.zeros(n) if signed else nan,
        log_probs=gen.log_probs,
        config={"tolerance": 0.01, "steps": 16} if signed else {},
    )
    return dataclasses.replace(base, **changes)


class FakeModel:
    """Answers as `Seq2Seq` does and remembers what it was asked."""

    name = "models/<fake>"
    digest = "sha256:" + "0" * 64

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "family": "marian", "parameters": 1_000_000}

    def generate(self, source: list[str], **controls: Any) -> list[Generation]:
        self.asked.append(("generate", controls))
        return [made(text, "le petit chien", finished="cut" not in text) for text in source]

    def force(self, source: list[str], target: list[str], **controls: Any) -> list[Generation]:
        self.asked.append(("force", controls))
        return [made(s, t, forced=True) for s, t in zip(source, target, strict=True)]

    def attribute(self, generations: list[Generation], **options: Any) -> list[Attribution]:
        self.asked.append(("attribute", options))
        contrast = options.get("contrast")
        return [explained(gen, options["method"], contrast=contrast) for gen in generations]


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "registry", lambda: REGISTRY)


def both(data: Any, **options: Any) -> explain.report.Report:
    return report(FakeModel(), data, methods=["integrated_gradients", "attention"], command="x", **options)


class Page(HTMLParser):
    """Tags in order, whether they balance, and the text outside <style>."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input"})

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def names(self) -> set[str]:
        return {tag for tag, _ in self.tags}


def test_the_package_can_be_called_by_its_public_name() -> None:
    found = explain.report(FakeModel(), ["a dog"], methods="attention", command="x")
    assert isinstance(found, explain.report.Report)


# ---- what the page must never do ----------------------------------------------------------------------


@pytest.mark.parametrize("as_page", [lambda: both(HOSTILE).to_html(), lambda: _hostile_page()])
def test_the_page_is_offline_has_no_scripts_and_states_its_policy(as_page: Any) -> None:
    html = as_page()
    page = Page(html)
    assert not page.names() & {"script", "img", "link", "iframe", "object", "embed", "base", "form", "svg"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on") or name == "src"]
        assert not str(attributes.get("href", "#")).startswith(("http", "javascript", "//"))
    assert not re.search(r"url\(|@import", html)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    sheet = re.search(r"<style>(.*?)</style>", html, re.S)
    assert sheet is not None
    digest = base64.b64encode(hashlib.sha256(sheet[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert html.index("Content-Security-Policy") < html.index("<style>")


def _hostile_page() -> str:
    gen = made(" ".join(HOSTILE), HOSTILE[0])
    return attribution_page(explained(gen, contrast="<b>", units="<u>nats</u>", config={"<k>": "<v>"}))


def test_hostile_texts_show_as_text_and_nothing_is_stripped() -> None:
    found = both([(text, text) for text in HOSTILE], title="<script>t</script>")
    text = Page(found.to_html()).text
    for wanted in HOSTILE:
        assert wanted.replace("\x00", "␀") in text
    assert "<script>t</script>" in text
    assert "49" not in re.findall(r"שלום (\S+)", text)


def test_a_long_word_does_not_bloat_the_tables() -> None:
    html = both([("x" * 10_000, "le chien")]).to_html()
    assert html.count("x" * 100) < 400
    assert len(html) < 200_000


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = both(["a dog", ("a cat", "un chat")]).save(tmp_path / "a.html")
    second = both(["a dog", ("a cat", "un chat")]).save(tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_nan_is_never_written() -> None:
    gen = made("a dog", "le chien")
    odd = explained(gen, completeness_error=torch.tensor([NAN, math.inf, 0.0, 0.0][: len(gen.target_tokens)]))
    holed = dataclasses.replace(odd, source=odd.source.index_fill(0, torch.tensor([0]), NAN))
    for att in (odd, holed, explained(gen, "attention")):
        text = Page(attribution_page(att)).text
        assert not re.search(r"\b(nan|NaN|inf|None)\b", text)
    assert "Completeness is not defined for this method" in text


# ---- what a reader finds ------------------------------------------------------------------------------


def test_the_summary_says_how_many_how_sure_and_what_is_proven() -> None:
    text = Page(both(["a dog", "a cat"]).to_html()).text
    opening = re.sub(r"[ \n]+", " ", text[text.index("This report explains") :])[:900]
    assert opening.startswith(
        "This report explains 2 outputs of the model ‘models/<fake>’ by Integrated gradients and Attention. "
        "On average the model gave each token a log-probability of −0.7"
    )
    assert "The model was least sure of output 1 (‘</s>’ has a probability of 0.22)." in opening
    assert "Integrated gradients add up to what they explain within 1\xa0% for every token." in opening
    assert "Attention cannot be proven complete: completeness is not defined for this method." in opening


def test_tokens_beyond_the_tolerance_are_marked_named_and_linked() -> None:
    gen = made("a dog", "le petit chien")
    error = torch.zeros(len(gen.target_tokens))
    error[1] = 0.043
    att = explained(gen, completeness_error=error)
    html = attribution_page(att)
    text = Page(html).text
    assert "The scores of 4 of 5 tokens add up to what they explain within 1\xa0%" in text
    assert "They do not for ‘petit’ (4.3\xa0%)" in text
    assert "! beyond tolerance" in text
    assert 'class="mark"' in html
    model = FakeModel()
    model.attribute = lambda generations, **_: [att]  # type: ignore[method-assign]
    page = Page(report(model, ["a dog"], methods="integrated_gradients", command="x").to_html())
    assert "could not be proven complete for 1 of 5 tokens" in page.text
    assert {"href": "#output-1"} in [attributes for tag, attributes in page.tags if tag == "a"]


def test_cut_and_given_outputs_are_noted() -> None:
    text = Page(both(["cut here", ("a dog", "un chien")]).to_html()).text
    assert "This output was cut" in text
    assert "1 output was cut at the limit on new tokens." in text
    assert "This output was given to the model." in text
    assert "1 output was given to the model, not written by it." in text


def test_hesitations_alternatives_and_beams_are_listed() -> None:
    html = both(["a dog"]).to_html()
    text = Page(html).text
    assert "Where the model hesitated" in text
    assert "<i>third</i>" in text
    assert "Other candidates of beam search" in text
    assert 'title="log-probability −1.500 nats (probability 0.22)"' in html


def test_the_map_is_an_accessible_table_with_a_numeric_legend() -> None:
    gen = made("a dog", "le chien")
    att = explained(gen)
    html = attribution_page(att)
    page = Page(html)
    tables = [a for tag, a in page.tags if tag == "table" and "heat" in str(a.get("class"))]
    assert len(tables) == 2  # words, and the same between tokens
    scopes = {a.get("scope") for tag, a in page.tags if tag == "th"}
    assert {"row", "col", "colgroup"} <= scopes
    words = att.words()
    limit = float(max(words.source.abs().max(), words.prefix.abs().max(), words.within.abs().max()))
    assert number(limit, 1, signed=True) in page.text
    assert number(-limit, 1, signed=True) in page.text
    assert number(float(words.source[0, 0]), 1, signed=True) in page.text
    assert "nats of log-probability · below 0 opposes, above 0 supports" in page.text
    assert "‘dog’ (" in page.text


def test_long_maps_drop_their_numbers_and_very_long_ones_come_in_bands() -> None:
    gen = made(" ".join("ab" for _ in range(70)), "le petit chat noir")
    view = maps.map_view(explained(gen).words(), "IG")
    assert view.dense
    assert view.columns == 76
    assert len(view.bands) == 1
    assert view.bands[0].rows[0].cells[0].title.startswith("‘le’ ← source ‘ab’: ")
    gen = made(" ".join("ab" for _ in range(300)), "le petit chat noir")
    bands = maps.map_view(explained(gen).words(), "IG").bands
    assert [(band.first, band.last) for band in bands] == [(1, 102), (103, 204), (205, 306)]
    assert [group.text for group in bands[2].groups] == ["Source words", "", "Earlier output words"]


def test_a_map_too_large_for_a_page_says_where_its_scores_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "MOST_CELLS", 5)
    text = Page(both(["a dog"]).to_html()).text
    assert "too many for a page" in text


def test_cells_without_a_possible_score_are_empty() -> None:
    att = explained(made("a dog", "le bon mot"))
    row = maps.map_view(att, "IG").bands[0].rows[1]
    assert [cell.css.split()[:1] for cell in row.cells[-3:]][1:] == [["na"], ["na"]]
    assert row.cells[-1].text == ""


def test_an_unsigned_method_never_claims_support() -> None:
    text = Page(attribution_page(explained(made("a dog", "le chien"), "attention"))).text
    assert "they cannot tell support from opposition" in text
    assert "above 0 supports" not in text


def test_contrast_and_entropy_say_what_the_colours_mean() -> None:
    gen = made("a dog", "le chien")
    against = Page(attribution_page(explained(gen, contrast="chat"))).text
    assert "favoured it over ‘chat’ (+)" in against
    doubt = Page(attribution_page(explained(gen, objective="entropy"))).text
    assert "made the model less certain" in doubt
    assert "above 0 supports" not in doubt


def test_an_attribution_of_an_unknown_method_can_be_shown() -> None:
    text = Page(attribution_page(explained(made("a dog", "le chien"), method="from_the_future"))).text
    assert "from the future" in text


def test_an_output_of_nothing_but_eos_can_be_shown() -> None:
    assert "Strongest reasons" not in Page(both([("a dog", "")]).to_html()).text


# ---- long texts -----------------------------------------------------------------------------------------


def long(source: int = 1000, target: int = 200, *, stops: bool = True) -> Generation:
    """Words of a text with a full stop after every eighth."""

    def text(count: int) -> str:
        return " ".join(f"w{i}{'.' if stops and i % 8 == 7 else ''}" for i in range(count - 1))

    return made(text(source), text(target))


def test_a_thousand_tokens_are_shown_by_sentence_quickly_and_small() -> None:
    att = explained(long())
    attribution_page(explained(made("a dog", "le chien")))  # templates
    begun = time.perf_counter()
    html = attribution_page(att)
    assert time.perf_counter() - begun < 2
    assert len(html) < 3_000_000
    page = Page(html)
    assert (
        "Shown by sentence: 1,000 source and 200 output tokens do not fit; the numbers of every token are "
        "in the CSV and JSON." in page.text
    )
    assert "Each row is an output sentence." in page.text
    assert "Strongest reasons for each word" in page.text
    assert "The other 169 words" in page.text
    assert "The same between words" not in page.text, "that map would have 240,000 cells"
    _, place, _ = att.words().top(100, 1)[0]
    assert re.search(rf"\(at {place}: [+−]", page.text)


def test_a_map_that_fits_in_words_is_shown_in_words_and_finer_maps_wait() -> None:
    view = sections.method_view(explained(long(100, 20)), facts.facts_of("attention"))
    assert (view.main.noun, view.note, view.finer) == ("word", "", ())
    view = sections.method_view(explained(long(200, 20)), facts.facts_of("attention"))
    assert (view.main.noun, [finer.noun for finer in view.finer]) == ("sentence", ["word"])
    assert len(view.finer[0].bands) == 2


def test_a_long_text_without_sentences_lists_its_strongest_words() -> None:
    text = Page(attribution_page(explained(long(stops=False)))).text
    assert "there are no sentences to merge them by" in text
    assert "too many for a page" in text
    assert "Strongest reasons for each word" in text


@pytest.mark.parametrize("level", ["token", "word", "sentence"])
def test_maps_are_drawn_by_the_level_asked_for_and_the_data_stays_by_token(level: str) -> None:
    found = both([("One two. Three four.", "un deux. trois quatre.")], level=level)
    views = found._example(0, found.examples[0])["methods"]
    assert [view.main.noun for view in views] == [level, level]
    assert found.settings["level"] == level
    data = found.to_dict()["examples"][0]["attributions"][0]
    assert data["level"] == "token"
    assert f"Each row is an output {level}." in Page(found.to_html()).text


def test_another_reduction_than_the_sum_is_told_and_not_called_complete() -> None:
    found = both([("One two. Three four.", "un deux. trois quatre.")], over="mean")
    text = Page(found.to_html()).text
    assert "Each score is the mean over the tokens of its word, so a row does not add up." in text
    page = Page(attribution_page(explained(made("a dog", "le chien noir")).words(over="max_abs"))).text
    assert "These scores were merged by max_abs, and only sums keep" in page
    assert "Completeness is not defined for this method" not in page


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"level": "paragraph"}, "sentence"),
        ({"over": "max"}, "max_abs"),
        ({"level": "token", "over": "mean"}, "none"),
    ],
)
def test_a_level_that_there_is_not_is_refused_before_anything_runs(asked: Any, message: str) -> None:
    model = FakeModel()
    with pytest.raises(InputError, match=message):
        report(model, ["a"], methods="attention", **asked)
    assert model.asked == []


# ---- what is asked of the model -----------------------------------------------------------------------


def test_data_may_be_texts_pairs_rows_and_objects_in_any_order() -> None:
    data = [
        "one",
        ("two", "deux"),
        {"source": "three", "target": None},
        SimpleNamespace(source="four", target="q"),
    ]
    found = both(data)
    assert [example.generation.source_text for example in found.examples] == ["one", "two", "three", "four"]
    assert [example.generation.target_text for example in found.examples] == [
        *("le petit chien", "deux", "le petit chien", "q")
    ]
    assert len(both("one text").examples) == 1


@pytest.mark.parametrize("data", [[], [3], [("a", "b", "c")], [{"text": "a"}], [(None, "b")]])
def test_data_of_another_kind_is_refused(data: Any) -> None:
    with pytest.raises(InputError):
        both(data)


def test_an_unknown_method_is_refused_before_anything_runs() -> None:
    model = FakeModel()
    with pytest.raises(UnknownNameError, match="attention"):
        report(model, ["a"], methods=["atention"])
    assert model.asked == []


def test_each_method_is_asked_what_it_can_answer() -> None:
    model = FakeModel()
    report(
        model,
        ["a dog", ("a cat", "un chat")],
        methods=["integrated_gradients", "attention"],
        objective="logit",
        contrast="foil",
        generate={"num_beams": 4, "allow_unknown": True},
        steps=8,
        tolerance=0.1,
        layers=[0],
    )
    common = {"tolerance": 0.1}
    assert model.asked == [
        ("generate", {"num_beams": 4, "allow_unknown": True}),
        ("force", {"allow_unknown": True}),
        (
            "attribute",
            {"method": "integrated_gradients", "target": "logit", "contrast": "foil", "steps": 8, **common},
        ),
        ("attribute", {"method": "attention", "layers": [0], **common}),
    ]


def test_progress_ends_at_all() -> None:
    seen: list[tuple[int, int]] = []
    both(["a"] * 20, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(16, 60), (20, 60), (36, 60), (40, 60), (56, 60), (60, 60)]


# ---- files --------------------------------------------------------------------------------------------


def test_saving_writes_the_page_and_the_json_beside_it(tmp_path: Path) -> None:
    found = both(["a dog"], seed=3)
    assert found.save(tmp_path / "r.html") == tmp_path / "r.html"
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == found.to_html()
    data = read_json(tmp_path / "r.json", "report")
    assert data["seed"] == 3
    assert data["command"] == "x"
    assert data["settings"]["methods"] == ["integrated_gradients", "attention"]
    example = data["examples"][0]
    assert sorted(example) == ["attributions", "generation", "source_text", "target_text"]
    again = Attribution.from_dict(example["attributions"][1])
    assert again.method == "attention"
    assert bool(again.completeness_error.isnan().all())
    assert Generation.from_dict(example["generation"]).target_text == "le petit chien"
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == data


def test_saving_elsewhere_is_refused_by_name(tmp_path: Path) -> None:
    found = both(["a dog"])
    with pytest.raises(InputError, match=r"r\.pdf"):
        found.save(tmp_path / "r.pdf")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(FileError):
        found.save(blocked / "r.html")


def test_attributions_find_their_page_and_their_plot() -> None:
    att = explained(made("a dog", "le chien"))
    assert att.to_html() == attribution_page(att)
    assert len(att.plot().data) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1200, "dark")])
def test_a_browser_shows_the_page_without_a_request_or_a_page_wider_than_the_screen(
    tmp_path: Path, width: int, scheme: Any
) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    path = both([("the small dog", text) for text in HOSTILE] + ["ab " * 70]).save(tmp_path / "r.html")
    seen: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page = context.new_page()
        page.on("request", lambda request: seen.append(request.url))
        page.on("console", lambda message: seen.append(message.text))
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cell = "getComputedStyle(document.querySelector('td.p20, td.n20')).backgroundColor"
        assert page.evaluate(cell) not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)")
        browser.close()
    assert seen == [path.as_uri()]


def test_a_question_that_no_method_answers_is_refused() -> None:
    with pytest.raises(InputError, match="contrast"):
        report(FakeModel(), ["le chien"], methods=["attention"], contrast="chat")
