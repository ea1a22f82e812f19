"""Looks at the built site in a browser: every page, wide and as on a phone, light and dark.

    python tests/check_docs.py [--pictures FOLDER]

Needs playwright and a Chromium (CHROMIUM, or the one on PATH). A page fails that is wider than its
window, asks for anything from elsewhere, logs an error, or leaves a formula that is not typeset.
With --pictures the five pages that newcomers see first are kept as pictures, to be looked at.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"
WINDOWS = {"wide": (1280, 900), "phone": (390, 844)}
SCHEMES = ("light", "dark")
SHOWN = ("", "tutorial/", "method/", "strategies/", "api/")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def served() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def faults(page: Page, address: str, name: str) -> list[str]:
    """What is wrong with this page in this window, in words."""
    asked: list[str] = []
    logged: list[str] = []
    on_request = lambda request: asked.append(request.url)  # noqa: E731
    on_console = lambda message: logged.append(message.text)  # noqa: E731
    page.on("request", on_request)
    page.on("console", on_console)
    page.goto(address + name)
    page.remove_listener("request", on_request)
    page.remove_listener("console", on_console)
    found = [f"asks for {url}" for url in asked if not url.startswith((address, "data:"))]
    found += [f"logs {text}" for text in logged]
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    if wide > window:
        found.append(f"is {wide} pixels wide in a window of {window}")
    left = page.evaluate("document.querySelectorAll('.arithmatex:not(:has(.katex-html))').length")
    if left:
        found.append(f"has {left} formulas that are not typeset")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=Path)
    pictures = parser.parse_args().pictures
    pages = sorted(str(path.parent.relative_to(SITE)) for path in SITE.rglob("index.html"))
    names = ["" if page == "." else f"{page}/" for page in pages]
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    failed = 0
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        for size, (width, height) in WINDOWS.items():
            for scheme in SCHEMES:
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                page = context.new_page()
                for name in names:
                    for fault in faults(page, address, name):
                        failed += 1
                        print(f"{name or 'the first page'} ({size}, {scheme}) {fault}")
                    if pictures and name in SHOWN:
                        pictures.mkdir(parents=True, exist_ok=True)
                        shown = name.strip("/") or "index"
                        page.screenshot(path=pictures / f"{shown}-{size}-{scheme}.png")
                context.close()
        browser.close()
    views = len(names) * len(WINDOWS) * len(SCHEMES)
    print(f"{len(names)} pages, {views} views, {failed} faults")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
