"""The page of an evaluation, trust cards beside maps, and the figures of an evaluation."""

from __future__ import annotations

import dataclasses
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from explain.errors import InputError, UnknownNameError
from explain.evaluation import Check, TrustCard, load_evaluation
from explain.evaluation.known import Verification
from explain.files import read_json
from explain.report import attribution_page, colours, curves, evaluation_page, plots, report, trust
from explain.report.facts import facts_of
from explain.report.labels import whole_percent
from explain.report.ranking import ranking
from tests.evaluations import NAN, NONE, evaluation, only, without_gold
from tests.test_report import HOSTILE, FakeModel, Page, explained, made

METHODS = ["integrated_gradients", "attention"]


def words(html: str) -> str:
    """What a page says: the text between its tags, its white space made one space."""
    inside = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", inside)))


def verdict(found: Any, name: str, value: Any) -> Any:
    item = found.methods[name]
    card = TrustCard(name, value, f"it is {value}", ())
    return dataclasses.replace(found, methods={**found.methods, name: dataclasses.replace(item, card=card)})


# ---- the page -----------------------------------------------------------------------------------------


def test_the_page_answers_in_its_first_sentence() -> None:
    text = words(evaluation_page(evaluation()))
    assert (
        "Believe Attention first: its strongest influence is one that the answer needs for 97 % of 180 "
        "output tokens (chance 21 %), hiding what it ranks first costs 0.40 more probability than a random "
        "order does and its maps are gone when the model's weights are shuffled."
    ) in text
    assert "Of 5 methods, 2 pass, 1 is doubtful, 1 fails and 1 cannot explain this model." in text
    assert "The interval of Attention overlaps with that of ALTI+" in text
    assert (
        "the model bears out 98 % of the dependencies that a swap can test; 22 % of all were dropped" in text
    )


@pytest.mark.parametrize(
    ("names", "begins"),
    [
        (("occlusion", "integrated_gradients"), "No method passed without a doubt. Occlusion comes first: "),
        (("integrated_gradients", "lime"), "None of the 2 methods passed its checks, so believe no map"),
        (("integrated_gradients",), "Integrated gradients did not pass its checks, so believe no map"),
        (("lime",), "The one method evaluated did not explain this model. LIME: This model has no"),
        ((), "No method was evaluated."),
    ],
)
def test_the_answer_never_recommends_what_did_not_pass(names: tuple[str, ...], begins: str) -> None:
    found = only(evaluation(), *names)
    assert trust.answer(found).startswith(begins)
    assert begins in words(evaluation_page(found))


def test_every_method_has_its_row_and_its_card_in_the_order_of_the_ranking() -> None:
    html = evaluation_page(evaluation())
    page = Page(html)
    labels = ["Attention", "ALTI+", "Occlusion", "Integrated gradients", "LIME", "Random control"]
    rows = re.findall(r'<th scope="row"><a href="#card-[a-z_]+">(.*?)</a>', html)
    assert rows == labels
    assert re.findall(r"<summary><h3>(?:\d\. )?(.*?)</h3>", html) == labels
    links = {str(a["href"])[1:] for tag, a in page.tags if tag == "a"}
    assert links <= {str(a.get("id")) for _, a in page.tags}
    for word in ("✓ passes", "? doubtful", "✗ fails", "– not available", "○ control"):
        assert word in page.text
    assert '<tbody class="fails">' in html
    assert "This model has no token to hide text by." in page.text


def test_cards_hold_every_figure_with_its_meaning_and_that_of_chance() -> None:
    text = words(evaluation_page(evaluation()))
    for wanted in (
        "Right token first (P@1) 97 % 95–99 % 21 % 180 100 % is always, 0 % never; compare with chance",
        "Alignment error (AER) – – – 0 0 % is no error; lower is better",
        "Comprehensiveness above a random order +0.40 +0.38 to +0.42 0.00 180 probability; above 0",
        "Sufficiency, normalised – – – 0 0: the best order there is",
        "Moves under small noise (sensitivity) – – – 0",
        "Tokens whose scores add up 99 % within 1 % – 238 100 % is every token",
        "Why this word and not its foil 87 %",
        "output: the step that writes the word 28 % 26–30 % 70 % 75 % 312",
        "embeddings 35 % 33–37 % 30 %",
    ):
        assert wanted in text


