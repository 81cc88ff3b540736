"""Run folders: what they say when all goes well, when a job dies, and when files are broken."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from explain import runs
from explain.errors import FileError, InputError, RunError
from explain.runs import JobStopped, Run, inside, list_runs, model_folder, start_job
from explain.runs.processes import is_alive, own_process, process_start


@pytest.fixture
def run(tmp_path):
    return Run.create(
        tmp_path / "translate", kind="train", title="Translate", config={"task": "translate"}, seed=3
    )


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def dead_process():
    """The number and start of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    known = {"pid": process.pid, "process_started": process_start(process.pid)}
    assert is_alive(known)
    process.kill()
    process.wait()
    return known


def test_a_new_run_says_what_it_is(run):
    manifest = run.manifest
    assert manifest["schema"] == "explain/run@1"
    assert manifest["kind"] == "train"
    assert manifest["title"] == "Translate"
    assert manifest["seed"] == 3
    assert manifest["state"] == run.state == "queued"
    assert run.config == {"task": "translate"}
    assert manifest["versions"]["python"]
    assert run.name == "translate"


def test_a_run_goes_from_queued_to_done(run):
    with run.running() as same:
        assert same.state == "running"
        run.append({"step": 1})
        run.update(result={"exact_match": 0.5})
    manifest = Run.open(run.path).manifest
    assert manifest["state"] == "done"
    assert manifest["created"] <= manifest["started"] <= manifest["ended"]
    assert manifest["result"] == {"exact_match": 0.5}
    assert run.progress() == [{"step": 1}]


def work_that_raises(run, error):
    with run.running():
        raise error


@pytest.mark.parametrize("error", [InputError("no such column"), KeyboardInterrupt()])
def test_a_run_that_ended_before_it_wrote_anything_gives_way(run, error):
    with pytest.raises(type(error)):
        work_that_raises(run, error)
    run.request_rate(0.1)
    again = Run.create(run.path, kind="train", title="once more", config={"task": "clinic"})
    assert again.manifest | {"state": "queued", "title": "once more", "error": None} == again.manifest
    assert again.config == {"task": "clinic"}
    assert again.requested_rate() is None


@pytest.mark.parametrize("kept", ["progress.jsonl", "model/config.json"])
def test_a_failed_run_that_holds_work_stays(run, kept):
    with pytest.raises(InputError):
        work_that_raises(run, InputError("a row is bad"))
    (run.path / kept).parent.mkdir(exist_ok=True)
    (run.path / kept).write_text("{}")
    with pytest.raises(RunError, match=r"holds a train run already \(failed\); resume it or name another"):
        Run.create(run.path, kind="train")
    with pytest.raises(RunError, match="holds a train run already"):
        Run.create(run.path, kind="audit")


