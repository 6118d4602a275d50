"""The documentation speaks of what there is: links, files, names in files, commands and their flags."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
HISTORY = {"log.md", "claims.md"}
"""Written once, about what was there then: their links are checked, the names in them are not."""
PRESENT = [page for page in PAGES if page.name not in HISTORY]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors GitHub gives a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PRESENT, ids=name_of)
def test_files_and_names_exist(page: Path) -> None:
    """`folder/file.py` is in the package or the repository, and `file.py: Name` is written in it."""
    for path, names in re.findall(r"`([\w/.-]+/[\w.-]+\.py)(?:: ([\w.]+))?`", page.read_text()):
        place = next((p for p in (ROOT / "src/bowerbird" / path, ROOT / path) if p.is_file()), None)
        assert place is not None, path
        for name in names.split(".") if names else []:
            assert re.search(rf"\b(def|class) {name}\b|^{name}\b", place.read_text(), re.MULTILINE), f"{path}: {name}"


@pytest.mark.parametrize("page", PRESENT, ids=name_of)
def test_commands_and_flags_exist(page: Path) -> None:
    """Every `bowerbird …` line of a page names a verb of the command line and flags that it has."""
    import typer.main

    from bowerbird.cli.main import app

    root = typer.main.get_command(app)
    text = page.read_text()
    own = re.findall(r'@app\.command\("(\w+)"\)', text)
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    commands = [c for line in lines for c in re.split(r"\s{2,}(?=bowerbird )", line) if c.startswith("bowerbird ")]
    for command in [*commands, *re.findall(r"`(bowerbird [^`]+)`", prose)]:
        words = shlex.split(re.sub(r"[\[\]|…]", " ", command), comments=True)[1:]
        at = root
        while words and hasattr(at, "commands") and words[0] in at.commands:
            at = at.commands[words.pop(0)]
        if words and words[0] in own:  # the page itself adds it
            continue
        assert at is not root, f"{command}: no such verb"
        flags = {o for p in at.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        for word in words:
            if re.match(r"--?[A-Za-z]", word):
                assert word.split("=")[0] in flags, f"{command}: {word}"


@pytest.mark.parametrize("page", [page for page in PRESENT if "hf download" in page.read_text()], ids=name_of)
def test_downloads_say_files_or_patterns_and_not_both(page: Path) -> None:
    """The hub's command passes patterns over where files are named, and takes one pattern a flag."""
    lines = [part.strip() for part in re.split(r"\n|&&", page.read_text()) if part.strip().startswith("hf download ")]
    assert lines
    for line in lines:
        words = shlex.split(line)[3:]
        flags = [word for word in words if word.startswith("--")]
        files = [word for word, before in zip(words, ["", *words], strict=False) if word[:2] != "--" != before[:2]]
        assert not (files and {"--include", "--exclude"} & set(flags)), line
        assert "--local-dir" in flags, line
