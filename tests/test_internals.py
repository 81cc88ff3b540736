"""Methods that read the model's own computation, against the papers' equations written out one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import explain
from explain.attribution import REGISTRY
from explain.attribution.internals.attention_gradient import relevancy
from explain.attribution.internals.blocks import projection
from explain.attribution.internals.rollout import rollout
from explain.attribution.registry import Work
from explain.errors import InputError
from explain.model.families import layers
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import network, tiny, tokenizer

LAYERS = 2
OURS = ["attention", "attention_rollout", "attention_x_gradient", "norm_attention", "alti", "value_zeroing"]
POST_NORM = ("bart", "marian")


def generation_of(model):
    return model.force(SENTENCES[0], OUTPUTS[0])


def kind_of(model):
    return model.hf.config.model_type


def layer_of(model, side, layer):
    if kind_of(model) in ("t5", "mt5"):
        return getattr(model.hf, side).block[layer]
    return getattr(model.hf.model, side).layers[layer]


def attention_of(model, side, layer, kind):
    """The attention module with its value and output projections and the norm of its block."""
    block = layer_of(model, side, layer)
    if kind_of(model) in ("t5", "mt5"):
        part = block.layer[0 if kind == "self" else 1]
        module = part.SelfAttention if kind == "self" else part.EncDecAttention
        return module.v, module.o, part.layer_norm
    if kind == "self":
        return block.self_attn.v_proj, block.self_attn.out_proj, block.self_attn_layer_norm
    return block.encoder_attn.v_proj, block.encoder_attn.out_proj, block.encoder_attn_layer_norm


def final_norm_of(model, side):
    if kind_of(model) in ("t5", "mt5"):
        return getattr(model.hf, side).final_layer_norm
    return getattr(getattr(model.hf.model, side), "layer_norm", nn.Identity())


@torch.no_grad()
def states_of(model, generation):
    """All activations of one generation without the batch dimension, and the encoder's output."""
    captured = model.capture(generation, "*")
    states = {name: tensor[0] for name, tensor in captured.items()}
    states["source"] = final_norm_of(model, "encoder")(states[f"encoder.{LAYERS - 1}.residual"])
    return states


@torch.no_grad()
def block_of(model, states, side, layer, kind):
    """One attention block: input x, per-head vectors f^h(x_j), pattern, x + out, output, norm."""
    value, out, norm = attention_of(model, side, layer, kind)
    x = states[f"{side}.embed" if layer == 0 else f"{side}.{layer - 1}.residual"]
    if kind == "cross":
        before = attention_of(model, side, layer, "self")[2]
        x = x + states[f"{side}.{layer}.self.out"]
        x = before(x) if kind_of(model) in POST_NORM else x
    entering = x if kind_of(model) in POST_NORM else norm(x)
    keys = states["source"] if kind == "cross" else entering
    values = value(keys)  # [key, inner], with the bias
    heads = states[f"{side}.{layer}.{kind}.pattern"].shape[0]
    size = values.shape[1] // heads
    vectors = torch.stack(
        [
            values[:, h * size : (h + 1) * size] @ out.weight[:, h * size : (h + 1) * size].T
            for h in range(heads)
        ]
    )
    total = x + states[f"{side}.{layer}.{kind}.out"]
    output = norm(total) if kind_of(model) in POST_NORM else total
    return x, vectors, states[f"{side}.{layer}.{kind}.pattern"], total, output, norm


def linear_norm(norm, z, total):
    """L(z) = γ ⊙ (z − mean(z)) / σ(total)."""
    return norm.weight * (z - z.mean()) / (((total - total.mean()) ** 2).mean() + norm.eps).sqrt()


def moved_columns(decoder):
    """Decoder inputs [target, target] -> prefix and start."""
    prefix = torch.zeros_like(decoder)
    prefix[:, :-1] = decoder[:, 1:]
    return prefix, decoder[:, 0]


