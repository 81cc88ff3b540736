"""Screenshots of every dashboard page, full and empty, wide and narrow, light and dark: `make gallery`."""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, sync_playwright

import dashboard
from dashboard import examples
from dashboard.catalogue import Place
from explain.errors import ExplainError, RunError
from explain.runs import Run, is_run, list_runs
from explain.story import has_story

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
TEXTS = {
    "translate": "The happy nurses do not look for the red stars.",
    "invoice": "Oakfield GmbH. Invoice no. 9090, 23 January 2011. Total CHF 8,170.00. "
    "Payment within 60 days.",
    "clinic": "Visit of 20 June 2013. Woman aged 22 presents with hypertension. "
    "Her tablets are amoxicillin 30 mcg.",
}
EDITED = {"clinic": TEXTS["clinic"].replace("hypertension", "gout")}
ROUTES = Path(dashboard.__file__).with_name("routes")
SIZES = {"wide": (1440, 1000), "narrow": (390, 844)}
SCHEMES = ("light", "dark")
LONGEST = 12_000
"""Pixels of a picture's height; what is below is left out."""
WAIT = 120_000


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture: the link that it is taken of, and what is clicked first."""

    link: str
    act: Callable[[Page], None] | None = None


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
        for _ in range(480):
            if process.poll() is not None:
                raise RunError(f"the dashboard over {runs} ended as it began")
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        yield address
    finally:
        process.terminate()
        process.wait(20)


# ---- what is photographed --------------------------------------------------------------------------------


def views(runs: Path) -> dict[str, Shot]:
    """Name and link of what is photographed over a folder with the demo's models."""
    names = [name for name in TEXTS if is_run(runs / name)]
    if not names:
        raise RunError(f"{runs} holds none of the demo's models; run make demo first")
    place, found = Place(runs), {}
    for name in names:
        link = {"model": name, "example": examples.save(place, examples.Example(TEXTS[name])), "step": 3}
        for page, more in (("generate", {}), ("attention", {}), ("attribution", {"level": "word"})):
            found[f"{name}-{page}"] = Shot(_link(page, link, **more))
        found[f"{name}-trust"] = Shot(_link("trust", model=name))
        found[f"{name}-runs"] = Shot(_link("runs", link, run=name))
    name = "clinic" if "clinic" in names else names[0]
    text = TEXTS[name]
    link = {"model": name, "example": examples.save(place, examples.Example(text)), "step": 3}
    found |= _asked(place, name, link, text, [other for other in names if other != name])
    for run in list_runs(runs):
        found |= _of_run(run)
    for page in sorted(path.stem for path in ROUTES.glob("[a-z]*.py")):
        found[f"empty-{page}"] = Shot(_link(page, model=names[-1]))
    return found


def _link(page: str, fields: dict[str, object] | None = None, **more: object) -> str:
    return f"/{'' if page == 'generate' else page}?{urlencode({**(fields or {}), **more})}"


def _asked(place: Place, name: str, link: dict[str, object], text: str, others: list[str]) -> dict[str, Shot]:
    """What a page shows only once something has been chosen on it or asked of it."""
    given = examples.save(place, examples.Example(text, None, {"num_beams": 4}))
    edited = examples.save(place, examples.Example(EDITED.get(name, text), origin=str(link["example"])))
    found = {
        f"{name}-generate-beams": Shot(_link("generate", link, example=given, dropped=1)),
        f"{name}-generate-branch": Shot(_link("generate", link), _branch),
        f"{name}-generate-figures": Shot(_link("generate", link), _open_all),
        f"{name}-attention-head": Shot(
            _link("attention", link, layer=1, head=0, drawn="lines", level="word")
        ),
        f"{name}-attention-encoder": Shot(_link("attention", link, side="encoder", query=4)),
        f"{name}-attribution-two": Shot(_link("attribution", link, second="attention")),
        f"{name}-attribution-whole": Shot(_link("attribution", link), _open_all),
        f"{name}-compare-source": Shot(_link("compare", link, other=edited)),
        f"{name}-compare-head": Shot(
            _link("compare", link, changed="head", silenced="decoder.1.cross head 0")
        ),
        f"{name}-compare-models": Shot(_link("compare", link, changed="models")),
        f"{name}-inside-lenses": Shot(_link("inside", link)),
        f"{name}-inside-heads": Shot(_link("inside", link, inside="causes")),
        f"{name}-inside-tokens": Shot(_link("inside", link, inside="causes", cause="tokens")),
        f"{name}-inside-source": Shot(_link("inside", link, inside="causes", cause="source", other=edited)),
        f"{name}-inside-writing": Shot(
            _link("inside", link, inside="causes", cause="writing", silenced="decoder.1.cross")
        ),
        f"{name}-inside-neurons": Shot(_link("inside", link, inside="neurons")),
        f"{name}-inside-projector": Shot(_link("inside", link, inside="projector")),
        f"{name}-train-new": Shot(_link("train", run=name), _new_run),
        f"{name}-keys": Shot(_link("generate", link), _keys),
    }
    if others:
        found[f"{name}-compare-model"] = Shot(_link("compare", link, changed="model", rival=others[0]))
    return found


