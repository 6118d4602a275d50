"""The page on the web process alone, without a model: what strangers wrote stays words, and what a person chooses is
what is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bowerbird.serve.context import Settings
from tests.serving import Client, web_alone
from tests.test_page import CHROMIUM, INLINE, PATIENCE, PAYLOADS, browsers, expect

pytestmark = pytest.mark.timeout(900)
KB = "/api/knowledge-bases/kb"
FRAMES = (
    "X",
    "X X",
    "a red apple X",
    "\u200fX\u200e",
    "%XX%",
    "<!--X-->",
    "<textarea>X</textarea>",
    "]]>X<![CDATA[",
    "\\u003cX",
    "&lt;X&gt;&#60;X",
    "</title></style></script>X",
    "\x1b]0;X\x07",
    "`X`",
    "\x00X",
    "javascript:X//",
    "X" + "\u0301" * 40,
    "data:text/html,X",
)


@pytest.fixture(scope="module")
def server(small_kb_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("page-alone")
    settings = Settings((str(small_kb_path),), folder / "data", ("tiny-rdm", "tiny-knn"), drain_seconds=1)
    with web_alone(settings, folder / "sockets") as (client, _):
        yield client


@pytest.fixture(scope="module")
def page(server: Client) -> Iterator[Any]:
    """A page whose console stays empty, that asks nobody else, and where nothing runs that is not ours."""
    faults: list[str] = []
    with browsers.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        here = (server.url, "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(here) or faults.append(request.url))
        yield page
        assert page.evaluate("window.ran") is None
        browser.close()
    assert not faults, faults


def test_two_hundred_payloads_are_words_everywhere(page: Any, server: Client) -> None:
    """Captions, names, columns, values and credits of a server that says whatever strangers wrote: each of `PAYLOADS`
    in `FRAMES`, through the grid, and through the open item with all its facts."""
    item = server.get("/api/knowledge-bases/kb/items?limit=1").json["items"][0]
    words = [frame.replace("X", payload) for payload in PAYLOADS for frame in FRAMES]
    assert len(set(words)) >= 200
    items = [
        {**item, "id": str(n), "caption": text, "name": text, "metadata": {text: text}, "credit": {text: text}}
        for n, text in enumerate(words)
    ]

    def answer(route: Any) -> None:
        query = dict(part.split("=") for part in route.request.url.split("?")[1].split("&"))
        first, limit = int(query["offset"]), int(query["limit"])
        page = {"version": 1, "total": len(items), "offset": first, "items": items[first : first + limit]}
        route.fulfill(json=page)

    page.route("**/items?*", answer)
    page.goto(f"{server.url}/#/collection")
    page.locator(".cell img").first.click()
    title = page.locator(".detail-title")
    seen = [title.evaluate("title => title.textContent")]
    while len(seen) < len(words):
        assert page.locator(INLINE).count() == 0, seen[-1]
        page.locator(".detail").get_by_role("button", name="Next item").click()
        page.wait_for_function("text => document.querySelector('.detail-title')?.textContent !== text", arg=seen[-1])
        seen.append(title.evaluate("title => title.textContent"))
    assert len(set(seen)) == len(words)


def test_what_is_found_is_put_in_another_order_where_one_says_so(page: Any, server: Client) -> None:
    items = server.get(f"{KB}/items?limit=2").json["items"]
    rows = [{"item": item, "score": 0.5, "weight": 1.0, "pinned": False} for item in items]
    page.route("**/neighbors", lambda route: route.fulfill(json={"version": 1, "k": 2, "neighbors": rows}))
    page.goto(f"{server.url}/#/generate")
    page.locator("#prompt").fill("red apple")
    page.locator(".neighbor").first.wait_for()
    page.get_by_text("More settings").click()
    choice = page.get_by_label("Re-rank")
    assert choice.locator("option").all_inner_texts()[:2] == ["usual", "off"]
    with page.expect_request(re.compile("/neighbors$")) as asked:
        choice.select_option(label="off")
    assert asked.value.post_data_json["rerank"] == "none"
    page.locator("button.big").click()
    page.locator(".run").first.wait_for()
    assert server.get("/api/jobs?limit=1").json["jobs"][0]["request"]["rerank"] == "none"
    page.get_by_text("All as usual").click()
    page.locator("button.big").click()
    expect(page.locator(".run")).to_have_count(2)
    assert server.get("/api/jobs?limit=1").json["jobs"][0]["request"]["rerank"] == "auto"


def test_only_sizes_that_the_model_takes_are_offered(page: Any, server: Client) -> None:
    page.route("**/neighbors", lambda route: route.fulfill(json={"version": 1, "k": 0, "neighbors": []}))
    page.goto(f"{server.url}/#/generate")
    page.reload()
    page.locator("#prompt").fill("red apple")
    page.get_by_text("More settings").click()
    sizes = page.get_by_label("Size", exact=True)
    offered = ["64 × 64, usual", "40 × 64", "64 × 40", "80 × 128", "128 × 80", "128 × 128"]
    expect(sizes.locator("option")).to_have_text(offered)
    sizes.select_option(label="128 × 80")
    with page.expect_response(re.compile("/api/generate$")) as answered:
        page.locator("button.big").click()
    assert answered.value.status == 202
    asked = answered.value.request.post_data_json
    assert (asked["width"], asked["height"]) == (128, 80)
    page.get_by_text("All as usual").click()
    with page.expect_request(re.compile("/api/generate$")) as sent:
        page.locator("button.big").click()
    assert "width" not in sent.value.post_data_json


def test_a_phone_shows_claims_whole_and_where_to_add_a_neighbor(page: Any, server: Client) -> None:
    """Four columns left a claim's words 85 of 390 pixels, and a hint pushed both buttons out of sight."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{server.url}/#/models")
    claim = page.locator(".claims tbody tr").first
    assert claim.locator("td").first.bounding_box()["width"] > 300
    assert page.locator(".claims li:visible").count() <= 4 * page.locator(".claims tbody tr").count()
    page.locator(".claims summary").first.click()
    expect(page.locator(".claims details[open] li").first).to_be_visible()
    page.goto(f"{server.url}/#/generate")
    box = page.locator(".neighbor-add").bounding_box()
    assert box["x"] + box["width"] <= 390
    page.set_viewport_size({"width": 1280, "height": 720})


