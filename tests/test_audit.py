"""Audits: evidence by its definition, flags and verdicts, policies, files, exit statuses, interruption."""

from __future__ import annotations

import json
import random
import sys
from xml.etree import ElementTree

import pytest
import torch

import explain
from explain import terminal
from explain.attribution import Cancelled
from explain.audit import load_audit, policy_of, read_policy
from explain.audit.detectors import longest_copy, names_of, numbers_of, repetition, to_uniform
from explain.audit.evidence import filler_id, gather
from explain.audit.formats import markdown
from explain.cli import app
from explain.errors import FileError, InputError, RunError, UnknownNameError
from explain.report.audit import audit_page
from explain.training.data import Pair
from tests.models import WORDS
from tests.state import assert_same_state, state_of

NEEDS = frozenset({"filled", "attention", "hiding"})
FEW = {"max_new_tokens": 6}


def sources(count: int, seed: int = 0) -> list[str]:
    dice = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(dice.choices(WORDS, k=dice.randint(3, 7)))] = None
    return list(found)


@pytest.fixture(scope="module")
def calibration(bart):
    return explain.calibrate(bart, sources(700, seed=9), generate=FEW)


@pytest.fixture
def cli(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["explain", *map(str, arguments)])
        status = terminal.run(app)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


# ---- detectors -------------------------------------------------------------------------------------------


def test_evidence_is_what_its_definition_says(model):
    generations = model.force(["the cat sees a dog", "a bird"], ["le chat la maison", "un oiseau"])
    before = state_of(model.hf)
    found = gather(model, generations, NEEDS)
    assert_same_state(before, state_of(model.hf))
    for item, generation in zip(found, generations, strict=True):
        ids = generation.source_ids.clone()
        plain = torch.tensor([not token.special for token in generation.source_tokens])
        ids[plain] = filler_id(model)

        def log_probs(source, generation=generation, mask=None):
            with torch.no_grad():
                logits = model.hf(
                    input_ids=source[None],
                    attention_mask=torch.ones_like(source)[None] if mask is None else mask[None],
                    decoder_input_ids=generation.decoder_input_ids[None],
                ).logits[0]
            return logits.log_softmax(-1).gather(1, generation.target_ids[:, None])[:, 0]

        expected = generation.log_probs - log_probs(ids)
        torch.testing.assert_close(item.information, expected, atol=1e-4, rtol=1e-4)
        mask = torch.ones(len(ids), dtype=torch.long)
        mask[1] = 0
        drop = (generation.log_probs - log_probs(generation.source_ids, mask=mask)).max()
        torch.testing.assert_close(item.dropped[1], drop, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(item.attention.sum(1), torch.ones(len(item.attention)), atol=1e-5, rtol=0)


def test_batches_change_no_score(bart):
    generations = bart.generate(sources(5), **FEW)
    together = gather(bart, generations, NEEDS)
    for one, generation in zip(together, generations, strict=True):
        alone = gather(bart, [generation], NEEDS)[0]
        for name in ("information", "attention", "dropped"):
            torch.testing.assert_close(getattr(one, name), getattr(alone, name), atol=1e-4, rtol=1e-4)


def test_the_copy_model_needs_every_word():
    """Every word is read off its own source word, so all have information and none is inert."""
    model = explain.copy_model()
    found = gather(model, [model.generate("a b c")], NEEDS)[0]
    assert bool((found.information[:3] > 1).all())
    assert bool((found.dropped[:3] > 1).all())


def test_detectors_of_texts():
    assert repetition([1, 2, 3]) == 0
    assert repetition([1, 1, 1, 1]) == pytest.approx(2 / 3)
    assert longest_copy([1, 2, 3, 1, 2, 4]) == 2
    assert longest_copy([7, 7, 7]) == 2
    assert numbers_of("pay 007 or 12.50, 0") == ["7", "12.50", "0"]
    assert names_of("The man saw Paris. He left Rome") == ["Paris", "Rome"]
    assert to_uniform(torch.full((3, 4), 0.25)) == 0
    assert to_uniform(torch.tensor([[1.0, 0.0, 0.0, 0.0]])) == pytest.approx(0.75)


# ---- verdicts --------------------------------------------------------------------------------------------


def test_without_a_calibration_there_is_no_verdict(bart):
    found = explain.audit(bart, sources(5), generate=FEW, policy={"tests": {}})
    assert found.verdict == "uncalibrated"
    assert found.flagged is None
    assert all(item.flagged is None and item.threshold is None for item in found.detectors.values())
    assert found.detectors["log_prob"].scores.n == 5
    assert len(found.findings) == 0


def test_clean_outputs_pass_and_strange_ones_fail(bart, calibration):
    clean = explain.audit(bart, sources(200, seed=5), calibration=calibration, policy={"tests": {}})
    assert clean.verdict == "pass", clean.reason
    assert calibration.enough
    strange = [" ".join(["cat"] * 20)] * 40
    found = explain.audit(bart, strange, calibration=calibration, policy={"tests": {}})
    assert found.verdict == "fail"
    assert found.suspects[0].flags
    assert set(found.findings["detector"]) >= {found.suspects[0].flags[0].detector}
    assert found.detectors["attention_uniform"].flagged.count == 40


def test_a_source_that_cannot_be_read_is_counted_not_hidden(bart, calibration):
    texts = [*sources(3), "xylophone"]
    found = explain.audit(bart, texts, calibration=calibration, policy={"tests": {}})
    assert found.refused.count == 1
    assert found.refused.first[0][0] == 3
    assert "xylophone" in found.refused.first[0][1]
    assert found.verdict == "fail"
    assert (
        explain.audit(
            bart, texts, calibration=calibration, policy={"tests": {}, "refused": 0.5, "limit": 1.0}
        ).verdict
        == "pass"
    )


def test_a_calibration_of_other_outputs_is_refused(bart, t5, calibration):
    with pytest.raises(InputError, match="of another model"):
        explain.audit(t5, sources(2), calibration=calibration)
    with pytest.raises(InputError, match="decoded in another way"):
        explain.audit(bart, sources(2), calibration=calibration, generate={"num_beams": 2})


# ---- policies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("rate: 0.01\nlimits: 3\n", UnknownNameError, r"line 2.*'limits'; did you mean limit"),
        ("detectors:\n  log_prob: {}\n  entropi: {}\n", UnknownNameError, r"line 3.*'entropi'.*entropy"),
        ("detectors:\n  log_prob:\n    rat: 1\n", UnknownNameError, r"line 3.*'rat'.*rate"),
        ("\nrate: 2\n", InputError, r"line 2: rate"),
        ("slices:\n  - length: [9, 3]\n", InputError, r"line 2: .*lengths must rise"),
        ("rate: [\n", FileError, "line 2 is not YAML"),
        ("just text\n", FileError, "does not hold a policy"),
        ("rate: 0.01\nrate: 0.2\n", InputError, r"policy\.yaml, line 2: rate stands there twice"),
        ("detectors:\n  entropy: {rate: 0.1, rate: 0.2}\n", InputError, "line 2: rate stands there twice"),
    ],
)
def test_policies_are_refused_by_line(tmp_path, text, error, says):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(error, match=says):
        read_policy(path)


