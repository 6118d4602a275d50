"""What a claim is, and when it holds.

A claim of a paper is one small file: what the paper says, what is varied, what is measured. Measuring gives effects,
each with a 95% interval, positive where the paper is right; the verdict follows from the intervals alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bowerbird.evaluation.metrics.intervals import Estimate

if TYPE_CHECKING:
    from bowerbird.evaluation.claims.experiment import Experiment

NOUGHT = 1e-9
"""What counts as zero: sums of shares leave a rounding error, and that is no effect."""
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Effect:
    """One measured difference in one domain; `needed` ones decide the verdict, the others are context."""

    label: str
    estimate: Estimate
    needed: bool = True

    def verdict(self) -> str:
        """holds: the whole interval is above zero; does not hold: below; undecided: zero lies within."""
        return HOLDS if self.estimate.low > NOUGHT else FAILS if self.estimate.high < -NOUGHT else UNDECIDED


@dataclass(frozen=True)
class Finding:
    """The effects of one claim, the values behind them, and words on what limits them; `plot` draws them to a PNG, and
    `sheet` pictures to look at."""

    effects: Sequence[Effect]
    values: dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    plot: Callable[[Path], None] | None = None
    sheet: Callable[[Path], None] | None = None

    def verdict(self) -> str:
        """holds when every needed effect does; does not hold when one of them fails; else undecided."""
        verdicts = [effect.verdict() for effect in self.effects if effect.needed]
        return HOLDS if all(s == HOLDS for s in verdicts) else FAILS if FAILS in verdicts else UNDECIDED


@dataclass(frozen=True)
class Claim:
    """`name` on the command line; what the paper `says` and the `source`; what `varies`, what it `measures`; how.
    `models`: those it needs that are not bundled, see `Experiment.model`."""

    name: str
    says: str
    source: str
    varies: str
    measures: str
    measure: Callable[[Experiment], Finding]
    models: tuple[str, ...] = ()


def document_of(claim: Claim, finding: Finding) -> dict[str, Any]:
    """Claim and finding as plain values for `claims.json`."""
    facts = {key: getattr(claim, key) for key in ("name", "says", "source", "varies", "measures")}
    effects = [
        {"label": e.label, **asdict(e.estimate), "needed": e.needed, "verdict": e.verdict()} for e in finding.effects
    ]
    return {**facts, "verdict": finding.verdict(), "effects": effects, "values": finding.values, "notes": finding.notes}


def _tally(effects: Sequence[dict[str, Any]]) -> str:
    """How many of the needed effects got which verdict."""
    verdicts = [e["verdict"] for e in effects if e["needed"]]
    return ", ".join(
        f"{verdicts.count(verdict)} {verdict}" for verdict in (HOLDS, UNDECIDED, FAILS) if verdict in verdicts
    )


def page(documents: Sequence[dict[str, Any]], settings: dict[str, Any]) -> str:
    """`claims.md`: a table of verdicts, then a section a claim, with its `settings` where they are not the page's."""
    lines = ["# Claims of the papers, measured", "", "| claim | verdict | effects it rests on |", "|---|---|---|"]
    lines += [f"| [{d['says']}](#{d['name']}) | **{d['verdict']}** | {_tally(d['effects'])} |" for d in documents]
    lines += [
        "",
        "Settings: "
        + ", ".join(f"{k} {v}" for k, v in settings.items())
        + ". Intervals are 95%, over seeds (Student's t) unless a claim says otherwise.",
        "",
    ]
    for d in documents:
        lines += [
            f"## {d['name']}",
            "",
            f"{d['says']} ({d['source']})",
            "",
            f"Varied: {d['varies']}. Measured: {d['measures']}.",
            "",
        ]
        own = d.get("settings", settings)
        other = [f"{key} {own.get(key)}" for key in {**settings, **own} if own.get(key) != settings.get(key)]
        lines += [f"Other settings here: {', '.join(other)}.", ""] if other else []
        lines += ["| effect (positive: as the paper says) | value | |", "|---|---|---|"]
        lines += [
            f"| {e['label']}{'' if e['needed'] else ' (context)'} | {e['mean']:.4g} [{e['low']:.4g}, {e['high']:.4g}] |"
            f" {e['verdict']} |"
            for e in d["effects"]
        ]
        lines += ["", f"Verdict: **{d['verdict']}**. {d['notes']}".rstrip(), ""]
        if d.get("plot"):
            lines += [f"![{d['name']}]({d['plot']})", ""]
        if d.get("sheet"):
            lines += [f"![pictures of {d['name']}]({d['sheet']})", ""]
    return "\n".join(lines)
