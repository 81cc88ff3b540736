"""`explain analyze ablate`, `knockout`, `patch`, `redecode`: what they write, and how wrong input ends."""

from __future__ import annotations

import json
import re
import sys
from html import unescape

import numpy as np
import pytest

from explain import terminal
from explain.analysis import (
    Ablation,
    Disagreement,
    Edit,
    Knockout,
    MeanAblation,
    Patching,
    Redecoded,
    ablate,
    knockout_sweep,
    patch,
    redecode,
)
from explain.cli import app
from explain.errors import InputError
from explain.report import causal_plots, causes
from explain.training.handmade import COPY, copy_model
from tests.interventions import ONE, OTHER, generation_of, pair_of

HEAD = f"{COPY.block} head {COPY.index}"


@pytest.fixture(scope="module")
def copier(tmp_path_factory):
    path = tmp_path_factory.mktemp("copier")
    model = copy_model()
    model.hf.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def cli(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["explain", "analyze", *map(str, arguments)])
        status = terminal.run(app)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def words(html):
    inside = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", inside)))


def read(path, schema):
    data = json.loads(path.read_text("utf-8"))
    assert data["schema"] == f"explain/{schema}@1"
    assert data["model_digest"].startswith("sha256:")
    assert {"versions", "command"} <= set(data)
    return data


@pytest.mark.parametrize("by", ["head", "sublayer", "layer", "neuron", "position"])
def test_ablate_as_json(cli, copier, tmp_path, by):
    out = tmp_path / "a.json"
    status, said, _ = cli("ablate", copier, "--text", "a b c", "--by", by, "--out", out)
    assert status == 0
    result = Ablation.from_dict(read(out, "ablation"))
    best = {"head": f"{COPY.block}.z head 0", "sublayer": f"{COPY.block}.out", "layer": "decoder.1"}
    if by in best:
        assert result.top(1)[0][0].name == best[by]
        assert said.startswith(best[by])


def test_ablate_over_a_task_and_with_references(cli, folder, copier, tmp_path):
    (tmp_path / "others.txt").write_text("c d e\nf g\n", "utf-8")
    arguments = ("--how", "mean", "--reference", tmp_path / "others.txt", "--out", tmp_path / "a.csv")
    assert cli("ablate", copier, "--text", "a b c", *arguments)[0] == 0
    assert "spread" in (tmp_path / "a.csv").read_text("utf-8").splitlines()[0]
    out = tmp_path / "m.json"
    task = ("--task", "translate", "--examples", 2, "--allow-unknown", "--max-new-tokens", 4)
    assert cli("ablate", folder, *task, "--how", "resample", "--out", out)[0] == 0
    result = MeanAblation.from_dict(read(out, "mean_ablation"))
    assert result.lost.shape == (2, 12)
    assert "mean over outputs" in words(causes.ablation_page(result))


def test_knockout(cli, copier, tmp_path):
    out = tmp_path / "k.json"
    status, said, _ = cli("knockout", copier, "--text", "a b c", "--out", out)
    assert status == 0
    assert "output: a b c" in said
    source, prefix = (Knockout.from_dict(item) for item in read(out, "knockout")["sweeps"])
    assert np.allclose(np.diag(source.grid[:, 0]), source.effect.max(1).values)
    assert float(prefix.effect.abs().max()) < 1e-3
    arguments = ("--source-token", 1, "--layers", "0:0", "--out", tmp_path / "one.csv")
    assert cli("knockout", copier, "--text", "a b c", *arguments)[0] == 0
    assert "source 1 at layer 0" in (tmp_path / "one.csv").read_text("utf-8")


