"""Figures and pages of the inside: rounded specifications, scales, texts that cannot do harm."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from explain.analysis import contributions, decoder_lens, logit_lens, survey_heads, word_alignment
from explain.errors import InputError, UnknownNameError
from explain.report import colours
from explain.report.inside import alignment_page, contributions_page, heads_page, lens_page
from explain.report.inside_facts import HEAD_FIGURES
from explain.report.inside_plots import alignment_map, contributions_bars, head_grid, lens_map
from explain.training.handmade import COPY, copy_model
from tests.conftest import OUTPUTS, SENTENCES

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def copier():
    """The hand-set model that repeats its source."""
    return copy_model()


@pytest.fixture(scope="module")
def survey(copier):
    """Its heads."""
    return survey_heads(copier, copier.generate(["a b c d", "e f g"]))


@pytest.mark.parametrize("theme", colours.THEMES)
def test_a_head_grid_has_a_panel_for_each_kind_and_fixed_scales(survey, theme):
    for name, facts in HEAD_FIGURES.items():
        if name == "alignment":  # there was no gold
            continue
        figure = head_grid(survey, name, theme=theme)
        heats = [trace for trace in figure.data if trace.type == "heatmap"]
        assert len(heats) == {("self",): 2, ("cross",): 1}.get(facts.kinds, 3) - (name == "next")
        for heat in heats:
            assert heat.zmin == (-heat.zmax if facts.signed else 0)
            assert facts.limit in (None, heat.zmax)
            scale = "diverging" if facts.signed else "sequential"
            assert heat.colorscale[0][1] == colours.colours(scale, theme)[0]
        assert sum(bool(heat.showscale) for heat in heats) == (2 + 1 if name == "distance" else 1)
        assert figure.layout.paper_bgcolor == colours.PAGE[theme]


def test_the_copy_head_stands_out_in_the_grid(survey):
    cross = head_grid(survey, "ablation").data[-1]
    assert cross.name == "Decoder, the source"
    assert np.unravel_index(cross.z.argmax(), cross.z.shape) == (COPY.layer, COPY.index)
    assert cross.z[COPY.layer, COPY.index] == cross.zmax
    with pytest.raises(UnknownNameError, match="did you mean entropy"):
        head_grid(survey, "entrpy")
    with pytest.raises(InputError, match="no head has the figure 'alignment'"):
        head_grid(survey, "alignment")


def test_a_lens_map_names_tokens_and_colours_probabilities(copier):
    lens = logit_lens(copier, copier.generate("a b c"), watch="b")
    heat = lens_map(lens).data[0]
    assert (heat.zmin, heat.zmax) == (0, 1)
    assert list(heat.text[2]) == ["a", "b", "c", "</s>".replace("<", "&lt;").replace(">", "&gt;")]
    assert heat.z[2].min() > 0.8
    assert "rank of the output's token 1, probability 0.87" in heat.customdata[2][0]
    watched = lens_map(lens, 0)
    assert list(watched.data[0].text[2])[1] == "1"
    assert watched.layout.title.text == "Logit lens: probability of ‘b’"
    with pytest.raises(InputError, match="no watched token 1"):
        lens_map(lens, 1)


def test_contribution_bars_are_symmetric_round_zero(bart):
    found = contributions(bart, bart.force(SENTENCES[0], OUTPUTS[0]), 1, "maison")
    figure = contributions_bars(found)
    (bars,) = figure.data
    low, high = figure.layout.xaxis.range
    assert low == -high
    assert "layer 1, feed-forward" in str(figure.layout.yaxis)
    assert float(bars.x.sum()) == pytest.approx(found.total, abs=1e-4)
    blue, orange = colours.colours("diverging")[-1], colours.colours("diverging")[0]
    strongest = int(np.abs(bars.x).argmax())
    assert bars.marker.color[strongest] == (blue if bars.x[strongest] > 0 else orange)
    heads = contributions_bars(found, ("head",), most=3).data[0]
    assert np.abs(heads.x).tolist() == sorted(np.abs(heads.x).tolist(), reverse=True)
    assert len(heads.x) == 3
    with pytest.raises(InputError, match="no component"):
        contributions_bars(found, ("elephant",))


def test_an_alignment_map_marks_its_links(copier):
    figure = alignment_map(word_alignment(copier, copier.generate("a b"), [(1, 0)]))
    heat, marks = figure.data
    assert np.allclose(heat.z, np.eye(3), atol=1e-6)
    assert (list(marks.x), list(marks.y)) == ([0, 1], [0, 1])


def test_pages_say_their_answer_first(copier, survey):
    generation = copier.generate("a b c")
    head = f"{COPY.block} head {COPY.index}"
    assert f"The outputs need {head} most" in heads_page(survey, data="three letters")
    assert "Of 4 output tokens 0 settled before the last layer of the decoder, 4 only in it." in lens_page(
        logit_lens(copier, generation)
    )
    assert "What the decoder writes by itself" in lens_page(decoder_lens(copier, generation, write=True))
    parts = contributions_page(contributions(copier, generation, 0, "b"))
    assert "The logit less that of ‘b’ of ‘a’ at step 0 is 5.00." in parts
    assert f"The strongest head is {COPY.block}.head.{COPY.index} (+5.00)." in parts
    assert "3 of 3 output words have a source word" in alignment_page(
        word_alignment(copier, generation, [(COPY.layer, COPY.index)])
    )


def test_an_error_is_never_hidden(copier):
    generation = copier.generate("a b c")
    found = dataclasses.replace(contributions(copier, generation, 0), error=1.0)
    assert "do NOT add up" in contributions_page(found)
    lens = dataclasses.replace(logit_lens(copier, generation), error=0.5)
    assert "differs from the model&#39;s own logits" in lens_page(lens)
    assert "nan" not in lens_page(lens).lower().replace("language", "")


def test_hostile_texts_show_as_text(copier):
    generation = copier.generate("a b c")
    lens = logit_lens(copier, generation)
    texts = tuple(tuple((HOSTILE, *names[1:]) for names in layer) for layer in lens.top_texts)
    lens = dataclasses.replace(lens, top_texts=texts, source_text=HOSTILE)
    found = contributions(copier, generation, 0)
    found = dataclasses.replace(found, source_text=HOSTILE, contrast=HOSTILE)
    for html in (lens_page(lens), contributions_page(found)):
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    assert "<script" not in str(lens_map(lens).to_json())
    assert "<script" not in str(contributions_bars(found).to_json())


def test_many_heads_are_drawn_densely(survey):
    """Past thirty columns numbers go under the pointer."""
    rows = []
    for row in survey.statistics.rows:
        for index in range(8):
            rows.append(
                dataclasses.replace(row, head=dataclasses.replace(row.head, index=8 * row.head.index + index))
            )
    weights = [
        dataclasses.replace(survey.ablation.rows[0], head=row.head, importance=math.pi) for row in rows
    ]
    roles = [dataclasses.replace(survey.roles.rows[0], head=row.head) for row in rows]
    many = dataclasses.replace(
        survey,
        statistics=dataclasses.replace(survey.statistics, rows=tuple(rows)),
        roles=dataclasses.replace(survey.roles, rows=tuple(roles)),
        gradient=dataclasses.replace(survey.gradient, rows=tuple(weights)),
        ablation=dataclasses.replace(survey.ablation, rows=tuple(weights)),
    )
    assert 'class="heat dense"' in heads_page(many)
    assert 'class="heat dense"' not in heads_page(survey)
