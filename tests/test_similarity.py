"""Debiased linear CKA: against a literal implementation, and what it must and must not see."""

from __future__ import annotations

import json
import math

import pytest
import torch

from explain.analysis import Similarity, cka, similarity
from explain.attribution.memory import TooLargeError
from explain.errors import InputError, UnknownNameError
from explain.files import dump_json
from explain.training.handmade import copy_model
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import tiny
from tests.state import assert_same_state, state_of


def literal(x: torch.Tensor, y: torch.Tensor) -> float:
    """Kornblith's ratio with Song's HSIC_1, written as in the papers, from kernels."""

    def hsic(a: torch.Tensor, b: torch.Tensor) -> float:
        k, l = (m @ m.T for m in (a, b))  # noqa: E741
        k, l = (m - torch.diag(m.diagonal()) for m in (k, l))  # noqa: E741
        n, one = len(a), torch.ones(len(a), dtype=a.dtype)
        middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return float((torch.trace(k @ l) + middle - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3)))

    return hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def outputs(bart):
    return bart.force(SENTENCES, OUTPUTS)


def test_is_the_papers_estimate():
    x, y = rows(30, 7) + 3, rows(30, 11, seed=1)
    y[:, :4] += 2 * x[:, :4]
    assert cka(x, y) == pytest.approx(literal(x, y), rel=1e-10)
    assert 0.1 < cka(x, y) < 0.99


