"""Colours and figures: rounded specifications, never pixels."""

from __future__ import annotations

import dataclasses
import json
import math
import time

import numpy as np
import pytest
import torch

from explain.errors import InputError
from explain.report import colours, labels, plots
from explain.results import Attribution, Generation, Token

NAN = math.nan


def tokens(text: str, *words: str, end: bool = False) -> tuple[Token, ...]:
    found, reached = [], 0
    for index, word in enumerate(words):
        start = text.index(word, reached)
        reached = start + len(word)
        found.append(Token(word, index, start, reached))
    if end:
        found.append(Token("</s>", 99, len(text), len(text), special=True))
    return tuple(found)


def attribution(**changes: object) -> Attribution:
    """Two target tokens, three source tokens, one of them twice."""
    base = Attribution(
        method="integrated_gradients",
        objective="log_prob",
        contrast=None,
        units="nats of log-probability",
        signed=True,
        source_text="le le chien",
        target_text="the dog",
        source_tokens=tokens("le le chien", "le", "le", "chien"),
        target_tokens=tokens("the dog", "the", "dog"),
        source=torch.tensor([[1.0, 0.5, 0.0], [0.0, -2.0, 4.0]]),
        prefix=torch.tensor([[0.0, 0.0], [-1.0, 0.0]]),
        start=torch.tensor([0.25, 0.0]),
        within=torch.zeros(2),
        value=torch.tensor([-0.1, -0.2]),
        baseline_value=torch.tensor([-1.85, -1.2]),
        completeness_error=torch.tensor([0.0, 0.0]),
        log_probs=torch.tensor([-0.1, -0.2]),
    )
    return dataclasses.replace(base, **changes)


def generation(*words: str, **changes: object) -> Generation:
    words = words or ("the", "dog")
    text = " ".join(words)
    target = tokens(text, *words, end=True)
    n = len(target)
    ids = torch.tensor([[token.id, 500, 501] for token in target])
    log_probs = torch.linspace(-0.1, -1.2, n)
    top = torch.stack([log_probs, log_probs - 1, log_probs - 2], 1)
    base = Generation(
        source_text="le chien",
        target_text=text,
        source_tokens=tokens("le chien", "le", "chien", end=True),
        target_tokens=target,
        decoder_start=Token("<s>", 0, 0, 0, special=True),
        log_probs=log_probs,
        entropy=-log_probs,
        ranks=torch.ones(n, dtype=torch.long),
        top_ids=ids,
        top_log_probs=top,
        top_texts=tuple((token.text, "one", "two") for token in target),
    )
    return dataclasses.replace(base, **changes)


# ---- colours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", colours.THEMES)
@pytest.mark.parametrize("scale", ["sequential", "diverging", "doubt"])
def test_text_on_every_level_has_aa_contrast(scale: colours.Scale, theme: colours.Theme) -> None:
    for colour in colours.colours(scale, theme):
        assert colours.contrast(colours.text_colour(colour), colour) >= 4.5
    for ink in (colours.INK, colours.MUTED, colours.ACCENT):
        assert colours.contrast(ink[theme], colours.PAGE[theme]) >= 4.5


@pytest.mark.parametrize("theme", colours.THEMES)
def test_scales_begin_at_the_page_and_run_evenly(theme: colours.Theme) -> None:
    diverging = colours.colours("diverging", theme)
    assert len(diverging) == 2 * colours.LEVELS + 1
    assert diverging[colours.LEVELS] == colours.PAGE[theme]
    assert diverging[colours.LEVELS :] == colours.colours("sequential", theme)
    ramp = [colours.contrast(colour, colours.PAGE[theme]) for colour in colours.colours("sequential", theme)]
    assert ramp == sorted(ramp)
    assert len(set(diverging)) == len(diverging)
    assert colours.colorscale("diverging", theme)[20] == [0.5, colours.PAGE[theme]]


def test_levels_are_quantised_symmetric_and_never_out_of_range() -> None:
    assert [colours.level(x, 2.0) for x in (-9, -2, -1, 0, 0.04, 0.06, 2, 9, NAN)] == [
        *(-20, -20, -10, 0, 0, 1, 20, 20, 0)
    ]
    assert colours.level(1.0, 0.0) == 0
    assert colours.levels(np.array([[-1.0, NAN, 0.5]]), 1.0).tolist() == [[-20, 0, 10]]
    assert colours.doubt_level(1.0) == 0
    assert colours.doubt_level(0.0) == 20
    assert (colours.css_class(3), colours.css_class(-3), colours.css_class(0)) == ("p3", "n3", "")


def test_colours_reach_css_and_javascript() -> None:
    data = json.loads(json.dumps(colours.for_javascript()))
    assert data["levels"] == 20
    assert len(data["dark"]["diverging"]["background"]) == len(data["dark"]["diverging"]["text"]) == 41
    assert ".n20{" in colours.css()
    assert colours.css("dark") != colours.css("light")


