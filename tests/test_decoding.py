"""Beginnings that are given, the tree of a beam search, and what sampling makes of logits that are there."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import explain
from explain.errors import InputError, TextTooLongError, UnknownNameError
from explain.model.sampling import entropy_of, reshaped
from explain.results import BeamSearch
from tests.conftest import SENTENCES
from tests.models import network, tiny, tokenizer
from tests.state import assert_same_state, state_of
from tests.test_generation import same
from tests.tokenizers import real_tokenizer

SOURCE = SENTENCES[0]


# ---- a given beginning -------------------------------------------------------------------------------------


def test_every_beginning_of_an_output_leads_to_that_output(model):
    whole = model.generate(SOURCE, max_new_tokens=8, repetition_penalty=1.3)
    ids = whole.target_ids.tolist()
    for length in range(len(ids)):
        again = model.continue_from(SOURCE, ids[:length], max_new_tokens=8 - length, repetition_penalty=1.3)
        same(whole, again)
        assert [token.forced for token in again.target_tokens] == [at < length for at in range(len(ids))]
    assert model.continue_from(SOURCE, whole.target_ids[:2], max_new_tokens=1).settings["prefix_tokens"] == 2


def test_another_beginning_is_kept_and_the_rest_is_what_the_model_writes_after_it(model):
    first = model.generate(SOURCE, max_new_tokens=5)
    other = [*first.target_ids[:1].tolist(), first.alternatives(1, 3)[2].id]
    branch = model.continue_from(SOURCE, other, max_new_tokens=4)
    assert branch.target_ids[:2].tolist() == other
    assert (branch.ranks[2:] == 1).all(), "greedy after the beginning"
    assert int(branch.ranks[1]) == 3
    assert float(branch.log_probs[1]) == pytest.approx(first.alternatives(1, 3)[2].log_prob, abs=1e-4)


@pytest.mark.parametrize("kind", ["mbart", "mbart50", "m2m_100"])
def test_language_codes_are_part_of_the_ids(kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        words = real_tokenizer(kind, tmp_path)
    hf = network(
        "mbart" if kind == "mbart50" else kind,
        vocab_size=200,
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.eos_token_id,
    )
    model = explain.wrap(hf, words)
    names = {"source_language": "en", "target_language": "fr"}
    languages = {key: value if kind == "m2m_100" else f"{value}_XX" for key, value in names.items()}
    whole = model.generate(SOURCE, max_new_tokens=6, **languages)
    ids = whole.target_ids.tolist()
    for length in (0, 1, 3):
        again = model.continue_from(SOURCE, ids[:length], max_new_tokens=6 - length, **languages)
        same(whole, again)
        assert again.decoder_start == whole.decoder_start
        forced = max(length, 0 if kind == "mbart" else 1)  # the code is forced where it is the first token
        assert [token.forced for token in again.target_tokens] == [at < forced for at in range(len(ids))]


def test_a_forced_first_token_is_written_only_at_the_beginning():
    model = explain.wrap(network("bart", forced_bos_token_id=10), tokenizer())
    model.hf.generation_config.forced_bos_token_id = 10
    whole = model.generate(SOURCE, max_new_tokens=6)
    ids = whole.target_ids.tolist()
    assert ids[0] == 10
    for length in (0, 1, 2):
        same(whole, model.continue_from(SOURCE, ids[:length], max_new_tokens=6 - length))


def test_what_may_not_begin_an_output_may_come_later():
    model = tiny("bart")
    free = model.generate(SOURCE, max_new_tokens=4)
    banned = int(free.target_ids[2])
    model.hf.generation_config.begin_suppress_tokens = [banned]
    assert int(model.continue_from(SOURCE, free.target_ids[:2], max_new_tokens=1).target_ids[2]) == banned
    model.hf.generation_config.begin_suppress_tokens = [int(free.target_ids[0])]
    assert model.generate(SOURCE, max_new_tokens=1).target_ids[0] != free.target_ids[0]


def test_a_beginning_that_is_the_whole_output_is_only_scored(bart):
    ids = [*bart.force(SOURCE, "le chat").target_ids.tolist()]
    same(bart.continue_from(SOURCE, ids), bart.force(SOURCE, "le chat"))
    assert bart.beam_search(SOURCE, prefix_ids=ids).nodes == ()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([2, 7], "ends the output at place 0"),
        ([7, 10_000], "10000 at place 1"),
        ([-1], "-1 at place 0"),
        (["le"], "token ids"),
        ([True], "token ids"),
    ],
)
def test_a_beginning_that_is_none_is_refused(bart, ids, message):
    with pytest.raises(InputError, match=message):
        bart.continue_from(SOURCE, ids)


def test_a_beginning_that_leaves_no_room_is_refused(bart):
    with pytest.raises(TextTooLongError, match="has 63 tokens, but the model has positions for 63"):
        bart.continue_from(SOURCE, [7] * 63)
    assert len(bart.continue_from(SOURCE, [7] * 62).target_tokens) == 63


def test_one_text_at_a_time_and_only_known_controls(bart):
    with pytest.raises(InputError, match="one source text"):
        bart.continue_from([SOURCE], [7])
    with pytest.raises(UnknownNameError, match="num_beams"):
        bart.continue_from(SOURCE, [7], num_beam=2)


def test_nothing_is_left_behind(bart):
    before = state_of(bart.hf)
    bart.continue_from(SOURCE, [7], max_new_tokens=3)
    bart.beam_search(SOURCE, max_new_tokens=3)
    with pytest.raises(InputError):
        bart.continue_from(SOURCE, [7], num_beams=0)
    assert_same_state(before, state_of(bart.hf))


# ---- the tree of a beam search -----------------------------------------------------------------------------


def theirs(model, source, **controls):
    """Hugging Face's own beams of a source."""
    rows = torch.tensor([[token.id for token in model.force(source, "le").source_tokens]])
    return model.hf.generate(
        input_ids=rows,
        attention_mask=torch.ones_like(rows),
        num_return_sequences=controls["num_beams"],
        return_dict_in_generate=True,
        output_scores=True,
        do_sample=False,
        **controls,
    )


