"""AttnLRP: its rules against relevance passed on element by element, and relevance conserved in models."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm

import explain
from explain.attribution import REGISTRY
from explain.attribution.inputs import inputs_of
from explain.attribution.internals.relevance import (
    activation_rule,
    conserving_mix,
    halved,
    norm_rule,
    relevance_rules,
)
from explain.errors import InputError
from explain.model.attention import Tap, tapped
from explain.model.forward import logits_from_embeddings
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import FAMILIES, network, tiny, tokenizer
from tests.state import assert_same_state, state_of

GATED = ("t5", {"feed_forward_proj": "gated-gelu"})
VARIANTS = [*((family, {}) for family in FAMILIES), GATED, ("bart", {"activation_function": "swish"})]
NAMES = [f"{family} {' '.join(changes.values())}".strip() for family, changes in VARIANTS]


def biasless(family, **changes):
    """A model none of whose linear layers and norms has a bias that could absorb relevance."""
    hf = network(family, **changes)
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    return explain.wrap(hf, tokenizer(), name=f"biasless {family}")


def generation_of(model):
    return model.force(SENTENCES[0], OUTPUTS[0])


def total(att):
    return att.source.double().sum(1) + att.prefix.double().sum(1) + att.start.double()


def inflow(att):
    return att.value.double() - att.baseline_value.double()


def seeded(*shapes):
    dice = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=dice, dtype=torch.float64) for shape in shapes]


# ---- the rules, element by element ----


def shared(contributions, relevance, bias=0.0):
    """The epsilon rule with epsilon 0: each contribution to an output takes its share; the bias its own."""
    return [c * relevance / (sum(contributions) + bias) for c in contributions]


def literal_norm(x, weight, bias, deviation, relevance, *, centred):
    found = torch.zeros_like(x)
    n = len(x)
    for j in range(n):
        parts = [
            weight[j] * ((1.0 if i == j else 0.0) - (1 / n if centred else 0)) * x[i] / deviation
            for i in range(n)
        ]
        for i, part in enumerate(shared(parts, relevance[j], bias[j])):
            found[i] += part
    return found


@pytest.mark.parametrize("centred", [True, False])
def test_the_norm_rule_is_relevance_through_a_norm_of_constant_deviation(centred):
    module = (nn.LayerNorm(6) if centred else T5LayerNorm(6)).double()
    x, weight, bias, grad = seeded((6,), (6,), (6,), (6,))
    with torch.no_grad():
        module.weight.copy_(weight)
        if centred:
            module.bias.copy_(bias)
    x.requires_grad_()
    plain = module(x[None])[0]
    output = norm_rule(module, x[None], module(x[None]))[0]
    assert torch.equal(output, plain)
    (found,) = torch.autograd.grad(output, x, grad)
    inner = x.detach() - x.detach().mean() if centred else x.detach()
    deviation = (inner.square().mean() + (module.eps if centred else module.variance_epsilon)).sqrt()
    relevance = plain.detach() * grad
    wanted = literal_norm(
        x.detach(), weight, bias if centred else torch.zeros(6), deviation, relevance, centred=centred
    )
    torch.testing.assert_close(x.detach() * found, wanted, atol=1e-5, rtol=1e-5)
    absorbed = (bias * grad).sum() if centred else 0
    torch.testing.assert_close(wanted.sum() + absorbed, relevance.sum())


@pytest.mark.parametrize("function", [nn.functional.gelu, nn.functional.silu, torch.relu, torch.tanh])
def test_the_activation_rule_passes_all_relevance(function):
    x, grad = seeded((5,), (5,))
    x[2] = 0
    x.requires_grad_()
    output = activation_rule(x, function(x))
    assert torch.equal(output, function(x))
    (found,) = torch.autograd.grad(output, x, grad)
    assert found.isfinite().all()
    torch.testing.assert_close(x.detach() * found, output.detach() * grad, atol=1e-12, rtol=0)


def test_relu_is_exact():
    x, grad = seeded((5,), (5,))
    x.requires_grad_()
    (found,) = torch.autograd.grad(activation_rule(x, x.relu()), x, grad)
    (plain,) = torch.autograd.grad(x.relu(), x, grad)
    torch.testing.assert_close(found, plain)


def literal_attention(query, key, value, bias, scaling, grad, *, conserve):
    """Relevance of q, k and v of one head, every product by itself."""
    queries, keys, width = len(query), len(key), query.shape[1]
    dots = scaling * query @ key.T
    scores = dots + bias
    pattern = scores.softmax(-1)
    z = pattern @ value
    of_query, of_key, of_value = map(torch.zeros_like, (query, key, value))
    for i in range(queries):
        of_pattern = torch.zeros(keys, dtype=z.dtype)
        for d in range(width):
            parts = shared([pattern[i, j] * value[j, d] for j in range(keys)], z[i, d] * grad[i, d])
            for j in range(keys):
                of_pattern[j] += parts[j] / 2
                of_value[j, d] += parts[j] / 2
        arrived = 0.0
        for j in range(keys):
            if pattern[i, j] == 0:
                continue  # a masked key
            of_score = scores[i, j] * (of_pattern[j] - pattern[i, j] * of_pattern.sum())
            products = [scaling * query[i, d] * key[j, d] for d in range(width)]
            for d, part in enumerate(shared(products, of_score, bias[i, j])):
                of_query[i, d] += part / 2
                of_key[j, d] += part / 2
                arrived += part
        if conserve:
            sizes = (pattern[i, :, None] * value * grad[i, None]).abs()
            of_value += (of_pattern.sum() - arrived) * sizes / sizes.sum()
    return of_query, of_key, of_value


def core(conserve, query, key, value, bias, scaling):
    """One head's z with the rules of attention: ours for `conserve`, halves around plain gradients if not."""
    dots = scaling * query @ key.T
    pattern = (dots + bias).softmax(-1) if conserve else halved(dots + bias).softmax(-1)
    if conserve:
        return conserving_mix(query[None, None], key[None, None], value[None, None], pattern, scaling)[0, 0]
    return halved(pattern @ value)


