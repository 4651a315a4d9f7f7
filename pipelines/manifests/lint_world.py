"""What a rule of `tidegate lint` sees: one object, the objects around it, and how to say what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """The path of a field, why it is wrong, and what to write instead."""

    path: str
    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class World:
    """All objects that are looked at together."""

    documents: list[Document]

    def kind(self, *kinds: str) -> Iterator[Document]:
        """Those of these kinds."""
        return (one for one in self.documents if one["kind"] in kinds)

    def named(self, kind: str, name: str, beside: Document) -> Document | None:
        """The one of that name in the namespace of `beside`."""
        return next((one for one in self.kind(kind) if name_of(one) == name and same_place(one, beside)), None)

    def has(self, kind: str) -> bool:
        """Whether there is any: with none at all, they are elsewhere."""
        return any(True for _ in self.kind(kind))


Rule = Callable[[Document, World], Iterator[Problem]]

ARGUMENT: Final = re.compile(r"\{\{\s*args\.([^}\s]+)\s*\}\}")


def name_of(document: Document) -> str:
    """Its name; empty where it has none yet."""
    return str(document["metadata"].get("name", ""))


def same_place(one: Document, other: Document) -> bool:
    """Whether both may be in one namespace: who says none is in whichever the others are."""
    places = {document["metadata"].get("namespace") for document in (one, other)} - {None}
    return len(places) <= 1


def at(document: Any, *keys: str | int, default: Any = None) -> Any:
    """A value deep inside; `default` where the way there ends."""
    for key in keys:
        if isinstance(document, Mapping):
            document = document.get(key)
        elif isinstance(document, list) and isinstance(key, int) and key < len(document):
            document = document[key]
        else:
            return default
        if document is None:
            return default
    return document


def texts(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text below a node, with its path."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from texts(value, f"{path}[{index}]")


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether all of a selector's labels are there; an empty one selects everything."""
    return all(labels.get(key) == value for key, value in selector.items())
