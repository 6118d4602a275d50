"""The papers' claims, one file a claim, and the run that measures them."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.core.errors import BowerbirdError

if TYPE_CHECKING:
    from bowerbird.evaluation.claims.claim import Claim
    from bowerbird.evaluation.claims.experiment import Experiment

FILES = {
    "retrieval-beats-none": "retrieval_beats_none",
    "database": "database",
    "proposal": "proposal",
    "k-train": "k_train",
    "style": "style",
    "faithful": "faithful",
    "balance": "balance",
    "how-many": "how_many",
    "domain": "domain",
    "without-text": "without_text",
    "new-entities": "new_entities",
    "edits": "edits",
    "likelihood": "likelihood",
    "rarm-beats-none": "rarm_beats_none",
    "rarm-guidance": "rarm_guidance",
    "rarm-and-rdm": "rarm_and_rdm",
    "rarm-rare": "rarm_rare",
    "rarm-style": "rarm_style",
    "patch-decoding": "patch_decoding",
    "racm3-beats-none": "racm3_beats_none",
    "racm3-weight": "racm3_weight",
    "racm3-training": "racm3_training",
    "racm3-documents": "racm3_documents",
    "racm3-style": "racm3_style",
    "racm3-rare": "racm3_rare",
    "learned-reranking": "learned_reranking",
    "instructed-edits": "instructed_edits",
    "subject": "subject",
    "grounded-rare": "grounded_rare",
    "grounded-scale": "grounded_scale",
    "grounded-phrases": "grounded_phrases",
    "grounded-critic": "grounded_critic",
    "structure-leakage": "structure_leakage",
    "adapter-references": "adapter_references",
    "design-space": "design_space",
}


def check_names(names: Sequence[str]) -> None:
    """Raises: BowerbirdError for a name that is no claim's."""
    unknown = [n for n in names if n not in FILES]
    if unknown:
        raise BowerbirdError(f"claim {unknown[0]!r} is not known; choose from {', '.join(FILES)}")


def load(names: Sequence[str]) -> list[Claim]:
    """The claims called `names`, all of them when there are none. Raises: BowerbirdError for an unknown name."""
    check_names(names)
    return [importlib.import_module(f"bowerbird.evaluation.claims.{FILES[name]}").CLAIM for name in names or FILES]


def _fingerprint(model: Path) -> str:
    """What tells a model of several folders from others, wherever it lies."""
    from bowerbird.core.weight_files import file_fingerprint

    files = sorted(model.rglob("*.safetensors"))
    each = [f"{file.relative_to(model).as_posix()} {file_fingerprint(file)}" for file in files]
    return hashlib.sha256("\n".join(each).encode()).hexdigest()[:16]


def run(claims: Sequence[Claim], experiment: Experiment, out: Path) -> list[dict[str, Any]]:
    """Measure each claim; after each one write `claims.json`, `claims.md` and its plot, keeping what earlier runs left
    for other claims. The page has the settings of most of them; a claim measured under others says which."""
    from bowerbird.core import files
    from bowerbird.evaluation.claims.claim import document_of, page

    out.mkdir(parents=True, exist_ok=True)
    models = {name: _fingerprint(Path(place)) for name, place in experiment.models.items()}
    settings = {
        **asdict(experiment.settings),
        **({"models": models} if models else {}),
        "domains": [f"{d.name} ({len(d.whole)} pictures, {d.whole.fingerprint()})" for d in experiment.domains],
    }
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    file = out / "claims.json"
    earlier = files.read_json(file, "page of claims") if file.is_file() else {}
    of_page = earlier.get("settings", settings)
    documents: dict[str, dict[str, Any]] = {d["name"]: {"settings": of_page, **d} for d in earlier.get("claims", [])}
    for claim in claims:
        finding = claim.measure(experiment)
        document = {"settings": settings, **document_of(claim, finding)}
        if finding.plot is not None:
            finding.plot(out / f"{claim.name}.png")
            document["plot"] = f"{claim.name}.png"
        if finding.sheet is not None:
            finding.sheet(out / f"{claim.name}-sheet.png")
            document["sheet"] = f"{claim.name}-sheet.png"
        documents[claim.name] = document
        names = [*FILES, *(name for name in documents if name not in FILES)]  # ours in order, then a person's own
        every = [documents[name] for name in names if name in documents]
        of_page = max((d["settings"] for d in every), key=[d["settings"] for d in every].count)
        same = [{k: v for k, v in d.items() if k != "settings" or v != of_page} for d in every]
        files.write_json(file, {"settings": of_page, "claims": same})
        with files.atomic_path(out / "claims.md") as temporary:
            temporary.write_text(page(same, of_page), encoding="utf-8")
    return [documents[claim.name] for claim in claims]
