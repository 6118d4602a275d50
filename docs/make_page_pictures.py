"""The two pictures of docs/serve-page.md, from a real server with the starter collection, in a real browser.

python docs/make_page_pictures.py        # needs what tests/test_page.py needs: playwright, and Debian's chromium
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import expect, sync_playwright

from bowerbird import KnowledgeBase

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
SIZE = {"width": 1280, "height": 800}
PROMPTS = ("a pink telephone", "a koala")
PATIENCE = 300_000
expect.set_options(timeout=PATIENCE)


def main() -> None:
    """Build the knowledge base, drive the page, save both pictures."""
    from tests.serving import serving

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        KnowledgeBase.build(place / "my-kb", "starter")
        with serving(place / "server", "--kb", str(place / "my-kb")) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_context(viewport=SIZE).new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(f"{server.url}/#/collection")
            _collection(page)
            page.goto(f"{server.url}/#/generate")
            _generate(page)
            browser.close()


def _collection(page: Any) -> None:
    page.locator("input[type=search]").first.fill("blue")
    expect(page.locator(".grid-head p")).to_contain_text("best first")
    page.locator(".cell").nth(1).click()
    page.locator(".detail-title").wait_for()
    page.wait_for_timeout(2000)
    page.screenshot(path=HERE / "serve-collection.png")


def _generate(page: Any) -> None:
    for number, prompt in enumerate(PROMPTS, 1):
        page.locator("#prompt").fill(prompt)
        expect(page.locator(".neighbor-name").first).to_contain_text(prompt.split()[-1])
        page.locator("#prompt").press("Enter")
        expect(page.locator(".run")).to_have_count(number)
        expect(page.locator(".run").first.locator(".picture-card img")).to_have_count(4)
        page.locator(".run").first.locator(".picture-actions").first.wait_for(state="attached")
    page.mouse.move(600, 5)
    page.wait_for_timeout(2000)
    page.screenshot(path=HERE / "serve-generate.png")


if __name__ == "__main__":
    main()
