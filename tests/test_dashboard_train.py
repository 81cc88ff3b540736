"""The page Train: runs steered, their curves, outputs and checkpoints, data looked at before; no browser."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import plotly.graph_objects as go
import pytest

from dashboard.views import train, train_curves
from explain.runs import Run
from explain.training import jobs
from tests.test_dashboard import open_page, parts, save_run, texts


def at_work(folder: Path, name: str = "live", **fields: object) -> Run:
    """A run that looks alive: it is at work in this very process."""
    run = save_run(folder, name)
    recipe = {"learning_rate": 2e-3, "clip": 1.0, "rates": [], "patience": 3}
    run.update(state="running", result=None, recipe=recipe, **fields)
    step = {"kind": "step", "step": 6, "total_steps": 10, "loss": 0.5, "learning_rate": 1e-3}
    run.append({**step, "seconds": 6.0, "grad_norm": 0.7})
    return run


def press(app, label: str):
    """Click the button with this label."""
    next(button for button in app.button if button.label == label).click().run()
    assert not app.exception
    return app


def said(app) -> str:
    return texts(app).replace("\\", "")


def test_a_run_at_work_is_paused_continued_and_stopped(tmp_path):
    run = at_work(tmp_path)
    app = press(open_page(tmp_path, "train", run="live"), "Pause")
    assert run.requested() == "pause"
    run.update(state="paused")
    press(open_page(tmp_path, "train", run="live"), "Continue")
    assert run.requested() == "continue"
    run.update(state="running")
    app = press(open_page(tmp_path, "train", run="live"), "Stop")
    assert run.requested() == "stop"
    assert next(button for button in app.button if button.label == "stopping …").disabled
    assert "Resume" not in [button.label for button in app.button]


def test_the_learning_rate_is_changed_while_it_runs(tmp_path):
    run = at_work(tmp_path)
    app = open_page(tmp_path, "train", run="live")
    assert "The highest is 2.00e-03; the last step took 1.00e-03, 50% of it" in said(app)
    app.number_input(key="rate_live").set_value(5e-4).run()
    press(app, "Change it")
    assert run.requested_rate() == 5e-4
    assert "Asked for 5.00e-04: the next step takes it up" in said(app)


def test_a_run_in_this_process_is_not_killed_but_said(tmp_path):
    run = at_work(tmp_path)
    app = press(open_page(tmp_path, "train", run="live"), "Kill")
    assert "in this very process" in app.error[0].value.replace("\\", "")
    assert run.state == "running"


def test_a_dead_process_is_never_shown_as_running(tmp_path, monkeypatch):
    at_work(tmp_path, pid=2**22 + 1, process_started="never")
    resumed = []
    monkeypatch.setattr(jobs, "start_job", lambda words, path, **also: resumed.append(words))
    app = open_page(tmp_path, "train", run="live")
    assert "failed" in app.radio(key="view_run").proto.captions[0].replace("\\", "")
    assert "ended without a word" in app.error[0].value
    labels = [button.label for button in app.button]
    assert not {"Pause", "Stop", "Kill"} & set(labels)
    press(app, "Resume")
    assert resumed == [["train", "--out", str(tmp_path / "live"), "--resume"]]


def test_curves_show_changes_and_the_clip(tmp_path):
    run = at_work(tmp_path)
    run.append({"kind": "learning_rate", "step": 5, "total_steps": 10, "highest": 3e-3})
    app = open_page(tmp_path, "train", run="live")
    specs = [json.loads(part.proto.spec) for part in parts(app, "plotly_chart")]
    titles = [spec["layout"]["yaxis"]["title"]["text"] for spec in specs]
    assert titles == ["loss (nats)", "learning rate", "gradient norm (log)"]
    assert specs[1]["layout"]["shapes"][0]["x0"] == 5
    assert specs[2]["layout"]["shapes"][0]["y0"] == 1.0


def test_a_long_run_is_thinned_and_keeps_its_end():
    records = [{"kind": "step", "step": n, "learning_rate": 1.0, "loss": 1.0} for n in range(1, 9002)]
    records.insert(4000, {"kind": "evaluation", "step": 4000, "loss": 1.0})
    kept = train_curves._thinned(records)
    assert len(kept) <= train_curves.MOST + 2
    assert kept[-1]["step"] == 9001
    assert sum(record["kind"] == "evaluation" for record in kept) == 1


def test_the_python_beside_a_curve_draws_it(tmp_path, monkeypatch):
    at_work(tmp_path)
    app = open_page(tmp_path, "train", run="live")
    pasted = [each.value for each in app.code if each.language == "python"]
    assert len(pasted) == len(app.get("plotly_chart")) == 3
    drawn = []
    monkeypatch.setattr(go.Figure, "show", lambda figure: drawn.append(figure))
    for text in pasted:
        exec(text, {})
    assert [figure.layout.yaxis.title.text for figure in drawn] == [
        "loss (nats)",
        "learning rate",
        "gradient norm (log)",
    ]


def test_outputs_are_leafed_through_by_evaluation(tmp_path):
    run = at_work(tmp_path)
    for step, output in ((6, "un"), (8, "un chat")):
        row = {"source": "a cat", "target": "un chat", "output": output}
        run.append({"kind": "evaluation", "step": step, "loss": 1.0, "exact_match": 0.0, "samples": [row]})
    app = open_page(tmp_path, "train", run="live")
    app.segmented_control(key="view_part").set_value("outputs").run()
    assert app.table[0].value.iloc[0].tolist() == ["✓", "a cat", "un chat", ""]
    app.select_slider(key="run_tried_live").set_value(6).run()
    assert app.table[0].value.iloc[0].tolist() == ["", "a cat", "un", "un chat"]
    assert not app.exception


def test_checkpoints_and_the_best_model_are_listed(tmp_path):
    run = at_work(tmp_path, best={"step": 4, "rank": [0.5, -1.0]})
    (run.path / "checkpoints" / "checkpoint-6").mkdir(parents=True)
    (run.path / "checkpoints" / "checkpoint-6" / "optimizer.pt").write_bytes(b"0" * 2_000_000)
    (run.path / "checkpoints" / ".writing").mkdir()
    app = open_page(tmp_path, "train", run="live")
    app.segmented_control(key="view_part").set_value("kept").run()
    rows = app.dataframe[0].value
    assert rows["folder"].tolist() == ["model", "checkpoint-6"]
    assert rows["step"].tolist() == ["4", "6"]
    assert rows["size (MB)"].tolist()[1] == 2.0


def test_the_time_left_is_that_of_the_last_pace():
    records = [{"step": 10 * n, "total_steps": 100, "seconds": 2.0 * n} for n in range(1, 6)]
    assert train.seconds_left(records) == pytest.approx(10.0)
    assert train.seconds_left(records[:1]) is None
    assert train.seconds_left([{"step": 1}, *records[:1]]) is None


def test_patience_is_counted(tmp_path):
    run = at_work(tmp_path)
    run.append({"kind": "evaluation", "step": 6, "loss": 1.0, "exact_match": 0.0, "best": True})
    run.append({"kind": "evaluation", "step": 7, "loss": 1.0, "exact_match": 0.0, "best": False})
    assert "1 of 3 evaluations without a better score" in said(open_page(tmp_path, "train", run="live"))


def test_data_are_looked_at_before_training(tmp_path, monkeypatch):
    rows = ["a cat\tun chat\tx", "a dog\tun chien\ty", "a cat\tun chat\tz", "\tempty\tw"] * 4
    (tmp_path / "animals.tsv").write_text("\n".join(["en\tfr\tnote", *rows, ""]), encoding="utf-8")
    started = []
    monkeypatch.setattr(jobs, "start_job", lambda words, path, **also: started.append(words))
    app = open_page(tmp_path, "train")
    app.selectbox(key="new_what").set_value("file").run()
    app.selectbox(key="new_file").set_value("animals.tsv").run()
    assert not app.exception
    assert app.selectbox(key="new_source_animals.tsv").options == ["en", "fr", "note"]
    app.selectbox(key="new_target_animals.tsv").set_value("fr").run()
    assert list(app.dataframe[0].value.columns) == ["en", "fr"]
    press(app, "Look through the whole file")
    metrics = {metric.label: metric.value for metric in app.metric}
    assert int(metrics["To train on"]) + int(metrics["Held out"]) == 12
    assert metrics["Leaked"] == "0"
    assert "4 rows cannot be used" in app.warning[0].value
    app.toggle(key="new_skip").set_value(True).run()
    app.toggle(key="new_story").set_value(True).run()
    app.number_input(key="new_patience").set_value(2).run()
    press(app, "Start training")
    words = started[0]
    assert words[-1] == "--story"
    given = dict(pairwise(words))
    assert (given["--source-column"], given["--target-column"], given["--patience"]) == ("en", "fr", "2")
    assert "--skip-bad-rows" in words