@pytest.mark.parametrize("conserve", [True, False])
def test_attention_passes_relevance_as_the_rules_written_out(conserve):
    query, key, value, bias, grad = seeded((4, 3), (5, 3), (5, 3), (4, 5), (4, 3))
    bias = bias.masked_fill(torch.ones(4, 5).triu(2) > 0, torch.finfo(torch.float64).min)
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)]
    z = core(conserve, *inputs, bias, 0.7)
    found = torch.autograd.grad(z, inputs, grad)
    wanted = literal_attention(*(t.detach() for t in inputs), bias, 0.7, grad, conserve=conserve)
    for tensor, gradient, relevance in zip(inputs, found, wanted, strict=True):
        torch.testing.assert_close(tensor.detach() * gradient, relevance, atol=1e-5, rtol=1e-5)
    passed = sum((t.detach() * g).sum() for t, g in zip(inputs, found, strict=True))
    conserved = torch.isclose(passed, (z.detach() * grad).sum())
    assert conserved == conserve


def test_what_is_handed_to_the_values_is_finite_where_contributions_cancel():
    query, key, value, grad = seeded((1, 3), (2, 3), (2, 3), (1, 3))
    value[1] = -value[0]
    pattern = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    value.requires_grad_()
    z = conserving_mix(query[None, None], key[None, None], value[None, None], pattern, 5.0)
    assert float(z.detach().abs().max()) == 0
    (found,) = torch.autograd.grad(z, value, grad[None, None])
    assert float(found.abs().max()) < 100
    (nothing,) = torch.autograd.grad(
        conserving_mix(query[None, None], key[None, None], 0 * value[None, None], pattern, 5.0),
        value,
        grad[None, None],
    )
    assert nothing.isfinite().all()