def test_the_grid_is_used_by_keys_before_anything_was_clicked(page: Any, server: Client) -> None:
    """Space scrolled, and Enter did nothing, while no item was the active one."""
    page.goto(f"{server.url}/#/collection")
    page.locator(".cell img").first.wait_for()
    page.locator(".grid-listbox").focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    expect(page.locator(".selection")).to_contain_text("2 items selected")
    expect(page.locator('.cell[aria-selected="true"]').first).to_have_attribute("aria-posinset", "1")
    page.keyboard.press("Escape")
    page.reload()
    page.locator(".cell img").first.wait_for()
    page.locator(".grid-listbox").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".detail-title")).to_be_visible()
    page.keyboard.press("Escape")


def test_a_long_caption_leaves_what_can_be_done_in_sight(page: Any, server: Client) -> None:
    """300 words filled the panel; they scroll in a box of their own, which keys reach."""

    def long(route: Any) -> None:
        found = route.fetch().json()
        route.fulfill(json={**found, "items": [{**item, "caption": "word " * 300} for item in found["items"]]})

    page.route("**/items?*", long)
    page.goto(f"{server.url}/#/generate")  # what the grid holds already has its own captions
    page.reload()
    page.goto(f"{server.url}/#/collection")
    page.locator(".cell img").first.click()
    title = page.locator(".detail-title")
    expect(title).to_contain_text("word")
    assert title.bounding_box()["height"] < 250
    assert title.get_attribute("tabindex") == "0"
    page.keyboard.press("Escape")
    page.unroute("**/items?*")


def test_what_is_deleted_from_the_history_can_be_brought_back(page: Any, server: Client) -> None:
    """It was gone for good at once, by one key; the server now hears of it when no undo can come any more."""
    item = server.get(f"{KB}/items?limit=1").json["items"][0]
    facts = {"job": f"job_{0:024x}", "variant": None, "kind": "generate", "created": 1.0, "width": 64, "height": 64}
    facts |= {"prompt": "red", "model": "tiny-rdm", "index": 0, "knowledge_base": "kb", "seed": 1, "starred": True}
    facts |= {"near_copy": False, "url": item["picture"], "thumbnail": item["thumbnail"]}
    images = [{**facts, "id": f"img_{number:024x}"} for number in range(3)]
    deleted: list[str] = []

    def delete(route: Any) -> None:
        deleted.append(f"{route.request.method} {route.request.url.rpartition('/')[2]}")
        route.fulfill(status=204)

    page = page.context.browser.new_context().new_page()
    page.clock.install()
    page.route("**/api/history?*", lambda route: route.fulfill(json={"images": images, "next": None}))
    page.route("**/api/images/*", delete)
    page.goto(f"{server.url}/#/history")
    cells = page.locator(".cell")
    expect(cells).to_have_count(3)
    for undone in (True, False):
        page.locator(".grid-listbox").focus()
        page.keyboard.press("Home")
        page.keyboard.press("Space")
        page.keyboard.press("Delete")
        expect(cells).to_have_count(2)
        assert deleted == []
        if undone:
            page.get_by_role("button", name="Undo").click()
            expect(cells).to_have_count(3)
            page.clock.fast_forward(25_000)
            assert deleted == []
    with page.expect_request(lambda request: request.method == "DELETE"):
        page.clock.fast_forward(25_000)
    expect(cells).to_have_count(2)
    page.clock.fast_forward(2_000)
    assert deleted == [f"DELETE {images[0]['id']}"]
    page.context.close()


def test_an_item_that_another_tab_removed_says_so(page: Any, server: Client) -> None:
    page = page.context.browser.new_context().new_page()  # a picture that is not there is an error in the console
    page.route("**/items/*/picture", lambda route: route.fulfill(status=404, json={}))
    page.goto(f"{server.url}/#/collection")
    page.locator(".cell img").first.click()
    expect(page.locator(".detail .note")).to_contain_text("removed meanwhile")
    page.context.close()


def test_what_has_just_begun_is_in_sight_on_a_phone(page: Any, server: Client) -> None:
    """With its settings open the form filled the screen, and nothing seemed to happen."""
    page = page.context.browser.new_context(viewport={"width": 390, "height": 600}).new_page()
    page.goto(f"{server.url}/#/generate")
    page.locator("#prompt").fill("red")
    page.locator(".settings > summary").click()
    page.locator("summary", has_text="More settings").click()
    page.locator("button.big").click()
    expect(page.locator(".run").first).to_be_in_viewport(timeout=20_000)
    page.context.close()