def test_a_full_disk_is_said_by_name(run, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.open", full)
    with pytest.raises(FileError, match=r"cannot write .*progress.jsonl: No space left on device"):
        run.append({"step": 1})
    with pytest.raises(FileError, match=r"cannot write .*log.txt: No space left on device"):
        run.log("a line")


def test_a_stopped_job_says_so_and_goes_no_further(run):
    work_that_raises(run, JobStopped())
    assert run.state == "stopped"


def test_an_interrupted_job_is_stopped_and_the_interrupt_goes_on(run):
    with pytest.raises(KeyboardInterrupt):
        work_that_raises(run, KeyboardInterrupt())
    assert run.state == "stopped"


def test_a_failed_job_keeps_the_reason(run):
    with pytest.raises(InputError):
        work_that_raises(run, InputError("row 3 is empty"))
    assert run.state == "failed"
    assert run.manifest["error"] == "row 3 is empty"
    assert "Traceback" not in "\n".join(run.log_tail())


def test_a_bug_keeps_its_traceback_in_the_log(run):
    with pytest.raises(ZeroDivisionError):
        work_that_raises(run, ZeroDivisionError("division by zero"))
    assert run.manifest["error"] == "ZeroDivisionError: division by zero"
    assert "Traceback" in "\n".join(run.log_tail())


def test_a_termination_signal_counts_as_an_interrupt(run):
    before = signal.getsignal(signal.SIGTERM)

    def work():
        with run.running():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert run.state == "stopped"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_dead_process_is_never_shown_as_running(run, state):
    run.update(state=state, **dead_process())
    assert run.state == "failed"
    assert run.manifest["error"] == "the process ended without a word; resume it"


def test_a_process_number_that_was_used_again_is_not_the_job(run):
    run.update(state="running", pid=os.getpid(), process_started="some other boot:12")
    assert run.state == "failed"


def test_an_uncollected_zombie_counts_as_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    known = {"pid": process.pid, "process_started": process_start(process.pid)}
    wait_for(lambda: not is_alive(known))
    process.wait()


def test_processes_are_recognised_without_proc(monkeypatch, run):
    monkeypatch.setattr("explain.runs.processes.Path.exists", lambda path: False)
    if process_start(os.getpid()) is None:
        pytest.skip("this machine has no ps")
    assert is_alive(own_process())
    assert not is_alive(dead_process())


def test_two_processes_do_not_work_in_one_run(run):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        run.update(state="running", pid=process.pid, process_started=process_start(process.pid))
        with pytest.raises(RunError, match="at work already"), run.running():
            pass
    finally:
        process.kill()
        process.wait()


def test_a_torn_line_is_left_out_and_swallows_no_other(run):
    run.append({"step": 1})
    with (run.path / "progress.jsonl").open("ab") as stream:
        stream.write(b'{"step": 2, "lo')
    assert run.progress() == [{"step": 1}]
    run.append({"step": 2})
    assert run.progress() == [{"step": 1}, {"step": 2}]
    run.append({"step": 3, "loss": float("nan")})
    assert run.progress()[-1] == {"step": 3, "loss": None}
    run.keep_progress(2)
    assert run.progress() == [{"step": 1}, {"step": 2}]


def test_the_log_shows_its_end(run):
    assert run.log_tail(3) == []
    for number in range(1000):
        run.log(f"line {number} " + "x" * 300)
    tail = run.log_tail(3)
    assert [line.split()[2] for line in tail] == ["997", "998", "999"]
    assert run.log_tail(0) == []


def test_requests_reach_the_job(run):
    assert run.requested() is None
    with run.running():
        run.request("pause")
        assert run.requested() == "pause"
        run.request("stop")
        run.check()
    assert run.state == "stopped"
    assert run.requested() is None
    with pytest.raises(RunError, match="its state is stopped"):
        run.request("pause")
    with pytest.raises(ValueError, match="stop, pause, continue"):
        run.request("explode")


def test_a_stop_asked_for_while_queued_is_not_forgotten(run):
    run.request("stop")
    with run.running():
        run.check()
        pytest.fail("the job went on")
    assert run.state == "stopped"


def test_a_paused_job_waits_and_goes_on(run):
    from threading import Timer

    with run.running():
        run.request("pause")
        states = []
        timers = [
            Timer(0.1, lambda: states.append(run.state)),
            Timer(0.2, lambda: run.request("continue")),
        ]
        for timer in timers:
            timer.start()
        assert run.wait_while_paused(0.01)
        for timer in timers:
            timer.join()
        assert states == ["paused"]
        assert run.state == "running"


def test_create_takes_only_an_empty_or_queued_folder(tmp_path, run):
    empty = tmp_path / "empty"
    empty.mkdir()
    Run.create(empty, kind="train")

    created = run.manifest["created"]
    again = Run.create(run.path, kind="train", config={"task": "clinic"})
    assert again.manifest["created"] == created
    assert again.manifest["title"] == "Translate"
    with pytest.raises(RunError, match="holds a train run"):
        Run.create(run.path, kind="audit")
    run.update(state="done")
    with pytest.raises(RunError, match=r"\(done\); name another folder"):
        Run.create(run.path, kind="train")
    run.update(state="stopped")
    run.append({"step": 1})
    with pytest.raises(RunError, match="resume it or name another folder"):
        Run.create(run.path, kind="train")

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("precious")
    with pytest.raises(RunError, match="not empty and not a run"):
        Run.create(other, kind="train")
    with pytest.raises(RunError, match="is a file"):
        Run.create(other / "chapter.txt", kind="train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": "explain/run@1", "sta', "cut short"),
        ('{"schema": "explain/report@1"}', "not a explain/run@1"),
        ('{"schema": "explain/run@1"}', "no known state"),
        ('{"schema": "explain/run@1", "state": "asleep"}', "no known state"),
        ("[1, 2]", "does not hold a JSON object"),
        ("", "not valid JSON"),
    ],
)
def test_a_broken_manifest_is_refused_by_name(run, text, message):
    (run.path / "run.json").write_text(text)
    with pytest.raises(RunError, match=message) as caught:
        Run.open(run.path)
    assert str(run.path) in str(caught.value)


