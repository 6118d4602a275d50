"""The page of `bowerbird serve`, driven in a real browser on a real server.

What is always looked at: an empty console, no request to elsewhere, no script that a caption brought along."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bowerbird.core import provenance
from tests.serving import Process, serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("the page is tested in Chromium, and there is none: apt-get install chromium", allow_module_level=True)
browsers = pytest.importorskip("playwright.sync_api", reason="the page is driven by playwright: pip install playwright")
expect = browsers.expect
PATIENCE = 120_000
"""Milliseconds for what takes one on a machine that has nothing else to do."""
expect.set_options(timeout=PATIENCE)
pytestmark = pytest.mark.timeout(900)

PAGE = Path(__file__).parents[1] / "src" / "bowerbird" / "serve" / "page"
PAYLOADS = (
    "<script>window.ran=1</script>",
    "<img src=x onerror=window.ran=2>",
    '"><svg onload=window.ran=3>',
    "' onmouseover='window.ran=4",
    "javascript:window.ran=5",
    "${window.ran=6}",
    "{{constructor.constructor('window.ran=7')()}}",
    "</textarea><iframe srcdoc='<script>parent.ran=8</script>'>",
    "<style>@import 'http://example.org/ran.css'</style>",
    '<a href="javascript:window.ran=9">x</a>',
    "\u202e\x1b[31mred\x1b[0m",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=window.ran=10>",
)
INLINE = "[onerror], [onload], [onclick], [onmouseover], iframe, script:not([src]), [href^=javascript], body style"
FORBIDDEN = ("innerHTML", "outerHTML", "insertAdjacentHTML", "dangerouslySetInnerHTML", "document.write", "eval(")


@pytest.fixture(scope="module")
def server(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """36 drawings, and a few pictures whose names, captions and class try to run something."""
    from bowerbird import KnowledgeBase

    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(drawn_folder, folder / "pictures")
    hostile = folder / "pictures" / "<b onclick=window.ran=11>"
    hostile.mkdir()
    for number, payload in enumerate(PAYLOADS):
        stem = f"{number} " + payload.replace("/", "∕")[:60]
        Image.new("RGB", (64, 64), (20 * number, 90, 200)).save(hostile / f"{stem}.png")
        (hostile / f"{stem}.txt").write_text(payload)
    KnowledgeBase.build(folder / "kb", folder / "pictures")
    models = ("--model", "tiny-rdm-fast", "--model", "tiny-knn")
    with serving(folder, "--kb", str(folder / "kb"), *models) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, server: Process) -> Iterator[Callable[..., Any]]:
    """Opens a view; at the end nothing may have gone wrong that the test did not name in `page.allowed`."""
    contexts, faults = [], []

    def open_view(view: str, width: int = 1280, height: int = 800, dark: bool = False) -> Any:
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.allowed = re.compile("$^")
        page.on("console", lambda m: page.allowed.search(m.text) or faults.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        here = (server.url, "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(here) or faults.append(f"outside: {r.url}"))
        page.goto(f"{server.url}/#/{view}")
        return page

    yield open_view
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.ran") is None
        context.close()
    assert not faults, faults


def generated(page: Any, prompt: str) -> Any:
    """The newest run, after it was generated from `prompt`."""
    page.locator("#prompt").fill(prompt)
    page.locator(".neighbor").first.wait_for()
    before = page.locator(".run").count()
    page.locator("#prompt").press("Enter")
    expect(page.locator(".run")).to_have_count(before + 1)
    run = page.locator(".run").first
    run.locator(".picture-actions").first.wait_for(state="attached")
    return run


def drop(page: Any, zone: str, name: str, data: bytes) -> None:
    """Drags a file over the page and lets it go on the zone called `zone`."""
    script = """([name, bytes]) => {
      window.dragged = new DataTransfer();
      window.dragged.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
      window.dispatchEvent(new DragEvent("dragenter", { dataTransfer: window.dragged, cancelable: true }));
    }"""
    page.evaluate(script, [name, list(data)])
    page.locator(".drop-zone", has_text=zone).evaluate(
        'zone => zone.dispatchEvent(new DragEvent("drop", { dataTransfer: window.dragged, bubbles: true }))'
    )


def choose(page: Any, press: Any, *files: Path) -> None:
    """Picks files in the chooser that `press` opens."""
    with page.expect_file_chooser() as chooser:
        press.click()
    chooser.value.set_files(list(files))


def test_collection_is_searched_as_one_types_and_a_removal_undone(opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened("collection")
    total = 36 + len(PAYLOADS)
    headline = page.locator(".grid-head p")
    expect(headline).to_have_text(f"{total} items in kb")
    page.keyboard.press("/")
    page.keyboard.type("red apple")
    expect(headline).to_contain_text("best first")
    expect(page.locator(".cell").first).to_contain_text("apple")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".detail-title")).to_contain_text("apple")
    page.keyboard.press("Escape")
    expect(page.locator(".detail")).to_have_count(0)
    # by a picture beside the words
    picture = tmp_path / "blue.png"
    Image.new("RGB", (64, 64), "blue").save(picture)
    drop(page, "Search with it", "blue.png", picture.read_bytes())
    expect(page.locator(".picture-chip")).to_have_count(1)
    page.get_by_text("Clear all").click()
    # by a column
    page.get_by_role("button", name="Filters").click()
    page.locator(".value", has_text="flat").locator("input").check()
    page.get_by_role("button", name="Done").click()
    expect(headline).to_have_text("18 items in kb")
    page.get_by_text("Clear all").click()
    expect(headline).to_have_text(f"{total} items in kb")
    for at in (0, 1):
        page.locator(".cell-check").nth(at).click(force=True)
    page.get_by_role("button", name="Remove").click()
    expect(headline).to_have_text(f"{total - 2} items in kb")
    page.get_by_role("button", name="Undo").click()
    expect(headline).to_have_text(f"{total} items in kb")


def test_adding_says_what_was_refused_and_why_and_can_be_undone(opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened("collection")
    before = page.locator(".grid-head p")
    expect(before).to_contain_text("items in kb")
    text = before.inner_text()
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "orange.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    page.get_by_role("button", name="Add").click()
    files = [tmp_path / name for name in ("orange.png", "broken.png", "notes.pdf")]
    choose(page, page.get_by_role("button", name="Files"), *files)
    page.locator("dialog .primary").click()
    report = page.locator("dialog [role=status]")
    expect(report).to_contain_text("1 picture added", timeout=PATIENCE)  # by a process that starts
    expect(report).to_contain_text("broken.png: not a readable picture")
    expect(report).to_contain_text("notes.pdf: not sent")
    report.get_by_role("button", name="Undo").click()
    expect(before).to_have_text(text)


def test_no_undo_takes_back_what_others_added_between_two_batches(
    opened: Callable[..., Any], server: Process, tmp_path: Path
) -> None:
    page = opened("collection")
    page.locator(".grid-head p").wait_for()
    script = """async (disturbed) => {
      const { addFiles } = await import("/page/views/collection/adding.js");
      const { get, post } = await import("/page/lib/api.js");
      const drawn = async (color) => {
        const canvas = new OffscreenCanvas(64, 64);
        const context = canvas.getContext("2d");
        context.fillStyle = color;
        context.fillRect(0, 0, 64, 64);
        return new File([await canvas.convertToBlob()], `${color}.png`, { type: "image/png" });
      };
      const colors = disturbed ? ["teal", "navy"] : ["plum", "olive"];
      const files = await Promise.all(colors.map(drawn));
      const caption = new File(["navy"], "navy.txt", { type: "text/plain" });
      caption.text = async () => { // read for the second batch, after the first
        const { items } = await get("/api/knowledge-bases/kb/items?limit=1");
        await post("/api/knowledge-bases/kb/update", { ids: [items[0].id], metadata: { note: "by another" } });
        return "navy";
      };
      const options = { limits: { files: 1, upload_bytes: 1e8 }, onProgress: () => {} };
      const { added, undo, version, shared, error } = await addFiles("kb", [...files, caption], options);
      return { added, undo, version, shared, error };
    }"""
    alone = page.evaluate(script, False)
    assert (alone["added"], alone["shared"], alone["error"]) == (2, False, None)
    assert alone["version"] > alone["undo"]
    among = page.evaluate(script, True)
    assert (among["added"], among["shared"], among["error"]) == (2, True, None)


def test_generating_uses_the_row_of_neighbors_as_it_was_changed(opened: Callable[..., Any], server: Process) -> None:
    page = opened("generate")
    expect(page.locator(".empty")).to_contain_text("Nothing generated yet")
    page.locator("#prompt").fill("a red apple")
    expect(page.locator(".neighbor")).to_have_count(4)
    names = page.locator(".neighbor-name").all_inner_texts()
    page.get_by_role("button", name="Take").nth(1).click(force=True)
    expect(page.locator(".neighbor-name").nth(1)).not_to_have_text(names[1])
    page.locator(".neighbor input[type=range]").first.fill("2.5")
    expect(page.locator(".neighbor.pinned")).to_have_count(1)
    run = generated(page, "a red apple")
    expect(run.locator(".picture-card")).to_have_count(4)
    job = server.get("/api/jobs?limit=1").json["jobs"][0]
    assert [near["weight"] for near in job["request"]["neighbors"]] == [2.5, 1, 1, 1]
    # the picture under the pointer lights up what it came from
    run.locator(".picture-card").nth(2).hover()
    expect(run.locator(".strip li.lit")).to_have_count(4)
    run.locator(".picture-open").first.click()
    expect(page.locator(".sources li")).to_have_count(4)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("s")
    expect(page.locator("dialog .starred")).to_have_count(1)
    page.keyboard.press("Escape")
    page.get_by_text("As found").click()
    page.get_by_label("Grid", exact=True).check(force=True)
    page.get_by_label("k across").fill("1, 2")
    page.get_by_label("Its values").fill("1, 2")
    page.locator("button.big").click()
    expect(page.locator(".run").first.locator(".xy .picture-card img")).to_have_count(4)
    # of a row that was changed each picture of a grid gets the first ones
    page.get_by_role("button", name="Take").nth(0).click(force=True)
    page.locator("button.big").click()
    expect(page.locator(".run").first.locator(".xy .picture-card img")).to_have_count(4)
    expect(page.locator(".run")).to_have_count(3)
    variants = server.get("/api/jobs?limit=1").json["jobs"][0]["request"]["variants"]
    assert [len(each["neighbors"]) for each in variants] == [1, 2, 1, 2]
    page.get_by_text("As found").click()
    page.get_by_label("With / without").check(force=True)
    page.locator("button.big").click()
    expect(page.locator(".run").first.locator(".sides h4")).to_have_text(["With neighbors", "Without"])
    # a refusal stands where it happened
    page.allowed = re.compile("status of 4")
    page.get_by_label("Plain").check(force=True)
    page.get_by_text("More settings").click()
    page.get_by_label("Steps", exact=True).fill("9999")
    page.locator("button.big").click()
    expect(page.locator(".field.wrong .hint")).to_contain_text("200")


def test_a_run_is_cancelled_and_survives_a_reload(opened: Callable[..., Any], server: Process) -> None:
    page = opened("generate")
    page.get_by_label("Model").select_option("tiny-knn")
    page.get_by_text("More settings").click()
    page.get_by_label("Steps", exact=True).fill("200")
    page.locator("#prompt").fill("a blue fish")
    page.locator(".neighbor").first.wait_for()
    page.locator("button.big").click()
    page.locator(".run.active img[alt=Preview]").first.wait_for()
    page.reload()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".run").first).to_contain_text("Cancelled")
    job = server.get("/api/jobs?limit=1").json["jobs"][0]
    assert (job["state"], job["images"], job["request"]["prompt"]) == ("cancelled", [], "a blue fish")
    # the worker is free again, and the queue shows it
    assert server.end(server.post("/api/generate", {"prompt": "red", "steps": 1}))["state"] == "done"


def test_an_edit_is_shown_beside_its_source(opened: Callable[..., Any], server: Process, tmp_path: Path) -> None:
    picture = tmp_path / "circle.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    page = opened("edit")
    choose(page, page.locator(".picture-slot"), picture)
    page.locator(".picture-slot.full").wait_for()  # uploaded: before, there is nothing to send
    page.locator("#edit-prompt").fill("a blue circle")
    page.get_by_text("More settings").click()
    page.get_by_label("Steps", exact=True).fill("2")
    page.locator("#edit-prompt").press("Enter")
    slider = page.locator(".compare input[type=range]")
    slider.wait_for()
    slider.fill("2")
    expect(page.locator(".compare-difference img")).to_have_count(2)
    for image in page.locator(".compare img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 64
    page.get_by_role("button", name="Same, but another seed").first.click()
    expect(page.locator(".run")).to_have_count(2)
    *_, (end, _) = server.events(server.get("/api/jobs?limit=1").json["jobs"][0]["id"])
    assert end == "done"
    expect(page.locator(".run.active")).to_have_count(0)
    again, first = server.get("/api/jobs?limit=2").json["jobs"]
    assert [job["state"] for job in (first, again)] == ["done", "done"]
    assert again["request"]["seed"] != first["request"]["seed"]
    same = ("prompt", "steps", "strength", "model")
    assert {key: again["request"][key] for key in same} == {key: first["request"][key] for key in same}


def test_history_gives_pictures_and_settings_back(opened: Callable[..., Any], tmp_path: Path) -> None:
    page = opened("generate")
    generated(page, "a purple umbrella")
    page.goto(page.url.replace("generate", "history"))
    page.get_by_label("Search the history").fill("umbrella")
    expect(page.locator(".cell")).to_have_count(4)
    page.locator(".cell-check").first.click(force=True)
    with page.expect_download() as packed:
        page.get_by_role("button", name="Save as zip").click()
    assert packed.value.suggested_filename == "bowerbird.zip"
    with zipfile.ZipFile(packed.value.path()) as archive:
        (name,) = archive.namelist()
        assert archive.read(name).startswith(b"\x89PNG")
    page.locator(".cell img").first.click()
    with page.expect_download() as saved:
        page.locator(".lightbox").get_by_role("button", name="Save as PNG").click()
    png = Path(saved.value.path()).read_bytes()
    assert provenance.read_png(saved.value.path())["request"]["prompt"] == "a purple umbrella"
    page.keyboard.press("Escape")
    page.evaluate("localStorage.clear()")
    page.goto(page.url.replace("history", "models"))
    page.locator(".model-card").first.wait_for()
    drop(page, "settings back", "mine.png", png)
    expect(page.locator("#prompt")).to_have_value("a purple umbrella")
    expect(page.locator(".neighbor.pinned")).to_have_count(4)


def test_nothing_that_a_picture_brings_along_runs(opened: Callable[..., Any], server: Process) -> None:
    page = opened("collection")
    page.get_by_label("Search the collection").fill("script img onerror svg window")
    page.locator(".cell").first.wait_for()
    hostile = server.get("/api/knowledge-bases/kb/items?limit=100").json["items"]
    assert len({item["caption"] for item in hostile} & set(PAYLOADS)) == len(PAYLOADS)
    page.get_by_label("Search the collection").fill("")
    expect(page.locator(".grid-head p")).to_contain_text("items in kb")
    for item in hostile:
        if item["caption"] in PAYLOADS:
            page.locator(f'.cell:has(img[src*="{item["id"]}"])').click()
            expect(page.locator(".detail-title")).to_have_text(item["caption"])
            page.keyboard.press("Escape")
    page.get_by_role("button", name="Filters").click()
    expect(page.locator(".value", has_text="onclick=window.ran")).to_have_count(1)
    page.keyboard.press("Escape")
    page.goto(page.url.replace("collection", "generate"))
    generated(page, PAYLOADS[1])
    page.locator(".picture-open").first.click()
    page.locator(".sources li").first.wait_for()
    page.keyboard.press("Escape")
    page.goto(page.url.replace("generate", "history"))
    page.locator(".cell").first.wait_for()
    assert page.locator(INLINE).count() == 0


def test_a_hundred_thousand_items_scroll_in_a_few_cells(opened: Callable[..., Any], server: Process) -> None:
    item = server.get("/api/knowledge-bases/kb/items?limit=1").json["items"][0]

    def many(route: Any) -> None:
        query = dict(part.split("=") for part in route.request.url.split("?")[1].split("&"))
        first, limit = int(query["offset"]), int(query["limit"])
        ids = range(first, min(first + limit, 100_000))
        items = [{**item, "id": str(number), "caption": f"item {number}"} for number in ids]
        route.fulfill(json={"version": 1, "total": 100_000, "offset": first, "items": items})

    page = opened("models")
    page.route("**/items?*", many)
    asked: list[str] = []
    page.on("request", lambda request: "/items?" in request.url and asked.append(request.url))
    page.goto(page.url.replace("models", "collection"))
    page.locator(".cell img").first.wait_for()
    fling = """async () => {
      const scroller = document.querySelector(".grid-scroller");
      let most = 0;
      for (let step = 0; step <= 60; step++) {
        scroller.scrollTop = (scroller.scrollHeight * step) / 60;
        await new Promise(requestAnimationFrame);
        most = Math.max(most, document.querySelectorAll(".cell").length);
      }
      return most;
    }"""
    assert page.evaluate(fling) < 200
    page.locator('.cell[aria-posinset="100000"] img[alt="item 99999"]').wait_for()
    assert len(asked) < 30
    page.locator(".grid-listbox").focus()
    page.keyboard.press("Home")
    page.locator('.cell[aria-posinset="1"] img').wait_for()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_axe_finds_nothing_serious(opened: Callable[..., Any], width: int, dark: bool) -> None:
    """WCAG A and AA in every view, and in what opens over them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install axe-playwright-python")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text()
    page = opened("collection", width=width, dark=dark)
    found = []

    def check(where: str) -> None:
        if not page.evaluate("() => Boolean(window.axe)"):
            page.evaluate(f"() => {{ {script} }}")
        for violation in page.evaluate("async () => (await axe.run()).violations"):
            if violation["impact"] in ("serious", "critical"):
                places = [node["target"] for node in violation["nodes"][:3]]
                found.append(f"{where}: {violation['id']} at {json.dumps(places)}")

    page.locator(".cell img").first.wait_for()
    check("collection")
    nothing = {"version": 1, "mode": "hybrid", "ms": 1.0, "corrected": {}, "results": []}
    page.route("**/search", lambda route: route.fulfill(json=nothing))
    page.get_by_label("Search the collection").fill("zzzz")
    page.locator(".empty").wait_for()
    check("nothing found")
    page.get_by_label("Search the collection").fill("")
    page.locator(".cell img").first.wait_for()
    page.get_by_role("button", name="Add").click()
    page.locator("dialog[open]").wait_for()
    check("adding")
    page.keyboard.press("Escape")
    page.locator(".cell img").first.click()
    page.locator(".detail").wait_for()
    check("an open item")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="About kb").click()
    page.locator("dialog .pairs").wait_for()
    check("a dialog")
    page.keyboard.press("Escape")
    page.goto(page.url.replace("collection", "generate"))
    page.locator("#prompt").wait_for()
    check("before anything is generated")
    page.route("**/api/generate", lambda route: route.abort())
    page.allowed = re.compile("Failed to load resource")
    page.locator("#prompt").fill("a green tree")
    page.locator("button.big").click()
    page.locator("[role=alert]").first.wait_for()
    check("an error")
    page.unroute("**/api/generate")
    run = generated(page, "a green tree")
    check("generate")
    run.locator(".picture-open").first.click()
    page.locator(".sources li").first.wait_for()
    check("an open picture")
    page.keyboard.press("Escape")
    for view, shown in (("edit", ".picture-slot"), ("history", ".cell img"), ("models", ".claims table")):
        page.goto(re.sub("#/.*", f"#/{view}", page.url))
        page.locator(shown).first.wait_for()
        check(view)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    assert not found, found