def test_patch(cli, copier, tmp_path):
    out = tmp_path / "p.json"
    texts = ("--text", "a b c", "--other", "a d c")
    status, said, _ = cli("patch", copier, *texts, "--contrast", "--out", out)
    assert status == 0
    assert "against: a d c" in said
    result = Patching.from_dict(read(out, "patching"))
    assert result.exact
    assert result.contrast == "a d c"
    carriers = {part.name for part, effect in result.top(9, row=1) if effect > 0.5}
    assert carriers == {f"encoder.{i}.residual position 1" for i in (0, 1)} | {
        "decoder.1.residual position 1"
    }
    status, said, _ = cli(
        "patch", copier, *texts, "--approximate", "--points", "*.z", "--by", "layer,head", "--out", out
    )
    assert status == 0
    assert "the estimate against patching" in said
    data = read(out, "patching")
    assert not Patching.from_dict(data).exact
    assert Disagreement.from_dict(data["disagreement"]).cells > 0


def test_redecode(cli, copier, tmp_path):
    out = tmp_path / "r.json"
    arguments = ("--ablate", HEAD, "--max-new-tokens", 6)
    status, said, _ = cli("redecode", copier, "--text", "a b c", *arguments, "--out", out)
    assert status == 0
    assert said.startswith("before: a b c\nafter:")
    data = read(out, "redecoded")
    assert Redecoded.from_dict(data).changed
    assert data["changed"] == [f"{COPY.block}.z head {COPY.index}"]
    status, said, _ = cli("redecode", copier, "--text", "a b c", "--source-token", 1, "--out", out)
    assert status == 0
    assert "after:  a" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("ablate", "--text", "a b"),
        ("knockout", "--text", "a b"),
        ("patch", "--text", "a b", "--other", "a c"),
        ("redecode", "--text", "a b", "--ablate", HEAD, "--max-new-tokens", "6"),
    ],
)
def test_pages_are_offline_and_say_what_made_them(cli, copier, tmp_path, arguments):
    out = tmp_path / "page.html"
    assert cli(arguments[0], copier, *arguments[1:], "--out", out)[0] == 0
    html = out.read_text("utf-8")
    assert html.startswith("<!doctype html>")
    assert "<script" not in html
    assert "default-src 'none'" in unescape(html)
    assert not re.search(r"(src|href)=\"(?!#)", html)
    said = words(html)
    assert "The command that makes this page again" in said
    assert f"explain analyze {arguments[0]}" in said
    assert "What this page cannot tell you" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("ablate",), "either --text TEXT or --task NAME"),
        (("ablate", "--text", "a", "--task", "clinic"), "either --text TEXT or --task NAME"),
        (("ablate", "--text", "a", "--by", "lung"), "--by 'lung'"),
        (("ablate", "--text", "a", "--how", "mean"), "--reference"),
        (("ablate", "--task", "dreams"), "dreams"),
        (("ablate", "--task", "clinic", "--contrast", "x"), "about one --text"),
        (("ablate", "--text", "a", "--points", "decoder.9.*"), "decoder.9.*"),
        (("knockout", "--text", "a", "--source-token", "7"), "source token 7 does not exist"),
        (("knockout", "--text", "a", "--layers", "x"), "--layers 'x'"),
        (("knockout", "--text", "a", "--layers", "0:9"), "layers="),
        (("patch", "--text", "a b", "--other", "a"), "as many on both sides"),
        (("patch", "--text", "a", "--other", "b", "--by", "lung"), "name one or several"),
        (("patch", "--text", "a", "--other", "b", "--contrast", "--foil", "c"), "give one of them"),
        (("redecode", "--text", "a"), "nothing is changed"),
        (("redecode", "--text", "a", "--ablate", "decoder.1.cross head"), "names no place"),
        (("redecode", "--text", "a", "--ablate", "decoder.1.cross head 9"), "shape"),
        (("redecode", "--text", "a", "--source-token", "5"), "there are 2 source tokens"),
        (("redecode", "--text", "a", "--source-token", "0", "--source-token", "1"), "whole source"),
    ],
)
def test_wrong_input_is_one_line(cli, copier, tmp_path, arguments, says):
    status, _, error = cli(arguments[0], copier, *arguments[1:], "--out", tmp_path / "x.json")
    assert status == terminal.WRONG_INPUT
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "x.json").exists()


