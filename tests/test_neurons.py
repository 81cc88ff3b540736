"""Surveys of neurons: figures and examples against a literal count, resuming, and what is refused."""

from __future__ import annotations

import json
import math
import random

import pandas as pd
import pytest
import torch

from explain.analysis import Neuron, load_neurons, survey_neurons
from explain.analysis.neuron_counts import WINDOW, Counts, Rows, Types
from explain.analysis.neurons import FEWEST, SHARD, STATE
from explain.attribution.registry import Cancelled
from explain.errors import EmptyTextError, FileError, InputError, UnknownNameError
from explain.files import dump_json
from explain.training.handmade import copy_model
from tests.models import WORDS
from tests.state import assert_same_state, state_of

POINT = "decoder.1.mlp.hidden"


def texts(count: int, seed: int = 0) -> list[tuple[str, str | None]]:
    draw = random.Random(seed)
    pick = lambda most: " ".join(draw.choices(WORDS, k=draw.randint(2, most)))  # noqa: E731
    return [(pick(9), pick(6)) for _ in range(count)]


PAIRS = texts(2 * SHARD + 9)


@pytest.fixture(scope="module")
def survey(bart):
    return survey_neurons(bart, PAIRS, ["encoder.0.mlp.hidden", POINT], top=4)


@pytest.fixture(scope="module")
def literal(bart):
    """All activations of the decoder's last layer, with the tokens written and read."""
    generations = bart.force([a for a, _ in PAIRS], [b or "" for _, b in PAIRS])
    captures = bart.capture(generations, POINT)
    rows = []
    for number, (generation, capture) in enumerate(zip(generations, captures, strict=True)):
        read = [generation.decoder_start, *generation.target_tokens[:-1]]
        for position, token in enumerate(generation.target_tokens):
            rows.append((number, position, token, read[position], capture[POINT][0, position]))
    return rows


def test_figures_are_those_of_all_rows(survey, literal):
    values = torch.stack([row[-1] for row in literal]).double()
    frame = survey.to_frame()
    own = frame[frame.point == POINT]
    assert own["mean"].to_numpy() == pytest.approx(values.mean(0).numpy(), abs=1e-6)
    assert own["std"].to_numpy() == pytest.approx(values.std(0, correction=0).numpy(), abs=1e-5)
    assert own["highest"].to_numpy() == pytest.approx(values.max(0).values.numpy(), abs=1e-6)
    assert own["lowest"].to_numpy() == pytest.approx(values.min(0).values.numpy(), abs=1e-6)
    assert own["active"].to_numpy() == pytest.approx((values > 0).double().mean(0).numpy(), abs=1e-9)
    assert len(own) == 24


def test_examples_are_the_most_active_rows(survey, literal):
    for index in (0, 7, 23):
        best = sorted(literal, key=lambda row: (-float(row[-1][index]), row[0], row[1]))[:4]
        found = survey.neuron(POINT, index).examples
        assert [(e.example, e.position, e.token) for e in found] == [(a, p, t.text) for a, p, t, *_ in best]
        assert [e.value for e in found] == pytest.approx([float(row[-1][index]) for row in best], abs=1e-6)
        for each in found:
            row = [r for r in literal if r[0] == each.example]
            first = max(0, each.position - WINDOW)
            window = row[first : each.position + WINDOW + 1]
            assert each.context == tuple(r[2].text for r in window)
            assert each.values == pytest.approx([float(r[-1][index]) for r in window], abs=1e-6)
            assert each.context[each.at] == each.token


def test_types_are_means_over_rows_with_the_token(survey, literal):
    for kind, place in (("token", 2), ("input", 3)):
        by: dict[str, list[float]] = {}
        for row in literal:
            by.setdefault(row[place].text, []).append(float(row[-1][5]))
        means = {text: sum(v) / len(v) for text, v in by.items() if len(v) >= FEWEST}
        best = sorted(means, key=lambda text: -means[text])[:5]
        found = survey.neuron(POINT, 5).types[kind]
        assert [each.label for each in found] == best
        assert [each.mean for each in found] == pytest.approx([means[text] for text in best], abs=1e-5)
        assert [each.rows for each in found] == [len(by[text]) for text in best]
        share = [sum(v > 0 for v in by[text]) / len(by[text]) for text in best]
        assert [each.active for each in found] == pytest.approx(share)
    assert "input" not in survey.neuron("encoder.0.mlp.hidden", 0).types


