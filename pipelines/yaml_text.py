"""Writing names and values of the user's data into YAML, so that reading gives back exactly what was there.

Column names are anything a csv header can hold (`no`, `1e3`, quotes, emoji), and YAML 1.1, YAML 1.2 and our own
strict reader disagree on plain words. What is not an obviously plain word is written as a JSON string, which is
YAML to all three.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z_](?:[A-Za-z0-9_./-]|:[A-Za-z0-9])*", re.ASCII)
_WORDS: Final = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def whole(document: Any, *, sort_keys: bool = False) -> str:
    """A document of plain values over as many lines as it needs; text of several lines as a block that people can read.

    The same in every process: libraries (hera is one) teach PyYAML's own dumper to write text in their way.
    """
    import yaml

    return str(yaml.dump(document, Dumper=_dumper(), sort_keys=sort_keys, allow_unicode=True, width=120))


@cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        """PyYAML's, with a way of its own to write text."""

    def text(dumper: Any, value: str) -> Any:
        # What YAML 1.1 reads as a boolean is quoted too, which PyYAML's resolver leaves out for one letter.
        style = "|" if "\n" in value else "'" if value.lower() in {"y", "n"} else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper


def flow(value: Any) -> str:
    """A value on one line: text, number, boolean, null, list or mapping."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(str(key))}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, float):
        return _number(value)
    return json.dumps(value)


def _number(value: float) -> str:
    text = repr(value)
    # 1e-05 has no point, and YAML 1.1 would read text.
    return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in quoted)
