"""Starting the dashboard: one process, this machine only, nothing sent anywhere."""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from explain import terminal
from explain.errors import FileError, InputError

FIRST_PORT, LAST_PORT = 8501, 8600
MAX_UPLOAD_MB = 20
SWITCH = 0.0005
"""Seconds after which a thread must let another one run. A model gives the interpreter up at every operation
and waits so long for it whenever others are busy: with Python's own 5 ms, ten sessions stand still."""
ROOMS = (
    "analysis",
    "attribution",
    "audit",
    "comparison",
    "evaluation",
    "model",
    "report",
    "story",
    "training",
)
"""The packages of `explain` that the pages use, and with them torch, transformers, captum and plotly."""
_EVERYWHERE = ("0.0.0.0", "::")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


def serve(
    runs: Path,
    *,
    models: Sequence[Path] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    headless: bool = False,
) -> None:
    """Print the address and serve the dashboard until it is interrupted.

    The runs folder and the models reach the app as Streamlit secrets (section `explain`, see
    `dashboard.catalogue`), which live in this process's memory; no environment variable and no file is set.

    Args:
        runs: folder of run folders; it is made when the first run starts.
        models: model or run folders outside `runs` that may be opened too.
        host: address to bind to. Anything but the loopback shows runs and models to the network.
        port: port to bind to; left out, the first free one from 8501 on.
        headless: do not open a browser.

    Raises:
        InputError: the port is taken or none, or there is no such address here.
        FileError: a model's folder does not exist, or `runs` is a file.
    """
    for path in models:
        if not Path(path).is_dir():
            raise FileError(f"there is no model folder {path}")
    if Path(runs).exists() and not Path(runs).is_dir():
        raise FileError(f"{runs} is a file; runs are kept in a folder")
    if port is not None and not 0 < port < 65_536:
        raise InputError(f"{port} is no port; ports are 1 to 65535")
    chosen = _free_port(host) if port is None else port
    if not _is_free(host, chosen):
        raise InputError(f"port {chosen} of {host} is taken; name another with --port, or leave it out")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    terminal.prepare()
    sys.setswitchinterval(SWITCH)

    import streamlit as st

    from dashboard.catalogue import Place, secrets

    place = Place(Path(runs).absolute(), tuple(Path(path).absolute() for path in models))
    warm()  # before the address is said: who follows it finds a server that answers
    shown = f"[{host}]" if ":" in host else host
    terminal.say(f"explain dashboard: http://{shown}:{chosen} (runs in {place.runs}; Ctrl-C ends it)")
    app = st.App(Path(__file__).with_name("app.py"), secrets=secrets(place))
    app.run(config=server_config(host, chosen, headless))


def warm() -> None:
    """Import what the pages need, once, and leave it out of the garbage collector's later rounds.

    Visitors who come first and together would otherwise import torch and transformers side by side. And
    Streamlit collects garbage after every run of a page: looking through half a million objects of libraries
    that stay anyway takes a quarter of a second of each click, in which no other session moves.
    """
    for room in ROOMS:
        importlib.import_module(f"explain.{room}")
    gc.collect()
    gc.freeze()


def server_config(host: str, port: int, headless: bool) -> dict[str, Any]:
    """Streamlit's settings: bound to `host`, closed to other sites, silent towards the network."""
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": headless,
        "server.allowedHosts": sorted({*_LOOPBACK, host}) if host in _LOOPBACK else [],
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.maxUploadSize": MAX_UPLOAD_MB,
        # Streamlit sends a large element as a reference where it believes that the browser still has it.
        # Where runs are interrupted (quick clicks, a busy server) it is wrong, and the page stands still.
        "global.minCachedMessageSize": float(2**31),
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.showEmailPrompt": False,
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "browser.gatherUsageStats": False,
        "browser.serverAddress": "localhost" if host in _EVERYWHERE else host,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
        "client.toolbarMode": "minimal",
        "runner.magicEnabled": False,
        "logger.hideWelcomeMessage": True,
        "logger.level": "error",
        **theme_config(),
    }


def theme_config() -> dict[str, Any]:
    """A calm theme in the colours of the reports, with the fonts of the reader's own system."""
    from dashboard.frame import FONT as sans
    from explain.report import colours

    mono = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"
    settings: dict[str, Any] = {
        "theme.font": sans,
        "theme.headingFont": sans,
        "theme.codeFont": mono,
        "theme.baseFontSize": 15,
        "theme.baseRadius": "8px",
        "theme.showWidgetBorder": True,
        "theme.metricValueFontSize": "1.5rem",
    }
    for theme in colours.THEMES:
        settings |= {
            f"theme.{theme}.primaryColor": colours.ACCENT[theme],
            f"theme.{theme}.backgroundColor": colours.PAGE[theme],
            f"theme.{theme}.secondaryBackgroundColor": colours.EMPTY[theme],
            f"theme.{theme}.textColor": colours.INK[theme],
            f"theme.{theme}.borderColor": colours.LINE[theme],
            f"theme.{theme}.linkColor": colours.ACCENT[theme],
        }
    return settings


def _free_port(host: str) -> int:
    for port in range(FIRST_PORT, LAST_PORT + 1):
        if _is_free(host, port):
            return port
    raise InputError(f"no port from {FIRST_PORT} to {LAST_PORT} of {host} is free; name one with --port")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror:
            raise InputError(f"{host!r} is not an address of this machine") from None
        except (OSError, OverflowError):
            return False
    return True