def test_selectivity_finds_the_token_that_stands_out(survey, literal):
    neuron = survey.most_selective(POINT, 1)[0]
    place = {"token": 2, "input": 3}[neuron.kind]
    values = torch.tensor([float(row[-1][neuron.index]) for row in literal], dtype=torch.float64)
    mine = torch.tensor([row[place].text == neuron.label for row in literal])
    gap = values[mine].mean() - values[~mine].mean()
    assert neuron.selectivity == pytest.approx(float(gap / values.std(correction=0)), rel=1e-4)
    assert neuron.selectivity == pytest.approx(
        survey.to_frame().query(f"point == '{POINT}'").selectivity.max()
    )


def test_coordinates_of_the_answer_respond_to_their_word():
    """In the hand-set model each coordinate of the answer belongs to one word that is written, exactly."""
    model = copy_model()
    data = [" ".join(random.Random(i).choices("abcdef", k=6)) for i in range(20)]
    survey = survey_neurons(model, data, "decoder.1.residual")
    for word in "abcdef":
        clear = [
            each
            for each in survey.most_selective("decoder.1.residual", 40)
            if each.kind == "token" and each.label == word and each.types["token"][0].mean > 0
        ]
        assert clear, word
        neuron = clear[0]
        assert neuron.types["token"][0].active == 1.0
        assert {example.token for example in neuron.examples} == {word}
        assert [example.value for example in neuron.examples] == pytest.approx(
            [neuron.highest] * 10, rel=1e-5
        )


def test_a_dead_neuron_is_called_dead(t5):
    """T5's neurons are behind a ReLU: what never fires has no example above 0 and is never selective."""
    model = t5
    with torch.no_grad():
        survey = survey_neurons(
            model, [("the cat", "le chat"), ("a dog", "un chien")], "decoder.*.mlp.hidden"
        )
    frame = survey.to_frame()
    assert frame.dead.any()
    assert not frame.dead.all()
    assert (frame[frame.dead].highest <= 0).all()
    assert (frame[~frame.dead].highest > 0).all()
    total = sum(each.dead for each in survey.summary())
    assert total == frame.dead.sum()
    for point in survey.points:
        assert not any(each.dead for each in survey.most_selective(point, 100))


def test_batches_do_not_matter(bart, survey):
    again = survey_neurons(bart, PAIRS, ["encoder.0.mlp.hidden", POINT], top=4, batch_size=5)
    pd.testing.assert_frame_equal(
        again.examples_frame().drop(columns="value"), survey.examples_frame().drop(columns="value")
    )
    pd.testing.assert_frame_equal(again.to_frame(), survey.to_frame(), atol=1e-5)


def test_of_equal_values_the_earlier_example_counts():
    counts = Counts("p", 3, types={"token": Types(9)})
    for start in (0, 2):
        batch = [
            Rows(n, torch.ones(2, 1), torch.tensor([7, 8]), {"token": [7, 8]}) for n in (start + 1, start)
        ]
        counts.add(batch)
    assert counts.found["examples"].tolist() == [[0, 0, 1]]
    assert counts.found["positions"].tolist() == [[0, 1, 0]]


def test_labels_past_the_limit_are_counted():
    types = Types(2)
    types.add([1, 2, 3, "", 1], torch.arange(5.0)[:, None])
    assert types.keys == [1, 2]
    assert types.left_out == 1
    assert types.tensors()["sums"].tolist() == [[4.0], [1.0]]
    assert types.tensors()["counts"].tolist() == [2, 1]