def test_the_page_is_the_same_for_the_same_evaluation_and_after_a_file(tmp_path: Path) -> None:
    found = evaluation()
    again = load_evaluation(found.save(tmp_path / "evaluation.json"))
    assert evaluation_page(found) == evaluation_page(evaluation()) == evaluation_page(again)


def test_missing_figures_are_dashes() -> None:
    first = evaluation().methods["attention"]
    empty = dataclasses.replace(
        first,
        faithfulness=dataclasses.replace(
            first.faithfulness,
            **{
                field.name: NONE
                for field in dataclasses.fields(first.faithfulness)
                if not field.name.endswith(("curve", "fractions"))
            },
            deletion_curve=(NAN,) * 5,
            insertion_curve=(NAN,) * 5,
        ),
        randomisation=dataclasses.replace(
            first.randomisation,
            stages=tuple(
                dataclasses.replace(stage, top1=NONE, topk_jaccard=NONE)
                for stage in first.randomisation.stages
            ),
            chance_top1=NONE,
            excess=NONE,
        ),
    )
    found = evaluation()
    found = dataclasses.replace(found, methods={**found.methods, "attention": empty})
    for page in (evaluation_page(found), evaluation_page(without_gold(found))):
        assert not re.search(r"\b(nan|NaN|inf|None)\b", page.split("</style>")[1])


def test_hostile_texts_show_as_text() -> None:
    found = evaluation()
    card = TrustCard("lime", "unavailable", HOSTILE[0], ())
    lime = dataclasses.replace(found.methods["lime"], card=card, problem=HOSTILE[0])
    other = dataclasses.replace(
        found.methods["attention"], config={"<k>": HOSTILE[1], "layers": ["<b>"]}, name="attention"
    )
    stages = dataclasses.replace(
        other.randomisation,
        stages=(dataclasses.replace(other.randomisation.stages[0], name=HOSTILE[1]),),
    )
    other = dataclasses.replace(other, randomisation=stages)
    found = dataclasses.replace(
        found,
        task=dataclasses.replace(found.task, name="</style><img src=x>" + HOSTILE[4]),
        methods={**found.methods, "lime": lime, "attention": other, "<i>": _named(found, "<i>")},
        ranking=(*found.ranking, "<i>"),
    )
    page = Page(evaluation_page(found, command="<script>"))
    assert not page.names() & {"script", "img", "i", "b", "k"}
    for wanted in (HOSTILE[0], HOSTILE[1], "</style><img src=x>", "<b>", "<i>", "{{ 7 * 7 }}"):
        assert wanted in page.text
    figures = plots.ranking_figure(found), plots.cascade_figure(found, ["<i>", "attention"])
    assert not any("<i>" in figure.to_json() or "<img" in figure.to_json() for figure in figures)


def _named(found: Any, name: str) -> Any:
    card = TrustCard(name, "passes", "", ())
    return dataclasses.replace(found.methods["alti"], name=name, card=card)


@pytest.mark.parametrize("made_page", [lambda: evaluation_page(evaluation()), lambda: _report().to_html()])
def test_the_page_is_offline_and_styled_by_its_sheet_alone(made_page: Any) -> None:
    html = made_page()
    page = Page(html)
    assert "svg" in page.names()
    assert not page.names() & {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "form",
        "use",
        "image",
        "foreignobject",
    }
    for _, attributes in page.tags:
        assert not [name for name in attributes if name in ("style", "src") or name.startswith("on")]
        assert str(attributes.get("href", "#")).startswith("#")
    assert not re.search(r"url\(|@import|https?:", html)
    pictures = [a for tag, a in page.tags if tag == "svg"]
    assert all(a.get("aria-hidden") or (a.get("role") == "img" and a.get("aria-label")) for a in pictures)


