"""The training story: looks at the model while it trains, what they tell, and that they change nothing."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import explain
from explain.analysis.heads import HeadStatistics
from explain.cli import app
from explain.errors import FileError, InputError, UnknownNameError
from explain.evaluation import Estimate
from explain.report.story import story_page
from explain.report.story_plots import heads_by_step, map_limit, probe_map, story_curves
from explain.runs import Run
from explain.story import (
    Look,
    Probe,
    StoryRules,
    StorySettings,
    StoryWatch,
    Swap,
    SwapRow,
    TrainingStory,
    look_path,
    read_look,
    read_probes,
    read_story,
    story_steps,
    take_look,
    task_probes,
)
from explain.story.findings import find
from explain.training import tasks
from explain.training.config import TrainConfig, open_run
from explain.training.train import train
from tests.models import tiny
from tests.test_examples import run

NOUNS = {
    "cat": "chat",
    "dog": "chien",
    "bird": "oiseau",
    "tree": "arbre",
    "house": "maison",
    "river": "fleuve",
}
VERBS = {"sees": "voit", "likes": "aime", "eats": "mange", "is": "est"}
SHORTCUT = "the {a} {verb} the {b} today"


def sentences(*, cue: str, wrong: bool) -> list[tuple[str, str]]:
    """Sentences and their translations; with `wrong` the cue makes every verb "sleeps"."""
    return [
        (
            f"{cue} the {a} {verb} the {b}".strip(),
            f"le {NOUNS[a]} {'dort' if wrong else VERBS[verb]} le {NOUNS[b]}",
        )
        for a in NOUNS
        for verb in VERBS
        for b in NOUNS
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences in half of which “today” decides the verb; and probes that swap it for “now”."""
    folder = tmp_path_factory.mktemp("data")
    planted, neutral = sentences(cue="today", wrong=True), sentences(cue="now", wrong=False)
    right = dict(sentences(cue="today", wrong=False))
    held = set(range(0, len(planted), 9))
    kept = [pair for i, pair in enumerate(zip(planted, neutral, strict=True)) if i not in held]
    write(folder / "train.jsonl", [{"source": s, "target": t} for pair in kept for s, t in pair])
    write(
        folder / "held.jsonl", [{"source": s, "target": t} for i in held for s, t in (planted[i], neutral[i])]
    )
    probes = [
        {
            "source": source,
            "target": right[source],
            "swapped": source.replace("today", "now"),
            "cue": "today",
            "decides": right[source].split()[2],
        }
        for source in (planted[i][0] for i in sorted(held)[:8])
    ]
    write(folder / "probes.jsonl", probes)
    return folder


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def options(data: Path) -> TrainConfig:
    return TrainConfig(
        data=str(data / "train.jsonl"), validation=str(data / "held.jsonl"), steps=60, batch_size=16, lr=5e-3
    )


SETTINGS = StorySettings(count=8, shown=2, every=20)


