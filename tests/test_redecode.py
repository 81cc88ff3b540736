"""Writing anew under an intervention: what is written then, and how it differs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from explain.analysis import Change, Edit, Hidden, Redecoded, redecode
from explain.errors import InputError, UnknownNameError
from explain.training.handmade import COPY, DITTO_FLAG, LOGIT, copy_model, ditto_model
from tests.interventions import ONE, captured
from tests.state import assert_same_state, state_of

SIZE = 24  # tokens in the vocabulary of the hand-set models
HEAD = Edit(f"{COPY.block}.z", (COPY.index,))


@pytest.fixture(scope="module")
def copier():
    return copy_model()


def test_without_its_head_the_copy_is_gone(copier):
    result = redecode(copier, "a b c", [HEAD], max_new_tokens=6)
    assert result.before.target_text == "a b c"
    assert result.changed
    assert result.after.target_text != "a b c"
    torch.testing.assert_close(result.log_probs, torch.full((4,), -math.log(SIZE)), atol=1e-4, rtol=0)
    certain = LOGIT - math.log(math.exp(LOGIT) + SIZE - 1)
    torch.testing.assert_close(result.lost, torch.full((4,), certain + math.log(SIZE)), atol=1e-4, rtol=0)


@given(layer=st.integers(0, 1), head=st.integers(0, 1), block=st.sampled_from(["self", "cross"]))
def test_no_other_head_changes_what_is_written(copier, layer, head, block):
    point = f"decoder.{layer}.{block}"
    result = redecode(copier, "a b c", [Edit(f"{point}.z", (head,))], max_new_tokens=6)
    assert result.changed == (point == COPY.block and head == COPY.index)
    if not result.changed:
        assert [change.kind for change in result.changes] == ["equal"]
        torch.testing.assert_close(result.lost, torch.zeros(4), atol=1e-4, rtol=0)


def test_without_the_flag_nothing_is_repeated():
    """What stands in for the repeated word is not what was written before."""
    model = ditto_model()
    result = redecode(model, "a ditto c", [Edit(f"{DITTO_FLAG.block}.z", (DITTO_FLAG.index,))])
    assert result.before.target_text == "a a c"
    differing = [change for change in result.changes if change.kind != "equal"]
    assert differing[0].before[0] == 1
    assert float(result.lost[1]) > 1
    assert float(result.lost[[0, 2]].abs().max()) < 1e-2


def test_edits_and_functions_say_the_same(model):
    """For every family and with beams; the second output is what the model writes inside the intervention."""
    value = torch.linspace(-1, 1, 8)

    def put(tensor):
        tensor[:, 1] = value
        return tensor

    for options in ({}, {"num_beams": 2}):
        controls = {"max_new_tokens": 6, **options}
        edited = redecode(model, ONE[0], [Edit("decoder.1.cross.z", (1,), value)], **controls)
        called = redecode(model, ONE[0], {"decoder.1.cross.z": put}, **controls)
        with model.intervene({"decoder.1.cross.z": put}):
            written = model.generate(ONE[0], **controls)
            scored = model.generate(ONE[0], **controls).log_probs
        assert edited.before.target_ids.tolist() == model.generate(ONE[0], **controls).target_ids.tolist()
        for result in (edited, called):
            assert result.after.target_ids.tolist() == written.target_ids.tolist()
            torch.testing.assert_close(result.after.log_probs, scored)
            assert result.points == ("decoder.1.cross.z",)
        torch.testing.assert_close(edited.log_probs, called.log_probs, atol=1e-5, rtol=1e-5)


def test_keys_that_come_later_are_hidden_once_they_are_there(bart):
    """A knockout of the own prefix while writing: the same as struck-out attention in one pass."""
    hidden = Hidden((), (1,), (0, 1))
    result = redecode(bart, ONE[0], hidden.edits(), max_new_tokens=6)
    wanted = bart.force(ONE[0], result.after.target_text) if result.after.finished else None

    def strike(scores):
        scores[..., 2] = -math.inf
        return scores

    with bart.intervene({"decoder.*.self.scores": strike}):
        patterns = captured(bart, result.after, "decoder.*.self.pattern")
        found = bart.capture(result.after, "logits")["logits"][0].log_softmax(-1)
    assert all(float(p[:, :, 2].max()) == 0 for p in patterns.values())
    # Greedy: what was written step by step is the most likely token of the one pass.
    assert found.argmax(-1).tolist() == result.after.target_ids.tolist()
    assert wanted is None or wanted.target_ids.tolist() == result.after.target_ids.tolist()


@given(st.data())
def test_the_difference_covers_both_outputs(bart, data):
    scale = data.draw(st.floats(-4, 4))
    result = redecode(bart, ONE[0], {"decoder.1.cross.z": lambda z: z * scale}, max_new_tokens=5)
    before, after = result.before.target_ids.tolist(), result.after.target_ids.tolist()
    assert [t for change in result.changes for t in range(*change.before)] == list(range(len(before)))
    assert [t for change in result.changes for t in range(*change.after)] == list(range(len(after)))
    for change in result.changes:
        same = before[slice(*change.before)] == after[slice(*change.after)]
        assert same == (change.kind == "equal")
    assert result.changed == (before != after)


def test_tables_and_files(copier):
    result = redecode(copier, "a b c", [HEAD], max_new_tokens=6)
    frame = result.to_frame()
    pairs = [(row.before_index, row.before) for row in frame.itertuples() if row.before]
    assert pairs == [(0, "a"), (1, "b"), (2, "c"), (3, "</s>")]
    assert frame.dropna(subset=["after_index"])["after_index"].tolist() == list(
        range(len(result.after.target_tokens))
    )
    again = Redecoded.from_dict(result.to_dict())
    assert again.to_dict() == result.to_dict()
    assert again.changes == result.changes
    assert Change.from_dict(result.changes[0].to_dict()) == result.changes[0]


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ([], InputError, "nothing is changed"),
        ({}, InputError, "nothing is changed"),
        ([Edit("decoder.0.residual", (1,))], InputError, "decoder position 1"),
        ([Edit("decoder.0.cross.z", (0, 1))], InputError, "decoder position 1"),
        ([Edit("decoder.0.cross.z", (5,))], InputError, "shape"),
        ([Edit("decoder.7.cross.z", (0,))], UnknownNameError, r"decoder\.7"),
        ([Edit("encoder.0.residual", (40,))], InputError, "shape"),
    ],
)
def test_wrong_edits_are_refused_and_leave_nothing(bart, changes, error, says):
    before = state_of(bart.hf)
    with pytest.raises(error, match=says):
        redecode(bart, ONE[0], changes, max_new_tokens=4)
    assert_same_state(before, state_of(bart.hf))
    assert bart.intervened == ()


def test_one_text_at_a_time_and_known_controls(bart):
    with pytest.raises(InputError, match="one source text"):
        redecode(bart, [ONE[0]], [Edit("decoder.0.cross.z", (0,))])
    with pytest.raises(UnknownNameError, match="warmth"):
        redecode(bart, ONE[0], [Edit("decoder.0.cross.z", (0,))], warmth=3)
