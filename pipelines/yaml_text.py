"""Writing names and values of the user's data into YAML, so that reading gives back exactly what was there.

Column names are anything a csv header can hold (`no`, `1e3`, quotes, emoji), and YAML 1.1, YAML 1.2 and our own
strict reader disagree on plain words. What is not an obviously plain word is written as a JSON string, which is
YAML to all three.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z_](?:[A-Za-z0-9_./-]|:[A-Za-z0-9])*", re.ASCII)
_WORDS: Final = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


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