class Divided(torch.autograd.Function):
    """The gradient divided by 2 after a product, as LXT formulates AttnLRP."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad / 2


def test_absorb_is_the_gradient_divided_after_products(bart):
    module = bart.hf.model.decoder.layers[0].encoder_attn
    own, other, grad = (tensor.float() for tensor in seeded((1, 4, 16), (1, 6, 16), (1, 4, 16)))
    inputs = (own.requires_grad_(), other.requires_grad_())
    with relevance_rules(bart.hf, bart.family, softmax="absorb"):
        ours, _ = module(hidden_states=own, key_value_states=other)

    def heads(x):
        return x.view(1, -1, module.num_heads, module.head_dim).transpose(1, 2)

    query, key, value = heads(module.q_proj(own)), heads(module.k_proj(other)), heads(module.v_proj(other))
    pattern = (Divided.apply(query @ key.transpose(2, 3)) * module.scaling).softmax(-1)
    z = Divided.apply(pattern @ value)
    theirs = module.out_proj(z.transpose(1, 2).reshape(1, 4, 16))
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(theirs, inputs, grad), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


# ---- whole models ----


@pytest.mark.parametrize("softmax", ["conserve", "absorb"])
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=NAMES)
def test_the_rules_change_no_number(family, changes, softmax):
    model = tiny(family, **changes)
    inputs = inputs_of(model, generation_of(model), "zero")
    arguments = (model.hf, model.family, inputs.source, inputs.target, inputs.source_mask)
    with torch.no_grad():
        with tapped(model.hf, Tap({}, {})):  # the kernel of scaled_dot_product_attention rounds differently
            plain = logits_from_embeddings(*arguments)
        with relevance_rules(model.hf, model.family, softmax=softmax) as positions:
            ruled = logits_from_embeddings(*arguments)
    assert torch.equal(ruled, plain)
    torch.testing.assert_close(ruled, logits_from_embeddings(*arguments), atol=1e-5, rtol=1e-5)
    assert [name for name, _ in positions] == ([] if family in ("t5", "mt5") else ["encoder", "decoder"])


@pytest.mark.parametrize("objective", ["logit", "log_prob"])
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=NAMES)
def test_relevance_is_conserved_where_no_bias_absorbs_it(family, changes, objective):
    model = biasless(family, **changes)
    for generation in model.force(SENTENCES, OUTPUTS):
        att = model.attribute(generation, method="attn_lrp", target=objective)
        relevance = inflow(att)
        assert float(relevance.abs().min()) > 1e-3, "nothing to conserve"
        assert float(((total(att) - relevance) / relevance).abs().max()) < 0.01
        assert float(att.completeness_error.max()) < 0.01
        assert float(att.prefix.abs().sum()) > 0
        if objective == "logit":
            torch.testing.assert_close(att.baseline_value, torch.zeros_like(att.value), atol=1e-5, rtol=0)


def test_biases_and_the_softmax_absorb_and_the_error_tells(model):
    """Also T5: its linear layers have no biases, but the softmax has a hidden one."""
    generation = generation_of(model)
    for softmax in ("conserve", "absorb"):
        att = model.attribute(generation, method="attn_lrp", target="logit", softmax=softmax)
        assert att.config["softmax"] == softmax
        wanted = ((total(att) - inflow(att)) / inflow(att)).abs()
        torch.testing.assert_close(att.completeness_error.double(), wanted, atol=1e-4, rtol=1e-2)
        exact = softmax == "conserve" and model.family.name == "T5"
        assert (float(att.completeness_error.max()) < 0.01) == exact
    torch.testing.assert_close(
        att.words().completeness_error.double().nan_to_num(),
        ((total(att.words()) + att.words().within - inflow(att.words())) / inflow(att.words())).abs(),
        atol=1e-4,
        rtol=1e-2,
    )


def test_relevance_of_a_contrast_is_the_difference(model):
    """What goes in at the logits is linear in them, and so is what is passed on by plain gradients."""
    generation = generation_of(model)
    own, foil = (
        model.attribute(generation, method="attn_lrp", target="logit", softmax="absorb", contrast=contrast)
        for contrast in (None, "maison")
    )
    id_ = model.foil_ids("maison")[0]

    def of_foil(logits, ids):
        return logits[..., id_]

    other = model.attribute(generation, method="attn_lrp", target=of_foil, softmax="absorb")
    scale = float(own.source.abs().max())
    torch.testing.assert_close(foil.source, own.source - other.source, atol=1e-4 * scale, rtol=1e-4)
    same = generation.target_ids == id_
    assert foil.completeness_error[same].isnan().all()
    assert foil.completeness_error[~same].isfinite().all()


def test_contrasts_and_spans_are_conserved():
    model = biasless("mbart")
    generation = generation_of(model)
    att = model.attribute(generation, method="attn_lrp", contrast="maison")
    assert float(att.completeness_error.nan_to_num().max()) < 0.01
    spans = model.attribute(generation, method="attn_lrp", positions=[(0, 2), 3])
    assert spans.completeness_error.isfinite().tolist() == [True, False, True, False, False, False]
    assert float(spans.completeness_error.nan_to_num().max()) < 0.01
    tokens = model.attribute(generation, method="attn_lrp")
    torch.testing.assert_close(spans.source[2], tokens.source[3], atol=1e-5, rtol=1e-4)


def test_a_span_is_the_sum_of_its_tokens_only_where_the_softmax_absorbs(bart):
    generation = generation_of(bart)
    for softmax in ("absorb", "conserve"):
        options = {"method": "attn_lrp", "softmax": softmax}
        tokens = bart.attribute(generation, **options).source[1:4].sum(0)
        span = bart.attribute(generation, positions=[(1, 4)], **options).source[1]
        away = float((span - tokens).abs().max() / tokens.abs().max())
        assert (away < 1e-4) == (softmax == "absorb"), away


def test_completeness_is_measured_and_not_promised(bart):
    assert not REGISTRY.get("attn_lrp").completeness
    att = bart.attribute(generation_of(bart), method="attn_lrp")
    assert att.completeness_error.isfinite().all()


def test_chunks_change_nothing(bart):
    generation = generation_of(bart)
    whole = bart.attribute(generation, method="attn_lrp")
    small = bart.attribute(generation, method="attn_lrp", memory_budget=1)
    torch.testing.assert_close(small.source, whole.source, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(small.prefix, whole.prefix, atol=1e-6, rtol=1e-5)


# ---- interventions, and nothing left behind ----


def test_a_listener_at_the_logits_changes_nothing(model):
    """The whole model runs then, one row after the other through the vocabulary."""
    generation = generation_of(model)
    plain = model.attribute(generation, method="attn_lrp")
    with model.intervene({"logits": lambda logits: logits.clone()}):
        heard = model.attribute(generation, method="attn_lrp")
    for name in ("source", "prefix", "start", "value", "baseline_value"):
        a, b = getattr(heard, name), getattr(plain, name)
        torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, float(b.abs().max())), rtol=1e-4)


@pytest.mark.parametrize("point", ["z", "pattern", "v"])
def test_interventions_apply_and_relevance_is_still_conserved(point):
    model = biasless("mbart")
    generation = generation_of(model)
    plain = model.attribute(generation, method="attn_lrp")
    with model.intervene({f"decoder.*.cross.{point}": torch.zeros_like}):
        cut = model.attribute(generation, method="attn_lrp")
    assert not torch.allclose(cut.value, plain.value)
    assert float(cut.source.abs().max()) == 0, "nothing of the source gets through"
    assert float(cut.completeness_error.max()) < 0.01


def test_a_replaced_pattern_absorbs_what_the_path_through_it_loses():
    model = biasless("mbart")
    generation = generation_of(model)

    def even(pattern):
        return torch.full_like(pattern, 1 / pattern.shape[-1])

    with model.intervene({"decoder.1.cross.pattern": even}):
        att = model.attribute(generation, method="attn_lrp")
    assert att.source.isfinite().all()
    assert float(att.completeness_error.min()) > 1e-4
    assert att.config["intervened"] == ["decoder.1.cross.pattern"]


def test_nothing_is_left_behind_after_errors():
    model = tiny("t5", feed_forward_proj="gated-gelu")
    model.hf.train()
    generation = generation_of(model)
    before = state_of(model.hf)

    def failing(tensor):
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        model.intervene({"decoder.1.cross.q": failing}),
    ):
        model.attribute(generation, method="attn_lrp")
    assert_same_state(before, state_of(model.hf))
    with pytest.raises(ZeroDivisionError), relevance_rules(model.hf, model.family):
        raise ZeroDivisionError
    assert_same_state(before, state_of(model.hf))


def test_only_known_rules_are_taken(bart):
    with pytest.raises(InputError, match="conserve, absorb"):
        bart.attribute(generation_of(bart), method="attn_lrp", softmax="scale")


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.1), (torch.float64, 1e-5)])
def test_other_precisions(dtype, limit):
    hf = network("t5").to(dtype)
    model = explain.wrap(hf, tokenizer(), name="t5")
    att = model.attribute(generation_of(model), method="attn_lrp", target="logit")
    assert float(att.completeness_error.median()) < limit