def test_open_needs_a_run(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        Run.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path)
    assert not runs.is_run(tmp_path)


def test_runs_are_listed_newest_first_and_one_bad_folder_hides_no_other(tmp_path):
    assert list_runs(tmp_path / "nowhere") == []
    for name, day in (("a", "01"), ("b", "03"), ("c", "02")):
        Run.create(tmp_path / name, kind="train").update(created=f"2026-01-{day}T00:00:00+00:00")
    (tmp_path / "notes.txt").write_text("not a run")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_bytes(b"\xff\xfe{")
    found = list_runs(tmp_path)
    assert [run.name for run in found] == ["b", "c", "a", "broken"]
    assert found[-1].state == "failed"
    assert "UTF-8" in found[-1].problem
    assert found[-1].manifest["error"] == found[-1].problem
    assert found[-1].config == {}


def test_a_run_has_a_model_once_it_says_so(run):
    with pytest.raises(RunError, match="no model yet"):
        model_folder(run.path)
    run.update(model="model")
    with pytest.raises(RunError, match="no model yet"):
        model_folder(run.path)
    (run.path / "model").mkdir()
    (run.path / "model" / "config.json").write_text("{}")
    assert model_folder(run.path) == run.path / "model"
    run.update(model="../elsewhere")
    with pytest.raises(RunError, match="not inside"):
        model_folder(run.path)


@pytest.mark.parametrize("name", ["..", "../other", "/etc/passwd", "", ".", "a/../..", "a\0b"])
def test_names_from_outside_stay_inside(tmp_path, name):
    with pytest.raises(RunError):
        inside(tmp_path, name)


def test_links_that_lead_out_are_refused(tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(RunError, match="not inside"):
        inside(root, "out")
    assert inside(root, "translate") == root / "translate"


JOB = """
import sys, time
from explain.runs import Run
run = Run.create(sys.argv[2], kind="train")
with run.running():
    print("at work", flush=True)
    while True:
        run.check()
        time.sleep(0.01)
"""


@pytest.fixture
def program(monkeypatch):
    def use(code):
        monkeypatch.setattr("explain.runs.jobs.PROGRAM", ("-c", code))

    return use


def test_a_job_is_queued_works_and_stops_when_asked(tmp_path, program):
    program(JOB)
    run = start_job(["train", str(tmp_path / "job")], tmp_path / "job", title="A job", threads=1)
    assert run.manifest["command"] == f"explain train {tmp_path / 'job'}"
    assert run.state in {"queued", "running"}
    wait_for(lambda: run.state == "running" and run.log_tail())
    assert run.manifest["pid"] != os.getpid()
    assert run.manifest["title"] == "A job"
    with pytest.raises(RunError, match="holds a train run"):
        start_job(["train", "--resume"], run.path)
    run.request("stop")
    wait_for(lambda: run.state == "stopped")
    assert run.log_tail() == ["at work"]
    run.append({"step": 1})
    with pytest.raises(RunError, match="resume it"):
        start_job(["train"], run.path)


def test_a_killed_job_is_failed_and_can_be_queued_again(tmp_path, program):
    program(JOB)
    run = start_job(["train", str(tmp_path / "job")], tmp_path / "job")
    wait_for(lambda: run.state == "running")
    os.kill(run.manifest["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "failed")
    assert "without a word" in run.manifest["error"]
    start_job(["train", str(run.path), "--resume"], run.path)
    wait_for(lambda: run.state == "running")
    run.request("stop")
    wait_for(lambda: run.state == "stopped")


def test_a_job_that_ends_before_it_began_says_why(tmp_path, program):
    program("import sys; sys.exit('Error: no such option --stepz')")
    run = start_job(["train"], tmp_path / "job")
    wait_for(lambda: run.state == "failed")
    assert run.manifest["error"] == "the job ended before it began: Error: no such option --stepz"


def test_listing_runs_needs_no_torch():
    code = "import sys, explain.runs; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_manifest_is_json_that_others_can_read(run):
    assert json.loads((run.path / "run.json").read_text())["state"] == "queued"