def assert_scores(att, source, decoder, tolerance=1e-5):
    prefix, start = moved_columns(decoder)
    for found, wanted in ((att.source, source), (att.prefix, prefix), (att.start, start)):
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(found, wanted, atol=tolerance * scale, rtol=0)


def rolled_out(encoder, decoder, cross, residual):
    """Shares of source and decoder inputs, with vectors of all inputs for every position of every layer."""
    count, target = encoder[0].shape[0], decoder[0].shape[0]
    states = [torch.eye(count)[j] for j in range(count)]
    for mixing in encoder:
        states = [sum(mixing[i, j] * states[j] for j in range(count)) for i in range(count)]
    inputs = [torch.cat([torch.zeros(count), torch.eye(target)[t]]) for t in range(target)]
    for own, other, kept in zip(decoder, cross, residual, strict=True):
        mixed = [sum(own[t, u] * inputs[u] for u in range(target)) for t in range(target)]
        brought = [sum(other[t, j] * states[j] for j in range(count)) for t in range(target)]
        inputs = [kept[t] * mixed[t] + torch.cat([brought[t], torch.zeros(target)]) for t in range(target)]
    rows = torch.stack(inputs)
    return rows[:, :count], rows[:, count:]


# ---- attention ----


def test_attention_reduces_as_asked(model):
    generation = generation_of(model)
    captured = model.capture(generation, "decoder.*.cross.pattern")
    patterns = torch.stack([captured[f"decoder.{i}.cross.pattern"][0] for i in range(LAYERS)])
    for over_heads in ("mean", "max"):
        for over_layers in ("mean", "max"):
            att = model.attribute(
                generation, method="attention", over_heads=over_heads, over_layers=over_layers
            )
            heads = patterns.mean(1) if over_heads == "mean" else patterns.amax(1)
            wanted = heads.mean(0) if over_layers == "mean" else heads.amax(0)
            torch.testing.assert_close(att.source, wanted)


@pytest.mark.parametrize(
    "name", ["attention", "attention_rollout", "norm_attention", "alti", "value_zeroing"]
)
def test_one_forward_pass_serves_a_whole_batch(bart, name):
    generations = bart.force(SENTENCES, OUTPUTS)
    bart.require_parity()
    calls = []
    handle = bart.hf.register_forward_hook(lambda *_: calls.append(1))
    try:
        results = bart.attribute(generations, method=name)
    finally:
        handle.remove()
    assert len(calls) == 1
    for generation, att in zip(generations, results, strict=True):
        torch.testing.assert_close(att.log_probs, generation.log_probs, atol=1e-5, rtol=1e-5)
        assert att.value.isnan().all(), "there is no objective"


# ---- rollout ----


def test_rollout_equals_the_product_written_out(model):
    generation = generation_of(model)
    states = states_of(model, generation)

    def mixed(side, kind, residual):
        found = []
        for layer in range(LAYERS):
            pattern = states[f"{side}.{layer}.{kind}.pattern"].mean(0)
            found.append(
                (1 - residual) * pattern + (residual * torch.eye(len(pattern)) if kind == "self" else 0)
            )
        return found

    for residual in (0.5, 0.2):
        source, decoder = rolled_out(
            mixed("encoder", "self", residual),
            mixed("decoder", "self", residual),
            mixed("decoder", "cross", residual),
            [torch.full((len(generation.target_tokens),), residual)] * LAYERS,
        )
        att = model.attribute(generation, method="attention_rollout", residual=residual)
        assert_scores(att, source, decoder)


