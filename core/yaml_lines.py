"""YAML that remembers where it was written, so that every mistake can be named with its line.

Only the JSON part of YAML 1.2 becomes a value: text, numbers, true/false, null, lists, mappings. `on`, `yes` and
`no` are text (a column may be called `no`), dates stay text, tags other than the standard ones are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import yaml

Scalar = str | int | float | bool | None
Path = tuple[str | int, ...]

# An alias may be repeated, and repeats multiply: nine levels of ten are a billion. No real config has 50,000 values.
MAX_VALUES: Final = 50_000
_TAG: Final = "tag:yaml.org,2002:"
_SCALAR_TAGS: Final = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge")}
_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,100}")
_NUMBER: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ODD_NUMBERS: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of the file: where it stands (`path` as written in the file, `line` from 1) and what it is."""

    path: Path
    line: int
    value: Scalar | dict[str, Entry] | list[Entry]

    def plain(self) -> Any:
        """The value as plain Python objects."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value

    def child(self, key: str | int) -> Entry | None:
        """The entry under a key or at an index, if there is one."""
        if isinstance(self.value, dict):
            return self.value.get(key) if isinstance(key, str) else None
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: `text` says what is wrong and what would be right."""

    line: int
    path: Path
    text: str

    def show(self, name: str) -> str:
        """`tidegate.yaml:12: rollout.step.mim: unknown key`."""
        where = dotted(self.path)
        line = f"{name}:{self.line}: {where + ': ' if where else ''}{self.text}"
        # What stands in a file must not be able to colour or move the reader's terminal.
        return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def dotted(path: Path) -> str:
    """`rollout.guardrails[0].metric`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


class NotReadable(Exception):
    """The text is not YAML at all, or not a kind of YAML that a config needs."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems[0].text)
        self.problems = problems


def read(text: str) -> tuple[Entry, list[Problem]]:
    """Parse one document; repeated keys and the like come back as problems beside what could be read.

    Raises:
        NotReadable: syntax errors, more than one document, aliases that never end.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        reader = _Reader()
        entry = Entry((), 1, None) if node is None else reader.entry(node, (), ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotReadable([Problem(mark.line + 1 if mark else 1, (), _syntax(error))]) from error
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise NotReadable([Problem(line, (), "holds a character that YAML does not allow")]) from error
    except RecursionError as error:
        raise NotReadable([Problem(1, (), "is nested too deeply")]) from error
    except (ValueError, OverflowError) as error:  # PyYAML makes a character of any \U escape without a check
        raise NotReadable([Problem(1, (), f"cannot be read: {error}")]) from error
    return entry, reader.problems


def _syntax(error: yaml.MarkedYAMLError) -> str:
    what = error.problem or "cannot be read"
    if "'\\t'" in what:
        return "a tab where YAML wants spaces"
    return f"not valid YAML: {what}" + (f" ({error.context})" if error.context else "")


class _Reader:
    """Turns PyYAML's nodes into entries and collects what is wrong on the way."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._count = 0

    def entry(self, node: yaml.Node, path: Path, above: tuple[int, ...], line: int = 0) -> Entry:
        """One value; `above` are the nodes around it, to notice an alias to one of them."""
        import yaml

        line = line or node.start_mark.line + 1
        self._count += 1
        if id(node) in above:
            raise NotReadable([Problem(line, path, "an alias that contains itself")])
        if self._count > MAX_VALUES:
            raise NotReadable([Problem(line, path, f"more than {MAX_VALUES:,} values; aliases multiply")])
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            return Entry(path, line, self._mapping(node, path, above))
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, path, {f"{_TAG}seq"})
            items = [self.entry(item, (*path, index), above) for index, item in enumerate(node.value)]
            return Entry(path, line, items)
        return Entry(path, line, self._scalar(node, path, line))

    def _mapping(self, node: yaml.MappingNode, path: Path, above: tuple[int, ...]) -> dict[str, Entry]:
        import yaml

        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        self._check_tag(node, path, {f"{_TAG}map"})
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(line, path, "a key has to be text"))
                continue
            key = self._text(key_node, path, line)
            if key_node.tag == f"{_TAG}merge":
                for entry in self._merged(value_node, path, above):
                    merged = entry | merged
            elif key in own:
                self.problems.append(Problem(line, (*path, key), f"is written twice (first in line {own[key].line})"))
            else:
                own[key] = self.entry(value_node, (*path, key), above, line)
        return merged | own

    def _merged(self, node: yaml.Node, path: Path, above: tuple[int, ...]) -> Iterator[dict[str, Entry]]:
        """The mappings behind a `<<` key."""
        for entry in self._each(self.entry(node, path, above)):
            if isinstance(entry.value, dict):
                yield entry.value
            else:
                self.problems.append(Problem(entry.line, path, "`<<` merges mappings only"))

    @staticmethod
    def _each(entry: Entry) -> list[Entry]:
        return entry.value if isinstance(entry.value, list) else [entry]

    def _scalar(self, node: yaml.Node, path: Path, line: int) -> Scalar:
        text = self._text(node, path, line)
        kind = str(node.tag).removeprefix(_TAG)
        self._check_tag(node, path, _SCALAR_TAGS)
        if kind == "null":
            return None
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind == "int" and _WHOLE.fullmatch(text):
            return int(text)
        # 1e-3 is a number in YAML 1.2 and in JSON, text in 1.1 and so to PyYAML; 12:30 the other way round.
        if kind in ("int", "float", "str") and getattr(node, "style", None) is None and _NUMBER.fullmatch(text):
            return self._finite(float(text), path, line)
        if kind == "float" and _ODD_NUMBERS.fullmatch(text):
            return self._finite(math.inf, path, line)
        return text

    def _finite(self, number: float, path: Path, line: int) -> float:
        if not math.isfinite(number):
            self.problems.append(Problem(line, path, "a number has to be finite"))
            return 0.0
        return number

    def _text(self, node: yaml.Node, path: Path, line: int) -> str:
        """The text of a scalar; half a character (an escaped lone surrogate) fits into no file and no JSON."""
        text = str(node.value)
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.problems.append(Problem(line, path, "holds half a character (a lone surrogate)"))
            return text.encode("utf-8", "replace").decode()
        return text

    def _check_tag(self, node: yaml.Node, path: Path, allowed: AbstractSet[str]) -> None:
        if node.tag not in allowed:
            self.problems.append(
                Problem(node.start_mark.line + 1, path, f"the tag {str(node.tag)[:60]} is not allowed")
            )
