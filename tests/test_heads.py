"""Attention heads: figures against literal loops over captured patterns, roles, importance, alignment."""

from __future__ import annotations

import json
import math
from collections import defaultdict

import pytest
import torch

from explain.analysis import (
    Head,
    HeadImportance,
    HeadRoles,
    HeadStatistics,
    HeadSurvey,
    RoleRules,
    WordAlignment,
    head_ablation,
    head_importance,
    head_roles,
    head_statistics,
    rank_correlation,
    survey_heads,
    word_alignment,
)
from explain.analysis.alignment import links_of
from explain.analysis.heads import FIGURES, attention_blocks
from explain.errors import InputError, UnknownNameError
from explain.files import dump_json
from explain.training.handmade import COPY, copy_model, ditto_model
from tests.conftest import OUTPUTS, SENTENCES
from tests.models import tiny
from tests.state import assert_same_state, state_of

# Outputs with words that are in their sources, so that there is something to copy.
COPIED = ["a cat sees le chat", "bird un bird", "la maison near the old the"]
COPY_HEAD = Head(COPY.block, COPY.index)


@pytest.fixture(scope="module")
def copier():
    """The hand-set model that repeats its source."""
    return copy_model()


@pytest.fixture(scope="module")
def copies(copier):
    """Outputs of the model that repeats its source."""
    return copier.generate(["a b c d", "e f g", "h a h a b", "ditto b"])


def place_gold(generation):
    """The gold of the copy model: output token t needs source token t."""
    return tuple(
        () if token.special else (frozenset({("source", t)}),)
        for t, token in enumerate(generation.target_tokens)
    )


def literal(model, generations, gold):
    """Every figure of every head, with loops over the captured patterns of one output at a time."""
    sums = defaultdict(lambda: [0.0, 0])

    def add(head, figure, value):
        sums[head, figure][0] += float(value)
        sums[head, figure][1] += 1

    for generation, known in zip(generations, gold, strict=True):
        patterns = model.capture(generation, "*.pattern")
        source, target = generation.source_tokens, generation.target_tokens
        read = (generation.decoder_start, *target[:-1])
        for name, tensor in patterns.items():
            side, _, kind, _ = name.split(".")
            keys = source if side == "encoder" or kind == "cross" else read
            for index, pattern in enumerate(tensor[0]):
                head = Head(name.removesuffix(".pattern"), index)
                for q, row in enumerate(pattern.tolist()):
                    seen = q + 1 if (side, kind) == ("decoder", "self") else len(keys)
                    entropy = -sum(p * math.log(p) for p in row if p > 0)
                    add(head, "entropy", entropy)
                    if seen > 1:
                        add(head, "relative_entropy", entropy / math.log(seen))
                    add(head, "special", sum(p for p, token in zip(row, keys, strict=True) if token.special))
                    add(head, "max_weight", max(row))
                    add(
                        head,
                        "confidence",
                        max([0.0, *(p for p, t in zip(row, keys, strict=True) if not t.special)]),
                    )
                    if kind == "self":
                        add(head, "distance", sum(p * abs(q - k) for k, p in enumerate(row)))
                        add(head, "diagonal", row[q])
                        if q > 0:
                            add(head, "previous", row[q - 1])
                        if side == "encoder" and q + 1 < len(row):
                            add(head, "next", row[q + 1])
                        continue
                    n, m = len(target), len(source)
                    gaps = [abs((q + 0.5) / n - (k + 0.5) / m) for k in range(m)]
                    add(head, "distance", sum(p * gap for p, gap in zip(row, gaps, strict=True)))
                    add(head, "diagonal", row[int((q + 0.5) / n * m + 1e-9)])
                    text = target[q].text
                    same = {
                        k
                        for k, token in enumerate(source)
                        if token.text == text and not token.special and not target[q].special
                    }
                    if same:
                        add(head, "copy", sum(row[k] for k in same))
                        add(head, "copy_top", row.index(max(row)) in same)
                    right = {
                        i for group in (known or ((),) * n)[q] for where, i in group if where == "source"
                    }
                    if right:
                        add(head, "alignment", row.index(max(row)) in right)
    return {key: total / count for key, (total, count) in sums.items()}


