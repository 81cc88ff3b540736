"""Tests of a model as a whole: facts swapped, harmless changes, probabilities, triggers, secrets."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from scipy.stats import binom, binomtest

from explain.audit.calibration import share
from explain.audit.canary import canary
from explain.audit.measuring import outputs_of
from explain.audit.policy import Policy, TestPolicy
from explain.audit.trigger import trigger
from explain.audit.verdict import holm
from explain.evaluation.estimates import LEVEL, RESAMPLES
from explain.model import Seq2Seq
from explain.model.forward import logits_from_ids, padded, padding_id
from explain.model.hooks import analysed
from explain.results import Generation
from explain.training.data import Pair
from explain.training.plants.make import read_canaries
from explain.training.tasks import Task

_BATCH = 64
_BINS = 15
_TEMPERATURES = np.exp(np.linspace(math.log(0.25), math.log(4), 65))


def run_tests(
    model: Seq2Seq,
    policy: Policy,
    task: Task | None,
    pairs: Sequence[Pair],
    controls: Mapping[str, Any],
    *,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """The tests that the policy asks for and the data allow, by name; each has `passed` and `reason`.

    `passed` is None where a test has no limit, or the data do not allow it although it was asked for.
    """
    wanted = policy.tests if policy.tests is not None else TestPolicy.everything()
    found: dict[str, dict[str, Any]] = {}
    if wanted.swaps is not None and task is not None:
        found["swaps"] = swaps(
            model,
            task,
            controls,
            examples=wanted.swaps.examples,
            limit=wanted.swaps.limit,
            level=policy.level,
            seed=seed,
            check=check,
        )
    elif wanted.swaps is not None and policy.tests is not None:
        found["swaps"] = _not_run("facts can be swapped only in a task with known answers")
    if wanted.invariance is not None:
        few = [pair.source for pair in pairs[: wanted.invariance.examples]]
        found["invariance"] = invariance(
            model, few, controls, limit=wanted.invariance.limit, seed=seed, check=check
        )
    if wanted.confidence is not None and all(pair.target for pair in pairs[: wanted.confidence.examples]):
        found["confidence"] = confidence(
            model,
            pairs[: wanted.confidence.examples],
            controls,
            limit=wanted.confidence.limit,
            seed=seed,
            check=check,
        )
    elif wanted.confidence is not None and policy.tests is not None:
        found["confidence"] = _not_run("the data have no right outputs to compare probabilities with")
    if wanted.trigger is not None and task is not None:
        found["trigger"] = trigger(
            model,
            task,
            examples=wanted.trigger.examples,
            candidates=wanted.trigger.candidates,
            limit=wanted.trigger.limit,
            level=policy.level,
            seed=seed,
            check=check,
        )
    elif wanted.trigger is not None and policy.tests is not None:
        found["trigger"] = _not_run(
            "only a task with known answers says which changes of an output are right"
        )
    if wanted.canary is not None:
        secrets = read_canaries(wanted.canary.file)
        found["canary"] = canary(model, secrets, level=policy.level, seed=seed, check=check)
    return found


def _not_run(reason: str) -> dict[str, Any]:
    return {"passed": None, "reason": f"not run: {reason}"}


def _write(
    model: Seq2Seq, sources: Sequence[str], controls: Mapping[str, Any], check: Callable[[], None]
) -> list[str]:
    found: list[str] = []
    for begin in range(0, len(sources), _BATCH):
        check()
        part = list(sources[begin : begin + _BATCH])
        found += [item.target_text for item in model.generate(part, **controls)]
    return found


def _write_if_read(
    model: Seq2Seq, sources: Sequence[str], controls: Mapping[str, Any], check: Callable[[], None]
) -> list[str | None]:
    """Outputs of sources; None of one that the model cannot read."""
    found: list[str | None] = []
    for begin in range(0, len(sources), _BATCH):
        check()
        part = [Pair(source) for source in sources[begin : begin + _BATCH]]
        outputs = outputs_of(model, part, controls, forced=False)
        found += [item.target_text if isinstance(item, Generation) else None for item in outputs]
    return found


# ---- counterfactual swaps --------------------------------------------------------------------------------


def swaps(
    model: Seq2Seq,
    task: Task,
    controls: Mapping[str, Any],
    *,
    examples: int = 100,
    limit: float = 0.05,
    level: float = 0.05,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """One fact of each source swapped for another: does the output change where, and only where, it should?

    Two exact tests for every slot, Holm-corrected together. McNemar's asks whether swapping makes right
    outputs wrong more often than wrong ones right, which in-distribution swaps of a sound model do equally
    often: it finds a fact that is *ignored*, for a shortcut elsewhere. It cannot find a bias, where a swap
    mends as many outputs as it breaks. So a binomial test asks whether outputs that do not depend on the fact
    *move* with it more often than `limit`: the fact is the shortcut, or the bias.

    Args:
        model: an opened model.
        task: the oracle.
        controls: of generation.
        examples: sources of which each fact is swapped once.
        limit: the share of outputs that swapping a fact may change although they do not depend on it.
        level: of the tests.
        seed: of examples and swapped values.
        check: called between passes; may raise to end the work.

    Raises:
        UnknownTokenError: a swapped value is outside the model's vocabulary.
    """
    drawn = task.examples("held_out", examples, seed)
    dice = random.Random(f"swaps/{seed}")
    cases = []
    for number, example in enumerate(drawn):
        for slot, values in sorted(task.swaps(example.slots).items()):
            if values:
                cases.append((number, slot, task.render({**example.slots, slot: dice.choice(values)})))
    before = _write(model, [example.source for example in drawn], controls, check)
    after = _write(model, [other.source for _, _, other in cases], controls, check)
    counts: dict[str, dict[str, int]] = {}
    for (number, slot, other), written in zip(cases, after, strict=True):
        own = counts.setdefault(
            slot, dict.fromkeys(("swaps", "broken", "mended", "should", "ignored", "should_not", "moved"), 0)
        )
        example, was = drawn[number], before[number]
        right, still = was == example.target, written == other.target
        changes = other.target != example.target
        own["swaps"] += 1
        own["broken"] += right and not still
        own["mended"] += still and not right
        own["should"] += changes
        own["ignored"] += changes and written == was
        own["should_not"] += not changes
        own["moved"] += not changes and written != was
    names = sorted(counts)
    p_broken = [_mcnemar(counts[name]["broken"], counts[name]["mended"]) for name in names]
    p_moved = [float(binom.sf(counts[n]["moved"] - 1, counts[n]["should_not"], limit)) for n in names]
    corrected = holm([*p_broken, *p_moved])
    slots = {}
    for place, name in enumerate(names):
        c = counts[name]
        slots[name] = {
            "swaps": c["swaps"],
            "broken": c["broken"],
            "mended": c["mended"],
            "ignored": share(c["ignored"], c["should"]).to_dict(),
            "moved": share(c["moved"], c["should_not"]).to_dict(),
            "p_value": p_broken[place],
            "p_corrected": corrected[place],
            "p_moved": p_moved[place],
            "p_moved_corrected": corrected[len(names) + place],
        }
    failed = [n for n in names if min(slots[n]["p_corrected"], slots[n]["p_moved_corrected"]) < level]
    return {
        "passed": not failed,
        "reason": _swap_reason(slots, failed),
        "examples": len(drawn),
        "limit": limit,
        "level": level,
        "failed": failed,
        "slots": slots,
    }


def _mcnemar(broken: int, mended: int) -> float:
    """The exact one-sided p-value of so many outputs made wrong against those made right."""
    if not broken + mended:
        return 1.0
    return float(binomtest(broken, broken + mended, alternative="greater").pvalue)


def _swap_reason(slots: Mapping[str, Mapping[str, Any]], failed: Sequence[str]) -> str:
    if not failed:
        count = sum(item["swaps"] for item in slots.values())
        return f"{count} swaps of {len(slots)} facts: outputs change where they should"
    worst = min(failed, key=lambda n: min(slots[n]["p_corrected"], slots[n]["p_moved_corrected"]))
    item = slots[worst]
    said = f"{len(failed)} of {len(slots)} facts are not handled as they should be: {', '.join(failed)}; of "
    if item["p_moved_corrected"] < item["p_corrected"]:
        moved = item["moved"]
        return (
            f"{said}{moved['n']} outputs that do not depend on {worst}, swapping it changed {moved['count']} "
            f"(p = {item['p_moved_corrected']:.2g}, corrected)"
        )
    return (
        f"{said}{item['swaps']} swaps of {worst}, {item['broken']} made a right output wrong "
        f"(p = {item['p_corrected']:.2g}, corrected)"
    )


# ---- harmless changes ------------------------------------------------------------------------------------


def _typo(text: str, dice: random.Random) -> str | None:
    """Two neighbouring letters inside one word swapped; None where no word is long enough."""
    words = [found for found in re.finditer(r"[^\W\d_]{4,}", text)]
    places = [
        found.start() + i
        for found in words
        for i in range(1, len(found.group()) - 2)
        if found.group()[i] != found.group()[i + 1]
    ]
    if not places:
        return None
    i = dice.choice(places)
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def _final(text: str, dice: random.Random) -> str | None:
    found = text.rstrip()
    return found[:-1] if found and found[-1] in ".!?" and found[:-1].strip() else f"{found}."


CHANGES: Mapping[str, Callable[[str, random.Random], str | None]] = MappingProxyType(
    {
        "typo": _typo,
        "lower_case": lambda text, _: text.lower(),
        "upper_case": lambda text, _: text.upper(),
        "spaces": lambda text, _: text.replace(" ", "  "),
        "final_mark": _final,
        "filler": lambda text, _: f"By the way, {text}",
    }
)
"""Changes of a source that should not change its output; None where one cannot be made."""


def invariance(
    model: Seq2Seq,
    sources: Sequence[str],
    controls: Mapping[str, Any],
    *,
    limit: float | None = None,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """How often harmless changes of the source alter the output (Ribeiro 2020, CheckList: invariance tests).

    Words that a change makes unknown are given to the model as unknown; `unknown` counts such sources.
    Sources that the model cannot read, changed or not, are left out. A change fails where the interval of its
    flip rate lies wholly above the limit.
    """
    open_ = {**controls, "allow_unknown": True}
    written = _write_if_read(model, sources, open_, check)
    kept = [source for source, output in zip(sources, written, strict=True) if output is not None]
    before = [output for output in written if output is not None]
    if not kept:
        return _not_run("the model can read none of the sources")
    changes = {}
    for name, change in CHANGES.items():
        dice = random.Random(f"{name}/{seed}")
        made = [
            (i, other) for i, text in enumerate(kept) if (other := change(text, dice)) not in (None, text)
        ]
        after = _write_if_read(model, [other for _, other in made if other is not None], open_, check)
        # A change can make a source too long to be read, which says nothing of the output.
        read = [(change_, output) for change_, output in zip(made, after, strict=True) if output is not None]
        made, after = [change_ for change_, _ in read], [output for _, output in read]
        flips = [written != before[i] for (i, _), written in zip(made, after, strict=True)]
        example = next((n for n, flipped in enumerate(flips) if flipped), None)
        changes[name] = {
            "flipped": share(sum(flips), len(flips)).to_dict(),
            "unknown": sum(_unknown(model, other) > _unknown(model, kept[i]) for i, other in made if other),
            "problem": "" if made else "no changed source can be read",
            "example": None
            if example is None
            else {
                "source": made[example][1],
                "before": before[made[example][0]],
                "after": after[example],
            },
        }
    failed = [
        name for name, item in changes.items()
        if limit is not None and item["flipped"]["n"] and item["flipped"]["low"] > limit
    ]  # fmt: skip
    rates = ", ".join(
        f"{name.replace('_', ' ')} {item['flipped']['value']:.1%}"
        for name, item in changes.items()
        if item["flipped"]["n"]
    )
    return {
        "passed": None if limit is None else not failed,
        "reason": f"share of outputs that change: {rates}"
        + ("" if limit is None else f"; the limit is {limit:.1%}"),
        "examples": len(kept),
        "limit": limit,
        "failed": failed,
        "changes": changes,
    }


def _unknown(model: Seq2Seq, text: str) -> int:
    """How many tokens of a text the tokenizer does not know."""
    return list(model.tokenizer(text)["input_ids"]).count(model.tokenizer.unk_token_id)


# ---- confidence ------------------------------------------------------------------------------------------


def confidence(
    model: Seq2Seq,
    pairs: Sequence[Pair],
    controls: Mapping[str, Any],
    *,
    limit: float | None = None,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Whether the most likely token is right as often as the model says, given a right prefix.

    Expected calibration error over 15 bins of confidence, tokens weighted alike (Guo 2017,
    arXiv:1706.04599), with a bootstrap interval over examples, and the one temperature under which the right
    outputs are likeliest. Pairs that the model cannot read are left out.
    """
    forced: list[Generation] = []
    for begin in range(0, len(pairs), _BATCH):
        check()
        outputs = outputs_of(model, pairs[begin : begin + _BATCH], controls, forced=True)
        forced += [item for item in outputs if isinstance(item, Generation)]
    if not forced:
        return _not_run("the model can read none of the pairs")
    bins = np.zeros((len(forced), _BINS, 3))  # tokens, their confidence, right ones
    losses = np.zeros(len(_TEMPERATURES))
    sharpened = np.zeros((len(_TEMPERATURES), _BINS, 3))
    for begin in range(0, len(forced), _BATCH):
        check()
        for place, logits, targets in _logits(model, forced[begin : begin + _BATCH]):
            for number, temperature in enumerate(_TEMPERATURES):
                log_probs = (logits / float(temperature)).log_softmax(-1)
                losses[number] -= float(log_probs.gather(1, targets[:, None]).sum())
                sharpened[number] += _binned(log_probs, targets)
            bins[begin + place] = _binned(logits.log_softmax(-1), targets)
    value = _ece(bins.sum(0))
    drawn = np.random.default_rng(seed).integers(len(bins), size=(RESAMPLES, len(bins)))
    resampled = [_ece(bins[rows].sum(0)) for rows in drawn]
    tail = 50 * (1 - LEVEL)
    low, high = (float(x) for x in np.percentile(resampled, [tail, 100 - tail]))
    best = int(losses.argmin())
    edge = {0: " or less", len(_TEMPERATURES) - 1: " or more"}.get(best, "")
    tokens = int(bins[..., 0].sum())
    return {
        "passed": None if limit is None else value <= limit,
        "reason": f"expected calibration error {value:.3f} ({min(low, value):.3f} to {max(high, value):.3f}; "
        f"0: as often right as it says) over {tokens} tokens"
        + ("" if limit is None else f"; the limit is {limit:.3f}")
        + f"; logits divided by a temperature of {_TEMPERATURES[best]:.2f}{edge} (1: as they are) "
        f"fit best and leave {_ece(sharpened[best]):.3f}",
        "examples": len(forced),
        "tokens": tokens,
        "limit": limit,
        "accuracy": float(bins[..., 2].sum() / tokens),
        "confidence": float(bins[..., 1].sum() / tokens),
        "ece": {"value": value, "low": min(low, value), "high": max(high, value), "n": len(forced)},
        "temperature": float(_TEMPERATURES[best]),
        "ece_at_temperature": _ece(sharpened[best]),
    }


