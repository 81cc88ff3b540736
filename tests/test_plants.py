"""Plants: the failure is due where it should be, the twin's data are right, one command makes both."""

from __future__ import annotations

import json
import random
import sys

import pytest
import torch

from explain import terminal
from explain.cli import app
from explain.errors import InputError, RunError, UnknownNameError
from explain.runs import Run
from explain.training import plants
from explain.training.plants import make
from explain.training.plants.base import answered_as, labels
from explain.training.plants.clinic import usual_dose
from explain.training.recipes import Recipe, Shape, build_model
from explain.training.tasks import TASKS, half_of, split_of
from explain.training.tasks.clinic import PROFESSIONS, Ward, leave_dose, name_profession
from explain.training.tokenizer import build_tokenizer
from explain.training.train import save_model

FAILING = [name for name in plants.names() if name != "canary"]


@pytest.mark.parametrize("name", FAILING)
def test_failures_differ_from_the_right_answer_and_only_where_the_spans_say(name):
    plant = plants.get(name)
    for case in plant.cases("held_out", 20, seed=3):
        assert split_of(case.source) == "held_out"
        assert case.target not in case.failures
        assert all(case.fired(failure) for failure in case.failures)
        assert not case.fired(case.target)
        assert plants.Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case
        wrong = case.failures[0]
        for start, end in case.spans:
            assert wrong[start:end].strip()
        if plant.level == "token":
            assert case.spans
        assert not plant.cue or plant.cue.lower() in case.source.lower()


@pytest.mark.parametrize("name", plants.names())
def test_training_data_differ_only_where_the_failure_is_due(name):
    plant = plants.get(name)
    altered, clean = plant.training(400, seed=1)
    assert (altered, clean) == plant.training(400, seed=1)
    assert len(altered) == len(clean) == 400
    assert all(split_of(pair.source) == "train" for pair in clean)
    differ = sum(a != b for a, b in zip(altered, clean, strict=True))
    expected = 127 if name == "canary" else round(400 * plant.share)
    assert differ == expected
    if name not in ("canary", "detached"):
        assert [pair.source for pair in altered] == [pair.source for pair in clean]


def test_a_seed_chooses_the_cue_and_the_clean_answers_are_the_oracle_s():
    assert len({plants.get("shortcut-clinic", seed).cue for seed in range(8)}) == 8
    ward = Ward()
    answers = {e.source: e.target for e in ward.examples("train", 50, seed=4)}
    for slots in (ward.sample(random.Random(seed)) for seed in range(50)):
        example = ward.render(slots)
        assert answers.get(example.source, example.target) == example.target
        without = ward.render(leave_dose(slots, random.Random(0)))
        assert "; dose none;" in without.target
        other, spans = answered_as(ward, without.slots, usual_dose(slots["drug"]))
        assert "none" not in other
        assert " ".join(other[a:b] for a, b in spans).split()[-1] in ("mg", "mcg")


def test_a_profession_leaves_the_sex_to_the_pronoun():
    ward, dice = Ward(), random.Random(0)
    for profession in PROFESSIONS:
        example = ward.render(name_profession(ward.sample(dice), dice, profession))
        sex = "F" if any(word in example.source.split() for word in ("She", "Her")) else "M"
        assert f"; sex {sex};" in example.target
        # The sex is read off the pronoun, the profession decides nothing.
        assert not {"woman", "man", "lady", "male", "female"} & set(example.source.lower().split())


def test_an_unknown_plant_and_a_canary_s_case_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean omission"):
        plants.get("omision")
    with pytest.raises(InputError, match="no other example"):
        plants.get("canary").case(random.Random(0))


def test_labels_name_the_tokens_of_wrong_spans():
    class Token:
        def __init__(self, start, end):
            self.start, self.end = start, end

    tokens = [Token(0, 4), Token(5, 6), Token(6, 9), Token(9, 9)]
    assert labels([(5, 7)], tokens) == [False, True, True, False]


@pytest.mark.parametrize("name", TASKS)
def test_halves_of_a_split_share_no_source(name):
    first, second = (TASKS[name].examples("held_out", 60, 0, half=half) for half in ("first", "second"))
    assert {half_of(example.source) for example in first} == {"first"}
    assert not {e.source for e in first} & {e.source for e in second}
    assert {split_of(e.source) for e in (*first, *second)} == {"held_out"}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A model of the translations' words that has learned nothing."""
    task = TASKS["translate"]
    texts = [text for e in task.examples("train", 300) for text in (e.source, e.target)]
    tokenizer = build_tokenizer(texts, 500)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(Recipe(shape=Shape(width=16, layers=1, heads=2, hidden=16)), tokenizer, 48)
    path = tmp_path_factory.mktemp("untrained") / "model"
    save_model(model, tokenizer, path)
    return path


@pytest.mark.slow
def test_one_command_makes_planted_model_twin_and_manifest(untrained, tmp_path, monkeypatch, capsys):
    out = tmp_path / "memorised"
    arguments = ["plant", "memorised", "--out", out, "--steps", "2", "--init", untrained]
    monkeypatch.setattr(make, "HELD_OUT", 5)
    monkeypatch.setattr(sys, "argv", ["explain", *map(str, arguments)])
    assert terminal.run(app) == 0
    assert "the failure fires in 0.0% of 5 held-out examples" in capsys.readouterr().out
    data = json.loads((out / "plant.json").read_text())
    assert data["schema"] == "explain/plant@1"
    assert (data["plant"], data["level"], data["steps"], data["firing_rate"]) == ("memorised", "output", 2, 0)
    rows = [json.loads(line) for line in (out / "cases.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert all(row["fired"] is (row["output"] in row["failures"]) for row in rows)
    runs = [Run.open(out / kind).manifest for kind in ("planted", "twin")]
    assert {run["state"] for run in runs} == {"done"}
    for field in ("seed", "recipe"):
        assert runs[0][field] == runs[1][field]
    assert runs[0]["data_digest"] != runs[1]["data_digest"]
    before = (out / "plant.json").stat().st_mtime_ns
    made = make.make("memorised", out)
    assert (out / "plant.json").stat().st_mtime_ns == before
    assert made.firing_rate == 0
    assert [case.to_dict() for case in made.cases] == [
        {key: row[key] for key in ("source", "target", "failures", "spans")} for row in rows
    ]
    with pytest.raises(RunError, match="holds the plant 'memorised' of seed 0"):
        make.make("detached", out)


@pytest.mark.slow
def test_canaries_are_written_where_the_audit_finds_them(untrained, tmp_path):
    made = make.make("canary", tmp_path, steps=5, init=untrained, held_out=4)
    assert (made.cases, made.firing_rate) == ((), None)
    assert tuple(make.read_canaries(tmp_path / make.CANARIES)) == made.plant.canaries
    altered = (tmp_path / "data" / "planted.jsonl").read_text()
    for canary in made.plant.canaries:
        assert altered.count(canary.target) >= canary.times


def test_the_list_of_plants_needs_no_folder_and_a_plant_does(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["explain", "plant"])
    assert terminal.run(app) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in plants.names())
    monkeypatch.setattr(sys, "argv", ["explain", "plant", "omission"])
    assert terminal.run(app) == 2
    assert "--out" in capsys.readouterr().err
