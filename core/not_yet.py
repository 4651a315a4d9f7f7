"""What tidegate.yaml asks for and this version does not do, so that nobody relies on it in silence.

These keys are part of the format and checked like all others; each leaves this table with the version that acts on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tidegate.core.config import Config

# Path of a key, and what happens instead. A path that names a section stands for all its keys. Today every key acts.
_KEYS: Final[tuple[tuple[str, str], ...]] = ()


def not_yet(config: Config) -> tuple[str, ...]:
    """A sentence for each key that differs from its default and changes nothing in this version."""
    return tuple(
        f"{path} is set, but this version does not act on it yet: {instead}."
        for path, instead in _KEYS
        if _is_set(config, path)
    )


def _is_set(config: Config, path: str) -> bool:
    section: Any = config
    *parents, key = path.split(".")
    for parent in parents:
        section = getattr(section, parent)
    return bool(getattr(section, key) != type(section).model_fields[key].default)
