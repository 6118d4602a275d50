"""The calls of a base: their arguments, which rows go together, and references switched on and off between steps."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from bowerbird.core.errors import BowerbirdError
from bowerbird.core.text import with_article
from bowerbird.systems import common
from bowerbird.systems.base import Callback
from bowerbird.systems.grounded import bases
from bowerbird.systems.grounded.injectors.protocol import Injection, Injector, Task
from bowerbird.systems.grounded.references import Reference
from bowerbird.systems.grounded.structure import structured
from bowerbird.systems.phrases.phrase import ParsedPrompt, read_spans
from bowerbird.systems.reference_settings import ReferenceSettings

CALLBACK = "callback_on_step_end"
TRUE_GUIDANCE = "true_cfg_scale"
"""The argument of bases whose `guidance_scale` is a number that a distilled network reads."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What is the same for every row: the base, how references get in, and `options`, the arguments of the base's call
    with its `num_inference_steps`. `blank`: what the adapter reads in the passes without references. `parsed`: prompts
    whose phrases are known; those of others are at the settings' `spans`."""

    base: Any
    injector: Injector | None
    settings: ReferenceSettings
    options: dict[str, Any]
    blank: Callable[[], torch.Tensor | None]
    callback: Callback | None
    parsed: Mapping[str, ParsedPrompt]

    @property
    def mixes(self) -> bool:
        """Whether rows of other references can go through the base together."""
        return self.injector is None or self.injector.capabilities.mixed_batches


def generate_rows(
    calls: Calls,
    prompts: Sequence[str],
    rows: Sequence[list[Reference]],
    generators: Sequence[torch.Generator],
) -> list[Any]:
    """The pictures of all rows, in as few calls as can be."""
    made: list[Any] = [None] * len(rows)
    black = 0
    for group in _groups(rows, mixed=calls.mixes):
        # as many rows in every pass, so that no picture depends on what else is asked for
        padded = group if not calls.mixes else group + group[-1:] * (len(rows) - len(group))
        out = _run(
            calls,
            [prompts[i] for i in padded],
            [rows[i] for i in padded],
            [generators[i] for i in group] + [_copy(generators[group[-1]]) for _ in padded[len(group) :]],
        )
        for at, i in enumerate(group):
            made[i] = out.images[at]
        black += sum(map(bool, (getattr(out, "nsfw_content_detected", None) or ())[: len(group)]))
    if black:
        logging.getLogger("bowerbird").warning(
            "the base's safety checker made %d of %d pictures black; take another seed or prompt", black, len(rows)
        )
    return made