def test_slices_are_judged_apart(bart, calibration, tmp_path):
    path = tmp_path / "data.tsv"
    rows = [f"{text}\tday" for text in sources(40, seed=4)] + [" ".join(["cat"] * 20) + "\tnight"] * 40
    path.write_text("source\tshift\n" + "\n".join(rows) + "\n")
    found = explain.audit(
        bart,
        path,
        calibration=calibration,
        policy={
            "slices": [{"column": "shift"}],
            "detectors": {"attention_uniform": {"limit": 0.9}},
            "tests": {},
        },
    )
    checks = {check.name: check.passed for check in found.checks}
    assert checks["attention_uniform where shift is night"] is False
    assert checks["attention_uniform where shift is day"] is True
    assert checks["attention_uniform"] is True
    with pytest.raises(InputError, match="only a file can have"):
        explain.audit(bart, ["a cat"], policy={"slices": [{"column": "shift"}]})


def test_a_policy_in_python():
    policy = policy_of({"rate": 0.05, "detectors": {"entropy": {"rate": 0.01}}})
    assert (policy.rate_of("entropy"), policy.limit_of("entropy")) == (0.01, "excess")


# ---- the run ---------------------------------------------------------------------------------------------


def test_an_interrupted_audit_goes_on_to_the_same_bytes(bart, calibration, tmp_path):
    data, asked = sources(150, seed=2), []
    options = {"calibration": calibration, "policy": {"tests": {}}}
    whole = explain.audit(bart, data, folder=tmp_path / "whole", **options)

    def stop():
        asked.append(None)
        return len(asked) > 4

    with pytest.raises(Cancelled):
        explain.audit(bart, data, folder=tmp_path / "cut", should_stop=stop, **options)
    done = sorted(path.name for path in (tmp_path / "cut" / "shards").glob("*.parquet"))
    assert 0 < len(done) < 3
    # A shard that is not whole counts as missing.
    (tmp_path / "cut" / "shards" / done[0]).write_bytes(b"PAR1")
    again = explain.audit(bart, data, folder=tmp_path / "cut", **options)
    for name in ("findings.parquet", "outputs.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    assert again.to_dict() == whole.to_dict() or json.dumps(again.to_dict()) == json.dumps(whole.to_dict())
    with pytest.raises(RunError, match="begun with another data digest"):
        explain.audit(bart, data[:-1], folder=tmp_path / "cut", **options)


def test_the_command_line(cli, folder, tmp_path):
    clean, texts = tmp_path / "clean.txt", tmp_path / "texts.txt"
    clean.write_text("\n".join(sources(700, seed=9)) + "\n")
    texts.write_text("\n".join([" ".join(["cat"] * 20)] * 30) + "\n")
    made = tmp_path / "calibration.json"
    more = ["--max-new-tokens", 6]
    status, said, err = cli("calibrate", folder, "--data", clean, "--out", made, *more)
    assert status == 0, err
    assert "560 clean outputs" in said
    policy = tmp_path / "policy.yaml"
    policy.write_text("tests: {}\n")
    given = ["audit", folder, "--data", texts, "--calibration", made, "--policy", policy, *more]
    status, said, err = cli(*given, "--out", tmp_path / "run")
    assert status == 1, err
    assert "fail: " in said
    found = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert (found["schema"], found["verdict"], found["examples"]) == ("explain/audit@1", "fail", 30)
    assert set(found["detectors"]["log_prob"]) >= {"rate", "threshold", "flagged", "calibration"}
    assert load_audit(tmp_path / "run").verdict == "fail"
    assert len(load_audit(tmp_path / "run").findings) > 0
    suite = ElementTree.parse(tmp_path / "run" / "junit.xml").getroot()
    assert int(suite.attrib["failures"]) == sum(check["passed"] is False for check in found["checks"]) > 0
    assert "fail" in (tmp_path / "run" / "summary.md").read_text()
    page = (tmp_path / "run" / "audit.html").read_text()
    assert "Outputs to look at" in page
    assert "<script" not in page
    assert cli(*given, "--out", tmp_path / "run", "--resume")[0] == 2
    status, said, _ = cli(
        "audit", folder, "--data", texts, "--policy", policy, *more, "--out", tmp_path / "no"
    )
    assert status == 0
    assert "uncalibrated" in said


def test_wrong_input_is_one_line(cli, folder, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\n")
    out = ["--out", tmp_path / "run"]
    for arguments in (
        ["audit", folder, *out],
        ["audit", folder, "--data", texts, "--engine", "cloud", *out],
        ["audit", folder, "--data", texts, "--calibration", tmp_path / "none.json", *out],
        ["calibrate", folder, "--data", texts, "--detector", "entropi", "--out", tmp_path / "c.json"],
    ):
        status, _, err = cli(*arguments)
        assert status == 2
        assert err.count("\n") == 1, err


def test_outputs_of_free_text_are_compared_with_their_references_not_called_right(bart, tmp_path):
    """The reference is one right output of many, so a page says how like it an output is."""
    texts = sources(12)
    own = explain.audit(bart, texts, generate=FEW, policy={"tests": {}}).outputs["output"]
    data = [
        Pair(text, out if i < 4 else "something else")
        for i, (text, out) in enumerate(zip(texts, own, strict=True))
    ]
    found = explain.audit(bart, data, generate=FEW, policy={"tests": {}}, folder=tmp_path)
    assert found.reference is not None
    assert (found.reference["equal"]["count"], found.reference["equal"]["n"]) == (4, 12)
    alike = found.reference["chrf"]["unflagged"]
    assert (alike["n"], alike["most"]) == (12, 100.0)
    assert alike["least"] < 50
    page = audit_page(found, command="explain audit")
    assert "4 of 12 outputs equal the reference" in page
    assert "others may be as good" in page
    assert "Right and wrong" not in page
    assert "<dt>Reference</dt>" in page
    assert "<dt>Expected</dt>" not in page
    assert "chrF" in page


def test_a_pass_on_few_outputs_says_how_little_it_means(bart, calibration):
    found = explain.audit(bart, sources(2), calibration=calibration, policy={"tests": {}})
    assert found.verdict == "pass"
    assert found.reason.endswith("2 outputs are too few for that to mean much")
    assert "next to nothing" in audit_page(found, command="explain audit")


def test_an_audit_of_which_no_source_can_be_read_shows_no_share_of_nothing(bart, calibration):
    long = " ".join(["cat"] * 500)
    found = explain.audit(bart, [long] * 3, calibration=calibration, policy={"tests": {}})
    assert found.verdict == "fail"
    for text in (audit_page(found, command="explain audit"), markdown(found)):
        assert "nan" not in text
