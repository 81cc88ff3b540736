"""Data before training: folders, bad rows, previews, numbers, a split that stays, tokenizers, presets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from explain import terminal
from explain.cli import app
from explain.errors import (
    EmptyTextError,
    EncodingError,
    ExplainError,
    FileError,
    InputError,
    UnknownNameError,
)
from explain.training import presets, recipes
from explain.training.config import TOKENIZERS, TrainConfig
from explain.training.data import BadRow, Pair, files_of, head, iter_table, read_table, split
from explain.training.material import of_files
from explain.training.statistics import preview, statistics
from explain.training.tokenizer import build_tokenizer

GOOD = "source\ttarget\n" + "".join(f"the cat {number}\tle chat {number % 7}\n" for number in range(40))
BAD = {
    42: ("alone\n", FileError, "another number of fields"),
    43: (" \tb\n", EmptyTextError, "empty source"),
    44: ("a\t\n", EmptyTextError, "empty target"),
    45: (b"\xe9t\xe9\tb\n", EncodingError, "is not UTF-8"),
}


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """Forty good rows, four bad ones, and one more good one."""
    path = tmp_path / "flawed.tsv"
    lines = [line if isinstance(line, bytes) else line.encode() for line, _, _ in BAD.values()]
    path.write_bytes(GOOD.encode() + b"".join(lines) + b"the last\tle dernier\n")
    return path


def usable(path: Path, bad: list[BadRow] | None = None) -> list[Pair]:
    return [pair for pair, _ in iter_table(path, bad=bad)]


# ---- files and folders ----------------------------------------------------------------------------------


def test_a_folder_is_all_data_files_in_it_by_name(tmp_path):
    (tmp_path / "b.tsv").write_text("source\ttarget\nc\td\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jsonl").write_text('{"source": "a", "target": "b"}\n')
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / ".hidden.tsv").write_text("source\ttarget\nno\tno\n")
    assert read_table(tmp_path) == [Pair("a", "b"), Pair("c", "d")]
    assert [path.name for path in files_of(tmp_path)] == ["x.jsonl", "b.tsv"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="empty holds no data files"):
        read_table(tmp_path / "empty")


def test_every_bad_row_is_told_with_its_line_and_the_others_are_kept(flawed):
    bad: list[BadRow] = []
    pairs = usable(flawed, bad)
    assert len(pairs) == 41
    assert pairs[-1] == Pair("the last", "le dernier")
    assert [row.place for row in bad] == [f"line {number}" for number in BAD]
    for row, (_, kind, message) in zip(bad, BAD.values(), strict=True):
        assert type(row.error) is kind
        assert message in str(row.error)
        assert f"{flawed}, {row.place}" in str(row.error)


def test_bad_json_and_parquet_rows_are_told(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"source": "a", "target": "b"}\nnope\n["a"]\n{"source": "a"}\n{"source": 3, "target": "b"}\n'
    )
    bad: list[BadRow] = []
    assert usable(tmp_path / "a.jsonl", bad) == [Pair("a", "b")]
    assert [row.place for row in bad] == ["line 2", "line 3", "line 4", "line 5"]
    pd.DataFrame({"source": ["a", None], "target": ["b", "c"]}).to_parquet(tmp_path / "a.parquet")
    assert usable(tmp_path / "a.parquet", bad) == [Pair("a", "b")]
    assert bad[-1].place == "row 2"


def test_a_file_of_bad_rows_alone_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("source\ttarget\nx\n")
    with pytest.raises(FileError, match="line 2 has another number"):
        usable(tmp_path / "a.tsv", [])


def test_training_refuses_bad_rows_unless_they_are_to_be_left_out(flawed):
    with pytest.raises(FileError, match=r"^4 rows cannot be used: .*line 42 has .*--skip-bad-rows") as caught:
        of_files(TrainConfig(data=str(flawed)))
    assert all(f"line {number}" in str(caught.value) for number in BAD)
    material = of_files(TrainConfig(data=str(flawed), skip_bad_rows=True))
    assert len(material.train) + len(material.validation) == 41
    assert material.facts["left_out"]["rows"] == 4
    assert "line 45" in material.notes[0]


# ---- split ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_that_are_added_move_no_other_row(seed):
    pairs = [Pair(f"source {number}", "x") for number in range(600)]
    before, after = split(pairs[:500], seed=seed), split(pairs[::-1], seed=seed)
    assert len(after[1]) > len(before[1]) > 1
    assert set(before[0]) < set(after[0])
    assert set(before[1]) < set(after[1])
    assert not set(after[0]) & set(after[1])


def test_about_one_source_in_twenty_is_held_out():
    pairs = [Pair(f"source {number}", "x") for number in range(4_000)]
    assert 150 < len(split(pairs)[1]) < 250
    assert 340 < len(split(pairs, share=0.1)[1]) < 460


# ---- preview and numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.parquet"])
def test_a_preview_shows_all_columns_and_guesses_source_and_target(tmp_path, name):
    frame = pd.DataFrame({"id": ["1", "2", "3"], "note": ["a b", "c", "d"], "target": ["x", "y", "z"]})
    path = tmp_path / name
    if name == "a.parquet":
        frame.to_parquet(path)
    elif name == "a.jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, sep="\t" if name == "a.tsv" else ",", index=False)
    shown = preview(path, 2)
    assert shown.columns == ("id", "note", "target")
    assert shown.rows == (("1", "a b", "x"), ("2", "c", "y"))
    assert (shown.source, shown.target) == ("id", "target")


def test_a_preview_reads_no_further_and_minds_no_bad_row(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"source": "a"}\nnope\n' + b"\xe9\n" * 9)
    assert head(tmp_path / "a.jsonl", 2) == (["source"], [["a"], [""]])
    (tmp_path / "a.tsv").write_text("source\ttarget\na\nb\tc\td\n")
    assert preview(tmp_path / "a.tsv").rows == (("a", ""), ("b", "c"))
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert preview(tmp_path / "a.txt").target is None
    with pytest.raises(FileError, match="of this kind"):
        preview(tmp_path / "a.xlsx")


def test_statistics_count_what_they_say(tmp_path):
    (tmp_path / "train.tsv").write_text(
        "source\ttarget\na cat\tun chat\na cat\tun chat\na dog\tun chien\na dog\tun loup\nalone\n"
    )
    (tmp_path / "held.tsv").write_text("source\ttarget\na cat\tx\nA  cat!\tun chat\na bird\tun oiseau\n")
    found = statistics(tmp_path / "train.tsv", validation=tmp_path / "held.tsv", tokenizer="byte")
    assert (found.rows, found.train, found.held_out, len(found.bad_rows)) == (7, 4, 3, 1)
    assert (found.duplicates, found.contradictions) == (1, 2)
    assert (found.leaked, found.nearly_leaked, found.known_targets) == (1, 1, 1)
    characters = found.source.characters
    assert (characters.least, characters.median, characters.most) == (5, 5, 7)
    assert found.source.tokens.most == 8  # a byte each, and the end of the text
    assert (found.source.words, found.source.words_once) == (6, 3)
    assert found.source.unknown == 0
    assert json.loads(json.dumps(found.to_dict()))["files"][0].endswith("train.tsv")


def test_explain_data_shows_it(flawed, monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["explain", "data", *arguments])
        status = terminal.run(app)
        return status, *capsys.readouterr()

    status, out, _ = run(str(flawed), "--rows", "2")
    assert status == 0
    assert "the cat 1" in out
    assert "the cat 2" not in out.split("length")[0]
    assert [f"line {number}" in out for number in BAD] == [True] * 4
    status, out, _ = run(str(flawed), "--json")
    (part,) = json.loads(out)["parts"]
    assert json.loads(out)["schema"] == "explain/data@1"
    assert (part["statistics"]["rows"], len(part["statistics"]["bad_rows"])) == (41, 4)
    mixture = flawed.with_name("m.yaml")
    mixture.write_text("tasks:\n  one: {data: flawed.tsv, rate: 3}\n  two: {data: flawed.tsv, rate: 1}\n")
    assert "task two: 25.0% of every batch; sources begin with 'two: '" in run(str(mixture))[1]
    status, _, err = run(str(flawed), "--source-column", "text")
    assert status == 2
    assert "its columns: source, target" in err


# ---- tokenizers -----------------------------------------------------------------------------------------

TEXTS = ["The cat's 12 houses, l'homme aujourd'hui.", "Le chat, 2026-03-01!"] * 3


@pytest.fixture(scope="module", params=TOKENIZERS)
def words(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """A tokenizer of every kind, with sentinels."""
    return build_tokenizer(TEXTS, 400, request.param, sentinels=3)


@given(st.text())
@settings(deadline=None)
def test_every_kind_gives_every_text_back(words, text):
    ids = words(text)["input_ids"]
    assert words.decode(ids, skip_special_tokens=True) == text
    assert [id_ for id_ in ids if id_ in words.all_special_ids] == [words.eos_token_id]


@pytest.mark.parametrize("text", ["a </s> <extra_id_0>", "  two  spaces ", "日本語 🎉 é\u0301"])
def test_what_looks_special_is_text_before_and_after_saving(words, text, tmp_path):
    words.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for one in (words, again):
        assert one.decode(one(text)["input_ids"], skip_special_tokens=True) == text
    assert again(text)["input_ids"] == words(text)["input_ids"]
    assert again.convert_tokens_to_ids("<extra_id_2>") == words.convert_tokens_to_ids("<extra_id_2>")


def test_tokens_say_where_they_stand(words):
    text = "The cat's 12 houses"
    spans = words(text, return_offsets_mapping=True)["offset_mapping"]
    found = [text[start:end] for start, end in spans]
    assert "".join(found).replace(" ", "") == text.replace(" ", "")
    starts = [start for start, end in spans[:-1]]
    assert starts == sorted(starts)


def test_kinds_differ_in_what_a_token_is():
    sizes = {kind: build_tokenizer(TEXTS, 400, kind) for kind in TOKENIZERS}
    pieces = {kind: one.tokenize("The cat's houses of glass") for kind, one in sizes.items()}
    assert pieces["byte"] == list("TheĠcat'sĠhousesĠofĠglass")
    assert pieces["word"][:4] == ["The", "Ġcat'", "s", "Ġhouses"]
    assert pieces["word"][4:] == list("ĠofĠglass")  # never seen: spelled
    assert len(pieces["bpe"]) < len(pieces["unigram"]) <= len(pieces["byte"])
    assert max(len(one) for one in sizes.values()) <= 400
    with pytest.raises(UnknownNameError, match="known: bpe, byte, unigram, word"):
        build_tokenizer(TEXTS, 400, "morphemes")


# ---- presets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_presets_grow_and_take_smaller_steps(family):
    words = build_tokenizer(TEXTS, 300)
    made = [presets.resize(recipes.for_file(100, family), name) for name in presets.SHAPES]
    rates = [recipe.learning_rate for recipe in made]
    assert rates == sorted(set(rates), reverse=True)
    sizes = [recipes.build_model(recipe, words, 64).num_parameters() for recipe in made[:2]]
    assert sizes[1] > 10 * sizes[0]
    tall = recipes.build_model(made[1], words, 64)
    if family == "bart":  # logits of random weights are neither all alike nor huge, whatever the width
        weights = tall.get_input_embeddings().weight.detach().numpy()  # pyright: ignore
        assert 0.5 < np.linalg.norm(weights, axis=1).mean() < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "huge"}, "unknown preset"),
        ({"tokenizer": "chars"}, "unknown tokenizer"),
        ({"init": "m", "preset": "tiny"}, "--preset is for a model from scratch"),
        ({"init": "m", "tokenizer": "word"}, "--tokenizer is for a model from scratch"),
        ({"denoise": "t.txt"}, "--denoise-steps"),
        ({"denoise_steps": 5}, "--denoise FILE"),
        ({"denoise": "t.txt", "denoise_steps": 0}, "at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(InputError, match=message) as caught:
        TrainConfig(data="a.tsv", **options).check()
    assert isinstance(caught.value, ExplainError)
