"""Folders saved by `save_pretrained`, with the tokenizer class each family really has."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import explain
from explain.errors import InputError
from explain.model import Seq2Seq, doctor
from tests.models import network, tiny
from tests.tokenizers import real_tokenizer

KINDS = ["t5", "mt5", "bart", "mbart", "mbart50", "marian", "m2m_100", "pegasus"]
LANGUAGES = {"mbart": ("en_XX", "fr_XX"), "mbart50": ("en_XX", "fr_XX"), "m2m_100": ("en", "fr")}
STARTS_WITH_PAD = ("t5", "mt5", "marian", "pegasus")


@pytest.fixture(scope="module", params=KINDS)
def opened(request, tmp_path_factory) -> tuple[str, Seq2Seq, dict[str, str]]:
    """A family's name, its model loaded from a folder, and the languages to ask for."""
    kind = request.param
    folder: Path = tmp_path_factory.mktemp(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Marian recommends a package that it does not need
        tokenizer = real_tokenizer(kind, folder)
        start = tokenizer.pad_token_id if kind in STARTS_WITH_PAD else tokenizer.eos_token_id
        model = network(
            "mbart" if kind == "mbart50" else kind,
            vocab_size=200,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=start,
        )
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    languages = LANGUAGES.get(kind)
    names = ("source_language", "target_language")
    return kind, explain.load(folder / "model"), dict(zip(names, languages, strict=True)) if languages else {}


def test_the_folder_passes_the_doctor(opened):
    _, model, _ = opened
    assert all(check.passed for check in doctor(model))


def test_tokens_stand_where_their_text_stands(opened):
    _, model, languages = opened
    generation = model.force("the cat sees a big dog", "le chat", **languages)
    for tokens, text in (
        (generation.source_tokens, generation.source_text),
        (generation.target_tokens, generation.target_text),
    ):
        spelled = "".join(text[t.start : t.end] for t in tokens if not t.special)
        assert spelled == text.replace(" ", "")
        assert [t.start for t in tokens] == sorted(t.start for t in tokens)
        assert all(t.start == t.end for t in tokens if t.special)
    assert generation.target_text == "le chat"
    assert generation.target_tokens[-1].id == model.eos_id
    words = model.attribute(generation, method="attention").words()
    assert [t.text for t in words.source_tokens if not t.special] == "the cat sees a big dog".split()
    assert [t.text for t in words.target_tokens if not t.special] == ["le", "chat"]


def test_ids_end_to_end(opened):
    kind, model, languages = opened
    generation = model.generate("the cat sees a dog", max_new_tokens=5, **languages)
    assert len(generation.target_tokens) == len(generation.log_probs) <= 5
    if kind == "mbart":  # its code is the decoder start, as it was trained
        assert generation.decoder_start.text == "fr_XX"
    elif languages:
        assert generation.target_tokens[0].forced
        assert generation.target_tokens[0].special
    assert all(isinstance(token.text, str) and token.text for token in generation.target_tokens), kind
    att = model.attribute(generation, method="integrated_gradients", steps=8, max_steps=8)
    assert att.source.isfinite().all()


def test_generate_and_force_agree_on_where_an_output_starts(opened):
    _, model, languages = opened
    written = model.generate("the cat sees a dog", max_new_tokens=3, **languages)
    given = model.force("the cat sees a dog", "le chat", **languages)
    assert written.decoder_start.id == given.decoder_start.id
    if written.target_tokens[0].forced:
        assert written.target_tokens[0].id == given.target_tokens[0].id


def test_a_foil_sentence_is_aligned_after_language_codes(opened):
    """le ↔ la, chat = chat, oiseau ↔ arbre; codes and <s> before them have nothing to contrast."""
    kind, model, languages = opened
    if kind == "bart":
        pytest.skip("this vocabulary spells BART's words letter by letter")
    generation = model.force("the cat sees a dog", "le chat oiseau", **languages)
    att = model.attribute(generation, method="saliency", contrast="la chat arbre")
    text = dict(zip([t.text for t in generation.target_tokens], att.config["contrasted"], strict=True))
    wanted = {"le": True, "chat": False, "oiseau": True, "</s>": False}
    assert {token: text[token] for token in wanted} == wanted
    assert not any(contrasted for token, contrasted in text.items() if token not in wanted)


def test_asking_for_a_language_leaves_the_tokenizer_as_it_was(opened):
    kind, model, languages = opened
    if not languages:
        with pytest.raises(InputError, match="no languages"):
            model.generate("the cat", source_language="en_XX")
        return
    before = (model.tokenizer.src_lang, model.tokenizer.tgt_lang)
    with pytest.raises(InputError, match="xx_XX"):
        model.generate("the cat", source_language=languages["source_language"], target_language="xx_XX")
    assert (model.tokenizer.src_lang, model.tokenizer.tgt_lang) == before, kind


def test_a_loaded_model_is_the_saved_one(opened, tmp_path):
    _, model, _ = opened
    model.hf.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    state = model.hf.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in saved.items())


def test_bfloat16_is_a_setting_that_works(folder):
    whole, half = explain.load(folder), explain.load(folder, dtype="bfloat16")
    assert half.hf.dtype == torch.bfloat16
    left, right = (m.force("the cat sees", "le chat") for m in (whole, half))
    torch.testing.assert_close(left.log_probs, right.log_probs, atol=0.15, rtol=0.05)
    att = half.attribute(right, method="occlusion")
    assert att.source.dtype == torch.float32
    assert all(check.passed for check in doctor(half))


def test_a_run_folder_means_its_model(folder, tmp_path):
    (tmp_path / "run.json").write_text('{"schema": "explain/run@1", "state": "done", "model": "best"}')
    (tmp_path / "best").symlink_to(folder)
    assert explain.load(tmp_path).digest == explain.load(folder).digest


def test_saving_does_not_change_a_models_digest(tmp_path):
    made = tiny("t5", seed=3)
    made.hf.config.architectures = None  # as in any model that was built in memory
    before = made.digest
    made.hf.save_pretrained(tmp_path)
    made.tokenizer.save_pretrained(tmp_path)
    assert explain.load(tmp_path).digest == before
