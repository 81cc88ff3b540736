"""Every method on two models whose right explanation is known exactly; what a method cannot see has a name.

Both are set by hand (`explain.training.handmade`). Here the ground truth is first established without any
method, by swapping tokens, and then every method of the registry must find it, with the score that follows
from the weights where one can be worked out on paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor

import explain
from explain.attribution import REGISTRY
from explain.model import Seq2Seq, doctor
from explain.results import Attribution, Generation
from explain.training.handmade import (
    ANSWER,
    COPY,
    DITTO,
    DITTO_COPY,
    DITTO_FLAG,
    DITTO_REPEAT,
    LOGIT,
    WORDS,
    copy_model,
    ditto_model,
)

SOURCES = ["a b c", "a b a", "d", "e e e e", "a b c d ditto e f b a"]
# One for each sentence; some stand in it, some do not.
FOILS = ["b", "a", "e", "f", "c"]
DITTO_PAIRS = [
    ("a b ditto c d", "a b b c d"),
    ("e ditto ditto f ditto", "e e e f f"),
    ("c a b ditto", "c a b b"),
    ("a b c a", "a b c a"),
]

SIZE = len(WORDS) + 4  # and four special tokens
RIGHT = math.exp(LOGIT) / (math.exp(LOGIT) + SIZE - 1)  # the right token's probability
WRONG = 1 / (math.exp(LOGIT) + SIZE - 1)  # any other's
OBJECTIVES = ["log_prob", "logit", "probability", "contrast"]
METHODS = [name for name in REGISTRY.rows if name != "random"]
EXPLAINING = [name for name in METHODS if REGISTRY.get(name).objective]
Explain = Callable[..., list[Attribution]]
# Every method with every objective that it takes.
CASES = [(name, asked) for name in METHODS for asked in (OBJECTIVES if name in EXPLAINING else ["log_prob"])]


@pytest.fixture(scope="module")
def copier() -> Seq2Seq:
    return copy_model()


@pytest.fixture(scope="module")
def ditto() -> Seq2Seq:
    return ditto_model()


@pytest.fixture(scope="module")
def copies(copier) -> list[Generation]:
    return copier.generate(SOURCES)


@pytest.fixture(scope="module")
def dittos(ditto) -> list[Generation]:
    return ditto.generate([source for source, _ in DITTO_PAIRS])


@pytest.fixture(scope="module")
def of_copies(copier, copies) -> Explain:
    return cache(partial(run, copier, copies))


@pytest.fixture(scope="module")
def of_dittos(ditto, dittos) -> Explain:
    return cache(partial(run, ditto, dittos))


def run(
    model: Seq2Seq, generations: list[Generation], method: str, asked: str = "log_prob"
) -> list[Attribution]:
    if method not in EXPLAINING:
        return model.attribute(generations, method=method)
    if asked == "contrast":
        return model.attribute(generations, method=method, contrast=FOILS)
    return model.attribute(generations, method=method, target=asked)


def logits(model: Seq2Seq, source: Tensor, decoder: Tensor) -> Tensor:
    """[target, vocabulary] as Hugging Face computes them."""
    with torch.no_grad():
        return model.hf(input_ids=source[None], decoder_input_ids=decoder[None]).logits[0]


def is_ditto(generation: Generation) -> Tensor:
    """Where the source says "ditto" and the output has to repeat: bool [target]."""
    return torch.tensor([token.text == DITTO for token in generation.source_tokens])


# ---- the models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [copy_model, ditto_model])
def test_it_is_an_ordinary_model(made):
    state = torch.get_rng_state()
    model = made()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(check.passed for check in doctor(model))
    assert model.tokenizer.bos_token_id is None
    parameters = [*model.hf.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(parameters, made().hf.parameters(), strict=True))
    assert not any(module.training for module in model.hf.modules())


def test_it_copies(copier, copies):
    assert copier.generate("a b c").target_text == "a b c"
    assert explain.copy_model().generate("a ditto b").target_text == "a ditto b"
    longest = " ".join([*WORDS, "a", "b"])
    assert copier.generate(longest).target_text == longest
    for text, generation in zip(SOURCES, copies, strict=True):
        assert generation.target_text == text
        assert generation.target_tokens[-1].special
        found = logits(copier, generation.source_ids, generation.decoder_input_ids)
        wanted = LOGIT * torch.eye(SIZE)[generation.target_ids]
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(generation.log_probs.exp(), torch.full((len(wanted),), RIGHT))


def test_it_repeats(ditto, dittos):
    for (_, target), generation in zip(DITTO_PAIRS, dittos, strict=True):
        assert generation.target_text == target
        found = logits(ditto, generation.source_ids, generation.decoder_input_ids)
        wanted = LOGIT * torch.eye(SIZE)[generation.target_ids]
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    nothing_before = ditto.generate(DITTO).log_probs[0]
    assert float(nothing_before) == pytest.approx(-math.log(SIZE), abs=1e-4)


@pytest.mark.parametrize("made", [copy_model, ditto_model])
def test_a_saved_model_opens_and_says_the_same(made, tmp_path):
    model = made()
    model.hf.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    opened = explain.load(tmp_path, device="cpu")
    weights, saved = opened.hf.state_dict(), model.hf.state_dict()
    assert weights.keys() == saved.keys()
    assert all(torch.equal(weights[name], saved[name]) for name in saved)
    assert all(check.passed for check in doctor(opened))
    for text in ("a b a", "a b ditto c"):
        one, other = model.generate(text), opened.generate(text)
        assert one.target_text == other.target_text
        assert torch.equal(one.log_probs, other.log_probs)
        assert [t.id for t in one.source_tokens] == [t.id for t in other.source_tokens]


def test_swaps_say_what_a_copy_depends_on(copier, copies):
    q = copier.foil_ids("q")[0]
    for generation in copies:
        source, decoder = generation.source_ids, generation.decoder_input_ids
        clean = logits(copier, source, decoder)
        for j in range(len(source)):
            swapped = source.clone()
            swapped[j] = q
            found = logits(copier, swapped, decoder)
            assert (found != clean).any(1).nonzero()[:, 0].tolist() == [j]
            assert int(found[j].argmax()) == q
        others = torch.full_like(decoder, q)
        torch.testing.assert_close(logits(copier, source, others), clean, atol=1e-5, rtol=0)


def test_swaps_say_what_a_repetition_depends_on(ditto, dittos):
    q = ditto.foil_ids("q")[0]
    for generation in dittos:
        source, decoder, repeats = generation.source_ids, generation.decoder_input_ids, is_ditto(generation)
        for j in range(len(source)):
            swapped = source.clone()
            swapped[j] = q
            answers = logits(ditto, swapped, decoder).argmax(-1)
            wanted = generation.target_ids.clone()
            wanted[j] = q
            assert answers.tolist() == wanted.tolist()
        clean = logits(ditto, source, decoder)
        for u in range(1, len(decoder)):
            swapped = decoder.clone()
            swapped[u] = q
            found = logits(ditto, source, swapped)
            moved = ((found - clean).abs() > 1e-4).any(1)
            # Decoder input u is target token u - 1: what a "ditto" at u repeats.
            assert moved.nonzero()[:, 0].tolist() == ([u] if repeats[u] else [])
            assert not repeats[u] or int(found[u].argmax()) == q


def patterns(model: Seq2Seq, generation: Generation) -> dict[str, Tensor]:
    """Patterns [head, query, key] by hook point."""
    capture = model.capture(generation, "*.pattern")
    return {name: capture[name][0] for name in capture}


def used(model: Seq2Seq, generation: Generation) -> set[str]:
    """The attention and feed-forward blocks that write anything."""
    capture = model.capture(generation, ["*.self.out", "*.cross.out", "*.mlp.out"])
    return {name.rpartition(".")[0] for name in capture if bool((capture[name] != 0).any())}


def test_the_heads_of_the_copy_model(copier, copies):
    assert (COPY.block, COPY.index) == ("decoder.1.cross", 0)
    for generation in copies:
        count = len(generation.source_tokens)
        same, uniform = torch.eye(count), torch.full((count, count), 1 / count)
        start = torch.zeros(count, count)
        start[:, 0] = 1
        for name, pattern in patterns(copier, generation).items():
            idle = same if "encoder" in name else start if ".self." in name else uniform
            for head in range(2):
                if name == COPY.pattern and head == COPY.index:
                    assert torch.equal(pattern[head], same)  # not a rounding error off
                else:
                    torch.testing.assert_close(pattern[head], idle, msg=f"{name}, head {head}")
        assert used(copier, generation) == {COPY.block}


def test_the_heads_of_the_ditto_model(ditto, dittos):
    blocks = [head.block for head in (DITTO_FLAG, DITTO_REPEAT, DITTO_COPY)]
    for generation in dittos:
        found, repeats = patterns(ditto, generation), is_ditto(generation)
        count = len(generation.source_tokens)
        for head in (DITTO_FLAG, DITTO_COPY):
            assert torch.equal(found[head.pattern][head.index], torch.eye(count))
        wanted = torch.zeros(count, count)
        wanted[:, 0] = 1
        wanted[repeats] = torch.eye(count)[repeats]  # its own input: the word that was written before
        own = found[DITTO_REPEAT.pattern][DITTO_REPEAT.index]
        torch.testing.assert_close(own, wanted, atol=1e-7, rtol=0)
        assert used(ditto, generation) == set(blocks if repeats.any() else blocks[-1:])


# ---- the right scores ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What the answer to a token is worth, from the weights.

    Attributes:
        hidden: what the objective loses when the token is hidden from attention, and EOS is read instead.
        padded: what it loses when the token is replaced by padding, and all words are equally likely.
        slope: its derivative by the answer, times the answer: Σ logits · ∂objective/∂logits.
    """

    hidden: float
    padded: float
    slope: float