def test_without_known_answers_methods_are_ranked_by_what_hiding_costs() -> None:
    found = without_gold(evaluation())
    table = ranking(found)
    assert [column.name for column in table.columns][:2] == ["Faithfulness", "Shuffled weights"]
    picture = table.rows[0].cells[0].picture
    assert picture is not None
    assert picture.mark is not None
    text = words(evaluation_page(found))
    assert "none on these data: the ranking rests on what hiding tokens does to the model" in text
    assert "These data have no known answers" in text
    assert "explain evaluate MODEL --data letters.tsv --method attention" in text
    assert "Synthetic tasks" not in text


def test_the_command_names_what_it_knows_and_what_it_does_not() -> None:
    text = words(evaluation_page(evaluation()))
    assert "explain evaluate MODEL --task translate --method attention --method alti" in text
    assert "--examples 24 --seed 0 --other OTHER_MODEL --other OTHER_MODEL --alignments ALIGNMENTS" in text
    assert "explain evaluate here" in words(evaluation_page(evaluation(), command="explain evaluate here"))
    assert "Synthetic tasks transfer imperfectly" in text


def test_no_right_output_means_no_known_answer() -> None:
    found = without_gold(evaluation())
    task = dataclasses.replace(found.task, verification=Verification(24, 0, 0, 0, 0, 0))
    text = words(evaluation_page(dataclasses.replace(found, task=task)))
    assert "none: no output was exactly right, and only right outputs have a known answer" in text


def test_failed_checks_are_marked_in_the_ranking_but_not_those_of_the_control() -> None:
    rows = {row.card.method: row for row in ranking(evaluation()).rows}
    assert [cell.failed for cell in rows["integrated_gradients"].cells] == [
        *(False, False, False, False, True, False, False)
    ]
    assert not any(cell.failed for cell in rows["random"].cells)
    check = Check("faithfulness", False, "keeping only that saves too little")
    card = TrustCard("alti", "fails", check.reason, (check,))
    alti = dataclasses.replace(evaluation().methods["alti"], card=card)
    found = dataclasses.replace(evaluation(), methods={**evaluation().methods, "alti": alti})
    cell = next(row for row in ranking(found).rows if row.card.method == "alti").cells[3]
    assert (cell.value, cell.detail, cell.failed) == ("+0.40", "kept alone +0.38 to +0.42", True)
    assert rows["lime"].cells == ()
    assert rows["attention"].said == ""
    assert rows["occlusion"].said == "Occlusion is doubtful for a reason."


def test_reasons_are_whole_sentences_in_the_pages_own_figures() -> None:
    assert trust.sentence("top-1 agreement 35% of -0.20") == "Top-1 agreement 35\u00a0% of −0.20."
    assert trust.sentence("") == ""
    assert [whole_percent(share) for share in (NAN, 0.0, 0.001, 0.5, 0.999, 1.0, -0.2)] == [
        *("–", "0\u00a0%", "<1\u00a0%", "50\u00a0%", ">99\u00a0%", "100\u00a0%", "−20\u00a0%")
    ]


def test_small_plots_keep_to_their_frame() -> None:
    picture = curves.interval(NONE, 0.5)
    assert picture is None
    wild = curves.curve("Deletion", "x", "M", (0.0, 0.5, 1.0), (1.4, 0.5, -0.3), (NAN, NAN, NAN))
    assert wild is not None
    assert wild.control == ""
    assert {y for _, y in wild.lines[0].dots} == {str(wild.top), str(wild.bottom), "61"}
    assert curves.curve("Deletion", "x", "M", (), (), ()) is None


# ---- trust cards beside maps --------------------------------------------------------------------------


def _report(**options: Any) -> Any:
    options = {"methods": METHODS, "evaluation": evaluation(), "command": "x", **options}
    return report(FakeModel(), ["a dog", "a cat"], **options)


def test_each_map_has_its_card_and_the_failed_one_is_greyed_with_the_reason() -> None:
    html = _report().to_html()
    text = words(html)
    assert html.count('<section class="method fails"') == html.count('<section class="method passes"') == 2
    assert html.count('<aside class="trust fails"') == html.count('<aside class="trust passes"') == 2
    assert "On this model: ✗ fails Part of the maps does not come from the weights." in text
    assert "On this model: ✓ passes It passed every check: known answers, faithfulness and shuffled" in text
    assert "Right token first (P@1) 97 % 95–99 %; chance 21 %" in text
    assert "Scores add up 99 % of 238 tokens, within 1 %" in text
    assert "Measured on 24 outputs of translate." in text