def call_options(
    base: Any,
    injector: Injector | None,
    settings: ReferenceSettings,
    *,
    guidance_scale: float,
    eta: float,
    height: int | None,
    width: int | None,
    output_type: str,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of the base's call, with those `given` for it as they are. Raises: BowerbirdError for one that it
    does not have, or would pass over."""
    (step, most), trained = bases.edge_limits(base, common.MOST_EDGE), bases.trained_edge(base)
    for name, edge in (("height", height), ("width", width)):
        if edge is not None and (not step <= edge <= most or edge % step):
            raise BowerbirdError(
                f"{name} is a multiple of {step} pixels for this base (made for {trained}), up to {most}; got {edge}"
            )
    usual, known = bases.usual_call(base), inspect.signature(base.__call__).parameters
    if injector is not None and injector.capabilities.takes == "pictures":
        height, width = height or trained, width or trained  # else the size is that of a reference
    options: dict[str, Any] = {"output_type": output_type, "height": height, "width": width}
    options = {name: value for name, value in options.items() if name in known or value is not None}
    options[usual.guidance_name] = guidance_scale
    if eta:
        options["eta"] = eta
    if "max_area" in known:  # FLUX.1 Kontext generates that many pixels, whatever its size is said to be
        options["max_area"] = options["height"] * options["width"]
    if needs := [name for name in bases.inputs_of(base) if given.get(name) is None]:
        raise BowerbirdError(
            f"{with_article(type(base).__name__)} starts from a picture: give {' and '.join(f'{n}=' for n in needs)}"
            " in its call in Python"
        )
    asked = [*options, *given, *(["negative_prompt"] if settings.negative_prompt else [])]
    missing = [name for name in asked if name not in known]
    if missing:
        raise BowerbirdError(f"{with_article(type(base).__name__)} takes no {missing[0]}; leave it out")
    return {**options, **given, **_negative_prompt(base, settings, usual.guidance_name, {**options, **given})}


def _negative_prompt(
    base: Any, settings: ReferenceSettings, guidance: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The argument for what the base is to avoid, where its `guidance` is that of its call's argument of this name.

    Raises: BowerbirdError where nothing is guided, so that the base would pass it over.
    """
    name = TRUE_GUIDANCE if TRUE_GUIDANCE in inspect.signature(base.__call__).parameters else guidance
    scale = options.get(name, 1.0)
    if scale > (0 if type(base).__name__.startswith("ZImage") else 1):
        # without one Qwen-Image is not guided at all; its makers give a space
        text = settings.negative_prompt or (" " if guidance == TRUE_GUIDANCE else "")
        return {"negative_prompt": text} if text and "negative_prompt_embeds" not in options else {}
    if not settings.negative_prompt:
        return {}
    if name != guidance:
        raise BowerbirdError(
            f"{with_article(type(base).__name__)} has its guidance distilled into it, and would pass a"
            f" `negative_prompt` over; leave it out, or in Python give {TRUE_GUIDANCE}= above 1"
        )
    raise BowerbirdError(
        f"a `negative_prompt` acts by guidance, and `guidance_scale={scale:g}` is none; raise that, or leave the"
        " negative prompt out"
    )


def _groups(rows: Sequence[Sequence[Reference]], *, mixed: bool) -> list[list[int]]:
    """Which rows go through the base together: those with as many references of equal weights and regions, where the
    injector tells the references of a batch's pictures apart; else each alone."""
    if not mixed:
        return [[i] for i in range(len(rows))]
    groups: dict[Any, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(tuple((each.weight, each.region) for each in row), []).append(i)
    return list(groups.values())


def _run(calls: Calls, prompts: list[str], rows: list[list[Reference]], generators: list[torch.Generator]) -> Any:
    """One call of the base; what it gives back."""
    settings, options = calls.settings, calls.options
    if "negative_prompt" in options:
        options = {**options, "negative_prompt": [options["negative_prompt"]] * len(prompts)}
    injected: Any = nullcontext(Injection({}))
    if calls.injector is not None and rows[0] and settings.scale > 0:
        edge = bases.trained_edge(calls.base)
        size = (options.get("height") or edge, options.get("width") or edge)
        injected = calls.injector.inject(Task(prompts, rows, settings, *size, blank=calls.blank()))
    with injected as injection, _structured(calls, prompts):

        def on_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if injection.switch is not None:
                # not `steps`: PNDM calls the network once more than it was asked to, samplers of second order twice
                injection.switch(settings.is_active(step + 1, pipe.num_timesteps))
            return tensors if calls.callback is None else calls.callback(pipe, step, timestep, tensors)

        if injection.switch is not None:
            injection.switch(settings.is_active(0, 1))
        one = generators if len(generators) > 1 else generators[0]
        arguments = {"prompt": prompts, **options, **injection.call, "generator": one}
        if CALLBACK in inspect.signature(calls.base.__call__).parameters:
            return calls.base(**{CALLBACK: on_step}, **arguments)

        def on_latents(step: int, timestep: Any, latents: torch.Tensor) -> None:
            on_step(calls.base, step, timestep, {"latents": latents})

        return calls.base(callback=on_latents, **arguments)  # PixArt-Σ's older form, which changes nothing


def _structured(calls: Calls, prompts: Sequence[str]) -> AbstractContextManager[None]:
    """A block in which the base reads the prompts by their phrases, where that is asked for."""
    if calls.settings.structure is None:
        return nullcontext()
    read = [calls.parsed.get(prompt) or read_spans(prompt, calls.settings.spans) for prompt in dict.fromkeys(prompts)]
    return structured(calls.base, read, form=calls.settings.structure, clip_skip=calls.options.get("clip_skip"))


def _copy(generator: torch.Generator) -> torch.Generator:
    """A generator that goes on as `generator` does, without moving it."""
    return torch.Generator(generator.device).set_state(generator.get_state())
