"""The dashboard in a real browser: how long a reader waits, and ten readers at once for two minutes.

Each figure stands beside its bound; a ratio above 1 is better than the bound. The last line is JSON. The
model is the demo's (`--runs`, made by `make demo`), copied away first; two more are random: one of 12 layers
of 12 heads, and one with room for 500 tokens. Needs Chromium; Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# This file has the name of the package that it measures, and its folder comes first where Python looks.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.async_api import Browser, Page, async_playwright

from dashboard import examples
from dashboard.catalogue import Place
from explain.errors import ExplainError, RunError
from explain.files import dump_json
from explain.runs import is_run
from explain.terminal import table
from explain.training import tasks

BOUNDS = {
    "first page": 2.5,
    "click to map": 0.3,
    "click to map, 500 tokens": 0.3,
    "page switch": 0.7,
    "144 heads of 64 × 64": 1.0,
    "memory after warm-up": 1.1,
}
"""Seconds; for the memory, how many times what it was once warm."""
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking".split()
WAIT = 120_000
PAGES = ("Generate", "Attention", "Attribution", "Trust")
LANDMARK = {
    "Generate": '.strip[aria-label="Output"] .token',
    "Attention": ".heads canvas",
    "Attribution": '.strip[aria-label="Source"] .token',
    "Trust": "h1",
}
_SETTLED = """() => {
  const app = document.querySelector('[data-testid="stApp"]');
  const waits = document.querySelector('[data-testid="stSpinner"]');
  return app?.dataset.testScriptState === "notRunning" && !waits;
}"""
# A click, and the milliseconds until the source has the colours of the token that was clicked.
_CLICK = """async (index) => {
  const roots = [...document.querySelectorAll("*")].map((one) => one.shadowRoot).filter(Boolean);
  const found = (what) => [document, ...roots].flatMap((root) => [...root.querySelectorAll(what)]);
  const strip = (name) => found(`.strip[aria-label="${name}"]`).at(-1);
  const colour = (token) => token.style.backgroundColor;
  const colours = () => [...strip("Source").querySelectorAll(".token")].map(colour).join();
  const before = colours();
  const goal = strip("Output").querySelectorAll(".tokens .token")[index];
  const begin = performance.now();
  goal.click();
  while (goal.getAttribute("aria-pressed") !== "true" || colours() === before) {
    if (performance.now() - begin > 20000) throw new Error("the map does not change");
    await new Promise(requestAnimationFrame);
  }
  await new Promise(requestAnimationFrame);
  return performance.now() - begin;
}"""


@dataclass
class Seen:
    """What ten sessions met with.

    Attributes:
        actions: clicks and changes of page.
        errors: messages of the page or of the browser.
        strays: times that a session showed another one's text or token.
        seconds: what each action took until the page had settled.
        memory: the server's memory in MiB, by seconds since the sessions began.
    """

    actions: int = 0
    errors: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)


@contextmanager
def served(runs: Path) -> Iterator[tuple[str, int]]:
    """Address and process number of a dashboard over `runs`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "explain.cli", "dashboard", "--runs", str(runs), "--headless"]
    process = subprocess.Popen([*words, "--port", str(port)], stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait(30)


def mebibytes(process: int) -> float:
    """Memory of a process now (`VmRSS`)."""
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line
    )
    return int(lines["VmRSS"].split()[0]) / 1024


