"""Silencing parts of the inside: batched rows against single edits, and models whose heads are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explain.analysis import Ablation, Edit, MeanAblation, ablate, mean_ablation, site_named, values_under
from explain.analysis.ablation import RESAMPLED
from explain.analysis.effects import axes_of, position_axis
from explain.attribution.objectives import question
from explain.attribution.registry import Cancelled
from explain.errors import InputError, UnknownNameError
from explain.training.handmade import (
    COPY,
    DITTO_COPY,
    DITTO_FLAG,
    DITTO_REPEAT,
    LOGIT,
    copy_model,
    ditto_model,
)
from tests.conftest import OUTPUTS, SENTENCES
from tests.interventions import captured, generation_of, log_probs, under
from tests.state import assert_same_state, state_of

KINDS = {
    "heads": 2 * 2 + 2 * 2 * 2,  # layers × heads: of the encoder, and of both kinds in the decoder
    "sublayers": 2 * 2 + 2 * 3,
    "layers": 2 + 2,
    "neurons": 2 * 24 + 2 * 24,
}
SIZE = 24  # tokens in the vocabulary of the hand-set models


@pytest.fixture(scope="module")
def copier():
    return copy_model()


@pytest.fixture(scope="module")
def ditto():
    return ditto_model()


# ---- many edits at once ----------------------------------------------------------------------------------


def test_every_row_is_what_one_intervention_gives(model):
    """At every hook point of every family: one place, one axis and everything there replaced."""
    generation = generation_of(model)
    states = captured(model, generation)
    versions = [()]
    for number, (point, tensor) in enumerate(states.items()):
        value = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
        if point.endswith("pattern"):
            value = value.softmax(-1)
        versions.append([Edit(point, (number % tensor.shape[0],), value[number % tensor.shape[0]])])
        versions.append([Edit(point, (None, 1), value[:, 1])])
    versions.append([Edit(point, (), tensor * 0.5) for point, tensor in states.items() if "mlp" in point])
    found = values_under(model, generation, question(model, generation), versions)
    for edits, row in zip(versions, found, strict=True):
        torch.testing.assert_close(row, under(model, generation, edits), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_chunks_do_not_change_the_numbers(bart, rows):
    generation = generation_of(bart)
    whole = ablate(bart, generation, "heads")
    seen = []
    part = ablate(bart, generation, "heads", rows=rows, progress=lambda *done: seen.append(done))
    torch.testing.assert_close(part.effect, whole.effect, atol=1e-6, rtol=0)
    assert seen[-1] == (KINDS["heads"] + 1,) * 2
    assert len(seen) == math.ceil((KINDS["heads"] + 1) / rows)
    tight = ablate(bart, generation, "heads", memory_budget=1)
    torch.testing.assert_close(tight.effect, whole.effect, atol=1e-6, rtol=0)


def test_a_pass_of_each_stack_is_all_it_takes(bart):
    """All heads are rows of one pass of the encoder and one of the decoder."""
    generation = generation_of(bart)
    bart.require_parity()
    calls = []
    handles = [
        stack.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
        for stack in (bart.hf.model.encoder, bart.hf.model.decoder)
    ]
    try:
        ablate(bart, generation, "heads")
    finally:
        for handle in handles:
            handle.remove()
    assert calls == ["BartEncoder", "BartDecoder"] * 2  # what stands there, and all versions


def test_rows_join_where_they_are_edited(bart):
    """No row goes through a layer before its first edit, and decoder rows through none of the encoder."""
    generation = generation_of(bart)
    versions = [[Edit(f"decoder.{layer}.mlp.out")] for layer in (1, 0, 1)] + [[Edit("encoder.1.residual")]]
    sizes = {}
    for side in ("encoder", "decoder"):
        for index, layer in enumerate(getattr(bart.hf.model, side).layers):
            layer.register_forward_pre_hook(
                lambda module, args, key=(side, index): sizes.__setitem__(key, len(args[0]))
            )
    try:
        values_under(bart, generation, question(bart, generation), versions)
    finally:
        for side in ("encoder", "decoder"):
            for layer in getattr(bart.hf.model, side).layers:
                layer._forward_pre_hooks.clear()
    # Hooks of ours that come first see the batch before it grows.
    assert sizes == {("encoder", 0): 1, ("encoder", 1): 1, ("decoder", 0): 1, ("decoder", 1): 3}


POINTS = ("embed", "0.self.z", "0.cross.pattern", "0.residual", "1.cross.z", "1.mlp.hidden", "1.residual")


@given(
    point=st.sampled_from(POINTS), position=st.integers(0, 6), value=st.floats(-3, 3, allow_subnormal=False)
)
def test_nothing_reaches_back_in_time(bart, point, position, value):
    """An edit at decoder position t leaves every row before t as it was, exactly."""
    generation = generation_of(bart)
    name = f"decoder.{point}"
    where = [position if axis == "position" else None for axis in axes_of(name)]
    while where[-1] is None:
        where.pop()
    asked = question(bart, generation)
    before, after = values_under(bart, generation, asked, [(), [Edit(name, tuple(where), value)]])
    torch.testing.assert_close(after[:position], before[:position], atol=1e-6, rtol=0)


def test_later_edits_of_one_version_win(bart):
    generation = generation_of(bart)
    states = captured(bart, generation)
    edits = [Edit("decoder.0.mlp.out", (), 7.0), Edit("decoder.0.mlp.out", (), states["decoder.0.mlp.out"])]
    found = values_under(bart, generation, question(bart, generation), [(), edits, edits[:1]])
    torch.testing.assert_close(found[1], found[0])
    assert float((found[2] - found[0]).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Edit("decoder.0.cross.z", (2,)), "shape"),
        (Edit("decoder.0.cross.z", (0, 0, 0, 0)), "shape"),
        (Edit("decoder.0.residual", (-1,)), "shape"),
        (Edit("decoder.0.residual", (0,), torch.zeros(5)), "puts a value of shape"),
    ],
)
def test_edits_that_do_not_fit_are_refused_and_leave_nothing(bart, edit, says):
    generation = generation_of(bart)
    before = state_of(bart.hf)
    with pytest.raises(InputError, match=says):
        values_under(bart, generation, question(bart, generation), [(), [edit]])
    assert_same_state(before, state_of(bart.hf))
    assert torch.equal(log_probs(bart, generation), log_probs(bart, generation))


def test_wrong_limits_and_points(bart):
    generation = generation_of(bart)
    asked = question(bart, generation)
    with pytest.raises(UnknownNameError, match=r"decoder\.9"):
        values_under(bart, generation, asked, [[Edit("decoder.9.residual")]])
    with pytest.raises(InputError, match="rows"):
        values_under(bart, generation, asked, [()], rows=0)
    with pytest.raises(Cancelled):
        values_under(bart, generation, asked, [()], should_stop=lambda: True)
    assert values_under(bart, generation, asked, []).shape == (0, len(generation.target_tokens))


# ---- ablation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", KINDS)
def test_every_part_is_there_once(model, what):
    """And the effect of each is the loss that an intervention on it alone gives."""
    generation = generation_of(model)
    result = ablate(model, generation, what)
    assert len(result.parts) == len(set(result.parts)) == KINDS[what]
    assert len({part.name for part in result.parts}) == KINDS[what]
    torch.testing.assert_close(result.value, generation.log_probs, atol=1e-5, rtol=1e-5)
    for number in range(0, KINDS[what], max(1, KINDS[what] // 6)):
        part = result.parts[number]
        edits = [Edit(point, part.where(point), 0.0) for point in part.points]
        wanted = generation.log_probs - under(model, generation, edits)
        torch.testing.assert_close(result.effect[number], wanted, atol=1e-5, rtol=1e-5)
    assert bool((result.spread == 0).all())


def test_positions_of_both_sides(model):
    generation = generation_of(model)
    result = ablate(model, generation, "positions")
    source, target = len(generation.source_tokens), len(generation.target_tokens)
    assert len(result.parts) == 2 * source + 2 * target
    assert result.grid("encoder.*.residual").shape == (2, 1, source, 1, target)
    grid = result.grid("decoder.*.residual")[:, 0, :, 0]  # [layer, position, row]
    # Rows before the position are as they were.
    torch.testing.assert_close(grid.tril(-1), torch.zeros_like(grid), atol=1e-5, rtol=0)
    # What comes out of the last layer at t is read by row t alone.
    last = grid[1]
    assert float(last.diagonal().abs().min()) > 1e-4
    torch.testing.assert_close(last.triu(1), torch.zeros_like(last), atol=1e-5, rtol=0)


def test_the_copying_head_is_the_only_one_that_matters(copier):
    generation = copier.generate("a b c d")
    result = ablate(copier, generation, "heads", objective="logit")
    for part, effect in zip(result.parts, result.effect, strict=True):
        is_copy = part.point == "decoder.*.cross.z" and (part.layer, part.head) == (COPY.layer, COPY.index)
        wanted = torch.full((5,), LOGIT if is_copy else 0.0)
        torch.testing.assert_close(effect, wanted, atol=1e-4, rtol=0)
    best, _ = result.top(1)[0]
    assert best.name == f"{COPY.block}.z head {COPY.index}"
    lost = ablate(copier, generation, "heads")
    without = lost.value - lost.effect[lost.parts.index(best)]
    # Without it all words are equally likely: the output is destroyed.
    torch.testing.assert_close(without, torch.full((5,), -math.log(SIZE)), atol=1e-4, rtol=0)


def test_each_of_the_ditto_heads_matters_where_it_should(ditto):
    generation = ditto.generate("a ditto c")
    result = ablate(ditto, generation, "heads", objective="logit")
    effects = {part.name: effect for part, effect in zip(result.parts, result.effect, strict=True)}
    copies, repeats = torch.tensor([1.0, 0, 1, 1]) * LOGIT, torch.tensor([0, 1.0, 0, 0]) * LOGIT
    named = {f"{head.block}.z head {head.index}": head for head in (DITTO_COPY, DITTO_REPEAT, DITTO_FLAG)}
    torch.testing.assert_close(
        effects[f"{DITTO_COPY.block}.z head {DITTO_COPY.index}"], copies, atol=1e-3, rtol=0
    )
    for head in (DITTO_REPEAT, DITTO_FLAG):  # without the flag nobody says that it must repeat
        found = effects[f"{head.block}.z head {head.index}"]
        torch.testing.assert_close(found, repeats, atol=1e-3, rtol=0)
    for name, effect in effects.items():
        if name not in named:
            torch.testing.assert_close(effect, torch.zeros(4), atol=1e-3, rtol=0)


def test_the_layer_and_the_sublayer_that_copy(copier):
    generation = copier.generate("a b c")
    assert ablate(copier, generation, "sublayers").top(1)[0][0].name == "decoder.1.cross.out"
    layers = ablate(copier, generation, "layers")
    assert layers.top(1)[0][0].name == "decoder.1"
    assert layers.grid("decoder.*").shape == (2, 1, 1, 1, 4)


@pytest.mark.parametrize("what", ["heads", "neurons"])
def test_mean_and_resample_are_literal(t5, bart, what):
    for model in (t5, bart):
        own, *others = model.force(SENTENCES, OUTPUTS)
        states = [captured(model, other) for other in others]
        mean = ablate(model, own, what, "mean", reference=others)
        resampled = ablate(model, own, what, "resample", reference=others)
        for number in range(0, KINDS[what], 5):
            part = mean.parts[number]
            (point,), axis = part.points, position_axis(part.points[0])
            chosen = {name: slice(None) for name in axes_of(point)}
            index = tuple(getattr(part, name) if getattr(part, name) is not None else chosen[name]
                          for name in axes_of(point))  # fmt: skip
            lengths = captured(model, own)[point].shape[axis]
            average = torch.cat([state[point] for state in states], axis).mean(axis, keepdim=True)
            average = average.expand(*captured(model, own)[point].shape)[index]
            wanted = own.log_probs - under(model, own, [Edit(point, part.where(point), average)])
            torch.testing.assert_close(mean.effect[number], wanted, atol=1e-5, rtol=1e-4)
            losses = []
            for state in states:
                cycled = torch.arange(lengths) % state[point].shape[axis]
                value = state[point].index_select(axis, cycled)[index]
                losses.append(own.log_probs - under(model, own, [Edit(point, part.where(point), value)]))
            found = torch.stack(losses)
            torch.testing.assert_close(resampled.effect[number], found.mean(0), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(
                resampled.spread[number], found.std(0, correction=0), atol=1e-5, rtol=1e-3
            )


def test_own_activations_change_nothing(model):
    generation = generation_of(model)
    result = ablate(model, generation, "heads", "resample", reference=generation)
    torch.testing.assert_close(result.effect, torch.zeros_like(result.effect), atol=1e-5, rtol=0)


def test_objectives_contrasts_and_positions(bart):
    generation = generation_of(bart)
    chosen = ablate(
        bart, generation, "sublayers", positions=[1, (2, 4)], objective="logit", contrast="oiseau"
    )
    assert chosen.rows == ("chat", "la maison")
    assert chosen.contrast == "oiseau"
    every = ablate(bart, generation, "sublayers", objective="logit", contrast="oiseau")
    torch.testing.assert_close(chosen.effect[:, 0], every.effect[:, 1])
    torch.testing.assert_close(chosen.effect[:, 1], every.effect[:, 2:4].sum(1), atol=1e-5, rtol=0)
    assert ablate(bart, generation, "sublayers", objective="entropy").units == "nats of entropy"


def test_inside_an_intervention_it_says_so(bart):
    generation = generation_of(bart)
    with bart.intervene({"decoder.0.cross.z": lambda z: z * 0}):
        result = ablate(bart, generation, "heads")
    assert result.config["intervened"] == ["decoder.0.cross.z"]
    silent = result.grid("decoder.*.cross.z")[0]
    torch.testing.assert_close(silent, torch.zeros_like(silent), atol=1e-6, rtol=0)


def test_tables_and_files(bart):
    generation = generation_of(bart)
    result = ablate(bart, generation, "positions")
    frame = result.to_frame()
    assert len(frame) == len(result.parts) * len(result.spans)
    assert {"part", "point", "layer", "position", "token", "effect", "spread", "value"} <= set(frame)
    assert frame["token"].iloc[0] == "the"
    row = frame[(frame.part == "decoder.0.residual position 0") & (frame.target_start == 0)]
    assert row["token"].item() == generation.decoder_start.text
    again = Ablation.from_dict(result.to_dict())
    assert again.to_dict() == result.to_dict()
    assert again.parts == result.parts
    assert again.top(3) == result.top(3)
    assert all(abs(a[1]) >= abs(b[1]) for a, b in zip(result.top(9), result.top(9)[1:], strict=False))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"what": "lungs"}, UnknownNameError),
        ({"how": "softly"}, UnknownNameError),
        ({"how": "mean"}, InputError),
        ({"how": "resample"}, InputError),
        ({"points": "decoder.7.*"}, UnknownNameError),
        ({"points": "decoder.0.mlp.out"}, InputError),
        ({"objective": "happiness"}, UnknownNameError),
    ],
)
def test_wrong_questions_are_refused(bart, arguments, error):
    before = state_of(bart.hf)
    with pytest.raises(error):
        ablate(bart, generation_of(bart), **arguments)
    assert_same_state(before, state_of(bart.hf))


def test_needless_references_and_columns_of_tokens_are_refused(bart):
    generation = generation_of(bart)
    with pytest.raises(InputError, match="needs no reference"):
        ablate(bart, generation, reference=generation)
    with pytest.raises(InputError, match="column for each token"):
        ablate(bart, generation, how="mean", reference=generation, points="*.pattern")
    with pytest.raises(InputError, match="nothing was changed at"):
        ablate(bart, generation).grid("decoder.*.mlp.out")


def test_nothing_is_left_behind(model):
    generation = generation_of(model)
    model.hf.train()
    before = state_of(model.hf)
    ablate(model, generation, "heads")
    with pytest.raises(Cancelled):
        ablate(model, generation, "heads", should_stop=lambda: True)
    assert_same_state(before, state_of(model.hf))
    model.hf.eval()


# ---- over many outputs -----------------------------------------------------------------------------------


def test_the_mean_over_outputs_is_the_mean(bart):
    generations = bart.force(SENTENCES, OUTPUTS)
    seen = []
    result = mean_ablation(bart, generations, progress=lambda *done: seen.append(done))
    each = torch.stack([ablate(bart, generation).effect.mean(1) for generation in generations])
    torch.testing.assert_close(result.lost, each, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.effect, each.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.error, each.std(0) / 3**0.5, atol=1e-6, rtol=0)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert result.grid("decoder.*.cross.z").shape == (2, 2, 1, 1)
    assert result.to_frame()["outputs"].tolist() == [3] * KINDS["heads"]
    assert MeanAblation.from_dict(result.to_dict()).to_dict() == result.to_dict()


@pytest.mark.parametrize("how", ["mean", "resample"])
def test_other_outputs_stand_in(bart, how):
    generations = bart.force(SENTENCES, OUTPUTS)
    result = mean_ablation(bart, generations, "sublayers", how)
    assert len(generations) - 1 <= RESAMPLED
    for number, generation in enumerate(generations):
        others = [*generations[number + 1 :], *generations[:number]]
        one = ablate(bart, generation, "sublayers", how, reference=others)
        torch.testing.assert_close(result.lost[number], one.effect.mean(1), atol=1e-5, rtol=0)


def test_copying_is_found_over_many_texts(copier):
    generations = copier.generate(["a b c", "d e", "f"])
    best, effect = mean_ablation(copier, generations).top(1)[0]
    assert best.name == f"{COPY.block}.z head {COPY.index}"
    assert effect > 2


def test_wrong_questions_over_outputs(bart):
    generations = bart.force(SENTENCES, OUTPUTS)
    with pytest.raises(InputError, match="not the same part"):
        mean_ablation(bart, generations, "positions")
    with pytest.raises(InputError, match="at least 2"):
        mean_ablation(bart, generations[:1], "heads", "mean")
    with pytest.raises(InputError, match="at least 1"):
        mean_ablation(bart, [])
    with pytest.raises(UnknownNameError):
        mean_ablation(bart, generations, "lungs")
    with pytest.raises(Cancelled):
        mean_ablation(bart, generations, should_stop=lambda: True)


# ---- places by name --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "points", "where"),
    [
        ("decoder.1.cross head 0", ["decoder.1.cross.z"], (0,)),
        ("decoder.1.cross.z head 0 position 2", ["decoder.1.cross.z"], (0, 2)),
        ("decoder.1.cross", ["decoder.1.cross.out"], ()),
        ("decoder.0.mlp neuron 7", ["decoder.0.mlp.hidden"], (None, 7)),
        ("decoder.0.mlp", ["decoder.0.mlp.out"], ()),
        ("encoder.*.residual position 3", ["encoder.0.residual", "encoder.1.residual"], (3,)),
        ("decoder.0", ["decoder.0.self.out", "decoder.0.cross.out", "decoder.0.mlp.out"], ()),
    ],
)
def test_places_by_name(bart, text, points, where):
    site = site_named(bart, text)
    assert list(site.points) == points
    assert {site.where(point) for point in points} == {where}


def test_names_of_places_lead_back_to_them(bart):
    for part in ablate(bart, generation_of(bart), "heads").parts:
        assert site_named(bart, part.name) == part


@pytest.mark.parametrize(
    "text", ["", "decoder.1.cross head", "decoder.1.cross head x", "decoder.1.mlp head 0"]
)
def test_what_names_no_place(bart, text):
    with pytest.raises(InputError):
        site_named(bart, text)
    with pytest.raises(UnknownNameError):
        site_named(bart, "decoder.7.cross head 0")