def test_a_token_is_asked_for_and_a_first_knowledge_base_made(browser: Any, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    with serving(tmp_path / "server", "--model", "tiny-rdm-fast", "--token", "a-token-for-tests") as guarded:
        page = browser.new_context().new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(guarded.url)
        page.get_by_label("Token", exact=True).fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.locator("dialog .hint")).to_be_visible()
        assert page.context.cookies() == []
        assert page.locator(".cell").count() == 0
        page.get_by_label("Token", exact=True).fill("a-token-for-tests")
        page.get_by_role("button", name="Open").click()
        page.get_by_role("button", name="Make one").click()
        page.get_by_label("Name").fill("mine")
        choose(page, page.get_by_role("button", name="Files"), tmp_path / "red.png")
        page.get_by_role("button", name="Make it").click()
        expect(page.locator("dialog [role=status]")).to_contain_text("1 picture added", timeout=PATIENCE)
        page.get_by_role("button", name="Done").click()
        page.locator(".cell img").first.wait_for()
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        kept = page.evaluate(
            "JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + document.cookie + location"
        )
        assert "a-token-for-tests" not in kept
        assert "a-token-for-tests" not in cookie["value"]
        guarded.headers["Authorization"] = "Bearer a-token-for-tests"
        assert guarded.get("/api/knowledge-bases").json["knowledge_bases"][0]["items"] == 1
        page.context.close()


def test_own_files_write_no_html_and_name_no_other_place() -> None:
    """What the content security policy forbids is not there to begin with; vendored files are as their README says."""
    own = [path for path in PAGE.rglob("*") if path.suffix in (".js", ".html", ".css") and "vendor" not in path.parts]
    assert len(own) > 30
    for path in own:
        text = path.read_text()
        assert not [word for word in FORBIDDEN if word in text], path
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), path
        assert not re.search(r"<[^>]+\s(style|on[a-z]+)=\"", text), path
    for name in ("LICENSE-preact", "LICENSE-htm"):
        assert os.path.getsize(PAGE / "vendor" / name) > 500