FACTS = {
    "log_prob": Facts(LOGIT, math.log(RIGHT * SIZE), LOGIT * (1 - RIGHT)),
    "logit": Facts(LOGIT, LOGIT, LOGIT),
    "probability": Facts(RIGHT - WRONG, RIGHT - 1 / SIZE, LOGIT * RIGHT * (1 - RIGHT)),
    "contrast": Facts(LOGIT, LOGIT, LOGIT),
}

# Of a change in amount, norms pass on what the rest of the vector is of its square: half in the encoder,
# where token and position are alike, a tenth in the decoder, where the answer is three times the position.
PASSED = 1 / 2 / (1 + ANSWER**2)


@dataclass(frozen=True)
class Right:
    """The right scores of a row t: `own` at source token t, `every` at all source tokens, `before` at t - 1.

    `own` None stands for any positive number. `off` is how far scores may be off, relative to `own`.
    """

    own: float | None
    every: float = 0
    before: float = 0
    off: float = 1e-3


def right(method: str, facts: Facts, count: int) -> Right:
    """What a method has to find in `copy_model`, for a source of `count` tokens."""
    share = 1 / count
    table: dict[str, Right] = {
        "input_x_gradient": Right(facts.slope * PASSED),
        # Without covered non-linearities it is input × gradient, as padding embeds to 0.
        "deeplift": Right(facts.slope * PASSED),
        # Its first half is the encoder's, which does nothing; but it takes the mean over two heads.
        "attention_x_gradient": Right(facts.slope * PASSED),
        "attn_lrp": Right(facts.slope),
        "integrated_gradients": Right(facts.padded, off=0.01),
        "layer_integrated_gradients": Right(facts.padded, off=0.01),
        "layer_conductance": Right(facts.padded, off=0.01),
        "sequential_integrated_gradients": Right(facts.padded),
        "feature_ablation": Right(facts.padded),
        "occlusion": Right(facts.hidden),
        "shapley_sampling": Right(facts.hidden),
        "kernel_shap": Right(facts.hidden),
        # Regularised regressions shrink. A source of one word LIME knows only with it and empty, and the
        # latter counts e⁻⁸ times by its kernel: the regularisation wins.
        "lime": Right(facts.hidden, off=0.02) if count > 2 else Right(None),
        "contextcite": Right(facts.hidden, off=0.03),
        # One head of four copies; three look everywhere, and writing nothing does not count.
        "attention": Right(1 / 4, every=3 / 4 * share),
        # And a residual connection of 1/2 in each of two self- and two cross-attention blocks.
        "attention_rollout": Right(1 / 4, every=1 / 2 * share, before=1 / 16),
        # One layer of two brings something.
        "norm_attention": Right(1 / 2),
        "value_zeroing": Right(1 / 2),
        # Answer and position in the last state, the latter from the decoder's own input.
        "alti": Right(ANSWER / (1 + ANSWER), before=1 / (1 + ANSWER)),
    }
    # Numbers that depend on the length of a gradient or on how a path is cut: only where they lie is known.
    return table.get(method, Right(None))


