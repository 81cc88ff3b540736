"""Hiding tokens from the target's attention: the literal −∞, and models whose attention is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explain.analysis import Hidden, Knockout, knockout, knockout_sweep
from explain.attribution.registry import Cancelled
from explain.errors import InputError
from explain.training.handmade import COPY, LOGIT, copy_model, ditto_model
from tests.interventions import generation_of, log_probs
from tests.state import assert_same_state, state_of


@pytest.fixture(scope="module")
def copier():
    return copy_model()


@pytest.fixture(scope="module")
def ditto():
    return ditto_model()


def hidden_by_hand(model, generation, side, key, layers, steps=None):
    """[target], with the column of the pattern struck out and the rest made to add up to 1 again."""

    def strike(pattern):
        rows = slice(None) if steps is None else steps
        pattern[:, :, rows, key] = 0
        return pattern / pattern.sum(-1, keepdim=True)

    with model.intervene({f"decoder.{layer}.{side}.pattern": strike for layer in layers}):
        return log_probs(model, generation)


@pytest.mark.parametrize("steps", [None, [1, 3]])
def test_it_strikes_out_a_column_and_nothing_else(model, steps):
    generation = generation_of(model)
    for source, layers in ((0, (0, 1)), (3, (1, 1)), (-1, (0, 0))):
        found = knockout(model, generation, source, layers=layers, steps=steps)
        wanted = hidden_by_hand(model, generation, "cross", source, range(layers[0], layers[1] + 1), steps)
        torch.testing.assert_close(found.value - found.effect[0], wanted, atol=1e-5, rtol=1e-5)
    for token in (0, 2):
        found = knockout(model, generation, prefix=token, steps=steps)
        wanted = hidden_by_hand(model, generation, "self", token + 1, (0, 1), steps)
        torch.testing.assert_close(found.value - found.effect[0], wanted, atol=1e-5, rtol=1e-5)
        # What is written first cannot miss what comes later.
        assert float(found.effect[0, : token + 1].abs().max()) < 1e-5


def test_a_sweep_is_one_knockout_after_the_other(model):
    generation = generation_of(model)
    for side, tokens in (("source", len(generation.source_tokens)), ("prefix", 6)):
        swept = knockout_sweep(model, generation, side=side)
        assert swept.grid.shape == (tokens, 2, len(generation.target_tokens))
        for token in range(0, tokens, 2):
            for layer in range(2):
                one = knockout(model, generation, **{side: token}, layers=(layer, layer))
                torch.testing.assert_close(swept.grid[token, layer], one.effect[0], atol=1e-5, rtol=0)
    whole = knockout_sweep(model, generation, window=None)
    assert whole.grid.shape[1] == 1
    torch.testing.assert_close(whole.grid[2, 0], knockout(model, generation, 2).effect[0], atol=1e-5, rtol=0)


@given(hidden=st.sets(st.integers(0, 6), min_size=1, max_size=5), first=st.integers(0, 1))
def test_hidden_tokens_get_no_attention(bart, hidden, first):
    """Several at once: exactly 0 where they are hidden, and the pattern still adds up to 1."""
    generation = generation_of(bart)
    part = Hidden(tuple(sorted(hidden)), (), (first, 1))
    functions = {}
    for point in {edit.point for edit in part.edits()}:
        keys = [edit.where[2] for edit in part.edits() if edit.point == point]

        def hide(scores, keys=tuple(keys)):
            scores[..., list(keys)] = -math.inf
            return scores

        functions[point] = hide
    with bart.intervene(functions):
        patterns = bart.capture(generation, "decoder.*.cross.pattern")
        wanted = log_probs(bart, generation)
    for layer in range(2):
        pattern = patterns[f"decoder.{layer}.cross.pattern"]
        torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))
        assert bool((pattern[..., sorted(hidden)] == 0).all()) == (layer >= first)
    found = knockout(bart, generation, sorted(hidden), layers=(first, 1))
    torch.testing.assert_close(found.value - found.effect[0], wanted, atol=1e-5, rtol=1e-5)


def test_copying_needs_exactly_the_token_of_the_same_place(copier):
    """Hiding source token t takes target token t away, at the copying layer alone, and touches no other."""
    generation = copier.generate("a b c d e")
    sweep = knockout_sweep(copier, generation, objective="logit")
    count = len(generation.target_tokens)
    wanted = LOGIT * torch.eye(count)
    # Where its place is hidden, the copying head looks at EOS; the last token is EOS itself.
    torch.testing.assert_close(sweep.grid[:, COPY.layer], wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(sweep.grid[:, 1 - COPY.layer], torch.zeros(count, count), atol=1e-3, rtol=0)
    prefix = knockout_sweep(copier, generation, side="prefix", window=None, objective="logit")
    torch.testing.assert_close(prefix.effect, torch.zeros(count - 1, count), atol=1e-3, rtol=0)


def test_ditto_needs_its_own_prefix(ditto):
    generation = ditto.generate("a ditto c")
    sweep = knockout_sweep(ditto, generation, side="prefix", objective="logit")
    wanted = torch.zeros(3, 3, 4)
    wanted[0, 1, 1] = LOGIT  # "a", read by the repeating head of layer 1, for the second word
    torch.testing.assert_close(sweep.grid, wanted, atol=1e-2, rtol=0)
    source = knockout_sweep(ditto, generation, window=None, objective="logit").grid[:, 0]
    torch.testing.assert_close(source, LOGIT * torch.eye(4), atol=1e-2, rtol=0)


def test_what_the_parts_are_called(bart):
    generation = generation_of(bart)
    result = knockout(bart, generation, [3, 1], prefix=-3, layers=(0, 1))
    (part,) = result.parts
    assert part.name == "source 1, 3 and prefix 4 at layers 0 to 1"
    frame = result.to_frame()
    assert frame["side"].unique().tolist() == ["source and prefix"]
    assert frame["index"].isna().all()
    assert frame["text"].iloc[0] == "cat a un"
    one = knockout(bart, generation, 2, layers=(1, 1))
    assert one.parts[0].name == "source 2 at layer 1"
    assert one.to_frame()["index"].tolist() == [2] * 7
    assert str(one.to_frame()["index"].dtype) == "Int64"
    again = Knockout.from_dict(result.to_dict())
    assert again.to_dict() == result.to_dict()
    assert again.parts == result.parts
    steps = knockout(bart, generation, 2, steps=[0])
    assert Knockout.from_dict(steps.to_dict()).parts == steps.parts


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "nothing is hidden"),
        ({"source": 7}, "source token 7 does not exist"),
        ({"source": "the"}, "does not exist"),
        ({"source": range(7)}, "the whole source of 7 tokens"),
        ({"prefix": 6}, "is the last"),
        ({"prefix": -1}, "is the last"),
        ({"prefix": 8}, "target token 8 does not exist"),
        ({"source": 0, "layers": (0, 2)}, "layers="),
        ({"source": 0, "layers": (1, 0)}, "layers="),
        ({"source": 0, "steps": []}, "steps is empty"),
        ({"source": 0, "steps": 9}, "step 9 does not exist"),
    ],
)
def test_wrong_knockouts_are_refused(bart, arguments, says):
    before = state_of(bart.hf)
    with pytest.raises(InputError, match=says):
        knockout(bart, generation_of(bart), **arguments)
    assert_same_state(before, state_of(bart.hf))


@pytest.mark.parametrize("arguments", [{"side": "left"}, {"window": 3}, {"window": 0}, {"window": "wide"}])
def test_wrong_sweeps_are_refused(bart, arguments):
    with pytest.raises(InputError, match="source or prefix"):
        knockout_sweep(bart, generation_of(bart), **arguments)


def test_an_output_of_one_token_has_no_prefix(bart):
    short = bart.generate("the cat", max_new_tokens=1)
    assert len(short.target_tokens) == 1
    with pytest.raises(InputError, match="no prefix to hide"):
        knockout_sweep(bart, short, side="prefix")


def test_nothing_is_left_behind(model):
    generation = generation_of(model)
    before = state_of(model.hf)
    knockout_sweep(model, generation, side="prefix")
    with pytest.raises(Cancelled):
        knockout_sweep(model, generation, should_stop=lambda: True)
    assert_same_state(before, state_of(model.hf))