def test_every_figure_equals_a_literal_loop(model):
    """On every family, in batches that are padded, with gold for some outputs."""
    generations = model.force(SENTENCES, COPIED)
    gold = [place_gold(generations[0]), None, place_gold(generations[2])]
    found = head_statistics(model, generations, gold)
    expected = literal(model, generations, gold)
    assert {row.head.block for row in found.rows} == set(attention_blocks(model))
    compared = 0
    for row in found.rows:
        for figure in FIGURES:
            value = getattr(row, figure)
            if (row.head, figure) in expected:
                assert value == pytest.approx(expected[row.head, figure], abs=1e-5), (row.head, figure)
                compared += 1
            else:
                assert math.isnan(value), (row.head, figure)
    assert compared == len(expected)
    assert found.copied == 9
    assert found.generations == 3


def test_batches_and_interventions(model):
    """The batch size changes nothing; an intervention is seen."""
    generations = model.force(SENTENCES, OUTPUTS)
    together, alone = (head_statistics(model, generations, batch_size=size) for size in (8, 1))
    for one, other in zip(together.rows, alone.rows, strict=True):
        for figure in FIGURES:
            assert getattr(one, figure) == pytest.approx(getattr(other, figure), abs=1e-5, nan_ok=True)
    with model.intervene({"decoder.0.cross.scores": lambda scores: scores * 0}):
        changed = head_statistics(model, generations, batch_size=1)  # this undoes the mask, too
    assert changed[Head("decoder.0.cross", 0)].relative_entropy == pytest.approx(1, abs=1e-5)
    assert together[Head("decoder.0.cross", 0)].relative_entropy < 0.99