# ---- labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("chien", "chien"),
        (" chien", "chien"),
        ("", "∅"),
        ("  ", "␣␣"),
        ("\n", "↵"),
        ("\u200d", "U+200D"),
        ("\u202e", "U+202E"),
        ("\x00", "␀"),
        ("x" * 30, "x" * 23 + "…"),
        ("👩‍👧", "👩‍👧"),
    ],
)
def test_a_label_is_never_empty_and_never_invisible(text: str, label: str) -> None:
    assert labels.token_label(text) == label


def test_plotly_gets_texts_it_cannot_read_as_html_or_tex() -> None:
    assert labels.plot_text("<b>&amp; $x$") == "&lt;b&gt;&amp;amp; &#36;x&#36;"
    assert labels.plot_text("שלום") == "\u2068שלום\u2069"


def test_numbers_have_signs_units_and_words_for_nan() -> None:
    assert labels.number(-1.25) == "−1.25"
    assert labels.number(1.25, 1, signed=True) == "+1.2"
    assert labels.number(-0.001) == "0.00"
    assert labels.number(NAN) == labels.percent(NAN) == labels.probability(NAN) == "not defined"
    assert labels.percent(0.0432) == "4.3\u00a0%"
    assert labels.percent(0.01) == "1\u00a0%"
    assert labels.probability(-0.0001) == ">0.99"
    assert labels.probability(-20) == "<0.01"


# ---- figures ------------------------------------------------------------------------------------------


def test_a_signed_map_is_symmetric_round_zero_and_keyed_by_position() -> None:
    figure = plots.attribution_map(attribution())
    source, start, prefix = figure.data
    for panel in figure.data:
        assert (panel.zmin, panel.zmax) == (-4.0, 4.0)
        assert panel.colorscale == tuple(tuple(x) for x in colours.colorscale("diverging"))
    assert [panel.showscale for panel in figure.data] == [False, False, True]
    assert prefix.colorbar.title.text == "nats of log-probability<br>below 0 opposes, above 0 supports"
    assert isinstance(source.z, np.ndarray)
    assert source.x.tolist() == [0, 1, 2]
    assert figure.layout.xaxis.labelalias == {"0": "le", "1": "le", "2": "chien"}
    assert figure.layout.xaxis2.labelalias == {"-1": "(start)", "0": "the", "1": "dog"}
    assert figure.layout.yaxis.labelalias == figure.layout.yaxis2.labelalias == {"0": "the", "1": "dog"}
    assert start.z.tolist() == [[0.25], [0.0]]
    assert np.isnan(prefix.z[np.triu_indices(2)]).all()
    assert prefix.z[1, 0] == -1
    assert (
        "output token <b>%{y}</b> (step %{pointNumber[0]})<br>source token <b>%{x}</b>"
        in source.hovertemplate
    )
    titles = [figure.layout.xaxis.title.text, figure.layout.xaxis2.title.text, figure.layout.yaxis.title.text]
    assert titles == ["source token", "earlier output token", "output token"]
    assert figure.layout.yaxis.autorange == figure.layout.yaxis2.autorange == "reversed"


def test_an_unsigned_map_starts_at_zero() -> None:
    figure = plots.attribution_map(
        attribution(signed=False, source=torch.rand(2, 3), prefix=torch.zeros(2, 2))
    )
    assert {panel.zmin for panel in figure.data} == {0.0}
    assert figure.data[0].colorscale[0][1] == colours.PAGE["light"]
    assert "no part" in figure.data[2].colorbar.title.text


def test_an_all_zero_map_says_so() -> None:
    figure = plots.attribution_map(
        attribution(source=torch.zeros(2, 3), prefix=torch.zeros(2, 2), start=torch.zeros(2))
    )
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-1.0, 1.0)
    assert figure.data[2].colorbar.title.text.endswith("every score is 0")


@pytest.mark.parametrize(("theme", "template"), [("light", "plotly_white"), ("dark", "plotly_dark")])
def test_every_figure_names_its_template_and_page(theme: colours.Theme, template: str) -> None:
    import plotly.io as pio

    gen = generation()
    figures = [
        plots.attribution_map(attribution(), theme=theme),
        plots.attention_map(torch.eye(2), ["a", "b"], ["c", "d"], theme=theme),
        plots.token_log_probs(gen, theme=theme),
        plots.entropy_strip(gen, theme=theme),
        plots.alternatives_bars(gen, 0, 2, theme=theme),
        plots.training_curve([{"kind": "step", "step": 1, "loss": 2.0}], theme=theme),
    ]
    for figure in figures:
        assert figure.layout.template.layout == pio.templates[template].layout
        assert figure.layout.paper_bgcolor == colours.PAGE[theme]