def _of_run(run: Run) -> dict[str, Shot]:
    """The page that one run has beside its line among all runs."""
    if run.problem or run.state != "done":
        return {}
    kind = run.manifest.get("kind")
    found = {f"{run.name}-opened": Shot(_link("runs", run=run.name))}
    if kind == "audit":
        found[f"{run.name}-audit"] = Shot(_link("audit", run=run.name))
        found[f"{run.name}-audit-output"] = Shot(_link("audit", run=run.name), _open_all)
    if kind == "compare":
        found[f"{run.name}-compare"] = Shot(_link("compare", run=run.name, changed="models"))
    if kind == "train":
        for part in ("curves", "outputs", "kept", *(("story",) if has_story(run) else ())):
            found[f"{run.name}-train-{part}"] = Shot(_link("train", run=run.name, part=part))
    return found


def nothing() -> dict[str, Shot]:
    """The pages over a folder in which nothing has been made."""
    return {f"nothing-{path.stem}": Shot(_link(path.stem)) for path in sorted(ROUTES.glob("[a-z]*.py"))}


# ---- what is clicked -------------------------------------------------------------------------------------


def _branch(page: Page) -> None:
    page.locator(".writing .row:not([aria-current])").first.click()
    page.get_by_role("button", name="Back to the first").wait_for(timeout=WAIT)


def _open_all(page: Page) -> None:
    for place in range(page.locator('[data-testid="stMain"] details:not([open]) > summary').count()):
        page.locator('[data-testid="stMain"] details:not([open]) > summary').first.click()
        settle(page)
        if place > 6:
            return


def _new_run(page: Page) -> None:
    page.locator("details", has_text="New run").locator("summary").first.click()


def _keys(page: Page) -> None:
    page.keyboard.press("?")
    page.locator(".keys dialog[open]").wait_for()


# ---- pictures --------------------------------------------------------------------------------------------


def settle(page: Page) -> None:
    """Wait until Streamlit has nothing running any more, and until figures have drawn."""
    page.wait_for_selector("h1", timeout=WAIT)
    page.wait_for_selector(".keys .link", state="attached", timeout=WAIT)
    busy = ", ".join(f'[data-testid="{name}"]' for name in ("stStatusWidget", "stSpinner", "stSkeleton"))
    busy += ', [data-stale="true"]'
    for _ in range(3):  # a rerun may follow on the heels of another
        page.wait_for_function("what => !document.querySelector(what)", arg=busy, timeout=WAIT)
        page.wait_for_timeout(400)


def ask(page: Page) -> None:
    """Press what starts work that the page does not begin without being asked."""
    asked = page.locator('[class*="st-key-start_"] button')
    if asked.count():
        asked.first.click()
        page.wait_for_timeout(600)
        page.wait_for_function("() => !document.querySelector('[class*=\"st-key-work_\"]')", timeout=3 * WAIT)
        settle(page)


def take(page: Page, address: str, shot: Shot, path: Path, size: tuple[int, int]) -> None:
    """Take one picture, as tall as the page."""
    width, height = size
    page.set_viewport_size({"width": width, "height": height})
    page.goto(address + shot.link)
    settle(page)
    ask(page)
    if shot.act is not None:
        shot.act(page)
        settle(page)
    # Streamlit scrolls inside the page, so the window must be as tall as what it holds.
    tall = page.evaluate("() => document.querySelector('[data-testid=\"stMain\"]').scrollHeight")
    page.set_viewport_size({"width": width, "height": min(LONGEST, max(height, int(tall)))})
    settle(page)
    page.screenshot(path=path)


def main() -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("gallery"))
    parser.add_argument("--only", default="", help="take those whose name matches this pattern")
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
    missing = 0
    with tempfile.TemporaryDirectory() as empty, sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium, args=FLAGS)
        for runs, shots in ((arguments.runs, links), (Path(empty), nothing())):
            wanted = [
                (name, size, scheme)
                for scheme in SCHEMES
                for size in SIZES
                for name in shots
                if re.search(arguments.only, f"{name}-{size}-{scheme}")
            ]
            if not wanted:
                continue
            with served(runs) as address:
                for scheme in SCHEMES:
                    context = browser.new_context(color_scheme=scheme)
                    page = context.new_page()
                    for name, size, one in wanted:
                        if one == scheme:
                            path = arguments.out / f"{name}-{size}-{scheme}.png"
                            try:
                                take(page, address, shots[name], path, SIZES[size])
                                print(path, flush=True)
                            except PlaywrightError as error:
                                missing += 1
                                print(f"{path}: {error.message.splitlines()[0]}", file=sys.stderr, flush=True)
                    context.close()
        browser.close()
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