# Special tokens are in the baseline, too, so nothing tells EOS from its absence: its row is 0 by right.
KEEP_EOS = {
    *("gradient_shap", "deeplift", "integrated_gradients", "layer_integrated_gradients", "layer_conductance"),
    *("sequential_integrated_gradients", "discretized_integrated_gradients", "feature_ablation"),
    *("shapley_sampling", "kernel_shap", "lime", "contextcite", "consensus"),
}
# Their baseline is a source that attention cannot see; that of the others is padding.
HIDING = {"shapley_sampling", "kernel_shap"}
# These read where heads look, whatever is written: idle heads count like those that bring something.
MIXING = {"attention", "attention_rollout"}
# Their steps or samples do not add up, as `reads` says; that they report by how much is the proof.
ROUGH = {"gradient_shap", "deeplift", "discretized_integrated_gradients"}


def everything(found: Attribution) -> Tensor:
    """Scores of source, prefix and decoder start side by side: [target, source + target + 1]."""
    return torch.cat([found.source, found.prefix, found.start[:, None]], dim=1)


def contrasted(generation: Generation, foil: str, asked: str) -> Tensor:
    """Rows that have an answer: not those whose token is its own foil."""
    tokens = generation.target_tokens
    return torch.tensor([asked != "contrast" or token.text != foil for token in tokens])