def test_the_report_says_which_of_its_methods_to_believe() -> None:
    text = words(_report().to_html())
    assert "Which method should I believe? Believe Attention first: its strongest influence" in text
    text = words(_report(methods=["integrated_gradients", "occlusion"]).to_html())
    assert "Of the methods of this report, believe Occlusion first: it is doubtful (place 3 of 5" in text
    assert "The first of all is not in this report: Attention: its strongest influence" in text
    text = words(_report(methods=["integrated_gradients"]).to_html())
    assert "Integrated gradients did not pass its checks on this model." in text
    text = words(_report(methods=["saliency", "attn_lrp"]).to_html())
    assert "None of the methods of this report was evaluated on this model. The first of all" in text
    assert "– not evaluated The evaluation of this model did not look at this method." in text
    none = verdict(verdict(evaluation(), "attention", "fails"), "alti", "fails")
    text = words(_report(evaluation=only(none, "attention", "alti")).to_html())
    assert "None of the methods of this report passed its checks on this model." in text
    assert "The first of all" not in text


def test_without_an_evaluation_the_report_says_so_and_how_to_make_one() -> None:
    for html in (_report(evaluation=None).to_html(), attribution_page(explained(made("a dog", "le chien")))):
        text = words(html)
        assert "No evaluation of this model was given" in text
        assert "explain evaluate MODEL --task NAME --out DIR" in text
        assert 'class="trust' not in html
        assert "<svg" not in html


def test_the_json_carries_the_cards(tmp_path: Path) -> None:
    found = evaluation()
    _report(methods=[*METHODS, "saliency"]).save(tmp_path / "r.html")
    kept = read_json(tmp_path / "r.json", "report")["trust"]
    assert sorted(kept) == sorted(METHODS)
    assert TrustCard.from_dict(kept["attention"]) == found.cards["attention"]
    _report(evaluation=None).save(tmp_path / "r.html")
    assert read_json(tmp_path / "r.json", "report")["trust"] is None


def test_the_same_report_gives_the_same_bytes() -> None:
    assert _report().to_html() == _report().to_html()


def test_an_evaluation_of_another_model_is_refused() -> None:
    other = evaluation(model_digest="sha256:" + "f" * 64)
    model = FakeModel()
    with pytest.raises(InputError, match="another model"):
        report(model, ["a"], methods="attention", evaluation=other)
    assert model.asked == []
    att = explained(made("a dog", "le chien"), model_digest=FakeModel.digest)
    with pytest.raises(InputError, match="another model"):
        attribution_page(att, other)


def test_a_single_attribution_has_its_card() -> None:
    att = explained(made("a dog", "le chien"), "attention")
    text = words(attribution_page(att, evaluation()))
    assert "On this model: ✓ passes" in text
    text = words(attribution_page(explained(made("a dog", "le chien"), "alti"), evaluation()))
    assert "On this model ALTI+ passes (place 2 of 5 evaluated). The first of all is not in this page" in text


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"contrast": "chat"}, "this one is against a foil. Against a foil its P@1 was 78 %."),
        ({"objective": "entropy"}, "this one is of the entropy."),
        ({"config": {"steps": 16, "tolerance": 0.01, "batch_size": 3}}, "steps 16 (evaluated: 8)."),
        ({"config": {"steps": 8, "tolerance": 0.01}}, ""),
    ],
)
def test_a_map_that_is_not_what_was_evaluated_says_so(changes: Any, note: str) -> None:
    att = explained(made("a dog", "le chien"), **{"config": {"steps": 8}, **changes})
    card = trust.card_view(evaluation(), facts_of("integrated_gradients"), att)
    said = " ".join(card.notes).replace("\u00a0", " ")
    assert said.endswith(note)
    assert bool(said) == bool(note)


