"""Jobs that pages start: caught before they become processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import model_jobs
from explain.runs import Run
from tests.test_dashboard import texts


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What was started; the run is there as `start_job` leaves it, and waits for its process."""
    found: list[SimpleNamespace] = []

    def start(words, path, *, kind, title, config, seed):
        run = Run.create(path, kind=kind, command=f"explain {kind}", title=title, config=config, seed=seed)
        found.append(SimpleNamespace(words=words, path=path, kind=kind, title=title, config=config, run=run))
        return run

    monkeypatch.setattr(model_jobs, "start_job", start)
    return found


def said(app: AppTest) -> str:
    """The texts of a page, without what keeps Markdown from reading them."""
    return texts(app).replace("\\", "")