def random_model(folder: Path, *, layers: int, heads: int, positions: int) -> None:
    """A random BART and a tokenizer of numbered words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}" for i in range(252))]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    config = BartConfig(
        vocab_size=256,
        d_model=8 * heads,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=positions,
        init_std=0.3,
        forced_eos_token_id=None,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def numbered(count: int) -> str:
    """A text of `count` tokens with its end."""
    return " ".join(f"w{7 * i % 250}" for i in range(count - 1))


@asynccontextmanager
async def opened(browser: Browser, link: str, errors: list[str]) -> AsyncIterator[Page]:
    """A new session that follows a link, and what it complains of."""
    context = await browser.new_context(viewport={"width": 1400, "height": 1000})
    page = await context.new_page()
    page.set_default_timeout(WAIT)

    def complain(text: str, url: str = "") -> None:
        if "/_stcore/" not in url:  # a link to a page below the first makes Streamlit look there, too
            errors.append(text[:200])

    page.on("console", lambda m: complain(m.text, m.location["url"]) if m.type == "error" else None)
    page.on("pageerror", lambda error: complain(str(error)))
    await page.goto(link)
    try:
        yield page
    finally:
        await context.close()


async def settled(page: Page) -> None:
    """Wait until the script has ended and the page says so."""
    await page.wait_for_function(_SETTLED, timeout=WAIT)


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    """Seconds that it takes."""
    begin = time.perf_counter()
    await work()
    return time.perf_counter() - begin


async def first_page(browser: Browser, link: str) -> tuple[float, float]:
    """Seconds from a link, nothing cached, to a token that can be clicked, and until all is drawn."""
    async with opened(browser, "about:blank", []) as page:
        begin = time.perf_counter()
        await page.goto(link)
        await page.locator(LANDMARK["Generate"]).first.wait_for()
        ready = time.perf_counter() - begin
        await settled(page)
        return ready, time.perf_counter() - begin


async def switch(page: Page, name: str) -> float:
    """From a click in the navigation to what the page is about."""

    async def go() -> None:
        await page.get_by_role("link", name=name, exact=True).click()
        await page.wait_for_function(f"() => document.title.startsWith({name!r})", timeout=WAIT)
        await page.locator(LANDMARK[name]).first.wait_for()

    seconds = await timed(go)
    await settled(page)
    return seconds


async def clicks(page: Page, count: int) -> list[float]:
    """From a click on an output token to the map of that token, several times."""
    await page.locator(LANDMARK["Attribution"]).first.wait_for()
    await settled(page)
    found = []
    for at in range(count):
        found.append(await page.evaluate(_CLICK, 1 + at % 4) / 1000)
        await settled(page)
    return found


async def ten_at_once(browser: Browser, links: list[str], process: int, seconds: float) -> Seen:
    """Sessions with a text each, that click and change the page for some time."""
    seen, begin = Seen(), time.perf_counter()

    def over() -> bool:
        return time.perf_counter() - begin > seconds

    async def reader(number: int, link: str) -> None:
        chance = random.Random(number)
        async with opened(browser, link, seen.errors) as page:
            await page.locator(LANDMARK["Generate"]).first.wait_for()
            await settled(page)
            step, own = -1, page.url.partition("example=")[2][:16]
            while not over():
                before = time.perf_counter()
                if chance.random() < 0.35:
                    goal = page.get_by_role("link", name=chance.choice(PAGES[1:3]), exact=True)
                    await goal.dispatch_event("click")
                elif await page.locator('.strip[aria-label="Output"] .token').count():
                    step = chance.randrange(4)
                    # As a hand would: not where the page still moves, but without asking it to stand still.
                    await page.locator('.strip[aria-label="Output"] .token').nth(step).dispatch_event("click")
                await page.wait_for_timeout(50)
                await settled(page)
                # A page that was just turned to has a link without a choice, until the server has answered.
                await page.wait_for_function("() => location.search.includes('example=')", timeout=WAIT)
                seen.seconds.append(time.perf_counter() - before)
                seen.actions += 1
                if f"example={own}" not in page.url:
                    seen.strays.append(f"session {number} shows {page.url}")
                for alert in await page.locator('[data-testid="stException"], [data-testid="stAlert"]').all():
                    seen.errors.append((await alert.inner_text())[:200])
                await page.wait_for_timeout(chance.randrange(200, 900))

    async def memory() -> None:
        while not over():
            seen.memory.append((time.perf_counter() - begin, mebibytes(process)))
            await asyncio.sleep(1)

    await asyncio.gather(memory(), *(reader(number, link) for number, link in enumerate(links)))
    return seen


async def measure(
    runs: Path, minutes: float, repeats: int
) -> tuple[dict[str, float], dict[str, float], Seen]:
    """The figures with a bound, those without, and what ten sessions met with."""
    place = Place(runs)
    sources = [sample.source for sample in tasks.preview(tasks.get("translate"), 10)]
    ids = [examples.save(place, examples.Example(source)) for source in sources]
    grid = examples.save(place, examples.Example(numbered(64), numbered(64), {}))
    long = examples.save(place, examples.Example(numbered(500), numbered(12), {}))
    found: dict[str, float] = {}
    other: dict[str, float] = {}
    with served(runs) as (address, process):

        def link(page: str = "", **fields: Any) -> str:
            return f"{address}/{page}?{urlencode(fields)}"

        async with async_playwright() as driver:
            browser = await driver.chromium.launch(executable_path=_chromium(), args=FLAGS)
            first = link(model="translate", example=ids[0])
            other["first page of a cold server"], _ = await first_page(browser, first)
            times = [await first_page(browser, first) for _ in range(repeats)]
            found["first page"] = statistics.median(ready for ready, _ in times)
            other["first page, all of it"] = statistics.median(whole for _, whole in times)
            asked = {"model": "translate", "example": ids[1], "method": "integrated_gradients"}
            async with opened(browser, link("attribution", **asked), []) as page:
                found["click to map"] = statistics.median(await clicks(page, 4 * repeats))
                times = []
                for name in [*PAGES, *PAGES * repeats]:
                    times.append(await switch(page, name))
                found["page switch"] = statistics.median(times[len(PAGES) :])
                other["slowest page switch"] = max(times[len(PAGES) :])
            async with opened(browser, link(model="heads", example=grid), []) as page:
                await page.locator(LANDMARK["Generate"]).first.wait_for()
                await settled(page)
                other["144 heads, the first time"] = await switch(page, "Attention")
                times = []
                for _ in range(repeats):
                    await switch(page, "Generate")
                    times.append(await switch(page, "Attention"))
                found["144 heads of 64 × 64"] = statistics.median(times)
            begin = time.perf_counter()
            asked = {"model": "long", "example": long, "method": "input_x_gradient"}
            async with opened(browser, link("attribution", **asked), []) as page:
                await page.locator(LANDMARK["Attribution"]).first.wait_for()
                other["500 tokens, the first map"] = time.perf_counter() - begin
                found["click to map, 500 tokens"] = statistics.median(await clicks(page, 2 * repeats))
            seen = await ten_at_once(
                browser, [link(model="translate", example=id_) for id_ in ids], process, 60 * minutes
            )
            await browser.close()
    warm = [value for at, value in seen.memory if at > 15 * minutes] or [value for _, value in seen.memory]
    tail = max(1, len(warm) // 4)
    found["memory after warm-up"] = statistics.median(warm[-tail:]) / statistics.median(warm[:tail])
    other["memory at the end, MiB"] = warm[-1]
    other["ten at once, median"] = statistics.median(seen.seconds)
    other["ten at once, 95 %"] = sorted(seen.seconds)[int(0.95 * len(seen.seconds))]
    return found, other, seen


def _chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise RunError("this needs Chromium (Debian: apt-get install chromium)")
    return found


def main() -> int:
    """Print the table and the JSON line; 1 where a session met with an error or with another one's choice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--minutes", type=float, default=2.0, help="how long ten sessions are at it")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        try:
            _chromium()
            if not is_run(given.runs / "translate"):
                raise RunError(f"{given.runs / 'translate'} is not there; run make demo first")
        except ExplainError as error:
            print(f"dashboard: {error}", file=sys.stderr)
            return 2
        shutil.copytree(given.runs / "translate", runs / "translate")
        random_model(runs / "heads", layers=12, heads=12, positions=80)
        random_model(runs / "long", layers=2, heads=4, positions=520)
        found, other, seen = asyncio.run(measure(runs, given.minutes, given.repeats))
    rows = [
        (name, f"{found[name]:.3f}", f"{bound:g}", f"{bound / found[name]:.2f}")
        for name, bound in BOUNDS.items()
    ]
    rows += [(name, f"{value:.3f}", "-", "-") for name, value in other.items()]
    print(table(("what (seconds where nothing else is said)", "measured", "bound", "bound / measured"), rows))
    strays = f"{len(seen.strays)} times another one's choice"
    print(f"\nten sessions: {seen.actions} actions, {len(seen.errors)} errors, {strays}")
    for text in [*dict.fromkeys(seen.errors), *seen.strays][:5]:
        print(f"  {text}")
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    line = {"schema": "explain/benchmark@1", "name": "dashboard"}
    line["ratios"] = {name: round(bound / found[name], 3) for name, bound in BOUNDS.items()}
    line["bound"] = {name: round(found[name] / bound, 3) for name, bound in BOUNDS.items()}
    measured = {name: round(value, 3) for name, value in {**found, **other}.items()}
    measured |= {"actions": seen.actions, "errors": len(seen.errors), "strays": len(seen.strays)}
    print(dump_json({**line, "machine": machine, "measured": measured}, indent=None))
    return 1 if seen.errors or seen.strays else 0


if __name__ == "__main__":
    sys.exit(main())