def require_scores(found: Attribution, rows: Tensor, wanted: Right) -> None:
    """All scores of the chosen rows (bool [target]) are the right ones, in source and prefix."""
    places = torch.eye(*found.source.shape)[rows]
    own = found.source.diagonal()[rows]
    size = own if wanted.own is None else torch.full_like(own, wanted.own)
    before = torch.eye(len(rows)).roll(1, 0).tril(-1)[rows]
    off = wanted.off * float(size.abs().max())
    torch.testing.assert_close(
        found.source[rows], size[:, None] * places + wanted.every, atol=off, rtol=0, msg=found.method
    )
    torch.testing.assert_close(found.prefix[rows], wanted.before * before, atol=off, rtol=0, msg=found.method)


@pytest.mark.parametrize(("method", "asked"), CASES)
def test_every_method_finds_the_token_that_is_copied(copies, of_copies, method, asked):
    facts = FACTS[asked]
    for generation, foil, found in zip(copies, FOILS, of_copies(method, asked), strict=True):
        count = len(generation.source_tokens)
        rows = contrasted(generation, foil, asked)
        words = rows.clone()
        words[-1] = False
        scores, places, own = everything(found), torch.arange(count), found.source.diagonal()
        # The pointing game, with source and prefix in one row; and the score speaks for the token.
        top = scores[:, :-1].abs().argmax(1)
        assert torch.equal(top[words], places[words])
        assert (own[words] > 0).all()
        if method in KEEP_EOS:
            # GradientSHAP puts noise on the input, on EOS as well.
            assert scores[-1].abs().max() <= (0.02 if method == "gradient_shap" else 1e-4) * facts.hidden
        elif rows[-1]:
            assert int(top[-1]) == count - 1
            assert own[-1] > 0
        # All of the score lies there, but for what each method adds by its nature, which is known as well.
        require_scores(found, words, right(method, facts, count))
        if method not in MIXING | {"alti"}:
            share = own.abs() / scores.abs().sum(1)
            assert (share[words] >= (0.98 if method == "lime" else 0.99)).all()