@pytest.mark.parametrize(
    "controls",
    [
        {"num_beams": 4, "max_new_tokens": 7},
        {"num_beams": 3, "max_new_tokens": 6, "length_penalty": -1.0},
        {"num_beams": 5, "max_new_tokens": 6, "length_penalty": 2.0, "early_stopping": True},
        {"num_beams": 4, "max_new_tokens": 6, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    ],
)
def test_ids_and_scores_are_hugging_faces(model, controls):
    found = model.beam_search(SOURCE, **controls)
    wanted = theirs(model, SOURCE, **controls)
    steps = model.hf.compute_transition_scores(
        wanted.sequences, wanted.scores, wanted.beam_indices, normalize_logits=False
    )
    assert list(found.ends()) == list(range(controls["num_beams"]))
    for place, end in found.ends().items():
        ids = found.ids(end)
        assert wanted.sequences[place, 1:].tolist()[: len(ids)] == ids
        assert found.nodes[end].score == pytest.approx(float(wanted.sequences_scores[place]), abs=1e-5)
        path = [found.nodes[at].log_prob for at in found.path(end)]
        torch.testing.assert_close(torch.tensor(path), steps[place, : len(ids)], atol=1e-5, rtol=1e-5)
        assert found.nodes[end].total == pytest.approx(math.fsum(path), abs=1e-4)
        assert found.nodes[end].ended
    assert found.ids(found.ends()[0]) == found.generation.target_ids.tolist()


class Spy(LogitsProcessor):
    """Keeps the beginnings that a search asks about."""

    def __init__(self):
        self.seen: set[tuple[int, ...]] = set()

    def __call__(self, input_ids, scores):
        self.seen.update(tuple(row) for row in input_ids[:, 1:].tolist() if row)
        return scores


def test_the_tree_holds_every_beam_that_was_followed(bart):
    found = bart.beam_search(SOURCE, num_beams=3, max_new_tokens=6)
    spy = Spy()
    rows = found.generation.source_ids[None]
    spies = LogitsProcessorList([spy])
    bart.hf.generate(input_ids=rows, num_beams=3, max_new_tokens=6, logits_processor=spies)
    mine = {tuple(found.ids(at)) for at in range(len(found.nodes))}
    ended = {tuple(found.ids(at)) for at, node in enumerate(found.nodes) if node.ended}
    assert mine == spy.seen | ended
    assert len(found.returned()) < len(found.nodes), "some were dropped"


def test_beams_that_begin_alike_share_their_nodes(bart):
    found = bart.beam_search(SOURCE, num_beams=4, max_new_tokens=6)
    paths = [tuple(found.ids(at)) for at in range(len(found.nodes))]
    assert len(set(paths)) == len(paths)
    for at, node in enumerate(found.nodes):
        assert node.parent < at
        assert node.step == len(paths[at]) - 1
        parent = found.nodes[node.parent].total if node.parent >= 0 else 0.0
        assert node.total == pytest.approx(parent + node.log_prob, abs=1e-4)
    assert sorted(child for kept in found.children().values() for child in kept) == list(range(len(paths)))


def test_texts_of_nodes_add_up_to_the_beam(model):
    found = model.beam_search(SOURCE, num_beams=3, max_new_tokens=5)
    for place, end in found.ends().items():
        nodes = [found.nodes[at] for at in found.path(end)]
        spelled = "".join(node.lead + node.text for node in nodes if not node.special)
        assert spelled == found.generation.beams[place].text


def test_a_search_after_a_given_beginning(bart):
    first = bart.beam_search(SOURCE, num_beams=3, max_new_tokens=6)
    prefix = first.generation.target_ids[:2].tolist()
    found = bart.beam_search(SOURCE, prefix_ids=prefix, num_beams=3, max_new_tokens=4)
    assert {node.step for node in found.nodes} == {2, 3, 4, 5}
    best = found.ends()[0]
    assert [*prefix, *found.ids(best)] == found.generation.target_ids.tolist()
    assert found.nodes[best].score == pytest.approx(found.generation.beams[0].score, abs=1e-5)
    assert found.nodes[best].score == pytest.approx(float(found.generation.log_probs[2:].mean()), abs=1e-4)


def test_a_forced_first_token_is_one_branch():
    model = explain.wrap(network("bart", forced_bos_token_id=10), tokenizer())
    model.hf.generation_config.forced_bos_token_id = 10
    found = model.beam_search(SOURCE, num_beams=3, max_new_tokens=4)
    assert [node.id for node in found.nodes if node.parent == -1] == [10]
    assert found.nodes[0].log_prob == 0.0
    assert len(found.ends()) == 3


def test_more_beams_than_tokens_does_no_harm():
    model = tiny("bart")
    found = model.beam_search(SOURCE, num_beams=60, max_new_tokens=2)
    assert all(math.isfinite(node.total) for node in found.nodes)
    assert found.ids(found.ends()[0]) == found.generation.target_ids.tolist()


def test_a_search_survives_json_and_is_a_table(bart):
    found = bart.beam_search(SOURCE, num_beams=3, max_new_tokens=4)
    again = BeamSearch.from_dict(found.to_dict())
    assert again.nodes == found.nodes
    table = found.to_frame()
    assert len(table) == len(found.nodes)
    assert table["returned"].sum() == len(found.returned())
    assert sorted(table["place"].dropna()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("controls", "message"), [({"do_sample": True}, "draws"), ({"num_beams": 1}, "at least 2")]
)
def test_what_is_no_beam_search_is_refused(bart, controls, message):
    with pytest.raises(InputError, match=message):
        bart.beam_search(SOURCE, **controls)


# ---- sampling on kept logits -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "controls",
    [
        {"temperature": 0.6},
        {"temperature": 1.7, "top_k": 7},
        {"top_p": 0.8},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.7},
        {"top_k": 1000},
    ],
)
def test_kept_logits_become_what_generate_draws_from(model, controls):
    full = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | controls
    rows = model.force(SOURCE, "le").source_ids[None]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        output = model.hf.generate(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            max_new_tokens=5,
            do_sample=True,
            output_scores=True,
            return_dict_in_generate=True,
            **full,
        )
    ids = output.sequences[0, 1:].tolist()
    written = model.continue_from(SOURCE, ids[:-1], max_new_tokens=1)
    logits = model.capture(written, "logits")["logits"][0]
    mine = reshaped(logits, **full)
    for step, scores in enumerate(output.scores):
        wanted = scores[0].log_softmax(-1)
        assert torch.equal(mine[step].isinf(), wanted.isinf())
        kept = ~wanted.isinf()
        torch.testing.assert_close(mine[step][kept], wanted[kept], atol=1e-4, rtol=1e-4)


def test_log_probabilities_do_as_well_as_logits_and_defaults_change_nothing():
    logits = torch.randn(3, 2, 11, generator=torch.Generator().manual_seed(0)) * 3
    plain = logits.log_softmax(-1)
    torch.testing.assert_close(reshaped(logits), plain)
    torch.testing.assert_close(
        reshaped(plain, temperature=0.7, top_p=0.9).exp(), reshaped(logits, temperature=0.7, top_p=0.9).exp()
    )
    assert torch.equal((reshaped(logits, top_k=4) > -math.inf).sum(-1), torch.full((3, 2), 4))


def test_entropy_falls_with_temperature_and_is_0_for_one_token():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    cold, plain, warm = (float(entropy_of(reshaped(logits, temperature=t))) for t in (0.5, 1.0, 2.0))
    assert cold < plain < warm < math.log(4)
    assert float(entropy_of(reshaped(logits, top_k=1))) == 0.0
    wanted = float(torch.distributions.Categorical(logits=logits).entropy())
    assert plain == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("controls", [{"temperature": 0.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.2}])
def test_reshaping_out_of_range_is_refused(controls):
    with pytest.raises(InputError, match=next(iter(controls))):
        reshaped(torch.zeros(4), **controls)