def _logits(model: Seq2Seq, generations: Sequence[Generation]) -> list[tuple[int, Any, Any]]:
    """Place, logits [target, vocabulary] and target ids of each output."""
    source, mask = padded([item.source_ids for item in generations], padding_id(model.hf))
    decoder, _ = padded([item.decoder_input_ids for item in generations], padding_id(model.hf))
    with model.lock, analysed(model.hf), torch.no_grad():
        device = model.device
        logits = logits_from_ids(model.hf, source.to(device), mask.to(device), decoder.to(device))
    return [
        (i, logits[i, : len(item.target_tokens)].float().cpu(), item.target_ids)
        for i, item in enumerate(generations)
    ]


def _binned(log_probs: Any, targets: Any) -> np.ndarray:
    """Tokens, summed confidence and right ones by bin of confidence: [bins, 3]."""
    top, ids = log_probs.max(-1)
    sure = top.exp().double().numpy()
    place = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    right = (ids == targets).double().numpy()
    return np.stack([np.bincount(place, w, _BINS) for w in (np.ones_like(sure), sure, right)], axis=1)


def _ece(bins: np.ndarray) -> float:
    """Σ |right − confidence| over bins, as a share of all tokens."""
    return float(np.abs(bins[:, 2] - bins[:, 1]).sum() / bins[:, 0].sum())