@pytest.mark.parametrize("method", METHODS)
def test_what_stands_there_speaks_against_another_token(copier, method):
    """An output that says "q" where the source says "b", and ends early, so that its map is not square."""
    generation, count = copier.force("a b c d e", "a q c"), 6
    wanted = right(method, FACTS["contrast"], count)
    if method not in EXPLAINING:  # where the model looks is the same, whatever is written
        words = torch.tensor([True, True, True, False])
        require_scores(copier.attribute(generation, method=method), words, wanted)
        return
    found = copier.attribute(generation, method=method, contrast={1: "b"})
    row = torch.tensor([False, True, False, False])
    assert bool((everything(found)[~row] == 0).all())
    if method == "attention_x_gradient":  # keeps only what speaks for the token, so there is nothing
        assert bool((everything(found) == 0).all())
        return
    require_scores(found, row, replace(wanted, own=-wanted.own) if wanted.own is not None else wanted)
    assert float(found.source[1, 1]) * (-1 if found.signed else 1) > 0
    assert int(everything(found)[1].abs().argmax()) == 1


@pytest.mark.parametrize(("method", "asked"), [case for case in CASES if case[0] in KEEP_EOS | {"attn_lrp"}])
def test_evidence_is_true(copies, of_copies, method, asked):
    """The baseline's value and the completeness error are what the weights say."""
    facts, row = FACTS[asked], REGISTRY.get(method)
    change = facts.hidden if method in HIDING else facts.slope if method == "attn_lrp" else facts.padded
    reported = False
    for generation, foil, found in zip(copies, FOILS, of_copies(method, asked), strict=True):
        words = contrasted(generation, foil, asked)
        words[-1] = False
        error = found.completeness_error[words]
        assert not row.completeness or not error.isnan().any()
        if error.isnan().all():
            continue
        reported = True
        torch.testing.assert_close(
            (found.value - found.baseline_value)[words], torch.full((len(error),), change), atol=1e-3, rtol=0
        )
        missing = (everything(found).sum(1)[words] - change).abs() / change
        torch.testing.assert_close(error, missing, atol=1e-3, rtol=0)
        assert method in ROUGH or bool((error <= 0.01).all())
    assert reported or not row.completeness


def test_random_scores_are_right_by_chance_alone(copier, copies):
    right_ones, chance = 0, 0.0
    for seed in range(40):
        for found in copier.attribute(copies, method="random", seed=seed):
            # Without the last row, EOS, as for the methods.
            count = len(found.source_tokens)
            top = everything(found)[:-1, :-1].argmax(1)
            right_ones += int((top == torch.arange(count - 1)).sum())
            # Row t has all source tokens and t earlier target tokens to choose from.
            chance += sum(1 / (count + t) for t in range(count - 1))
    trials = 40 * sum(len(item.source_tokens) - 1 for item in copies)
    assert abs(right_ones - chance) < 4 * math.sqrt(chance * (1 - chance / trials))
    assert right_ones < trials / 3


def test_all_of_a_copy_comes_from_the_source(copier, copies):
    for share in explain.source_share(copier, copies):
        torch.testing.assert_close(
            share.source[:-1],
            torch.full((len(share.source) - 1,), FACTS["log_prob"].padded),
            atol=1e-3,
            rtol=0,
        )
        assert share.prefix.abs().max() < 1e-4


# ---- two causes ------------------------------------------------------------------------------------------

# The gate is a softmax at its end, where it is flat: who looks at slopes there cannot see what opened it.
FLAT_GATE = {"input_x_gradient", "deeplift", "attention_x_gradient", "attn_lrp"}
# Its path leaps from a word to nothing in one step, over the gate, and sees one point on the way.
LEAPS = {"discretized_integrated_gradients"}
# To it all blocks and heads are alike, so that one head of six, in the middle, is less than the idle ones.
DILUTED = {"attention_rollout"}


