"""Runs as zip files: there and back, and what is refused."""

from __future__ import annotations

import io
import json
import stat
import zipfile

import pytest

from explain.errors import FileError, RunError
from explain.runs import Run, list_runs, pack, remove, unpack


def make(root, name="mine", **fields) -> Run:
    run = Run.create(root / name, kind="train", command="explain train")
    (run.path / "model").mkdir()
    (run.path / "model" / "config.json").write_text("{}")
    run.update(state="done", **fields)
    return run


def zipped(files: dict[str, str | bytes], **attributes) -> io.BytesIO:
    """A zip of these files; `attributes` are set on the entries."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            for field, value in attributes.items():
                setattr(entry, field, value)
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    made.seek(0)
    return made


@pytest.fixture
def manifest(tmp_path) -> str:
    return (make(tmp_path / "elsewhere").path / "run.json").read_text()


def test_a_run_goes_there_and_back(tmp_path):
    run = make(tmp_path / "a", title="é")
    (run.path / "checkpoint-5").mkdir()
    (run.path / "checkpoint-5" / "state.pt").write_bytes(b"x")
    (run.path / "link.json").symlink_to("/etc/passwd")
    with pack(run) as archive:
        back = unpack(archive, tmp_path / "b")
        archive.seek(0)
        again = unpack(archive, tmp_path / "b")
    assert (back.name, again.name) == ("mine", "mine-2")
    assert back.manifest == run.manifest
    assert sorted(p.name for p in back.path.rglob("*") if p.is_file()) == ["config.json", "run.json"]
    assert [path.name for path in (tmp_path / "b").iterdir() if path.name.startswith(".")] == []


def test_a_job_at_work_is_not_packed_and_not_deleted(tmp_path):
    run = Run.create(tmp_path / "live", kind="train")
    with pytest.raises(RunError, match="still queued"):
        pack(run)
    with pytest.raises(RunError, match="still queued"):
        remove(tmp_path, "live")
    assert run.path.is_dir()


def test_a_job_that_was_at_work_elsewhere_is_not_at_work_here(tmp_path, manifest):
    text = json.dumps(json.loads(manifest) | {"state": "running"})
    assert unpack(zipped({"mine/run.json": text}), tmp_path).state == "stopped"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../run.py", "leads out"),
        ("mine/../../x.json", "leads out"),
        ("/etc/x.json", "leads out"),
        ("C:/x.json", "leads out"),
        ("mine\\..\\x.json", "leads out"),
        ("mine/\x1b[2J.json", "leads out"),
        ("mine/evil.py", "kind of file"),
        ("mine/model/pytorch_model.bin", "kind of file"),
        ("mine/.bashrc", "kind of file"),
        ("mine/.hidden/x.json", "kind of file"),
        ("other/x.json", "does not hold one run"),
        ("other/run.json", "does not hold one run"),
    ],
)
def test_what_a_run_never_holds_is_refused_by_name(tmp_path, manifest, name, says):
    with pytest.raises(FileError, match=says):
        unpack(zipped({"mine/run.json": manifest, name: "{}"}), tmp_path / "runs")
    assert not list_runs(tmp_path / "runs")
    assert not [path for path in tmp_path.rglob("*") if path.name in ("run.py", "x.json", "evil.py")]


def test_links_and_encrypted_files_are_refused(tmp_path, manifest):
    link = zipped({"mine/run.json": manifest}, external_attr=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(FileError, match="a link"):
        unpack(link, tmp_path / "runs")
    locked = zipped({"mine/run.json": manifest}).getvalue()
    at = locked.index(b"PK\x01\x02") + 8  # flags of the first entry of the central directory
    with pytest.raises(FileError, match="encrypted"):
        unpack(io.BytesIO(locked[:at] + b"\x01" + locked[at + 1 :]), tmp_path / "runs")


def test_bombs_are_refused(tmp_path, manifest):
    bomb = {"mine/run.json": manifest, "mine/a.txt": b"\0" * 5_000_000}
    with pytest.raises(FileError, match="more than 1 MiB"):
        unpack(zipped(bomb), tmp_path / "runs", limit=1 << 20)
    many = {"mine/run.json": manifest} | {f"mine/{i}.txt": "" for i in range(2_001)}
    with pytest.raises(FileError, match="2,002 files"):
        unpack(zipped(many), tmp_path / "runs")
    # A zip that lies about its size is stopped where it passes the limit, or found out by its checksum.
    lying = bytearray(zipped(bomb).getvalue())
    size = (5_000_000).to_bytes(4, "little")
    while (at := lying.find(size)) >= 0:
        lying[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(FileError):
        unpack(io.BytesIO(bytes(lying)), tmp_path / "runs", limit=1 << 20)
    assert not list_runs(tmp_path / "runs")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken"])
def test_what_is_no_zip_is_refused(tmp_path, content):
    with pytest.raises(FileError, match="not a zip"):
        unpack(io.BytesIO(content), tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "explain/other@1"}', '{"schema": "explain/run@1"}'])
def test_a_zip_with_a_foreign_manifest_is_refused(tmp_path, text):
    with pytest.raises((FileError, RunError)):
        unpack(zipped({"mine/run.json": text}), tmp_path / "runs")
    assert not list((tmp_path / "runs").iterdir())


def test_a_run_is_deleted_and_nothing_else(tmp_path):
    root = tmp_path / "runs"
    run, other = make(root), make(root, "other")
    outside = make(tmp_path / "outside")
    (root / "link").symlink_to(outside.path)
    (root / "linked").symlink_to(other.path)
    (root / "folder").mkdir()
    for name in (
        "../outside/mine",
        str(outside.path),
        "link",
        "linked",
        "folder",
        "",
        ".",
        "none",
        "mine/model",
    ):
        with pytest.raises(RunError):
            remove(root, name)
    remove(root, "mine")
    assert not run.path.exists()
    assert other.path.is_dir()
    assert outside.path.is_dir()
    (root / "other" / "run.json").write_text("{")
    remove(root, "other")  # a broken one can be deleted, too
    assert not other.path.exists()
