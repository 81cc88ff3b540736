"""Screenshots of every dashboard page, wide and narrow, light and dark: `make gallery`."""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

import dashboard
from dashboard import examples
from dashboard.catalogue import Place
from explain.errors import ExplainError, RunError
from explain.runs import is_run, list_runs

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
TEXTS = {
    "translate": "The happy nurses do not look for the red stars.",
    "invoice": "Oakfield GmbH. Invoice no. 9090, 23 January 2011. Total CHF 8,170.00. "
    "Payment within 60 days.",
    "clinic": "Visit of 20 June 2013. Woman aged 22 presents with hypertension. "
    "Her tablets are amoxicillin 30 mcg.",
}
ROUTES = Path(dashboard.__file__).with_name("routes")
SIZES = {"wide": (1440, 1000), "narrow": (390, 844)}


@contextmanager
def served(runs: Path, port: int = 0) -> Iterator[str]:
    """The address of a dashboard over `runs`, served for as long as the block runs; port 0 is a free one."""
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [sys.executable, "-m", "explain.cli", "dashboard", "--runs", str(runs)]
    process = subprocess.Popen([*command, "--headless", "--port", str(port)], stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def views(runs: Path) -> dict[str, str]:
    """Name and link of what is photographed."""
    names = [name for name in TEXTS if is_run(runs / name)]
    if not names:
        raise RunError(f"{runs} holds none of the demo's models; run make demo first")
    place, found = Place(runs), {}
    for name in names:
        example = examples.save(place, examples.Example(TEXTS[name]))
        link = {"model": name, "example": example, "step": 3}
        found[f"{name}-generate"] = "/?" + urlencode(link)
        found[f"{name}-attention"] = "/attention?" + urlencode(link)
        found[f"{name}-attribution"] = "/attribution?" + urlencode({**link, "words": 1})
        found[f"{name}-trust"] = "/trust?" + urlencode({"model": name})
        found[f"{name}-runs"] = "/runs?" + urlencode({**link, "run": name})
    for path in sorted(ROUTES.glob("[a-z]*.py")):  # pages that are not named here are taken as they open
        if f"{names[0]}-{path.stem}" not in found and path.stem != "train":
            found[f"{names[0]}-{path.stem}"] = f"/{path.stem}?" + urlencode(
                {"model": names[0], "example": examples.save(place, examples.Example(TEXTS[names[0]]))}
            )
    for run in list_runs(runs):
        if run.state == "done" and run.manifest.get("kind") == "audit":
            found[f"{run.name}-audit"] = "/audit?" + urlencode({"run": run.name})
    found["empty-generate"] = "/?" + urlencode({"model": names[0]})
    found["train"] = "/train?" + urlencode({"run": names[0]})
    return found


def settle(page: Page) -> None:
    """Wait until Streamlit has nothing running any more, and until figures have drawn."""
    page.wait_for_selector("h1", timeout=120_000)
    page.wait_for_selector(".keys .link", timeout=120_000)
    busy = '[data-testid="stStatusWidget"], [data-testid="stSpinner"], [data-stale="true"]'
    for _ in range(3):  # a rerun may follow on the heels of another
        page.wait_for_function("what => !document.querySelector(what)", arg=busy, timeout=120_000)
        page.wait_for_timeout(400)


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("gallery"))
    arguments = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, CHROMIUM)), None)
    try:
        if chromium is None:
            raise RunError("the gallery needs Chromium (Debian: apt-get install chromium)")
        links = views(arguments.runs)
    except ExplainError as error:
        sys.stderr.write(f"gallery: {error}\n")
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    with served(arguments.runs) as address, sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium, args=FLAGS)
        for scheme in ("light", "dark"):
            for size, (width, height) in SIZES.items():
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page = context.new_page()
                for name, link in links.items():
                    page.goto(address + link)
                    settle(page)
                    # Streamlit scrolls inside the page, so the window must be as tall as what it holds.
                    tall = page.evaluate(
                        "() => document.querySelector('[data-testid=\"stMain\"]').scrollHeight"
                    )
                    page.set_viewport_size({"width": width, "height": max(height, int(tall))})
                    page.wait_for_timeout(700)
                    path = arguments.out / f"{name}-{size}-{scheme}.png"
                    page.screenshot(path=path)
                    page.set_viewport_size({"width": width, "height": height})
                    print(path)
                context.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