def test_rollout_of_a_copying_model_is_exact():
    """Layer 1 looks at source token 2 alone, and its residual connections carry nothing."""
    encoder = torch.eye(3)[None].repeat(2, 1, 1)
    cross = torch.zeros(2, 2, 3)
    cross[1, :, 2] = 1
    source, prefix = rollout(
        encoder, torch.eye(2)[None].repeat(2, 1, 1), cross, torch.tensor([[1.0, 1], [0, 0]])
    )
    assert torch.equal(source, torch.tensor([[0.0, 0, 1], [0, 0, 1]]))
    assert float(prefix.abs().max()) == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("attention_rollout", {}),
        ("attention_rollout", {"over_heads": "max", "residual": 0.1}),
        ("alti", {}),
        ("value_zeroing", {"over_layers": "rollout"}),
    ],
)
def test_rolled_out_rows_add_up_to_one(model, name, options):
    for generation in model.force(SENTENCES, OUTPUTS):
        att = model.attribute(generation, method=name, **options)
        total = att.source.sum(1) + att.prefix.sum(1) + att.start
        torch.testing.assert_close(total, torch.ones(len(total)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("norm_attention", {}),
        ("norm_attention", {"part": "norm"}),
        ("value_zeroing", {}),
        ("value_zeroing", {"layers": (-1,)}),
    ],
)
def test_source_and_decoder_rows_add_up_to_one_each(model, name, options):
    att = model.attribute(generation_of(model), method=name, **options)
    ones = torch.ones(len(att.source))
    torch.testing.assert_close(att.source.sum(1), ones, atol=1e-5, rtol=0)
    torch.testing.assert_close(att.prefix.sum(1) + att.start, ones, atol=1e-5, rtol=0)


# ---- attention × gradient ----


def attentions_with_graph(model, generation):
    """Hugging Face's own attention tensors, and the log-probabilities computed from them."""
    model.hf.set_attn_implementation("eager")
    output = model.hf(
        input_ids=generation.source_ids[None],
        decoder_input_ids=generation.decoder_input_ids[None],
        output_attentions=True,
        use_cache=False,
    )
    log_probs = output.logits[0].log_softmax(-1)
    values = log_probs[range(len(log_probs)), generation.target_ids]
    return values, output.encoder_attentions, output.decoder_attentions, output.cross_attentions


def chefer(value, position, groups):
    """The paper's rules 5 to 11 for an encoder–decoder: rows `position` of R_ts and of R_tt − I."""

    def weighted(attentions):
        gradients = torch.autograd.grad(value, attentions, retain_graph=True)
        return [
            (gradient * attention).clamp(min=0).mean(1)[0].detach()
            for gradient, attention in zip(gradients, attentions, strict=True)
        ]

    def normal(relevance):
        rest = relevance - torch.eye(len(relevance))
        sums = rest.sum(1, keepdim=True)
        return torch.eye(len(relevance)) + torch.where(sums == 0, 0, rest / sums)

    encoder, decoder, cross = (weighted(group) for group in groups)
    r_ss = torch.eye(encoder[0].shape[0])
    for a_ss in encoder:
        r_ss = r_ss + a_ss @ r_ss
    r_tt, r_ts = torch.eye(decoder[0].shape[0]), torch.zeros(cross[0].shape)
    for a_tt, a_ts in zip(decoder, cross, strict=True):
        r_tt, r_ts = r_tt + a_tt @ r_tt, r_ts + a_tt @ r_ts
        r_ts = r_ts + normal(r_tt).T @ a_ts @ normal(r_ss)
    return r_ts[position], (r_tt - torch.eye(len(r_tt)))[position]


def test_attention_x_gradient_equals_the_papers_rules(model):
    generation = generation_of(model)
    plain = tiny(kind_of(model))  # its own: asking for attentions leaves transformers' hooks behind
    values, *groups = attentions_with_graph(plain, generation)
    rows = [chefer(value, t, groups) for t, value in enumerate(values)]
    for options in ({}, {"rows": 2}):
        att = model.attribute(generation, method="attention_x_gradient", **options)
        assert_scores(att, torch.stack([s for s, _ in rows]), torch.stack([d for _, d in rows]))
        torch.testing.assert_close(att.value, values.detach(), atol=1e-5, rtol=1e-5)