def two(method: str, count: int) -> tuple[float, float, float] | None:
    """Right scores for "ditto", of its two causes in source and prefix, and how far they may be off."""
    facts = FACTS["log_prob"]
    half = facts.padded / 2
    table = {
        # Without the flag EOS is copied, without the word nothing is known.
        "occlusion": (facts.hidden, facts.padded, 1e-3),
        "feature_ablation": (facts.padded, facts.padded, 1e-3),
        "sequential_integrated_gradients": (facts.padded, facts.padded, 1e-3),
        # Without the flag the word is worth nothing.
        "shapley_sampling": (facts.hidden - half, half, 0.15),
        "kernel_shap": (facts.hidden - half, half, 1e-3),
        # Two heads of six read the source's token, four everything; one of six reads the word.
        "attention": (1 / 3 + 2 / 3 / count, 1 / 6, 1e-3),
        # The flag, and the word, in one layer of three.
        "norm_attention": (1 / 3, 1 / 3, 1e-3),
        "value_zeroing": (1 / 3, 1 / 3, 1e-3),
        # The flag is a third of the state that looks back and keeps all of itself from there on.
        "alti": (1 / 3, 2 / 3, 1e-3),
    }
    return table.get(method)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_both_causes_of_a_repetition(dittos, of_dittos, method):
    for generation, found in zip(dittos, of_dittos(method), strict=True):
        count = len(generation.source_tokens)
        for t in is_ditto(generation).nonzero()[:, 0].tolist():
            flag, word = float(found.source[t, t]), float(found.prefix[t, t - 1])
            rest = everything(found)[t].abs()
            rest[[t, count + t - 1]] = 0
            if method in MIXING:
                rest[-1] = 0  # where idle heads look
            other = float(rest.max())
            assert word > 0
            if method in FLAT_GATE:
                assert abs(flag) < 1e-5 * word
                assert other < 1e-5 * word
            elif method in LEAPS:
                assert abs(flag) < 1e-3
                assert other < 1e-3 * word
                assert float(found.completeness_error[t]) > 0.5  # and it says so
            elif method in DILUTED:
                assert flag > other > word
                assert float(found.prefix[t].sum()) == word
            else:
                # A third token may count a fifth by sampling, or where idle heads look everywhere.
                least = min(flag, word)
                assert other < (0.9 if method in MIXING else 0.2) * least
            if REGISTRY.get(method).completeness:
                facts = FACTS["log_prob"]
                change = facts.hidden if method in HIDING else facts.padded
                assert flag + word == pytest.approx(change, rel=0.01)
            expected = two(method, count)
            if expected is not None:
                assert (flag, word) == pytest.approx(expected[:2], abs=expected[2])


@pytest.mark.parametrize("method", METHODS)
def test_the_prefix_does_nothing_where_nothing_is_repeated(dittos, of_dittos, method):
    padded = FACTS["log_prob"].padded
    for generation, found in zip(dittos, of_dittos(method), strict=True):
        words = ~is_ditto(generation)
        words[-1] = False
        top = everything(found)[:, :-1].abs().argmax(1)
        own = found.source.diagonal()[words]
        assert torch.equal(top[words], words.nonzero()[:, 0])
        assert (own > 0).all()
        # Both carry the position along with the decoder's own input, which the answer does not need.
        if method not in {"alti", "attention_rollout"}:
            assert found.prefix[words].abs().max() < 0.01 * own.min()
        if method == "integrated_gradients":
            torch.testing.assert_close(own, torch.full_like(own, padded), atol=0.01 * padded, rtol=0)


def test_a_repetition_comes_from_both_sides(ditto, dittos):
    for generation, share in zip(dittos, explain.source_share(ditto, dittos), strict=True):
        part = share.prefix / (share.source + share.prefix)
        repeats = is_ditto(generation)
        assert ((part[repeats] > 0.2) & (part[repeats] < 0.8)).all()
        assert part[:-1][~repeats[:-1]].abs().max() < 1e-3


def test_a_contrast_says_which_cause_decides_between_two_answers(ditto):
    """Why "b" rather than "a": the foil stands in the prefix, too, and plays no part there."""
    generation = ditto.force("a b ditto", "a b b")
    found = ditto.attribute(generation, method="occlusion", contrast={2: "a"})
    assert float(found.source[2, 2]) == pytest.approx(LOGIT, abs=1e-3)
    assert float(found.prefix[2, 1]) == pytest.approx(LOGIT, abs=1e-3)
    assert float(found.prefix[2, 0]) == pytest.approx(0, abs=1e-3)
