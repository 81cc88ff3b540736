"""Folders replaced as a whole, whenever the process that replaces them is killed."""

import os
import subprocess
import sys

import pytest

from explain import files
from explain.files import remove_folder, replace_folder, restore_folder

# A child that kills itself before its n-th step on the file system replaces a folder; the parent looks at
# what it left. The last child gets to its end.
KILLED = """
import os, pathlib, shutil, signal, sys
from explain import files

def folder(path, text):
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name in "abc":
        (path / name).write_text(text)

place = pathlib.Path(sys.argv[1])
if sys.argv[2] == "without":
    files._exchange = lambda one, other: False
goal, new, count, ended = place / "goal", place / ".goal-new", 0, False
while not ended:
    folder(goal, "old")
    folder(new, "new")
    child = os.fork()
    if child == 0:
        left = [count]
        def step(event, _):
            if event.startswith(("os.", "shutil.", "ctypes.", "open")):
                left[0] -= 1
                if left[0] == -1:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(step)
        files.replace_folder(new, goal)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    if sys.argv[2] == "without":
        files.restore_folder(goal)
    found = [path.read_text() for path in sorted(goal.iterdir())]
    print(*found)
    count += 1
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("exchange", ["with", "without"])
def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one_whole(tmp_path, exchange):
    if exchange == "with" and not sys.platform.startswith("linux"):
        pytest.skip("only Linux exchanges two names in one step")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), exchange], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = done.stdout.splitlines()
    assert set(seen) == {"old old old", "new new new"}
    assert seen == sorted(seen, reverse=True)
    assert len(seen) > 5


def test_what_is_replaced_leaves_nothing_behind(tmp_path):
    for text in ("one", "two"):
        new = tmp_path / ".goal-new"
        new.mkdir()
        (new / "file").write_text(text)
        replace_folder(new, tmp_path / "goal")
        assert (tmp_path / "goal" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["goal"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    goal = tmp_path / "goal"
    goal.mkdir()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "missing", goal)
    restore_folder(goal)
    assert [path.name for path in tmp_path.iterdir()] == ["goal"]


def test_a_folder_that_is_not_there_can_be_removed_and_restored(tmp_path):
    remove_folder(tmp_path / "nothing")
    restore_folder(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []
