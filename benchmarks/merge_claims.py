"""Take claims that `bowerbird reproduce` measured in another folder into docs/claims and into the page's own list.

    bowerbird reproduce subject --seeds 5 --data drawings.parquet --out measured
    python benchmarks/merge_claims.py measured subject

A trial run in docs/claims itself would replace what stands there. Sheets stay behind: they show pictures of others.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from bowerbird.core import files
from bowerbird.evaluation.claims import FILES
from bowerbird.evaluation.claims.claim import page

ROOT = Path(__file__).parents[1]
DOCS, SERVED = ROOT / "docs" / "claims", ROOT / "src" / "bowerbird" / "serve" / "claims.json"


def main() -> None:
    """Merge, and say the verdicts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measured", type=Path, help="the --out of bowerbird reproduce")
    parser.add_argument("names", nargs="+")
    arguments = parser.parse_args()
    documents, found = read(DOCS), read(arguments.measured)
    for name in arguments.names:
        documents[name] = {key: value for key, value in found[name].items() if key != "sheet"}
        shutil.copy(arguments.measured / found[name]["plot"], DOCS)
        print(f"{name}: {found[name]['verdict']}")
    every = [
        documents[name] for name in [*FILES, *(name for name in documents if name not in FILES)] if name in documents
    ]
    settings = [document["settings"] for document in every]
    of_page = max(settings, key=settings.count)
    own = [{k: v for k, v in d.items() if k != "settings" or v != of_page} for d in every]
    files.write_json(DOCS / "claims.json", {"settings": of_page, "claims": own})
    (DOCS / "claims.md").write_text(page(own, of_page), encoding="utf-8")
    SERVED.write_text(json.dumps([served(document) for document in own], indent=1, ensure_ascii=False))


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The claims of a folder by name, each with the settings it was measured under."""
    held = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    return {claim["name"]: {"settings": held["settings"], **claim} for claim in held["claims"]}


def served(document: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a claim."""
    effects = [
        {"effect": e["label"], "value": e["mean"], **{key: e[key] for key in ("low", "high", "needed", "verdict")}}
        for e in document["effects"]
    ]
    named = {"name": "name", "claim": "says", "paper": "source", "verdict": "verdict", "measures": "measures"}
    return {**{ours: document[theirs] for ours, theirs in named.items()}, "effects": effects}


if __name__ == "__main__":
    main()