def test_hostile_tokens_stay_text_in_figures() -> None:
    bad = '<a href="javascript:alert(1)">x</a>'
    text = f"{bad} le chien"
    figure = plots.attribution_map(
        attribution(source_text=text, source_tokens=tokens(text, bad, "le", "chien"), units="<b>nats</b>")
    )
    spec = figure.to_json()
    assert "<a href" not in spec
    assert "\\u003ca" not in spec
    assert "<b>nats" not in spec
    assert "&lt;a href" in figure.layout.xaxis.labelalias["0"]


def test_an_attention_map_fixes_its_scale() -> None:
    figure = plots.attention_map(torch.tensor([[0.25, 0.75]]), ["a"], tokens("b b", "b", "b"), title="head 1")
    heat = figure.data[0]
    assert (heat.zmin, heat.zmax) == (0.0, 0.75)
    assert figure.layout.xaxis.labelalias == {"0": "b", "1": "b"}
    assert plots.attention_map(np.eye(2), "ab", "cd", zmax=1).data[0].zmax == 1
    assert plots.attention_map(np.full((1, 1), NAN), "a", "b").data[0].zmax == 1


def test_a_large_map_leaves_its_labels_to_what_fits_and_carries_no_text_twice() -> None:
    names = [f"token {i}" for i in range(400)]
    figure = plots.attention_map(np.zeros((400, 400), dtype=np.float32), names, names)
    assert figure.data[0].customdata is None
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        # On an axis of categories Plotly draws as many labels as fit; named ticks would all be drawn.
        assert (axis.type, axis.tickvals, axis.labelalias["399"]) == ("category", None, "token 399")
    assert figure.to_json().count("token 399") == 2


def test_a_thousand_source_tokens_are_drawn_quickly_and_small() -> None:
    names = [f"w{i}" for i in range(1000)]
    source, target = tokens(" ".join(names), *names), tokens(" ".join(names[:200]), *names[:200])
    numbers = torch.zeros(200)
    att = attribution(
        source_text=" ".join(names),
        target_text=" ".join(names[:200]),
        source_tokens=source,
        target_tokens=target,
        source=torch.randn(200, 1000, generator=torch.Generator().manual_seed(0)),
        prefix=torch.zeros(200, 200),
        **dict.fromkeys(("start", "within", "value", "baseline_value"), numbers),
        **dict.fromkeys(("completeness_error", "log_probs"), numbers),
    )
    plots.attribution_map(attribution()).to_json()  # imports and templates
    begun = time.perf_counter()
    spec = plots.attribution_map(att).to_json()
    assert time.perf_counter() - begun < 2
    assert len(spec) < 3_000_000


def test_log_probs_and_entropy() -> None:
    gen = generation()
    bars = plots.token_log_probs(gen).data[0]
    assert bars.y == pytest.approx([-0.1, -0.65, -1.2])
    assert bars.customdata[0].tolist() == ["0.90"]
    strip = plots.entropy_strip(gen).data[0]
    assert (strip.z.shape, strip.zmin, round(strip.zmax, 2)) == ((1, 3), 0.0, 1.2)


def test_alternatives_mark_the_token_of_the_output_and_add_it_when_missing() -> None:
    gen = generation()
    found = plots.alternatives_bars(gen, 1, 2)
    assert list(found.layout.yaxis.labelalias.values()) == ["dog", "one"]
    assert found.data[0].x == pytest.approx([0.522, 0.192], abs=1e-3)
    other = dataclasses.replace(gen, top_ids=gen.top_ids + 1000, ranks=torch.full((3,), 7))
    bars = plots.alternatives_bars(other, 1, 2).data[0]
    assert bars.customdata[2].tolist()[0:2] == ["dog", "7"]
    with pytest.raises(InputError):
        plots.alternatives_bars(gen, 9, 2)


def test_a_training_curve_takes_what_there_is() -> None:
    records = [
        {"kind": "step", "step": 20, "loss": 2.0},
        {"kind": "evaluation", "step": 20, "loss": 2.5},
        {"kind": "step", "step": 10, "loss": 4.0, "learning_rate": 1e-3},
        {"kind": "step", "step": 20, "loss": 1.0},
        {"kind": "step", "step": 30, "loss": NAN},
        {"kind": "result", "step": 30, "loss": 9.0},
        {"note": "nothing"},
    ]
    figure = plots.training_curve(records)
    assert [trace.name for trace in figure.data] == ["training loss", "validation loss"]
    assert figure.data[0].x.tolist() == [10, 20]
    assert figure.data[0].y.tolist() == [4.0, 1.0]
    with_match = plots.training_curve([*records, {"kind": "evaluation", "step": 20, "exact_match": 0.5}])
    assert with_match.data[-1].yaxis == "y2"
    assert len(plots.training_curve([]).data) == 0


def test_words_put_effects_between_pieces_on_the_diagonal() -> None:
    text = "un chien"
    att = attribution(
        target_text=text,
        target_tokens=(Token("chi", 1, 3, 6), Token("en", 2, 6, 8)),
    )
    figure = plots.attribution_map(att.words())
    assert figure.layout.yaxis.title.text == "output word"
    assert figure.data[2].z.tolist() == [[-1.0]]