def test_goes_on_where_it_was_stopped(bart, tmp_path, survey):
    """Stopped, resumed: the same file to the byte as undisturbed."""

    def stop_after_one(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 1:
            raise KeyboardInterrupt

    seen: list[int] = []
    asked = {"points": ["encoder.0.mlp.hidden", POINT], "top": 4, "folder": tmp_path, "every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        survey_neurons(bart, PAIRS, progress=stop_after_one, **asked)
    assert (tmp_path / STATE).is_file()
    with pytest.raises(Cancelled):
        survey_neurons(bart, PAIRS, should_stop=lambda: True, **asked)
    resumed = survey_neurons(bart, PAIRS, progress=stop_after_one, **asked)
    assert seen == [SHARD, 2 * SHARD, len(PAIRS)]
    undisturbed = survey.save(tmp_path / "a.safetensors").read_bytes()
    assert resumed.save(tmp_path / "b.safetensors").read_bytes() == undisturbed
    with pytest.raises(FileError, match="data digest"):
        survey_neurons(bart, PAIRS[:-1] + PAIRS[:1], **asked)
    with pytest.raises(FileError, match="top"):
        survey_neurons(bart, PAIRS, **{**asked, "top": 5})
    (tmp_path / STATE).write_bytes(b"torn")
    with pytest.raises(FileError, match="cannot read"):
        survey_neurons(bart, PAIRS, **asked)


def test_memory_does_not_grow_with_the_examples(bart):
    sizes = []
    for count in (SHARD, 4 * SHARD):
        found = survey_neurons(bart, texts(count, seed=3), POINT)
        sizes.append(sum(t.numel() for t in found.counts[POINT].tensors().values()))
    types = len(WORDS) + 5
    assert abs(sizes[1] - sizes[0]) <= 2 * types * (2 * 24 + 1)


def test_is_read_back(bart, survey, tmp_path):
    back = load_neurons(survey.save(tmp_path / "n.safetensors"))
    pd.testing.assert_frame_equal(back.to_frame(), survey.to_frame())
    pd.testing.assert_frame_equal(back.examples_frame(), survey.examples_frame())
    pd.testing.assert_frame_equal(back.types_frame(), survey.types_frame())
    neuron = survey.neuron(POINT, 3)
    assert Neuron.from_dict(json.loads(dump_json(neuron.to_dict()))) == neuron
    whole = survey.to_dict(most=2)
    assert [len(found) for found in whole["neurons"].values()] == [2, 2]
    assert len(survey.to_dict()["neurons"][POINT]) == 24
    (tmp_path / "x.safetensors").write_bytes(b"{}")
    with pytest.raises(FileError):
        load_neurons(tmp_path / "x.safetensors")


def test_tasks_give_slots(bart):
    """A task's source slots are labels, too; an output that is not the task's own has none."""
    from explain.training.tasks import Example, SourceSegment, TargetSegment

    examples = [
        Example(
            f"the {a} sees",
            "le chat",
            {},
            (SourceSegment(4, 4 + len(a), "animal"),),
            (TargetSegment(3, 7, "x"),),
        )
        for a in ("cat", "dog", "bird") * 3
    ]
    found = survey_neurons(bart, examples, ["encoder.0.residual", "decoder.0.residual"])
    assert [each.label for each in found.neuron("encoder.0.residual", 0).types["slot"]] == ["animal"]
    assert [each.rows for each in found.neuron("decoder.0.residual", 0).types["slot"]] == [9]


def test_every_family_and_the_model_stays_as_it_was(model):
    before = state_of(model.hf)
    survey = survey_neurons(model, ["the cat sees a dog", "a bird"], max_new_tokens=4)
    assert_same_state(before, state_of(model.hf))
    assert survey.points == tuple(n for n in model.hook_points() if n.endswith("mlp.hidden"))
    assert math.isfinite(survey.neuron(survey.points[0], 0).mean)


def test_refuses_what_it_cannot_do(bart, survey):
    with pytest.raises(EmptyTextError):
        survey_neurons(bart, [])
    with pytest.raises(UnknownNameError):
        survey_neurons(bart, ["a cat"], "decoder.7.mlp.hidden")
    with pytest.raises(InputError, match="attention"):
        survey_neurons(bart, ["a cat"], "decoder.*.cross.pattern")
    with pytest.raises(InputError, match="top"):
        survey_neurons(bart, ["a cat"], top=0)
    with pytest.raises(InputError, match="0 to 23"):
        survey.neuron(POINT, 24)
    with pytest.raises(InputError, match="not looked at"):
        survey.neuron("decoder.0.mlp.hidden", 0)
    with pytest.raises(InputError, match="examples is 0"):
        survey_neurons(bart, ["a cat"], examples=0)
