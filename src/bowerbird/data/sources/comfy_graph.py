"""The prompt in a graph of ComfyUI: the text of the node that the sampler's `positive` input leads to.

A node is `{"class_type": …, "inputs": {name: value, or [node, output]}}`. Graphs are strangers': nodes may be missing,
name themselves, or be anything at all; each is visited once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOST_NODES = 5_000
"""Nodes of a graph; a larger one is not read."""
MOST_SAMPLERS = 8
"""Nodes with a `positive` input that are tried."""
MOST_TEXTS = 16
"""Texts that a prompt is joined of."""
_WORDS = re.compile(r"^(text|prompt|string|wildcard|populated|positive|clip_[gl]$|t5xxl|value$)", re.IGNORECASE)
"""Names of inputs that hold a prompt's text, or lead to it."""
_CONDITIONING = re.compile(r"cond|positive|^(|any|input|pipe)$", re.IGNORECASE)
"""Names of inputs through which a conditioning comes."""
_OTHER = re.compile(r"negative|delimiter|separator|clip_vision|path|file|mode$", re.IGNORECASE)
"""Names of inputs that are never followed, whatever else they are called."""
_WRITES_TEXT = re.compile(r"text|prompt|string|primitive|wildcard", re.IGNORECASE)
_SAVES = re.compile(r"save|preview|output", re.IGNORECASE)
_SAMPLES = re.compile(r"sampler", re.IGNORECASE)


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: Mapping[str, Any]

    def links(self) -> list[tuple[str, str]]:
        """The inputs that come from another node, and its id."""
        return [(name, source) for name, value in self.inputs.items() if (source := _source(value)) is not None]


def prompt_of_graph(graph: Mapping[str, Any]) -> str:
    """The positive prompt of a graph as ComfyUI runs it (its `prompt`), empty where none is found."""
    return _prompt({str(key): node for key, value in graph.items() if (node := _node(value)) is not None})


def prompt_of_workflow(workflow: Mapping[str, Any]) -> str:
    """The same of a graph as ComfyUI's editor keeps it (its `workflow`)."""
    sources = {
        str(link[0]): [str(link[1]), link[2]]
        for link in _list(workflow, "links")
        if isinstance(link, list) and link[2:]
    }
    nodes: dict[str, _Node] = {}
    for each in _list(workflow, "nodes"):
        if not isinstance(each, dict) or each.get("mode") == 2:  # muted
            continue
        kind, inputs = str(each.get("type", "")), dict[str, Any]()
        if _WRITES_TEXT.search(kind):
            widgets = each.get("widgets_values")
            values = widgets.values() if isinstance(widgets, dict) else widgets if isinstance(widgets, list) else ()
            inputs = {f"text{i}": value for i, value in enumerate(values) if isinstance(value, str)}
        for socket in _list(each, "inputs"):
            if isinstance(socket, dict) and (link := sources.get(str(socket.get("link")))) is not None:
                inputs[str(socket.get("name", ""))] = link
        nodes[str(each.get("id"))] = _Node(kind, inputs)
    return _prompt(nodes)


def _prompt(nodes: Mapping[str, _Node]) -> str:
    if len(nodes) > MOST_NODES:
        return ""
    starts = [key for key, node in nodes.items() if _SAVES.search(node.kind)]
    reached = list(_upstream(nodes, starts or list(nodes)))
    # a sampler before what only passes a conditioning on, as ControlNet and guiders do
    reached.sort(key=lambda key: _SAMPLES.search(nodes[key].kind) is None)
    guiding = [source for key in reached if (source := _guided_by(nodes[key])) is not None]
    prompts = (", ".join(_texts(nodes, source)) for source in dict.fromkeys(guiding[:MOST_SAMPLERS]))
    return next(filter(None, prompts), "")


def _guided_by(node: _Node) -> str | None:
    """The node that says what a sampler is to draw; of a guider without a negative prompt, its one conditioning."""
    positive = _source(node.inputs.get("positive"))
    return positive or (_source(node.inputs.get("conditioning")) if "guider" in node.kind.lower() else None)


def _upstream(nodes: Mapping[str, _Node], starts: list[str]) -> Iterator[str]:
    """The ids of the nodes that lead to `starts`, the nearest first."""
    waiting, seen = deque(starts), set(starts)
    while waiting:
        key = waiting.popleft()
        yield key
        for _, source in nodes[key].links():
            if source in nodes and source not in seen:
                seen.add(source)
                waiting.append(source)


def _texts(nodes: Mapping[str, _Node], start: str) -> list[str]:
    """The texts of a conditioning in the order of their inputs, each once; of a node that has one, those alone."""
    waiting: list[Any] = [[start, 0]]
    seen, found = set[str](), dict[str, None]()
    while waiting and len(found) < MOST_TEXTS:
        value = waiting.pop()
        key = _source(value)
        if key is None:
            text = value.strip() if isinstance(value, str) else ""
            found |= {text: None} if text else {}
        elif key not in seen and key in nodes:
            seen.add(key)
            wanted = {name: each for name, each in nodes[key].inputs.items() if not _OTHER.search(name)}
            words = [each for name, each in wanted.items() if _WORDS.search(name) and _leads(each)]
            links = {name: each for name, each in wanted.items() if _source(each) is not None}
            through = [each for name, each in links.items() if len(links) == 1 or _CONDITIONING.search(name)]
            waiting += reversed(words or through)
    return list(found)


def _leads(value: Any) -> bool:
    """Whether an input holds a text or comes from another node."""
    return (isinstance(value, str) and bool(value.strip())) or _source(value) is not None


def _node(value: Any) -> _Node | None:
    inputs = value.get("inputs") if isinstance(value, dict) else None
    return _Node(str(value.get("class_type", "")), inputs) if isinstance(inputs, dict) else None


def _source(value: Any) -> str | None:
    """The node that an input comes from; None for a value."""
    is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int))
    return str(value[0]) if is_link and isinstance(value[1], int) else None


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    return found if isinstance(found, list) else []