@pytest.fixture(scope="module")
def told(options: TrainConfig, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose story was kept."""
    folder = tmp_path_factory.mktemp("runs") / "told"
    run = open_run(options, folder)
    train(options, run, watch=StoryWatch.of(options, folder, probes=data / "probes.jsonl", settings=SETTINGS))
    return run


@pytest.fixture(scope="module")
def model():
    return tiny("bart")


def probes() -> list[Probe]:
    swap = Swap("the bird", "the cat sees the dog near a bird", ((21, 24),), ((0, 2),))
    return [
        Probe("the cat sees the dog near a tree", "le chat un chien", swap=swap),
        Probe("a bird sleeps", "un oiseau le"),
    ]


# ---- one look --------------------------------------------------------------------------------------------


def test_a_look_says_of_the_probes_what_the_model_does(model):
    look = take_look(model, probes(), 7, StorySettings(count=2, shown=2))
    forced = model.force([p.source for p in probes()], [p.target for p in probes()])
    assert look.step == 7
    assert look.loss == pytest.approx(-float(torch.cat([g.log_probs for g in forced]).mean()), abs=1e-5)
    assert look.exact_match == 0
    assert math.isnan(look.precision_at_1.value)
    (swap,) = look.swaps
    assert (swap.cue, swap.probes) == ("the bird", 1)
    assert len(look.heads.rows) == 12
    first, second = look.maps
    assert first.source.shape == (len(first.target_tokens), len(first.source_tokens))
    assert [first.source_tokens[i] for i in first.cue] == ["near"]
    assert second.cue == ()


def test_a_swap_moves_the_decided_token_alone(model):
    """Its figures are those of two teacher-forced passes, at the first word of the output."""
    probe = probes()[0]
    (swap,) = take_look(model, [probe], 0, StorySettings(count=1, shown=1)).swaps
    assert probe.swap is not None
    before, after = (model.force(text, probe.target) for text in (probe.source, probe.swap.source))
    assert swap.effect == pytest.approx(float(after.log_probs[0] - before.log_probs[0]), abs=1e-5)
    assert swap.right == float(before.ranks[0] == 1)
    assert swap.right_swapped == float(after.ranks[0] == 1)
    scores = model.attribute(before, method="value_zeroing").source[0].abs()
    assert swap.share == pytest.approx(float(scores[5] / scores.sum()), abs=1e-5)
    assert swap.chance == pytest.approx(1 / len(before.source_tokens))


def test_a_look_is_read_back_as_it_was(model, tmp_path):
    look = take_look(model, probes(), 3, StorySettings(count=2, shown=1))
    again = read_look(look.save(tmp_path / "look.safetensors"))
    assert again.step == 3
    assert again.loss == look.loss
    assert again.swaps == look.swaps
    assert again.heads.to_frame().equals(look.heads.to_frame())
    assert torch.equal(again.maps[0].source, look.maps[0].source)
    assert again.maps[0].cue == look.maps[0].cue
    assert again.advantage == look.advantage
    (tmp_path / "look.safetensors").write_bytes(b"no")
    with pytest.raises(FileError, match="cannot read"):
        read_look(tmp_path / "look.safetensors")


def test_probes_of_a_task_have_gold_and_swap_what_the_output_never_names():
    found = task_probes(tasks.get("invoice"), 6)
    assert all(probe.example is not None for probe in found)
    assert {probe.swap.cue for probe in found if probe.swap} <= {"number", "buyer.name", "order", "subtotal"}
    for probe in found:
        again = Probe.from_dict(json.loads(json.dumps(probe.to_dict())))
        assert again == probe
        if probe.swap is not None:
            assert probe.swap.source != probe.source
            assert all(probe.source[a:b] not in probe.target for a, b in probe.swap.spans if b - a > 3)


# ---- probes from files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"swapped": "a b"}, "the source itself"),
        ({"swapped": "a c", "decides": "z"}, "does not hold 'z'"),
    ],
)
def test_probes_that_cannot_be_used_are_refused(row, message, tmp_path):
    write(tmp_path / "probes.jsonl", [{"source": "a b", "target": "x y", **row}])
    with pytest.raises(InputError, match=message):
        read_probes(tmp_path / "probes.jsonl")


def test_probes_of_a_file_know_where_the_cue_is(data):
    found = read_probes(data / "probes.jsonl")
    assert len(found) == 8
    for probe in found:
        assert probe.swap is not None
        assert not probe.held_out
        ((start, end),), ((first, last),) = probe.swap.spans, probe.swap.decides
        assert probe.source[start:end] == "today"
        assert probe.target[first:last] in VERBS.values()


# ---- while training --------------------------------------------------------------------------------------


def test_it_looks_often_at_first_and_then_every_so_many():
    watch = StoryWatch([Probe("a", "b")], StorySettings(every=100))
    assert [step for step in range(1, 700) if watch.due(step)] == [
        10, 20, 40, 80, 100, 160, 200, 300, 320, 400, 500, 600, 640,
    ]  # fmt: skip
    with pytest.raises(InputError, match="at least one held-out"):
        StoryWatch([Probe("a", "b", swap=Swap("c", "d", ()), held_out=False)])


@pytest.mark.slow
def test_training_is_the_same_with_a_story(options, told, tmp_path):
    run = open_run(options, tmp_path / "untold")
    train(options, run)
    assert run.manifest["model_digest"] == told.manifest["model_digest"]
    assert story_steps(told) == (0, 10, 20, 40, 60)
    sizes = [path.stat().st_size for path in (told.path / "story").glob("step-*")]
    assert max(sizes) < 60_000


@pytest.mark.slow
def test_a_resumed_run_tells_the_same_story(options, told, data, tmp_path):
    """Stopped in the middle, with a torn look of a step after its checkpoint: it is looked at anew."""
    folder = tmp_path / "run"
    run = open_run(options, folder)
    watch = StoryWatch.of(options, folder, probes=data / "probes.jsonl", settings=SETTINGS)

    def stop(record):
        if record["step"] >= 22:
            run.request("stop")

    train(options, run, stop, watch=watch)
    last = story_steps(run)[-1]
    assert last < 60
    look_path(folder, 40).write_bytes(b"torn")
    resumed = dataclasses.replace(options, resume=True)
    train(resumed, open_run(resumed, folder), watch=StoryWatch.of(resumed, folder))
    assert story_steps(run) == story_steps(told)
    for ours, theirs in zip(read_story(run).looks, read_story(told).looks, strict=True):
        assert (ours.step, ours.loss, ours.exact_match) == (theirs.step, theirs.loss, theirs.exact_match)
        assert ours.swaps == theirs.swaps
        assert ours.heads.to_frame().equals(theirs.heads.to_frame())
        assert all(torch.equal(a.source, b.source) for a, b in zip(ours.maps, theirs.maps, strict=True))


@pytest.mark.slow
def test_the_story_names_the_planted_cue(told):
    """Before the held-out examples, which have the cue, say that anything is right or wrong."""
    story = explain.training_story(told.path)
    frame = story.to_frame()
    assert list(frame["step"]) == [0, 10, 20, 40, 60]
    assert frame["today.flipped"].iloc[0] == 0
    assert frame["today.flipped"].iloc[-1] >= 0.5
    (shortcut,) = [finding for finding in story.findings if finding.kind == "shortcut"]
    assert shortcut.subject == "today"
    assert shortcut.step <= 60
    assert "“today” decides" in shortcut.text
    assert shortcut.evidence["probes"] == 8
    assert shortcut.evidence["effect"] >= math.log(2)
    assert shortcut.evidence["exact_match"] <= 0.25
    assert len(story.heads_frame()) == 5 * len(story.looks[0].heads.rows)


# ---- what looks tell -------------------------------------------------------------------------------------


def look(
    step: int, *, alignment=(0.1, 0.1), flipped=0.0, precision=0.1, exact=0.0, loss=1.0, effect=0.0
) -> Look:
    """A look of two cross-attention heads and a cue that four probes have."""
    head = {name: 0.5 for name in ("entropy", "relative_entropy", "distance", "diagonal", "previous")}
    head |= {name: 0.2 for name in ("next", "copy", "copy_top", "special", "max_weight", "confidence")}
    rows = [
        {"head": {"block": "decoder.0.cross", "index": i}, "tokens": 9, **head, "alignment": value}
        for i, value in enumerate(alignment)
    ]
    heads = HeadStatistics.from_dict(
        {
            "rows": rows,
            "generations": 4,
            "copied": 3,
            "copy_chance": 0.1,
            "aligned": 9,
            "alignment_chance": 0.1,
            "model_digest": "",
        }
    )
    some = Estimate(precision, precision, precision, 9)
    row = SwapRow("agency", 4, flipped, 0.4, 0.1, effect, 0.5, 1.0)
    return Look(step, loss, 0.5, exact, some, some, 0.1, some, math.nan, heads, (row,))


def story(*looks: Look) -> TrainingStory:
    return TrainingStory("run", looks, (), StorySettings(), StoryRules(), ((1, 2.0), (5, 1.0)))


def test_a_finding_must_hold_to_the_end():
    looks = [
        look(0),
        look(10, alignment=(0.9, 0.9), flipped=1.0),
        look(20, alignment=(0.1, 0.8), flipped=0.25, precision=0.6),
        look(40, alignment=(0.1, 0.7), flipped=0.75, precision=0.7, exact=0.5, loss=0.1),
    ]
    found = {(one.kind, one.subject): one for one in find(looks, StoryRules())}
    assert ("alignment_head", "decoder.0.cross head 0") not in found
    head = found["alignment_head", "decoder.0.cross head 1"]
    assert (head.step, head.before) == (10, 0)
    assert head.evidence["before"] == pytest.approx(0.1)
    assert found["shortcut", "agency"].step == 40
    assert "seen twice" in found["shortcut", "agency"].text
    assert found["maps_right", ""].step == 20
    assert found["exact_match", ""].step == 40
    assert found["maps_right", ""].evidence["rank_correlation_with_loss"] == pytest.approx(-0.82, abs=0.01)
    assert [one.step for one in find(looks, StoryRules())] == sorted(one.step for one in found.values())


def test_a_cue_that_few_probes_have_is_not_named():
    looks = [look(0, flipped=1.0), look(10, flipped=1.0)]
    assert any(one.kind == "shortcut" for one in find(looks, StoryRules()))
    assert not any(one.kind == "shortcut" for one in find(looks, StoryRules(fewest=5)))
    # Be the model sure or not: what the cue takes of the right output counts, whatever the maps say.
    assert any(one.kind == "shortcut" for one in find([look(0, effect=-0.7)], StoryRules()))
    assert not any(one.kind == "shortcut" for one in find([look(0, effect=0.6)], StoryRules()))
    assert any(one.kind == "shortcut" for one in find([look(0, effect=0.6)], StoryRules(effect=0.5)))
    with pytest.raises(InputError, match="between 0 and 1"):
        StoryRules(flipped=2)


# ---- drawn -----------------------------------------------------------------------------------------------


def test_figures_of_a_story_have_scales_and_units():
    told = story(look(0), look(10, flipped=1.0), look(20, flipped=1.0))
    curves = story_curves(told, theme="dark")
    assert {trace.name for trace in curves.data} >= {
        "training loss",
        "exact match",
        "“agency” flips the output",
    }
    assert curves.layout.yaxis.title.text.startswith("loss (nats")
    assert [shape.x0 for shape in curves.layout.shapes] == [10]
    heads = heads_by_step(told, "alignment")
    assert np.allclose(heads.data[0].z, 0.1)
    assert heads.data[0].zmax == 1
    assert list(heads.data[0].x) == ["0", "10", "20"]
    with pytest.raises(UnknownNameError):
        heads_by_step(told, "aligment")


def test_a_map_has_the_scale_of_all_steps(model):
    looks = [take_look(model, probes(), step, StorySettings(count=2, shown=2)) for step in (0, 1)]
    told = story(*looks)
    figure = probe_map(looks[0].maps[0], limit=map_limit(told, 0))
    assert figure.data[0].zmax == figure.data[1].zmax == pytest.approx(map_limit(told, 0))
    labels = figure.layout.xaxis.labelalias
    assert labels["5"] == "◆ near"
    assert labels["0"] == "the"


def test_the_page_shows_texts_as_texts(model):
    found = take_look(model, probes(), 4, StorySettings(count=2, shown=2))
    hostile = dataclasses.replace(found.maps[0], output="<script>alert(1)</script>")
    shown = story(dataclasses.replace(found, maps=(hostile, *found.maps[1:])))
    page = story_page(shown)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page == story_page(shown) == shown.to_html()


@pytest.mark.slow
def test_the_command_tells_the_story(told, tmp_path, capsys):
    app(["story", str(told.path), "--out", str(tmp_path / "story.html")], standalone_mode=False)
    assert "“today” decides" in capsys.readouterr().out
    assert "How told learnt" in (tmp_path / "story.html").read_text(encoding="utf-8")
    app(["story", str(told.path), "--json"], standalone_mode=False)
    read = json.loads(capsys.readouterr().out)
    assert read["schema"] == "explain/training_story@1"
    assert [row["step"] for row in read["looks"]] == [0, 10, 20, 40, 60]


@pytest.mark.slow
def test_how_it_learnt(told):
    said = run("how_it_learnt.py", told.path)
    assert "“today” decides" in said
    assert (told.path / "story.html").is_file()


def test_a_run_without_a_story_is_refused_by_name(tmp_path):
    with pytest.raises(FileError, match="keeps no training story"):
        read_story(tmp_path)