# ---- figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", colours.THEMES)
def test_the_ranking_figure_has_a_trace_for_each_verdict_and_marks_chance(theme: colours.Theme) -> None:
    figure = plots.ranking_figure(evaluation(), theme=theme)
    assert [trace.name for trace in figure.data] == [
        "✓ passes",
        "? doubtful",
        "✗ fails",
        "○ control",
        "chance",
    ]
    assert list(figure.layout.yaxis.ticktext) == [
        *("1. Attention", "2. ALTI+", "3. Occlusion", "4. Integrated gradients", "Random control")
    ]
    first = figure.data[0]
    assert (first.x[0], first.error_x.array[0]) == (0.97, pytest.approx(0.02))
    assert len({trace.marker.symbol for trace in figure.data}) == 5
    assert figure.layout.paper_bgcolor == colours.PAGE[theme]
    assert figure.to_json() == plots.ranking_figure(evaluation(), theme=theme).to_json()


def test_the_ranking_figure_without_known_answers_shows_faithfulness() -> None:
    figure = plots.ranking_figure(without_gold(evaluation()))
    assert figure.data[0].x[0] == 0.4
    assert "above a random order" in figure.layout.xaxis.title.text
    assert "random order" in trust.ranking_help(without_gold(evaluation()))
    assert "P@1" in trust.ranking_help(evaluation())
    assert len(plots.ranking_figure(only(evaluation())).data) == 0


def test_the_deletion_figure_stands_beside_a_random_order() -> None:
    figure = plots.deletion_figure(evaluation(), ["attention", "lime", "alti"])
    assert [trace.name for trace in figure.data] == ["random order", "Attention", "ALTI+"] * 2
    assert list(figure.data[1].y) == [0.98, 0.4, 0.3, 0.2, 0.1]
    assert list(figure.data[4].y) == [0.1, 0.5, 0.7, 0.9, 0.98]
    assert [trace.showlegend for trace in figure.data] == [True] * 3 + [False] * 3
    with pytest.raises(UnknownNameError, match="attention"):
        plots.deletion_figure(evaluation(), ["atention"])


def test_the_cascade_figure_ends_at_chance() -> None:
    figure = plots.cascade_figure(evaluation(), ["attention", "integrated_gradients", "lime"])
    assert [trace.name for trace in figure.data] == ["Attention", "Integrated gradients", "chance"]
    assert list(figure.data[0].x) == ["as learnt", "decoder.1", "decoder.0", "embeddings"]
    assert list(figure.data[0].y) == [1.0, 0.6, 0.3, 0.06]
    assert set(figure.data[2].y) == {0.07}
    assert len(plots.cascade_figure(evaluation(), ["lime"]).data) == 0


def test_lines_of_many_methods_stay_apart_by_more_than_colour() -> None:
    names = [f"m{i}" for i in range(24)]
    found = evaluation()
    found = dataclasses.replace(found, methods={name: _named(found, name) for name in names})
    lines = plots.deletion_figure(found, names).data[1:25]
    assert len({(line.line.color, line.line.dash, line.marker.symbol) for line in lines}) == 24
    for theme in colours.THEMES:
        for colour in (*colours.SERIES[theme], colours.WRONG[theme]):
            assert colours.contrast(colour, colours.PAGE[theme]) >= 4.5


# ---- in a browser -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
def test_a_browser_shows_the_page_without_a_request(tmp_path: Path, width: int, scheme: Any) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    pages = {"evaluation": evaluation_page(evaluation()), "report": _report().to_html()}
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=True
        )
        for name, html in pages.items():
            path = tmp_path / f"{name}.html"
            path.write_text(html, encoding="utf-8")
            page, seen = context.new_page(), []
            page.on("request", lambda request, seen=seen: seen.append(request.url))
            page.on("console", lambda message, seen=seen: seen.append(message.text))
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            fill = "getComputedStyle(document.querySelector('svg.interval .dot')).fill"
            assert page.evaluate(fill) not in ("none", "rgb(0, 0, 0)")
            assert seen == [path.as_uri()]
        browser.close()
