"""The dashboard in a real browser: the server, a page that asks nobody else, how to wait for things."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import pre_tokenizers

from dashboard import examples
from dashboard.catalogue import Place
from dashboard.examples import Example
from tests.models import network, tokenizer

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
"""What a module of such tests is marked with: `pytestmark = MARKS`."""

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
TEXT = "the old cat sleeps under the tree"
HOSTILE = "<img/src=http://evil/x.png/onerror=alert(1)> ![x](http://evil/x.png) <script>alert(1)</script> cat"
SERVE = "import sys; from pathlib import Path; from dashboard.serve import serve; "
WAIT = 60_000
expect.set_options(timeout=WAIT)
"""`expect` waits for what it asks about; an immediate read after an action meets the page half drawn."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The dashboard on a free port, over a folder with one tiny random model."""
    runs = tmp_path_factory.mktemp("runs")
    network("bart").save_pretrained(runs / "tiny")
    words = tokenizer()
    # Splitting at spaces only, so that a whole tag is one token.
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save_pretrained(runs / "tiny")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = f"{SERVE}serve(Path({str(runs)!r}), port={port}, headless=True)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", command], env=environment, cwd=runs)
    try:
        _await(f"http://127.0.0.1:{port}/_stcore/health", process)
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", runs=runs, place=Place(runs))
    finally:
        process.terminate()
        process.wait(20)


def _await(url: str, process: subprocess.Popen) -> None:
    for _ in range(WAIT // 100):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                assert answer.read() == b"ok"
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser, server) -> Iterator[object]:
    """A page that must ask nobody but the server, and have nothing to complain of."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(WAIT)
    asked, complaints = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda m: complaints.append((m.text, m.location)) if m.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append((str(error), {})))
    opened.on("dialog", lambda dialog: complaints.append((dialog.message, {})))
    yield opened
    context.close()
    schemes = (server.url, "data:", "blob:")
    assert [url for url in asked if not url.startswith(schemes)] == []
    # A link to a page other than the first makes Streamlit look for its server below that page, too.
    assert [c for c in complaints if "/_stcore/" not in str(c[1].get("url", ""))] == []


def strip(page, label: str):
    return page.locator(f'.strip[aria-label="{label}"]')


def tokens(page, label: str):
    return strip(page, label).locator(".tokens .token")


def colours(page, label: str) -> list[str]:
    return tokens(page, label).evaluate_all("all => all.map(one => one.style.backgroundColor)")


def does_not_scroll_sideways(page) -> None:
    """Wait until the page is no wider than its window."""
    main = page.get_by_test_id("stMain")
    until(page, lambda: main.evaluate("element => element.scrollWidth - element.clientWidth") <= 1)


def until(page, wanted) -> None:
    """Wait until `wanted()` holds."""
    for _ in range(WAIT // 100):
        if wanted():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not come about")


def link(server, page: str = "", source: str = TEXT, **fields: object) -> str:
    allow = {"allow_unknown": True, "max_new_tokens": 8}
    id_ = examples.save(server.place, Example(source, None, allow))
    parameters = "&".join(f"{name}={value}" for name, value in {"example": id_, **fields}.items())
    return f"{server.url}/{page}?{parameters}"
