"""Where audits are measured: texts on disk, shards by Ray's workers, tables in large groups."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import explain
from explain import terminal
from explain.audit import engine, inputs
from explain.audit.detectors import Context
from explain.audit.engine import Work
from explain.audit.inputs import Inputs, write_inputs
from explain.audit.references import references_of
from explain.cli import app
from explain.errors import EmptyTextError, FileError, InputError, UnknownNameError
from explain.training.data import Pair, digest, iter_table
from tests.audits import DETECTORS, calibration
from tests.models import WORDS

FEW = {"max_new_tokens": 6}
TABLES = ("outputs.parquet", "findings.parquet")


def sources(count: int) -> list[str]:
    return [" ".join(WORDS[(i * k + i // 30) % len(WORDS)] for k in range(1, 5)) for i in range(count)]


def exit_status(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["explain", *map(str, arguments)])
    return terminal.run(app), capsys.readouterr().err


# ---- texts on disk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 9])
def test_texts_on_disk_are_a_sequence_with_the_digest_of_the_list(tmp_path, monkeypatch, count):
    monkeypatch.setattr(inputs, "GROUP", 4)
    pairs = [Pair(f'«{i}»\n\t"é"', "" if i % 2 else f"sortie {i}") for i in range(count)]
    written = write_inputs(
        tmp_path / "i.parquet", ((p, {"unit": str(i)}) for i, p in enumerate(pairs)), ["unit"]
    )
    assert written == digest(pairs)
    found = Inputs(tmp_path / "i.parquet")
    assert (list(found), len(found)) == (pairs, count)
    assert found[-1] == pairs[-1]
    assert found[2:7] == pairs[2:7]
    assert [others for _, others in found.rows(range(count))] == [{"unit": str(i)} for i in range(count)]


def test_texts_that_are_missing_are_refused(tmp_path):
    with pytest.raises(EmptyTextError, match="no rows"):
        write_inputs(tmp_path / "i.parquet", iter(()))
    with pytest.raises(FileError, match=r"none\.parquet cannot be read"):
        Inputs(tmp_path / "none.parquet")


@pytest.mark.parametrize("name", ["a.tsv", "a.csv.gz", "a.jsonl", "a.parquet"])
def test_other_columns_come_with_their_rows(tmp_path, name):
    table = pd.DataFrame({"unit": ["day", "night"], "source": ["a", "b"], "n": [1, 2]})
    path = tmp_path / name
    if name.endswith("parquet"):
        table.to_parquet(path)
    elif name.endswith("jsonl"):
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if name.endswith("tsv") else ",")
    rows = list(iter_table(path, need_target=False, others=("n", "unit")))
    assert rows == [(Pair("a"), {"n": "1", "unit": "day"}), (Pair("b"), {"n": "2", "unit": "night"})]
    with pytest.raises(FileError, match=r"no column 'ward' to slice by; its columns: .*unit"):
        list(iter_table(path, need_target=False, others=("ward",)))


def test_tables_are_written_in_large_groups(bart, tmp_path, monkeypatch):
    options = {"generate": FEW, "policy": {"tests": {}, "detectors": {"repetition": {}}}}
    texts = sources(200)
    for size in (64, 150):
        monkeypatch.setattr(explain.audit.tables, "GROUP", size)
        explain.audit(bart, texts, folder=tmp_path / str(size), **options)
    files = [pq.ParquetFile(tmp_path / str(size) / TABLES[0]) for size in (64, 150)]
    assert [file.num_row_groups for file in files] == [4, 2]
    assert files[0].read().equals(files[1].read())


# ---- engines ---------------------------------------------------------------------------------------------


def test_work_is_read_back_from_its_file():
    work = Work(("log_prob",), Context(references_of([]), frozenset({"b", "a"})), True, {"num_beams": 2})
    data = json.loads(json.dumps(work.to_dict()))
    back = Work.from_dict(data)
    assert back.to_dict() == work.to_dict()
    assert (back.names, back.forced, back.controls) == (("log_prob",), True, {"num_beams": 2})
    assert back.context.words == work.context.words


def test_an_engine_that_is_not_there_is_refused(bart, folder, tmp_path, monkeypatch, capsys):
    with pytest.raises(UnknownNameError, match="unknown engine 'rai'; did you mean ray"):
        explain.audit(bart, ["a cat"], engine="rai")
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'explain\[ray\]'"):
        explain.audit(bart, ["a cat"], engine="ray")
    (tmp_path / "a.txt").write_text("a cat\n")
    given = ["audit", folder, "--data", tmp_path / "a.txt", "--out", tmp_path / "run", "--engine", "ray"]
    status, said = exit_status(monkeypatch, capsys, *given)
    assert status == 2
    assert said.count("\n") == 1
    assert "not installed" in said


def test_the_command_that_makes_it_again_does_not_name_the_engine(monkeypatch):
    from explain.cli.audit import _command

    words = ["explain", "audit", "m", "--engine", "ray", "--out", "a b", "--ray-address=h:6379", "--forced"]
    monkeypatch.setattr(sys, "argv", words)
    assert _command() == "explain audit m --out 'a b' --forced"


def workers_of_ray() -> list[int]:
    """The workers of an audit among the processes that this one started."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(path.name)] = (path / "cmdline").read_text()
        except OSError:  # it has just ended
            continue
    found = []
    for pid, name in names.items():
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() and name.startswith("ray::MapWorker(MapBatches(_Worker))"):
            found.append(pid)
    return found


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1"])
def test_a_cluster_that_does_not_answer_is_refused_at_once(bart, tmp_path, monkeypatch, address):
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    with pytest.raises(InputError, match=f"no Ray cluster at {address}.*refused"):
        explain.audit(bart, ["a cat"], generate=FEW, engine="ray", ray_address=address)


@pytest.fixture
def one_worker() -> Iterator[None]:
    """As many threads as cores, so that Ray has room for one worker, which takes seconds to start."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds Ray's workers in /proc")
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")
def test_ray_gives_the_same_bytes_also_when_a_worker_is_killed(bart, tmp_path, capfd, one_worker):
    texts = sources(320)
    options = {"generate": FEW, "policy": {"tests": {}, "detectors": {key: {} for key in DETECTORS}}}
    plain = explain.audit(bart, texts, folder=tmp_path / "plain", **options)
    settings = {"forced": False, "generate": FEW}
    options["calibration"] = calibration(bart, plain, settings, flagged=100)
    killed = []

    def kill_one(done: int, total: int) -> None:
        if done and not killed:
            killed.append(workers_of_ray()[0])
            os.kill(killed[0], signal.SIGKILL)

    local = explain.audit(bart, texts, folder=tmp_path / "local", **options)
    capfd.readouterr()
    ray = explain.audit(bart, texts, folder=tmp_path / "ray", engine="ray", progress=kill_one, **options)
    assert killed
    assert tuple(capfd.readouterr()) == ("", "")
    local.save(tmp_path / "local" / "audit.json", "made")
    ray.save(tmp_path / "ray" / "audit.json", "made")
    assert len(local.findings) >= 100
    for name in (*TABLES, "audit.json"):
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()
    assert not (tmp_path / "ray" / "shards" / "job").exists()