def test_does_not_see_rotation_scale_and_shift():
    x, y = rows(40, 6), rows(40, 5, seed=1)
    y[:, :3] += x[:, :3]
    turn = torch.linalg.qr(rows(6, 6, seed=2))[0]
    assert cka(3 * x @ turn + 100, y) == pytest.approx(cka(x, y), abs=1e-9)
    assert cka(x, 0.1 * x @ turn - 7) == pytest.approx(1.0, abs=1e-9)
    stretched = x * torch.tensor([30.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    assert cka(stretched, x) < 0.9  # what is not a rotation is seen


def test_wide_independent_rows_have_nothing_in_common():
    """Where the usual estimate says about width / rows more than 0, this one says 0 on average."""
    found = [cka(rows(60, 300, seed=2 * i), rows(60, 300, seed=2 * i + 1)) for i in range(20)]
    assert abs(sum(found) / len(found)) < 0.02
    x, y = (m - m.mean(0) for m in (rows(60, 300), rows(60, 300, seed=1)))
    usual = (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    assert usual > 0.7


def test_what_never_changes_is_not_defined():
    assert math.isnan(cka(torch.full((9, 3), 0.1), rows(9, 3)))


@pytest.mark.parametrize("shapes", [((5, 2), (6, 2)), ((3, 2), (3, 2)), ((4,), (4,))])
def test_rows_must_be_pairs_and_enough(shapes):
    with pytest.raises(InputError, match="rows"):
        cka(rows(*shapes[0]), rows(*shapes[1]))


def test_layers_of_a_model_against_the_literal_estimate(model):
    """On every family, streamed in batches, and with the model left as it was."""
    outputs = model.force(SENTENCES, OUTPUTS)
    before = state_of(model.hf)
    found = similarity(model, outputs, batch_size=2)
    assert_same_state(before, state_of(model.hf))
    captures = model.capture(outputs, ["*.embed", "*.residual"])
    states = {n: torch.cat([c[n][0] for c in captures]).double() for n in found.points_a}
    for a in found.points_a:
        for b in found.points_b:
            if a.split(".")[0] == b.split(".")[0]:
                assert found.value(a, b) == pytest.approx(literal(states[a], states[b]), abs=1e-5), (a, b)
            else:
                assert math.isnan(found.value(a, b))
    assert found.same_points() == pytest.approx(dict.fromkeys(found.points_a, 1.0))
    assert found.rows == {
        "source": sum(len(g.source_tokens) for g in outputs),
        "target": sum(len(g.target_tokens) for g in outputs),
    }


def test_two_models_on_the_same_outputs(bart, outputs):
    other = tiny("bart", seed=1)
    found = similarity(bart, outputs, other, other.force(SENTENCES, OUTPUTS), "decoder.*.residual")
    assert found.points_a == found.points_b == ("decoder.0.residual", "decoder.1.residual")
    assert found.model_digest_a != found.model_digest_b
    same = similarity(bart, outputs, bart, list(outputs), "decoder.*.residual")
    assert torch.allclose(same.values, similarity(bart, outputs, points="decoder.*.residual").values)
    assert found.value("decoder.1.residual", "decoder.1.residual") < 0.99
    assert torch.allclose(found.values, similarity(bart, outputs, other, points="decoder.*.residual").values)


def test_per_example_pairs_encoder_with_decoder(bart):
    sources = [*SENTENCES, "the old house", "a red bird runs", "the river is old"]
    outputs = bart.generate(sources, max_new_tokens=6)
    found = similarity(bart, outputs, points="*.residual", per="example")
    assert not found.values.isnan().any()
    assert found.rows == {"source": 6, "target": 6}


def test_heads_stand_side_by_side(bart, outputs):
    """Queries of the decoder go with output tokens, keys of cross-attention with source tokens."""
    found = similarity(bart, outputs, points=["decoder.0.cross.q", "decoder.0.cross.k", "encoder.1.residual"])
    assert math.isnan(found.value("decoder.0.cross.q", "decoder.0.cross.k"))
    assert found.value("decoder.0.cross.k", "encoder.1.residual") > 0.2


def test_minibatches_are_the_mean_of_estimates(bart, outputs):
    """The same rows, so the same figure where one batch holds them all, and near it where not."""
    points = ("encoder.0.residual", "encoder.1.residual")
    whole = similarity(bart, outputs, points=points)
    many = similarity(bart, outputs, points=points, minibatch=1000)
    assert torch.allclose(whole.values, many.values, atol=1e-9)
    several = similarity(bart, outputs, points=points, minibatch=8)
    assert several.minibatch == 8
    assert several.value(points[0], points[0]) == pytest.approx(1.0)
    assert not torch.allclose(several.values, whole.values, atol=1e-6)


def test_a_layer_that_writes_nothing_is_the_layer_before():
    """In the hand-set model both encoder layers add nothing, so all three states are the same."""
    model = copy_model()
    outputs = model.generate(["a b c d e", "f g h", "q r s a"])
    found = similarity(model, outputs, points=["encoder.embed", "encoder.*.residual"])
    assert torch.allclose(found.values, torch.ones(3, 3, dtype=torch.float64), atol=1e-6)


def test_comes_back_from_json(bart, outputs):
    found = similarity(bart, outputs)
    back = Similarity.from_dict(json.loads(dump_json(found.to_dict())))
    assert torch.allclose(back.values, found.values, equal_nan=True)
    assert back.to_dict().keys() == found.to_dict().keys()
    assert back.rows == found.rows
    frame = found.to_frame()
    assert list(frame.columns) == ["point_a", "point_b", "cka"]
    assert len(frame) == len(found.points_a) ** 2


def test_refuses_what_cannot_be_compared(bart, outputs):
    other = bart.force(SENTENCES[::-1], OUTPUTS[::-1])
    with pytest.raises(InputError, match="same text"):
        similarity(bart, outputs, bart, other)
    with pytest.raises(InputError, match="pair them"):
        similarity(bart, outputs, bart, other[:1])
    with pytest.raises(InputError, match="patterns"):
        similarity(bart, outputs, points="*.pattern")
    with pytest.raises(UnknownNameError):
        similarity(bart, outputs, points="decoder.9.residual")
    with pytest.raises(InputError, match="per is"):
        similarity(bart, outputs, per="word")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="minibatch"):
        similarity(bart, outputs, minibatch=3)
    with pytest.raises(InputError, match="at least 4"):
        similarity(bart, outputs[1:2], points="decoder.0.residual")
    with pytest.raises(TooLargeError, match="minibatch"):
        similarity(bart, outputs, memory_budget=1000)
    with pytest.raises(InputError, match="not compared"):
        similarity(bart, outputs).value("logits", "logits")
