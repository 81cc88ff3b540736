"""The page of a comparison and its figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from explain.comparison import load_comparison
from explain.comparison.alarm import alarm_of
from explain.report import colours, comparison_page
from explain.report.comparison import answer
from explain.report.comparison_plots import drift_figure, heads_figure
from tests.comparisons import NONE, around, comparison, figures, without_floor
from tests.test_evaluation_report import words
from tests.test_report import HOSTILE, Page, explained, made


def with_figures(jaccard: dict[str, float], change: float = 0.0):
    found = comparison()
    mine = figures(jaccard)
    outputs = replace(mine.outputs, exact_match_change=around(change), exact_match_b=around(0.992 + change))
    mine = replace(mine, outputs=outputs)
    assert found.floor is not None
    alarm = alarm_of(mine, [pair.figures for pair in found.floor.pairs])
    return replace(found, figures=mine, alarm=alarm)


def test_the_page_says_first_what_a_manager_reads():
    text = words(comparison_page(comparison()))
    assert (
        "! alarm Accuracy is unchanged (99.2 → 99.0 % exactly right), but the explanations moved more than "
        "retraining moves them by Occlusion (1 of 2 methods): alarm."
    ) in text
    assert "both have 41 to 83 % in common, depending on the method; retrained models have 60 to 80 %" in text


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (
            with_figures({"occlusion": 0.9}),
            "moved no more than retraining moves them by the one method: no alarm.",
        ),
        (with_figures({"occlusion": 0.9, "attention": 0.9}), "by any of 2 methods: no alarm."),
        (with_figures({"occlusion": 0.3}, -0.1), "Accuracy changed (99.2 → 89.2 % exactly right), and the"),
        (with_figures({"occlusion": 0.3}, -0.1), "That is no alarm, because accuracy does not hide it."),
        (with_figures({}), "No method gave maps that can be compared, so there is no answer."),
        (without_floor(), "nothing can be concluded about whether this is more than what another training"),
    ],
)
def test_the_answer_in_every_case(found, says):
    assert says in answer(found).replace("\u00a0", " ")
    assert says in words(comparison_page(found))


def test_without_right_outputs_the_answer_counts_equal_ones():
    found = comparison()
    outputs = replace(found.figures.outputs, exact_match_a=NONE, exact_match_b=NONE, exact_match_change=NONE)
    found = replace(found, figures=replace(found.figures, outputs=outputs))
    assert answer(found).startswith("97\u00a0% of the outputs are the same")


def test_every_figure_stands_beside_the_floor():
    text = words(comparison_page(comparison()))
    for wanted in (
        "Occlusion ! alarm 0.41 0.39 to 0.43; floor 0.60",
        "Below the floor: top tokens shared 0.41 (0.39 to 0.43), of retrained models 0.58 (0.56 to 0.60)",
        "Attention ✓ no alarm 0.83",
        "97 % → 91 % −0.06 (−0.08 to −0.04); floor −0.06",
        "Same output 0.970 0.950 to 0.990 0.970 200",
        "A’s source share 0.500",
        "All heads together 0.067 0.047 to 0.087 0.100 120 bits",
        "decoder.0.cross 0.100 0.150 0.20 → 1 0.30 → 0",
        "encoder.0 0.700 0.680 to 0.720 0.700 120",
        "runs/original and runs/seed-1 0.60 0.80",
        "Drift 0.62 (0: the same strongest tokens, 1: none in common; mean over methods); between retrained "
        "models 0.40.",
        "“No alarm” says that B is no further from A than a new training would be.",
    ):
        assert wanted in text


def test_without_a_floor_no_column_pretends_there_is_one():
    html = comparison_page(without_floor())
    text = words(html)
    assert "no floor, no answer" in text
    assert "There is no floor to compare with." in text
    assert "; floor" not in text
    assert '<th scope="col" class="num">Floor</th>' not in html
    assert "--floor OTHER_SEED" not in text


def test_the_page_names_models_data_command_and_digests():
    text = words(comparison_page(comparison()))
    assert "runs/pruned, BART, 298,752 parameters" in text
    for digit in "01239":
        assert "sha256:" + digit * 64 in text
    assert (
        "explain compare MODEL_A MODEL_B --task translate --floor OTHER_SEED --floor OTHER_SEED --method "
        "occlusion --method attention --examples 50 --outputs 200 --top 5 --seed 0 --out DIR"
    ) in text
    assert "The command that makes this page again: explain compare x" in words(
        comparison_page(comparison(), command="explain compare x")
    )


def test_both_maps_stand_beside_each_other():
    html = comparison_page(comparison())
    assert html.count('<div class="beside">') == 1
    assert html.count("<h4>Model A</h4>") == html.count("<h4>Model B</h4>") == 1
    assert html.count('<table class="heat') == 3  # two maps and the heads


def test_a_method_that_could_not_be_compared_is_named():
    text = words(comparison_page(replace(comparison(), problems={"lime": "no token to hide by"})))
    assert "LIME could not be compared. No token to hide by." in text


def test_the_page_is_the_same_for_the_same_comparison_and_after_a_file(tmp_path):
    again = load_comparison(comparison().save(tmp_path / "comparison.json"))
    assert comparison_page(comparison()) == comparison_page(comparison()) == comparison_page(again)


def test_the_page_is_offline_and_shows_text_as_text():
    found = comparison()
    bad = explained(made(HOSTILE[0], " ".join(HOSTILE)), "attention")
    example = replace(found.examples[0], a=bad, b=bad)
    page = comparison_page(
        replace(found, examples=(example,), a=replace(found.a, name="<script>alert(1)</script>"))
    )
    assert "default-src &#39;none&#39;" in page
    tags = [tag for tag, _ in Page(page).tags]
    assert not {"script", "img", "link", "iframe"} & set(tags)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


@pytest.mark.parametrize("theme", colours.THEMES)
def test_the_figure_of_the_methods(theme):
    figure = drift_figure(comparison(), theme=theme)
    floor, mine = figure.data
    assert list(mine.x) == [0.41, 0.83]
    assert list(floor.x) == [0.6, 0.8]
    assert mine.error_x.array == pytest.approx([0.02, 0.02])
    assert figure.layout.paper_bgcolor == colours.PAGE[theme]
    assert list(figure.layout.yaxis.ticktext) == ["Occlusion", "Attention"]
    assert len(drift_figure(without_floor(), theme=theme).data) == 1


def test_the_figure_of_the_heads():
    figure = heads_figure(comparison())
    (heat,) = figure.data
    assert heat.z.tolist() == [[0.1, 0.2], [0.2, pytest.approx(0.3)]]
    assert heat.zmax == pytest.approx(0.3)
    assert heat.customdata[1][0] == "cross, layer 0, head 1"
    assert heads_figure(without_floor()).data[0].zmax == pytest.approx(0.3)