def test_an_ending_that_cannot_be_written(cli, copier, tmp_path):
    status, _, error = cli("knockout", copier, "--text", "a", "--out", tmp_path / "x.txt")
    assert status == terminal.WRONG_INPUT
    assert ".html, .json, .csv" in error


# ---- figures ---------------------------------------------------------------------------------------------


def test_every_figure_has_a_scale_round_zero(bart):
    clean, corrupted = pair_of(bart)
    generation = generation_of(bart)
    figures = [
        causal_plots.patching_map(patch(bart, clean, corrupted), "decoder.*.residual"),
        causal_plots.patching_map(patch(bart, clean, corrupted), "decoder.*.residual", 2, theme="dark"),
        causal_plots.ablation_map(ablate(bart, generation), "decoder.*.cross.z", 1),
        causal_plots.ablation_map(ablate(bart, generation, "neurons"), "decoder.*.mlp.hidden"),
        causal_plots.knockout_map(knockout_sweep(bart, generation), 1),
    ]
    for figure in figures:
        (heat,) = figure.data
        assert heat.zmin == -heat.zmax < 0
        assert heat.zmax == pytest.approx(float(np.nanmax(np.abs(heat.z))))
        assert heat.colorbar.title.text
        assert figure.layout.template.layout.colorway is not None or figure.layout.paper_bgcolor


def test_grids_show_the_numbers(bart):
    clean, corrupted = pair_of(bart)
    result = patch(bart, clean, corrupted, "*.residual")
    grids = causal_plots.grids_of(result)
    assert [grid.title for grid in grids] == [
        "encoder.*.residual · the whole output",
        "decoder.*.residual · the whole output",
    ]
    assert grids[0].columns[1] == "bird ← cat"
    assert grids[1].columns[:2] == ("(start)", "le")
    assert grids[0].scale == grids[1].scale
    share = result.change.sum(1) / (result.other_value - result.value).sum()
    assert np.allclose(np.concatenate([grid.values.ravel() for grid in grids]), share, atol=1e-5)
    both = causal_plots.grids_of(patch(bart, clean, corrupted, "*.cross.z", ("layer", "head", "position")))
    assert both[0].values.shape == (4, 7)
    layers = causal_plots.grids_of(ablate(bart, generation_of(bart), "sublayers"))
    assert [grid.columns for grid in layers] == [
        ("self.out", "mlp.out"),
        ("self.out", "cross.out", "mlp.out"),
    ]
    prefix = causal_plots.knockout_grid(knockout_sweep(bart, generation_of(bart), side="prefix"))
    assert np.isnan(prefix.values[np.triu_indices(6)]).all()
    assert not np.isnan(prefix.values[np.tril_indices(6, -1)]).any()
    with pytest.raises(InputError, match="row 9"):
        causal_plots.patching_grid(result, "encoder.*.residual", 9)
    with pytest.raises(InputError, match="window 5"):
        causal_plots.knockout_grid(knockout_sweep(bart, generation_of(bart)), 5)


def test_the_difference_is_text_safe(copier):
    model = copy_model()
    result = redecode(model, "a b c", [Edit(f"{COPY.block}.z", (COPY.index,))], max_new_tokens=4)
    before, _ = causal_plots.diff_pieces(result)
    assert [piece.text for piece in before if piece.changed][:1] == ["a"]
    html = causal_plots.diff_html(result)
    assert "<del " in html
    assert "&lt;/s&gt;" in html
    assert "</s>" not in html


def test_texts_of_the_pair_are_named(bart):
    clean, corrupted = pair_of(bart)
    said = words(causes.patching_page(patch(bart, clean, corrupted)))
    assert f"‘{ONE[0]}’" in said
    assert f"‘{OTHER[0]}’" in said
    assert "‘cat’ and ‘bird’" in said
