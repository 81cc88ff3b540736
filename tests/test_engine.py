"""The attribution engine: what can be asked, paths and their integrals, memory, and the source's share."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import DeepLift, GradientShap, IntegratedGradients, LayerIntegratedGradients
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import explain
from explain.attribution import OBJECTIVES, REGISTRY, Cancelled, memory
from explain.attribution.gradients.captum_rows import seeded
from explain.attribution.gradients.quadrature import composite_romberg, integrate, trapezoid
from explain.attribution.gradients.word_paths import refined, word_path
from explain.attribution.inputs import inputs_of
from explain.attribution.memory import TooLargeError, in_chunks
from explain.attribution.objectives import question, spans_of
from explain.errors import InputError, UnknownNameError
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import FAMILIES, tiny
from tests.state import assert_same_state, state_of
from tests.test_attribution import both, generation_of, plain_forward

WITH_OBJECTIVE = [name for name, row in REGISTRY.rows.items() if row.objective]


# ---- what can be asked: positions, spans, own objectives, contrast inputs ----


@pytest.mark.parametrize("name", list(REGISTRY.rows))
def test_a_position_has_the_scores_that_it_has_among_all(bart, name):
    generation = generation_of(bart)
    every = bart.attribute(generation, method=name)
    one = bart.attribute(generation, method=name, positions=2)
    torch.testing.assert_close(one.source[2], every.source[2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.prefix[2], every.prefix[2], atol=1e-5, rtol=1e-4)
    asked = [i == 2 for i in range(len(every.target_tokens))]
    assert (one.source.abs().sum(1) > 0).tolist() == asked
    assert one.config["positions"] == [[2, 3]]
    assert one.level == "token"
    if REGISTRY.get(name).objective:
        assert (~one.value.isnan()).tolist() == asked


@pytest.mark.parametrize("name", ["saliency", "integrated_gradients", "occlusion", "attn_lrp", "alti"])
def test_a_span_is_one_row_and_one_token(bart, name):
    generation = generation_of(bart)
    att = bart.attribute(generation, method=name, positions=[(1, 4), 5])
    assert len(att.target_tokens) == len(generation.target_tokens) - 2
    assert att.target_tokens[1].text == "chat la maison"
    assert att.level == "span"
    assert att.source.shape == (len(att.target_tokens), len(generation.source_tokens))
    assert (att.source.abs().sum(1) > 0).tolist() == [False, True, False, True, False]
    torch.testing.assert_close(att.log_probs[1], generation.log_probs[1:4].sum(), atol=1e-5, rtol=1e-5)


def test_the_score_of_a_span_is_the_sum_over_its_tokens(bart):
    """Signed methods are linear in the objective: a span's row equals its tokens' rows added up."""
    generation = generation_of(bart)
    options = {"rule": "midpoint", "steps": 16, "max_steps": 16}
    every = bart.attribute(generation, **options)
    whole = bart.attribute(generation, positions="output", **options)
    torch.testing.assert_close(whole.source[0], every.source.sum(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.within[0], every.prefix.sum(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.value[0], every.value.sum(), atol=1e-5, rtol=1e-5)


def test_one_span_costs_one_backward_row(bart, monkeypatch):
    from explain.attribution.gradients import integrated

    seen = []
    plain = integrated.jacobian_rows

    def counting(values, *rest):
        seen.append(values.shape[1] * values.shape[2])
        return plain(values, *rest)

    monkeypatch.setattr(integrated, "jacobian_rows", counting)
    bart.attribute(generation_of(bart), positions="output", max_steps=8)
    assert sum(seen) == 9


@pytest.mark.parametrize(
    ("positions", "spans"),
    [
        (None, ((0, 1), (1, 2), (2, 3))),
        (-1, ((2, 3),)),
        ("output", ((0, 3),)),
        ([(1, -1), 0], ((0, 1), (1, 2))),
    ],
)
def test_positions_are_read(positions, spans):
    assert spans_of(positions, 3) == spans


@pytest.mark.parametrize("positions", [3, True, (2, 2), [0, (0, 2)], [], "all", 1.5, [("a", 2)], [(0, 1, 2)]])
def test_positions_that_make_no_sense_are_refused(positions):
    with pytest.raises(InputError, match="position"):
        spans_of(positions, 3)


@pytest.mark.parametrize("name", WITH_OBJECTIVE)
def test_a_users_own_objective(bart, name):
    def margin(logits, ids):
        """How far the token is ahead of the runner-up, in logits."""
        best = logits.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]

    generation = generation_of(bart)
    att = bart.attribute(generation, method=name, target=margin)
    assert att.objective == "margin"
    assert "margin" in att.units
    with torch.no_grad():
        logits = bart.hf(
            input_ids=generation.source_ids[None],
            decoder_input_ids=generation.decoder_input_ids[None],
            use_cache=False,
        ).logits[0]
    torch.testing.assert_close(att.value, margin(logits, None), atol=1e-5, rtol=1e-4)


def test_an_objective_of_another_shape_is_refused(bart):
    with pytest.raises(InputError, match="must return a tensor of shape"):
        bart.attribute(generation_of(bart), target=lambda logits, ids: logits.sum())


def test_divergence_from_a_contrast_input(bart):
    generation = generation_of(bart)
    other = "a bird"
    att = bart.attribute(generation, target="kl_divergence", contrast_input=other, max_steps=64)
    with torch.no_grad():
        here, there = (
            bart.hf(
                input_ids=ids[None], decoder_input_ids=generation.decoder_input_ids[None], use_cache=False
            )
            .logits[0]
            .log_softmax(-1)
            for ids in (generation.source_ids, bart.source_ids(other))
        )
    torch.testing.assert_close(att.value, (here.exp() * (here - there)).sum(-1), atol=1e-5, rtol=1e-4)
    assert att.config["contrast_input"] == other
    assert att.units == "nats of divergence"
    same = bart.attribute(generation, method="saliency", target="kl_divergence", contrast_input=SENTENCES[0])
    assert float(same.value.abs().max()) < 1e-5
    with pytest.raises(InputError, match="belong together"):
        bart.attribute(generation, target="kl_divergence")
    with pytest.raises(InputError, match="belong together"):
        bart.attribute(generation, contrast_input=other)


def test_a_contrast_stands_against_a_span(bart):
    generation = bart.force("the cat", "le chat la maison")
    att = bart.attribute(generation, method="input_x_gradient", contrast="chien oiseau", contrast_span=(1, 3))
    assert att.config["contrasted"] == [False, True, True, False, False]
    assert att.config["contrast_span"] == [1, 3]
    foils = bart.foil_ids("chien oiseau")
    for place, foil in zip((1, 2), foils, strict=True):
        alone = bart.attribute(generation, method="input_x_gradient", contrast=foil)
        torch.testing.assert_close(att.source[place], alone.source[place])
    with pytest.raises(InputError, match="without a contrast"):
        bart.attribute(generation, contrast_span=(1, 3))


@pytest.mark.parametrize("objective", [*OBJECTIVES, "contrast"])
def test_only_the_needed_rows_of_the_vocabulary_give_the_same_numbers(model, objective):
    generation = generation_of(model)
    foil = "maison" if objective == "contrast" else None
    asked = question(model, generation, "log_prob" if foil else objective, foil, positions=[1, (2, 4)])
    width = model.hf.config.d_model
    hidden = torch.randn(3, len(generation.target_tokens), width, generator=torch.Generator().manual_seed(0))
    from explain.model.forward import project

    with torch.no_grad():
        torch.testing.assert_close(
            asked.of_hidden(model.hf, hidden), asked(project(model.hf, hidden)), atol=1e-5, rtol=1e-4
        )


def test_a_hook_at_the_logits_is_seen_by_every_method(bart):
    generation = generation_of(bart)
    with bart.intervene({"logits": lambda logits: logits * 0}):
        for name in ("saliency", "integrated_gradients", "occlusion", "source_share"):
            if name == "source_share":
                share = explain.source_share(bart, generation)
                assert float(share.source.abs().max()) == 0
            else:
                assert float(bart.attribute(generation, method=name).source.abs().max()) == 0


# ---- integrals ----


@pytest.mark.parametrize(
    "grid", [range(9), range(0, 17, 2), [0, 2, 4, 5, 6, 7, 8], [0, 4, 8, 10, 12, 13, 14, 15, 16]]
)
def test_rules_integrate_what_they_should(grid):
    nodes = np.array(list(grid))
    points = nodes / nodes[-1]
    assert np.isclose(trapezoid(points) @ points, 0.5)
    weights = composite_romberg(nodes) / nodes[-1]
    degree = 7 if len(set(np.diff(nodes))) == 1 else 3
    assert np.isclose(weights @ points**degree, 1 / (degree + 1))
    assert (weights > 0).all()


def test_points_are_never_computed_twice_and_lie_where_they_are_needed():
    """Row 0 is linear and done at once; row 1 rises steeply near 0.7 and asks for points there only."""
    asked: list[tuple[float, list[int]]] = []

    def nodes(requests):
        asked.extend(requests[0])
        answers = []
        for point, rows in requests[0]:
            steep = 50 / np.cosh(100 * (point - 0.7)) ** 2
            answers.append(torch.tensor([1.0, steep])[rows][:, None])
        return [answers]

    (found,) = integrate(
        nodes,
        [torch.tensor([1.0, 1.0])],
        rule="nested",
        steps=8,
        max_steps=1024,
        tolerance=1e-3,
        check=lambda: None,
    )
    pairs = [(point, row) for point, rows in asked for row in rows]
    assert len(pairs) == len(set(pairs))
    assert found.points.tolist() == [9, len(pairs) - 9]
    assert float(found.error.max()) <= 1e-3
    late = [point for point, row in pairs[18:] if row == 1]
    assert np.mean([abs(point - 0.7) < 0.15 for point in late]) > 0.8
    assert len(late) < 120, "a uniform grid would need more"


def test_batches_share_points_and_keep_their_own_rows(bart):
    texts = bart.force(SENTENCES, OUTPUTS)
    together = bart.attribute(texts, batch_size=3, tolerance=0.002)
    for generation, att in zip(texts, together, strict=True):
        alone = bart.attribute(generation, tolerance=0.002, rows=3)
        assert att.config["steps_used"] == alone.config["steps_used"]
        torch.testing.assert_close(att.source, alone.source, atol=2e-5, rtol=1e-4)


def test_gauss_legendre_is_captums_default(model):
    generation = generation_of(model)
    att = model.attribute(generation, rule="gauss_legendre", steps=20, max_steps=20)
    inputs = inputs_of(model, generation, "pad")
    for t in range(len(generation.target_tokens)):
        (source, _), _ = both(
            model,
            generation,
            t,
            IntegratedGradients,
            baselines=(inputs.source_baseline, inputs.target_baseline),
            n_steps=20,
        )
        wanted = source.sum(-1)
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(att.source[t], wanted, atol=1e-5 * scale, rtol=0)


def test_the_nested_rule_and_gauss_legendre_agree_when_both_converge(bart):
    generation = generation_of(bart)
    nested = bart.attribute(generation, tolerance=1e-4)
    gauss = bart.attribute(generation, rule="gauss_legendre", steps=128, max_steps=128)
    torch.testing.assert_close(nested.source, gauss.source, atol=1e-2, rtol=1e-2)


def test_every_token_is_complete_or_marked_with_the_default_baseline(model):
    for generation in model.force(SENTENCES, OUTPUTS):
        att = model.attribute(generation)
        assert ((att.completeness_error <= 0.01) | ~att.converged).all()
        steps = torch.tensor(att.config["steps_used"])
        assert (att.converged | (steps > 500) | att.completeness_error.isnan()).all()
        assert att.converged.float().mean() > 0.8


def test_layer_integrated_gradients_equal_plain_captum(bart):
    generation = generation_of(bart)
    points = ("encoder.1.residual",)
    att = bart.attribute(
        generation, method="layer_integrated_gradients", points=points, steps=256, max_steps=256
    )
    inputs = inputs_of(bart, generation, "pad")
    layer = bart.hf.get_encoder().layers[1]
    for t in (0, 3):
        made = LayerIntegratedGradients(
            lambda source, t=t: plain_forward(
                bart, generation, t, source, inputs.target.expand(len(source), -1, -1)
            ),
            layer,
        )
        wanted = made.attribute(inputs.source, baselines=inputs.source_baseline, n_steps=200)
        wanted = wanted[0] if isinstance(wanted, tuple) else wanted
        torch.testing.assert_close(att.source[t], wanted[0].sum(-1), atol=1e-3, rtol=1e-3)


def test_integrals_through_any_cut_add_up(model):
    generation = generation_of(model)
    for name in ("layer_integrated_gradients", "layer_conductance"):
        att = model.attribute(
            generation, method=name, points=("encoder.0.residual", "decoder.0.residual"), max_steps=1024
        )
        assert float(att.completeness_error.median()) < 0.01, name
        patterns = model.attribute(
            generation, method=name, points=("decoder.*.cross.pattern",), steps=4, max_steps=4
        )
        assert patterns.completeness_error.isnan().all(), "no cut: nothing to add up to"
        assert float(patterns.source.abs().sum()) > 0


def test_conductance_of_the_embeddings_is_integrated_gradients(model):
    generation = generation_of(model)
    options = {"steps": 32, "max_steps": 32, "positions": [0, 2, 4]}  # too few to look ahead for
    plain = model.attribute(generation, **options)
    through = model.attribute(generation, method="layer_conductance", **options)
    for row, other in zip(plain.source, through.source, strict=True):
        torch.testing.assert_close(row, other, atol=2e-4, rtol=1e-3)


def test_sequential_integrated_gradients_are_the_integral_that_they_stand_for(bart):
    """The literal definition, token by token, with many steps (Enguehard 2023, equation 3)."""
    generation = generation_of(bart)
    att = bart.attribute(generation, method="sequential_integrated_gradients")
    inputs = inputs_of(bart, generation, "pad")
    for i in (0, 2):
        change = torch.zeros_like(inputs.source)
        change[0, i] = inputs.source[0, i] - inputs.source_baseline[0, i]
        alphas = (torch.arange(400) + 0.5) / 400
        for t in (1, 4):
            path = (inputs.source - change + alphas[:, None, None] * change).requires_grad_()
            value = plain_forward(bart, generation, t, path, inputs.target.expand(400, -1, -1))
            (grad,) = torch.autograd.grad(value.sum(), path)
            literal = (grad.mean(0) * change[0]).sum()
            torch.testing.assert_close(att.source[t, i], literal, atol=1e-3, rtol=1e-3)


@given(st.integers(0, 1000), st.integers(2, 12))
def test_word_paths_are_monotone_from_baseline_to_input(seed, steps):
    dice = torch.Generator().manual_seed(seed)
    words = torch.randn(30, 4, generator=dice)
    path = word_path(words[:1].expand(3, -1), words[5:8], words, steps, 10)
    assert path.shape == (steps + 1, 3, 4)
    assert torch.equal(path[0], words[:1].expand(3, -1))
    assert torch.equal(path[-1], words[5:8])
    direction = (path[-1] - path[0]).sign()
    assert (path.diff(dim=0) * direction >= -1e-5).all()
    fine = refined(path, 3)
    assert len(fine) == 3 * steps + 1
    assert torch.allclose(fine[::3], path)


def test_discretized_integrated_gradients_add_up_with_finer_steps():
    model = tiny("bart", init_std=0.05)
    generation = generation_of(model)
    rough, fine = (
        model.attribute(generation, method="discretized_integrated_gradients", parts=parts)
        for parts in (1, 32)
    )
    assert float(fine.completeness_error.median()) < 0.05
    assert float(fine.completeness_error.mean()) < float(rough.completeness_error.mean())


# ---- Captum's random methods and DeepLift, position by position ----


def test_gradient_shap_equals_plain_captum_with_the_same_seed(bart):
    generation = generation_of(bart)
    att = bart.attribute(generation, method="gradient_shap", samples=8, noise=0.0, seed=3)
    inputs = inputs_of(bart, generation, "pad")
    for t in (0, 3):
        with seeded(3):
            made = GradientShap(partial(plain_forward, bart, generation, t))
            source, target = made.attribute(
                (inputs.source, inputs.target),
                baselines=(inputs.source_baseline, inputs.target_baseline),
                n_samples=8,
                stdevs=0.0,
            )
        torch.testing.assert_close(att.source[t], source[0].sum(-1), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(att.prefix[t, :t], target[0, 1 : t + 1].sum(-1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_deeplift_equals_plain_captum(family):
    model = tiny(family)
    generation = generation_of(model)
    att = model.attribute(generation, method="deeplift")
    inputs = inputs_of(model, generation, "pad")

    class Plain(nn.Module):
        def __init__(self, t):
            super().__init__()
            self.hf, self.t = model.hf, t

        def forward(self, source, target):
            return plain_forward(model, generation, self.t, source, target)[:, None]

    for t in (0, 4):
        source, _ = DeepLift(Plain(t), eps=1e-6).attribute(
            (inputs.source.clone().requires_grad_(), inputs.target.clone().requires_grad_()),
            baselines=(inputs.source_baseline, inputs.target_baseline),
            target=0,
        )
        torch.testing.assert_close(att.source[t], source[0].sum(-1).detach(), atol=1e-4, rtol=1e-3)


def test_smooth_grad_without_noise_is_saliency_and_seeds_matter(bart):
    generation = generation_of(bart)
    plain = bart.attribute(generation, method="saliency")
    quiet = bart.attribute(generation, method="smooth_grad", noise=1e-7, samples=2)
    torch.testing.assert_close(quiet.source, plain.source, atol=1e-4, rtol=1e-3)
    one, same, other = (
        bart.attribute(generation, method="smooth_grad", seed=seed).source for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", list(REGISTRY.rows))
def test_half_precision_runs_on_every_family(half, name):
    att = half.attribute(half.force("the cat sees", "le chat"), method=name)
    assert att.source.isfinite().all()
    assert float(att.source.abs().sum()) > 0


@pytest.fixture(scope="module", params=FAMILIES)
def half(request):
    model = tiny(request.param)
    model.hf.to(torch.bfloat16)
    return model


def test_nothing_in_nothing_out(bart):
    assert explain.source_share(bart, []) == []
    assert all(bart.attribute([], method=name) == [] for name in REGISTRY.rows)


def test_an_objective_without_a_gradient_is_refused_by_gradient_methods(bart):
    def rank(logits, ids):
        return logits.argmax(-1).float()

    generation = generation_of(bart)
    with pytest.raises(InputError, match="differentiable"):
        bart.attribute(generation, method="saliency", target=rank)
    assert bart.attribute(generation, method="occlusion", target=rank).source.isfinite().all()


# ---- memory ----


def test_chunks_are_halved_until_they_fit():
    sizes = []

    def run(part):
        size = part.stop - part.start
        if size > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
        sizes.append(size)
        return list(range(part.start, part.stop))

    rows = [row for _, part in in_chunks(10, 8, run) for row in part]
    assert rows == list(range(10))
    assert max(sizes) <= 3
    with pytest.raises(TooLargeError):
        list(in_chunks(2, 2, partial(_always, MemoryError())))
    with pytest.raises(RuntimeError, match="something else"):
        list(in_chunks(2, 2, partial(_always, RuntimeError("something else"))))


def _always(error, part):
    raise error


@pytest.mark.parametrize("name", list(REGISTRY.rows))
def test_a_small_budget_changes_nothing_but_time(bart, name):
    generation = generation_of(bart)
    plenty = bart.attribute(generation, method=name)
    scarce = bart.attribute(generation, method=name, memory_budget=1)
    torch.testing.assert_close(scarce.source, plenty.source, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scarce.prefix, plenty.prefix, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="number of bytes"):
        bart.attribute(generation, method=name, memory_budget=0)


def test_more_of_everything_needs_more_memory(bart):
    for estimate in (memory.forward_row_bytes, memory.graph_row_bytes, memory.backward_row_bytes):
        assert 0 < estimate(bart, 10, 10) < estimate(bart, 100, 10) < estimate(bart, 1000, 100)


# ---- the source's share ----


@pytest.mark.parametrize("by", ["differences", "forward_mode"])
def test_the_source_share_is_that_of_the_map_without_a_map(model, by):
    texts = model.force(SENTENCES, OUTPUTS)
    options = {"by": by, "tolerance": 1e-3, "max_steps": 128}
    shares = explain.source_share(model, texts, **options)
    finished = 0
    for generation, share in zip(texts, shares, strict=True):
        att = model.attribute(generation, tolerance=1e-4)
        size = float((att.value - att.baseline_value).abs().max())
        done = (share.error <= 2e-3) & (att.completeness_error <= 1e-3)
        finished += int(done.sum())
        for part, scores in ((share.source, att.source), (share.prefix, att.prefix)):
            torch.testing.assert_close(part[done], scores.sum(1)[done], atol=2e-2 * size, rtol=2e-2)
        total = share.source + share.prefix
        torch.testing.assert_close(
            total[done], (att.value - att.baseline_value)[done], atol=3e-3 * size, rtol=3e-3
        )
        assert share.share.shape == (len(generation.target_tokens),)
        # Nothing was written before the first token; what is left are differences of float32 sums, whose last
        # bits differ from processor to processor.
        assert float(share.share[0]) == pytest.approx(1, abs=1e-4)
    assert finished > 0
    alone = explain.source_share(model, texts[1], **options)
    torch.testing.assert_close(alone.source, shares[1].source, atol=3e-3, rtol=3e-3)


def test_the_source_share_takes_objectives_contrasts_and_can_be_stopped(bart):
    generation = generation_of(bart)
    before = state_of(bart.hf)
    contrast = explain.source_share(
        bart, generation, target="logit", contrast="maison", tolerance=1e-3, max_steps=1024
    )
    att = bart.attribute(generation, target="logit", contrast="maison", tolerance=1e-3)
    torch.testing.assert_close(contrast.source, att.source.sum(1), atol=1e-2, rtol=1e-2)
    told = []
    explain.source_share(bart, [generation] * 2, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    with pytest.raises(Cancelled):
        explain.source_share(bart, generation, should_stop=lambda: True)
    with pytest.raises(UnknownNameError):
        explain.source_share(bart, generation, target="logprob")
    for wrong in ({"tolerance": 0}, {"by": "magic"}, {"steps": 1}, {"batch_size": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            explain.source_share(bart, generation, **wrong)
    assert_same_state(before, state_of(bart.hf))


def test_without_cross_attention_nothing_comes_from_the_source(bart):
    with bart.intervene({"decoder.*.cross.z": torch.zeros_like}):
        share = explain.source_share(bart, generation_of(bart))
    assert float(share.source.abs().max()) < 1e-6
    assert float(share.share[1:].abs().max()) < 1e-4