def test_relevancy_of_any_maps_equals_the_papers_rules():
    """Maps that are not causal, where the rules' transposed R̄_tt takes other rows along."""
    dice = torch.Generator().manual_seed(0)
    encoder, decoder, cross = (
        torch.rand(2, 3, rows, columns, generator=dice) for rows, columns in ((4, 4), (5, 5), (5, 4))
    )
    readout = torch.zeros(2, 5)
    readout[0, 1] = readout[1, 2] = readout[1, 4] = 1
    source, own = relevancy(encoder, decoder, cross, readout)

    def leaves(maps):
        return [m[None, None].clone().requires_grad_() for m in maps]

    for row, positions in enumerate(([1], [2, 4])):
        groups = [leaves(maps[row]) for maps in (encoder, decoder, cross)]
        value = sum(m.sum() for group in groups for m in group)  # gradient 1: Ā is the map itself
        found = [chefer(value, position, groups) for position in positions]
        torch.testing.assert_close(source[row], sum(s for s, _ in found), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(own[row], sum(d for _, d in found), rtol=1e-4, atol=1e-4)


def test_attention_x_gradient_explains_several_tokens_as_one(bart):
    generation = generation_of(bart)
    values, *groups = attentions_with_graph(tiny("bart"), generation)
    wanted = sum(chefer(values[1:3].sum(), position, groups)[0] for position in (1, 2))
    att = bart.attribute(generation, method="attention_x_gradient", positions=(1, 3))
    row = next(i for i, value in enumerate(att.value) if not value.isnan())
    torch.testing.assert_close(att.source[row], wanted, atol=1e-5, rtol=1e-4)


def test_attention_x_gradient_sees_interventions(bart):
    generation = generation_of(bart)
    with bart.intervene({"decoder.*.cross.z": torch.zeros_like}):
        att = bart.attribute(generation, method="attention_x_gradient")
    assert float(att.source.abs().max()) == 0
    assert float(att.prefix.abs().max()) > 0


# ---- norm-based attention ----


@pytest.mark.parametrize("part", ["attention", "residual", "norm"])
def test_norm_attention_equals_the_papers_sums(model, part):
    generation = generation_of(model)
    states = states_of(model, generation)
    maps = {}
    for kind in ("cross", "self"):
        by_layer = []
        for layer in range(LAYERS):
            x, vectors, pattern, total, _, norm = block_of(model, states, "decoder", layer, kind)
            through = part == "norm" and kind_of(model) in POST_NORM
            rows = torch.zeros(pattern.shape[1:])
            for i in range(rows.shape[0]):
                for j in range(rows.shape[1]):
                    moved = sum(pattern[h, i, j] * vectors[h, j] for h in range(len(pattern)))
                    if part != "attention" and kind == "self" and i == j:
                        moved = moved + x[i]
                    rows[i, j] = (linear_norm(norm, moved, total[i]) if through else moved).norm()
            by_layer.append(rows / rows.sum(1, keepdim=True))
        maps[kind] = torch.stack(by_layer)
    att = model.attribute(generation, method="norm_attention", part=part)
    assert_scores(att, maps["cross"].mean(0).detach(), maps["self"].mean(0).detach())
    last = model.attribute(generation, method="norm_attention", part=part, layers=(-1,))
    assert_scores(last, maps["cross"][-1].detach(), maps["self"][-1].detach())


def test_vectors_and_bias_add_up_to_the_block(model):
    """What the decomposition rests on: out_i = Σ_j Σ_h pattern[h, i, j] f^h(x_j) + bias."""
    states = states_of(model, generation_of(model))
    for side, kind in (("encoder", "self"), ("decoder", "self"), ("decoder", "cross")):
        _, vectors, pattern, _, _, _ = block_of(model, states, side, 1, kind)
        bias = attention_of(model, side, 1, kind)[1].bias
        out = torch.einsum("hij,hjd->id", pattern, vectors) + (0 if bias is None else bias)
        torch.testing.assert_close(out, states[f"{side}.1.{kind}.out"], atol=1e-5, rtol=1e-5)


def test_an_output_projection_without_plain_weights_is_asked_for_its_matrix():
    class Quantised(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear, self.in_features = linear, linear.in_features

        def weight(self):
            return None

        def forward(self, x):
            return self.linear(x)

    model = tiny("t5", d_kv=6)
    side = model.family.decoder
    layer = layers(model.hf, side)[0]
    plain = projection(model, layer, side, "cross")
    assert plain.shape == (2, 6, 16)
    attention = layer.layer[1].EncDecAttention
    attention.o = Quantised(attention.o)
    torch.testing.assert_close(projection(model, layer, side, "cross"), plain)


# ---- ALTI+ ----


@torch.no_grad()
def alti_block(model, states, side, layer, kind):
    """Contributions of the keys and of the residual of cross-attention, one pair at a time."""
    x, vectors, pattern, total, output, norm = block_of(model, states, side, layer, kind)
    found, own = torch.zeros(pattern.shape[1:]), torch.zeros(len(x))

    def through(z, i):
        return linear_norm(norm, z, total[i]) if kind_of(model) in POST_NORM else z

    def share(y, part):
        return max(0.0, float(y.abs().sum() - (y - part).abs().sum()))

    for i in range(len(x)):
        for j in range(found.shape[1]):
            if side == "decoder" and kind == "self" and j > i:
                continue
            part = through(sum(pattern[h, i, j] * vectors[h, j] for h in range(len(pattern))), i)
            if kind == "self" and i == j:
                part = part + through(x[i], i)
            found[i, j] = share(output[i], part)
        if kind == "cross":
            own[i] = share(output[i], through(x[i], i))
        if (
            float(found[i].sum() + own[i]) == 0
        ):  # the paper has no word for it: nothing is explained, so unmixed
            (own if kind == "cross" else found[i])[i] = 1
    total = found.sum(1) + own
    return found / total[:, None], own / total


def test_alti_equals_the_papers_contributions(model):
    generation = generation_of(model)
    states = states_of(model, generation)
    blocks = {
        (side, kind): [alti_block(model, states, side, layer, kind) for layer in range(LAYERS)]
        for side, kind in (("encoder", "self"), ("decoder", "self"), ("decoder", "cross"))
    }
    source, decoder = rolled_out(
        [mixing for mixing, _ in blocks["encoder", "self"]],
        [mixing for mixing, _ in blocks["decoder", "self"]],
        [mixing for mixing, _ in blocks["decoder", "cross"]],
        [kept for _, kept in blocks["decoder", "cross"]],
    )
    assert_scores(model.attribute(generation, method="alti"), source, decoder, tolerance=2e-5)


# ---- value zeroing ----


def really_zeroed(model, generation, side, kind):
    """1 − cos of each layer's output, one position's values zeroed in a full run: [layer, query, key]."""
    clean = model.capture(generation, f"{side}.*.residual")
    over_source = side == "encoder" or kind == "cross"
    keys = len(generation.source_tokens if over_source else generation.target_tokens)
    found = []
    for layer in range(LAYERS):
        columns = []
        for j in range(keys):

            def zero(v, j=j):
                v[:, :, j] = 0
                return v

            with model.intervene({f"{side}.{layer}.{kind}.v": zero}):
                changed = model.capture(generation, f"{side}.{layer}.residual")
            states = [c[f"{side}.{layer}.residual"][0].double() for c in (clean, changed)]
            if layer == LAYERS - 1:
                norm = final_norm_of(model, side)
                states = [norm(state.float()).double() for state in states]
            columns.append(1 - nn.functional.cosine_similarity(*states, dim=-1))
        found.append(torch.stack(columns, dim=1).detach().float())
    found = torch.stack(found)
    return found.tril() if (side, kind) == ("decoder", "self") else found


def test_value_zeroing_equals_running_the_layer_without_the_values(model):
    generation = generation_of(model)
    cross = really_zeroed(model, generation, "decoder", "cross")
    own = really_zeroed(model, generation, "decoder", "self")
    shares = [x / x.sum(-1, keepdim=True) for x in (cross, own)]
    att = model.attribute(generation, method="value_zeroing")
    assert_scores(att, *(x.mean(0) for x in shares))
    first = model.attribute(generation, method="value_zeroing", layers=(0,))
    assert_scores(first, *(x[0] for x in shares))
    threshold = float(cross.flatten().median())
    cut = [torch.where(x >= threshold, x, 0) for x in (cross, own)]
    cut = [x / x.sum(-1, keepdim=True).clamp_min(1e-12) for x in cut]
    att = model.attribute(generation, method="value_zeroing", threshold=threshold * (1 - 1e-4))
    assert_scores(att, *(x.mean(0) for x in cut))


def test_rolled_out_value_zeroing_equals_the_product_written_out(model):
    generation = generation_of(model)
    encoder = really_zeroed(model, generation, "encoder", "self")
    cross = really_zeroed(model, generation, "decoder", "cross")
    own = really_zeroed(model, generation, "decoder", "self")
    total = cross.sum(-1, keepdim=True) + own.sum(-1, keepdim=True)

    def with_identity(shares, residual):
        return residual * torch.eye(shares.shape[-1]) + (1 - residual) * shares

    for options, residual in (({}, 0.5), ({"residual": 0.2}, 0.2), ({"residual": 0}, 0)):
        self_shares = with_identity(own / total, residual)
        kept = self_shares.sum(-1)
        source, decoder = rolled_out(
            with_identity(encoder / encoder.sum(-1, keepdim=True), residual),
            self_shares / kept[..., None],
            (1 - residual) * cross / total,
            kept,
        )
        att = model.attribute(generation, method="value_zeroing", over_layers="rollout", **options)
        assert_scores(att, source, decoder)


def test_rolled_out_value_zeroing_of_a_layer_that_nothing_moves_is_unmixed(model):
    generation = generation_of(model)
    for residual in (0, 0.5):  # nothing turns as far as the threshold
        options = {"over_layers": "rollout", "residual": residual, "threshold": 1.999}
        att = model.attribute(generation, method="value_zeroing", **options)
        decoder = torch.eye(len(generation.target_tokens))
        assert_scores(att, torch.zeros_like(att.source), decoder)


def test_a_gated_feed_forward_network_is_run_as_it_is():
    model = tiny("t5", feed_forward_proj="gated-gelu", d_kv=6)
    generation = generation_of(model)
    cross = really_zeroed(model, generation, "decoder", "cross")
    own = really_zeroed(model, generation, "decoder", "self")
    att = model.attribute(generation, method="value_zeroing")
    assert_scores(att, *((x / x.sum(-1, keepdim=True)).mean(0) for x in (cross, own)))


# ---- whatever the method ----

VARIANTS = [
    ("attention", {"over_heads": "max", "layers": (-1,)}),
    ("attention_rollout", {"over_heads": "max"}),
    ("attention_x_gradient", {"rows": 3}),
    ("norm_attention", {"part": "norm"}),
    ("alti", {}),
    ("value_zeroing", {"over_layers": "rollout"}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_lists_and_small_memory_give_what_single_calls_give(model, name, options):
    generations = model.force(SENTENCES, OUTPUTS)
    several = model.attribute(generations, method=name, **options)
    tight = model.attribute(generations, method=name, memory_budget=1, **options)
    for generation, batched, chunked in zip(generations, several, tight, strict=True):
        alone = model.attribute(generation, method=name, **options)
        for field in ("source", "prefix", "start", "log_probs"):
            wanted = getattr(alone, field)
            torch.testing.assert_close(getattr(batched, field), wanted, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(getattr(chunked, field), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", OURS)
def test_one_token_each_and_half_precision_weights(name):
    """The shortest texts, and bfloat16 weights with scores in float32."""
    model = explain.wrap(network("t5").bfloat16(), tokenizer())
    att = model.attribute(model.force("cat", "chat"), method=name)
    assert att.source.dtype == torch.float32
    assert att.source.isfinite().all()
    assert float(att.source.abs().sum()) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "attention", "over_heads": "sum"}, "over_heads='sum'"),
        ({"method": "attention", "over_layers": "median"}, "over_layers='median'"),
        ({"method": "attention", "batch_size": 0}, "batch_size=0"),
        ({"method": "attention", "layers": (2,)}, "layers 2: this model's decoder has 2"),
        ({"method": "attention_rollout", "residual": 1.0}, "residual=1.0"),
        ({"method": "attention_rollout", "over_heads": "sum"}, "over_heads='sum'"),
        ({"method": "attention_x_gradient", "rows": 0}, "rows=0"),
        ({"method": "norm_attention", "part": "value"}, "attention, residual, norm"),
        ({"method": "norm_attention", "layers": (-3,)}, "layers -3"),
        ({"method": "alti", "batch_size": 0}, "batch_size=0"),
        ({"method": "alti", "target": "logit"}, "explains no objective"),
        ({"method": "value_zeroing", "over_layers": "sum"}, "mean, rollout"),
        ({"method": "value_zeroing", "over_layers": "rollout", "layers": (0,)}, "leave layers out"),
        ({"method": "value_zeroing", "threshold": -1.0}, "threshold=-1.0"),
        ({"method": "value_zeroing", "over_layers": "rollout", "residual": 1.0}, "residual=1.0"),
        ({"method": "value_zeroing", "residual": 0.2}, "belongs to over_layers='rollout'"),
        ({"method": "random", "seed": -1}, "seed=-1"),
        ({"method": "random", "seed": 2**63}, "seed=9223372036854775808"),
        ({"method": "value_zeroing", "contrast": "chat"}, "takes no contrast"),
    ],
)
def test_what_cannot_be_asked_is_refused(bart, arguments, message):
    with pytest.raises(InputError, match=message):
        bart.attribute(generation_of(bart), **arguments)


@pytest.mark.parametrize("name", ["norm_attention", "alti", "value_zeroing"])
def test_interventions_that_the_decomposition_cannot_see_are_refused(bart, name):
    generation = generation_of(bart)
    with bart.intervene({"decoder.1.cross.z": torch.zeros_like}):
        with pytest.raises(InputError, match=r"cannot see the intervention at decoder\.1\.cross\.z"):
            bart.attribute(generation, method=name)


@pytest.mark.parametrize("name", ["norm_attention", "alti", "value_zeroing"])
def test_interventions_before_the_block_are_seen(bart, name):
    """A decoder that looks back only at its start token has nothing in its prefix."""

    def at_start(pattern):
        return torch.cat([torch.ones_like(pattern[..., :1]), torch.zeros_like(pattern[..., 1:])], dim=-1)

    with bart.intervene({"decoder.*.self.pattern": at_start}):
        att = bart.attribute(generation_of(bart), method=name)
    off_diagonal = att.prefix.tril(-2)  # the diagonal of decoder inputs still has its residual connection
    assert float(off_diagonal.abs().max()) == 0
    assert float(att.start.min()) > 0


@pytest.mark.parametrize("name", [*OURS, "attn_lrp", "random"])
def test_of_nothing_nothing_is_explained(bart, name):
    work = Work(bart, [], [], 0.01, lambda: None, lambda _: None)
    row = REGISTRY.get(name)
    assert row.run(work, row.options({})) == []


def test_the_control_can_be_stopped(bart):
    calls = []
    bart.attribute(bart.force(SENTENCES, OUTPUTS), method="random", should_stop=lambda: bool(calls.append(1)))
    assert len(calls) >= len(SENTENCES) + 1


def test_the_control_takes_every_seed_that_a_generator_does(bart):
    for seed in (0, 2**63 - 1):
        assert bart.attribute(generation_of(bart), method="random", seed=seed).config["seed"] == seed


def test_all_are_registered():
    assert set(OURS) <= set(REGISTRY.rows)
