"""Results: round trips through every format, words from subwords, and frames."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import explain
from explain.errors import EncodingError, ExplainError, FileError, InputError
from explain.results import Attribution, Token, group_words, load_attribution
from tests.conftest import OUTPUTS, SENTENCES

FORMATS = ["json", "csv", "parquet", "safetensors"]
TENSORS = "source prefix start within value baseline_value completeness_error log_probs".split()


def same(left: Attribution, right: Attribution) -> None:
    for name in TENSORS:
        torch.testing.assert_close(
            getattr(left, name), getattr(right, name), atol=1e-6, rtol=1e-5, equal_nan=True, msg=name
        )
    for name in "method objective contrast units signed level source_text target_text model_digest".split():
        assert getattr(left, name) == getattr(right, name), name
    assert left.source_tokens == right.source_tokens
    assert left.target_tokens == right.target_tokens
    assert json.loads(json.dumps(dict(left.config))) == json.loads(json.dumps(dict(right.config)))


@pytest.fixture(scope="module", params=["integrated_gradients", "attention"])
def attribution(request, bart) -> Attribution:
    contrast = "oiseau" if request.param == "integrated_gradients" else None
    return bart.attribute(bart.force(SENTENCES[0], OUTPUTS[0]), method=request.param, contrast=contrast)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("words", [False, True])
def test_an_attribution_survives_every_format(attribution, ending, words, tmp_path):
    attribution = attribution.words() if words else attribution
    same(attribution, load_attribution(attribution.save(tmp_path / f"a.{ending}")))


def token(text: str, index: int) -> Token:
    return Token(text, index, index, index + 1, special=index % 3 == 0, forced=index % 2 == 0)


# Texts that break tables and files: quotes, separators, line ends, other scripts, "nan", "".
hostile = st.sampled_from(
    ["a", '"', ",", "\n", "\r", "\t", "nan", "", "NA", "é", "漢", "\u202e", "<b>", "1e5"]
)


@given(st.lists(hostile, min_size=1, max_size=5), st.lists(hostile, min_size=1, max_size=5), st.randoms())
def test_hostile_texts_survive_every_format(tmp_path_factory, source, target, rng):
    def numbers(*shape: int) -> torch.Tensor:
        size = int(torch.tensor(shape).prod())
        return torch.tensor([rng.uniform(-3, 3) for _ in range(size)]).reshape(shape)

    count = len(target)
    nan = torch.full((count,), torch.nan)
    made = Attribution(
        method="x",
        objective="log_prob",
        contrast=rng.choice([None, *target]),
        units="nats",
        signed=True,
        source_text="".join(source),
        target_text="".join(target),
        source_tokens=tuple(token(t, i) for i, t in enumerate(source)),
        target_tokens=tuple(token(t, i) for i, t in enumerate(target)),
        source=numbers(count, len(source)),
        prefix=numbers(count, count).tril(-1),
        start=numbers(count),
        within=numbers(count),
        value=numbers(count),
        baseline_value=nan,
        completeness_error=torch.where(numbers(count) > 0, numbers(count), nan),
        log_probs=numbers(count),
    )
    folder = tmp_path_factory.mktemp("formats")
    for ending in FORMATS:
        same(made, load_attribution(made.save(folder / f"a.{ending}")))


@pytest.mark.parametrize("ending", FORMATS)
def test_scores_that_are_not_numbers_survive_every_format(attribution, ending, tmp_path):
    source, prefix, start = (getattr(attribution, name).clone() for name in ("source", "prefix", "start"))
    source[0, 1] = prefix[2, 0] = start[1] = torch.nan
    made = replace(attribution, source=source, prefix=prefix, start=start)
    same(made, load_attribution(made.save(tmp_path / f"a.{ending}")))


def test_json_has_the_fields_that_are_promised(attribution, tmp_path):
    data = json.loads(attribution.save(tmp_path / "a.json").read_text("utf-8"))
    assert data["schema"] == "explain/attribution@1"
    assert {"versions", "seed", "model_digest", "data_digest", "command"} <= set(data)
    rows, columns = len(data["target"]), len(data["source"])
    assert set(data["source"][0]) == {"text", "id", "start", "end", "special", "forced"}
    assert [len(row) for row in data["source_scores"]] == [columns] * rows
    assert [len(row) for row in data["prefix_scores"]] == [rows] * rows
    assert len(data["completeness_error"]) == len(data["log_probs"]) == rows
    assert {"method", "objective", "config"} <= set(data)


def test_the_frame_has_a_row_per_pair(attribution):
    frame = attribution.to_frame()
    rows, columns = attribution.source.shape
    assert len(frame) == rows * columns + rows * (rows - 1) // 2 + rows
    assert set(frame["side"]) == {"source", "prefix", "start"}
    total = frame.groupby("target_index")["score"].sum()
    wanted = attribution.source.sum(1) + attribution.prefix.sum(1) + attribution.start
    torch.testing.assert_close(torch.tensor(total.to_numpy()).float(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("ending", FORMATS)
def test_foreign_and_broken_files_are_refused_by_name(ending, tmp_path):
    path = tmp_path / f"a.{ending}"
    with pytest.raises(FileError, match=r"no such file|cannot read"):
        load_attribution(path)
    path.write_bytes(b"\xff\xfe\x00 broken")
    with pytest.raises(ExplainError, match=f"a.{ending}"):
        load_attribution(path)
    path.write_bytes(b"")
    with pytest.raises(ExplainError, match=f"a.{ending}"):
        load_attribution(path)


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"schema": "explain/run@1"}')
    with pytest.raises(FileError, match="explain/attribution@1"):
        load_attribution(tmp_path / "a.json")
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(FileError, match="not written by explain"):
        load_attribution(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"x\n\xff\xff\n")
    with pytest.raises(EncodingError, match="UTF-8"):
        load_attribution(tmp_path / "b.csv")
    pd.DataFrame({"record": ["{}"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(FileError, match="not written by explain"):
        load_attribution(tmp_path / "a.parquet")


def test_an_unknown_ending_is_refused_before_any_work(attribution, tmp_path):
    with pytest.raises(InputError, match=r"\.xlsx"):
        attribution.save(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match="read from"):
        load_attribution(tmp_path / "a.html")


def test_a_failed_write_leaves_the_old_file(attribution, tmp_path, monkeypatch):
    path = attribution.save(tmp_path / "a.json")
    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_text", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(FileError, match="disk full"):
        attribution.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_shapes_are_checked(attribution):
    from dataclasses import replace

    with pytest.raises(InputError, match="prefix has shape"):
        replace(attribution, prefix=attribution.prefix[:1])


# ---- words ----


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["un", " ch", "at"], ["un", "chat"]),
        (["l", "'", "arbre"], ["l'", "arbre"]),
        (["don", "'t", " go"], ["don't", "go"]),
        (["bush", "es", "."], ["bushes", "."]),
        (["2024", "-", "03"], ["2024", "-", "03"]),
        (["4", "7", " mg"], ["47", "mg"]),
        (["日", "本"], ["日", "本"]),
        (["\u0643\u062a", "\u0628", " \u0647"], ["\u0643\u062a\u0628", "\u0647"]),
    ],
)
def test_subwords_become_words(pieces, words):
    text, tokens, cursor = "".join(pieces), [], 0
    for piece in pieces:
        tokens.append(Token(piece, 1, cursor, cursor + len(piece)))
        cursor += len(piece)
    tokens.append(Token("</s>", 2, cursor, cursor, special=True))
    groups = group_words(tokens, text)
    shown = ["".join(pieces[i] for i in group).strip() for group in groups[:-1]]
    assert shown == words
    assert groups[-1] == [len(pieces)]


@given(st.text(alphabet="ab' -.é漢 \t", max_size=12), st.data())
def test_words_cover_all_tokens_in_order(text, data):
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)) | {0, len(text)})
    tokens = [Token(text[a:b], 1, a, b) for a, b in pairwise(cuts) if text[a:b].strip()]
    groups = group_words(tokens, text)
    assert [i for group in groups for i in group] == list(range(len(tokens)))


def pieces_attribution(signed: bool = True, objective: str = "log_prob") -> Attribution:
    source = tuple(Token(t, 1, a, b) for t, a, b in (("un", 0, 2), ("do", 3, 5), ("ne", 5, 7)))
    target = tuple(Token(t, 1, a, b) for t, a, b in (("ab", 0, 2), ("cd", 2, 4), ("e", 5, 6)))
    scores = torch.arange(9.0).reshape(3, 3)
    return Attribution(
        method="x",
        objective=objective,
        contrast=None,
        units="nats",
        signed=signed,
        source_text="un done",
        target_text="abcd e",
        source_tokens=source,
        target_tokens=target,
        source=scores,
        prefix=torch.ones(3, 3).tril(-1),
        start=torch.ones(3),
        within=torch.zeros(3),
        value=scores.sum(1) + torch.tensor([1.0, 2.0, 3.0]),
        baseline_value=torch.zeros(3),
        completeness_error=torch.zeros(3),
        log_probs=-torch.ones(3),
    )


def test_words_add_up_and_stay_complete_and_causal():
    words = pieces_attribution().words()
    assert [t.text for t in words.source_tokens] == ["un", "done"]
    assert [t.text for t in words.target_tokens] == ["abcd", "e"]
    assert words.source.tolist() == [[3.0, 12.0], [6.0, 15.0]]
    assert words.prefix.tolist() == [[0.0, 0.0], [2.0, 0.0]]
    assert words.within.tolist() == [1.0, 0.0]
    assert words.start.tolist() == [2.0, 1.0]
    assert words.log_probs.tolist() == [-2.0, -1.0]
    total = words.source.sum(1) + words.prefix.sum(1) + words.within + words.start
    torch.testing.assert_close(total, words.value - words.baseline_value)
    assert float(words.completeness_error.max()) < 1e-6
    assert words.words() is words


def test_words_of_attention_stay_distributions():
    words = pieces_attribution(signed=False, objective="").words()
    assert words.source.tolist() == [[1.5, 6.0], [6.0, 15.0]]


def test_words_keep_undefined_errors_undefined(bart):
    att = bart.attribute(bart.force(SENTENCES[0], OUTPUTS[0]), method="attention").words()
    assert att.completeness_error.isnan().all()


def test_public_names_are_these():
    assert set(explain.__all__) == {
        "Attribution",
        "Capture",
        "ExplainError",
        "Generation",
        "Seq2Seq",
        "Token",
        "attribute",
        "audit",
        "calibrate",
        "compare",
        "copy_model",
        "evaluate",
        "load",
        "load_attribution",
        "load_audit",
        "load_calibration",
        "load_capture",
        "load_comparison",
        "load_evaluation",
        "methods",
        "report",
        "source_share",
        "training_story",
        "wrap",
    }
    assert all(callable(getattr(explain, name)) for name in explain.__all__)
    with pytest.raises(AttributeError, match="explian"):
        explain.explian  # noqa: B018


def test_a_result_draws_itself(attribution):
    figure = attribution.plot()
    assert type(figure).__name__ == "Figure"
    assert figure.layout.xaxis.title.text == "source token"
    html = attribution.to_html()
    assert "Content-Security-Policy" in html
    assert "<script" not in html


def test_a_report_reads_tables_and_files(bart, tmp_path):
    table = pd.DataFrame({"source": ["the cat", "a bird"], "target": ["le chat", None]})
    rows = explain.report(bart, table, methods=["attention"]).to_dict()["examples"]
    assert rows[0]["target_text"] == "le chat"
    assert rows[1]["generation"]["settings"]["decoding"] == "greedy"
    (tmp_path / "x.tsv").write_text("source\ttarget\nthe cat\tle chat\n", "utf-8")
    again = explain.report(bart, tmp_path / "x.tsv", methods=["attention"]).to_dict()["examples"]
    assert again[0]["generation"] == rows[0]["generation"]
    assert again[0]["attributions"][0]["config"] == rows[0]["attributions"][0]["config"]
