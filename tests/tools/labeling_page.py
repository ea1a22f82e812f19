"""Opens Label Studio's pages in a browser, and says which of their images are shown.

    python labeling_page.py ADDRESS USER PASSWORD FOLDER, and on stdin
    {"pages": [[project, task, an element that the page must have], ...], "images": [URL, ...]}

Needs playwright and a Chromium (CHROMIUM, or the one on PATH). A picture of each task's page is
written into FOLDER; answers a list of what is wrong, as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Error, Page, sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
DECODE = "async url => { const image = new Image(); image.src = url; await image.decode(); }"


def faults(
    page: Page, address: str, folder: Path, pages: list[list[str]], images: list[str]
) -> list[str]:
    found = []
    for project, task, element in pages:
        page.goto(f"{address}/projects/{project}/data?task={task}")
        try:
            for each in (element, "[class*=choice__item]"):
                page.locator(each).first.wait_for(state="attached", timeout=30_000)
        except Error as error:
            found.append(f"task {task}: {error.message}")
        # Images are drawn a moment after they came.
        page.wait_for_timeout(1500)
        page.screenshot(path=folder / f"labeling-{project}-{task}.png")
        said = page.locator("text=There was an issue loading URL")
        if said.count():
            found.append(f"task {task}: {said.first.inner_text()}")
    for url in images:
        try:
            page.evaluate(DECODE, url)
        except Error as error:
            found.append(f"{url}: {error.message}")
    return found


def main() -> None:
    address, user, password, folder = sys.argv[1:]
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/user/login/")
        page.fill("input[name=email]", user)
        page.fill("input[name=password]", password)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/login" not in url)
        found = faults(page, address, Path(folder), **json.load(sys.stdin))
        browser.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