def test_the_same_relative_place_is_found_without_rounding(copier):
    """15 output tokens on 6 source tokens: place 2 begins exactly at token 5."""
    generation = copier.force("a b c d e", "a b c d e f g h i j k l m n")
    assert (len(generation.target_tokens), len(generation.source_tokens)) == (15, 6)
    row = head_statistics(copier, generation)[Head("decoder.0.cross", 0)]  # looks everywhere alike
    assert row.diagonal == pytest.approx(1 / 6)
    with copier.intervene(
        {"decoder.0.cross.pattern": lambda x: torch.eye(6)[[i * 6 // 15 for i in range(15)]].expand_as(x)}
    ):
        row = head_statistics(copier, generation)[Head("decoder.0.cross", 0)]
    # (t + ½) / 15 · 6 begins a new place at t = 2, 4 (4.5 / 15 · 6 = 1.8), …: literal fractions.
    right = [(2 * t + 1) * 6 // 30 for t in range(15)]
    expected = sum(a == b for a, b in zip(right, [i * 6 // 15 for i in range(15)], strict=True)) / 15
    assert row.diagonal == pytest.approx(expected)


@pytest.mark.parametrize("by", ["gold", "copy"])
def test_the_copy_head_is_found(copier, copies, by):
    """By the gold and by the text of tokens, and it is the only one."""
    gold = [place_gold(item) for item in copies] if by == "gold" else None
    statistics = head_statistics(copier, copies, gold)
    roles = head_roles(statistics)
    assert roles.alignment_by == by
    assert roles.heads("alignment") == [COPY_HEAD]
    assert roles.heads("copy") == [COPY_HEAD]
    assert statistics[COPY_HEAD].copy == pytest.approx(1)
    assert statistics[COPY_HEAD].copy_top == 1
    role = next(row for row in roles.rows if row.head == COPY_HEAD)
    assert role.role == "alignment"
    assert role.score == 1
    assert role.offset == 0  # sources are as long as outputs here
    if by == "gold":
        assert statistics[COPY_HEAD].alignment == 1
        assert statistics.aligned == sum(not t.special for item in copies for t in item.target_tokens)


def test_the_other_roles_of_the_copy_model(copier, copies):
    """Its encoder looks at its own place, its decoder at the start, and idle cross-attention everywhere."""
    roles = {row.head: row for row in head_roles(head_statistics(copier, copies)).rows}
    for index in range(2):
        own = roles[Head("encoder.0.self", index)]
        assert (own.role, own.offset) == ("positional", 0)
        assert roles[Head("decoder.1.self", index)].role == "sink"
        assert roles[Head("decoder.0.cross", index)].role == "broad"
    before = {"encoder.1.self.pattern": lambda x: torch.eye(x.shape[-1]).roll(1, 0).expand_as(x)}
    with copier.intervene(before):
        moved = head_roles(head_statistics(copier, copies)).rows
    assert next(row for row in moved if row.head.block == "encoder.1.self").offset == -1


def test_rules_can_be_moved(copier, copies):
    statistics = head_statistics(copier, copies)
    everything = head_roles(statistics, RoleRules(broad=0.0))
    assert all("broad" in row.roles for row in everything.rows)
    strict = head_roles(statistics, RoleRules(positional=1, sink=1, broad=1, copy=1, alignment=1))
    assert strict.heads("alignment") == [COPY_HEAD]
    with pytest.raises(InputError, match="between 0 and 1"):
        RoleRules(copy=1.5)
    with pytest.raises(UnknownNameError, match="role"):
        everything.heads("copier")
    with pytest.raises(UnknownNameError, match="kind"):
        everything.heads("copy", "both")


# ---- importance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["log_prob", "entropy"])
def test_gradient_importance_equals_finite_differences_of_a_gate(model, objective):
    """For every head: f with the gate at 1 + ε less f at 1 − ε, over 2 ε."""
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    found = head_importance(model, generation, objective)
    size = 1e-2

    def value(head, gate):
        def scaled(z):
            z = z.clone()
            z[:, head.index] *= gate
            return z

        with model.intervene({f"{head.block}.z": scaled}):
            changed = model.force(SENTENCES[0], OUTPUTS[0])
        return float((changed.log_probs if objective == "log_prob" else changed.entropy).double().mean())

    largest = max(row.importance for row in found.rows)
    for row in found.rows:
        slope = (value(row.head, 1 + size) - value(row.head, 1 - size)) / (2 * size)
        assert row.signed == pytest.approx(slope, abs=5e-3 * largest + 1e-4), row.head
        assert row.importance == pytest.approx(abs(row.signed))


def test_ablation_importance_equals_interventions(model):
    """A head's output set to 0, one output and one head at a time."""
    generations = model.force(SENTENCES, OUTPUTS)
    found = head_ablation(model, generations)
    head = found.rows[-1].head

    def without(z):
        z = z.clone()
        z[:, head.index] = 0
        return z

    with model.intervene({f"{head.block}.z": without}):
        changed = model.force(SENTENCES, OUTPUTS)
    lost = [float(a.log_probs.mean() - b.log_probs.mean()) for a, b in zip(generations, changed, strict=True)]
    assert found[head].signed == pytest.approx(sum(lost) / 3, abs=1e-5)
    assert found[head].importance == pytest.approx(sum(map(abs, lost)) / 3, abs=1e-5)
    assert (found.by, found.generations, found.objective) == ("ablation", 3, "log_prob")


@pytest.mark.parametrize("function", [head_importance, head_ablation])
def test_importance_names_the_copy_head(copier, copies, function):
    """No other head has any; its relative importance in its layer is all there is."""
    rows = sorted(function(copier, copies).rows, key=lambda row: -row.importance)
    assert rows[0].head == COPY_HEAD
    assert rows[0].relative == pytest.approx(1)
    assert rows[0].importance > 0.01
    assert all(row.importance < 1e-6 for row in rows[1:])


def test_importance_for_a_contrast(copier, copies):
    """Why "b" rather than "e": in logits, at that position alone."""
    found = head_importance(copier, copies[0], "logit", {1: "e"})
    every = head_importance(copier, copies[0], "logit", "e")
    assert found.units == "logits"
    assert found[COPY_HEAD].signed > 0.1
    # Against "e" every one of the five tokens gains the same, and a foil stands against all of them.
    assert every[COPY_HEAD].signed == pytest.approx(found[COPY_HEAD].signed, abs=1e-5)


def test_heads_may_be_replaced_by_what_they_do_elsewhere(copier, copies):
    """The copy head's mean over the other outputs is as little use as nothing."""
    rows = head_ablation(copier, copies, how="mean").rows
    assert max(rows, key=lambda row: row.importance).head == COPY_HEAD


def test_batches_do_not_change_importance(model):
    generations = model.force(SENTENCES, OUTPUTS)
    together, alone = (head_importance(model, generations, batch_size=size) for size in (8, 1))
    for one, other in zip(together.rows, alone.rows, strict=True):
        assert one.importance == pytest.approx(other.importance, abs=1e-5)
        assert one.relative == pytest.approx(other.relative, abs=1e-4)


def test_rank_correlation_is_spearmans(bart, copier, copies):
    generations = bart.force(SENTENCES, OUTPUTS)
    survey = survey_heads(bart, generations)
    order = [
        torch.tensor([row.importance for row in item.rows]).argsort().argsort().double()
        for item in (survey.gradient, survey.ablation)
    ]
    count = len(order[0])
    expected = 1 - 6 * float((order[0] - order[1]).square().sum()) / (count * (count**2 - 1))
    assert survey.agreement == pytest.approx(expected)
    assert rank_correlation(survey.gradient, survey.gradient) == pytest.approx(1)
    with pytest.raises(InputError, match="different heads"):
        rank_correlation(survey.gradient, head_importance(ditto_model(), ditto_model().generate("a b")))
    with copier.intervene({COPY.pattern: torch.zeros_like}):  # then no head has any effect
        dead = head_ablation(copier, copies[0])
    assert math.isnan(rank_correlation(dead, head_importance(copier, copies[0])))


# ---- alignment -------------------------------------------------------------------------------------------


def test_alignment_of_the_copy_model_is_exact(copier, copies):
    """Word t from word t by the heads that were found, and nothing for EOS."""
    heads = head_roles(head_statistics(copier, copies)).heads("alignment")
    for generation in copies:
        words = len(generation.target_tokens) - 1
        for mutual in (False, True):
            found = word_alignment(copier, generation, heads, mutual=mutual)
            assert found.links == tuple((i, i) for i in range(words))
        assert torch.allclose(found.matrix, torch.eye(words + 1), atol=1e-6)
        assert found.aligned_to == "output"


def test_alignment_to_the_input_is_that_of_the_next_step(copier):
    """The step that writes word t + 1 is word t's row; EOS, which is never read, has none."""
    found = word_alignment(copier, copier.generate("a b c"), [(COPY.layer, COPY.index)], aligned_to="input")
    assert found.links == ((1, 0), (2, 1))  # the last word's step looks at EOS
    assert found.matrix[-1].isnan().all()
    frame = found.to_frame()
    linked = frame.loc[frame["linked"]]
    assert list(zip(linked["source_word"], linked["target_word"], strict=True)) == [("b", "a"), ("c", "b")]


def test_alignment_is_the_mean_pattern_of_its_heads(model):
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    patterns = model.capture(generation, "decoder.*.cross.pattern")
    everything = torch.cat([pattern[0] for pattern in patterns.values()]).mean(0)
    found = word_alignment(model, generation)
    assert torch.allclose(found.matrix, everything, atol=1e-6)  # a token a word here
    assert len(found.heads) == 4
    one = word_alignment(model, generation, [(1, 1)])
    assert torch.allclose(one.matrix, patterns["decoder.1.cross.pattern"][0, 1], atol=1e-6)


def test_links_with_a_threshold_equal_weights_and_mutual_choice():
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.9, 0.0, 0.1], [0.0, 0.2, 0.8], [math.nan] * 3])
    special = [False, False, True], [False, False, False, True]
    assert links_of(weights, *special) == ((0, 0), (0, 1))  # the first of equals; EOS is nobody's word
    assert links_of(weights, *special, threshold=0.6) == ((0, 1),)
    assert links_of(weights, *special, mutual=True) == ((0, 1),)


# ---- what comes back, and what is left behind ------------------------------------------------------------


def test_results_read_back(bart):
    generations = bart.force(SENTENCES, COPIED)
    survey = survey_heads(bart, generations, [place_gold(generations[0]), None, None])
    back = HeadSurvey.from_dict(json.loads(dump_json(survey.to_dict())))
    assert dump_json(back.to_dict()) == dump_json(survey.to_dict())
    assert back.roles == HeadRoles.from_dict(survey.roles.to_dict())
    assert isinstance(back.statistics, HeadStatistics)
    assert back.gradient == survey.gradient == HeadImportance.from_dict(survey.gradient.to_dict())
    assert math.isnan(back.statistics.rows[0].copy)
    alignment = word_alignment(bart, generations[0], aligned_to="input")
    again = WordAlignment.from_dict(json.loads(dump_json(alignment.to_dict())))
    assert torch.equal(again.matrix.nan_to_num(-1), alignment.matrix.nan_to_num(-1))
    assert (again.links, again.heads, again.source_words) == (
        alignment.links,
        alignment.heads,
        alignment.source_words,
    )


def test_the_survey_as_a_table(bart):
    frame = survey_heads(bart, bart.force(SENTENCES, OUTPUTS)).to_frame()
    assert len(frame) == 12  # 2 + 2 · 2 blocks of 2 heads
    for column in ("block", "head", "role", "entropy", "gradient", "ablation", "ablation_signed"):
        assert column in frame
    assert frame["head"].tolist() == [0, 1] * 6


def test_progress_counts_every_output(bart):
    seen = []
    survey_heads(
        bart, bart.force(SENTENCES, OUTPUTS), progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (9, 9)
    assert seen == sorted(seen)


def test_nothing_is_left_behind(model):
    """After success, and after an error in the middle of a pass."""
    generations = model.force(SENTENCES, OUTPUTS)
    before = state_of(model.hf)
    survey_heads(model, generations)
    word_alignment(model, generations[0])
    assert_same_state(before, state_of(model.hf))

    def broken(logits, ids):
        raise RuntimeError("in the middle")

    for function in (head_importance, head_ablation):
        with pytest.raises(RuntimeError, match="in the middle"):
            function(model, generations, broken)
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        model.intervene({"decoder.1.mlp.out": lambda x: broken(x, x)}),
    ):
        head_statistics(model, generations)
    assert_same_state(before, state_of(model.hf))


def test_the_mode_of_a_model_in_training_is_kept():
    model = tiny("bart")
    generation = model.force(SENTENCES[0], OUTPUTS[0])
    expected = head_importance(model, generation)
    model.hf.train()
    before = state_of(model.hf)
    assert head_importance(model, generation) == expected  # no dropout
    assert_same_state(before, state_of(model.hf))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, g: head_statistics(m, []), "at least one output"),
        (lambda m, g: head_importance(m, []), "at least one output"),
        (lambda m, g: head_ablation(m, []), "at least one output"),
        (lambda m, g: head_statistics(m, g, [None, None]), "gold of 2 outputs for 1"),
        (lambda m, g: head_statistics(m, g, [((),)]), "was it made for them"),
        (lambda m, g: head_statistics(m, g, batch_size=0), "batch_size"),
        (lambda m, g: head_ablation(m, g, how="mean"), "at least 2"),
        (lambda m, g: head_importance(m, g, "beauty"), "unknown objective"),
        (lambda m, g: word_alignment(m, g, []), "heads is empty"),
        (lambda m, g: word_alignment(m, g, [(9, 0)]), "decoder.9.cross is no cross-attention"),
        (lambda m, g: word_alignment(m, g, [Head("encoder.0.self", 0)]), "no cross-attention"),
        (lambda m, g: word_alignment(m, g, [(0, 7)]), "has 2 heads, no 7"),
        (lambda m, g: word_alignment(m, g, aligned_to="middle"), "unknown convention"),
    ],
)
def test_errors_are_for_people(bart, call, message):
    generation = bart.force(SENTENCES[0], OUTPUTS[0])
    with pytest.raises((InputError, UnknownNameError), match=message):
        call(bart, generation)


def test_an_output_of_another_vocabulary_is_refused(bart, copier):
    generation = tiny("bart", vocab_size=400).force(SENTENCES[0], OUTPUTS[0])
    with pytest.raises(InputError, match="another vocabulary"):
        head_statistics(copier, generation)
