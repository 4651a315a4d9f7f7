"""Writes docs/reference from the code itself: commands, keys of tidegate.yaml, events, HTTP, metrics, exit codes."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from typer.core import TyperArgument, TyperGroup, TyperOption

_ROOT: Final = Path(__file__).resolve().parent.parent
_FOLDER: Final = Path(__file__).parent / "reference"
_HEAD: Final = "<!-- Made by docs/make_reference.py; `make reference` writes it again. -->\n\n"
# Every command has these; they are told once.
_SHARED: Final = {"directory", "env", "json", "traceback", "version", "help"}


_PLACES: Final = {"store", "mlflow"}
_LEAST: Final = """\
version: 1
model: NAME
task: classification
data: {path: data.csv, target: y}
train: {entrypoint: train.py:train}
"""


def main() -> None:
    """Write every page of the reference."""
    _FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (_FOLDER / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Name of each page and its text."""
    made = {
        "cli.md": _cli(),
        "config.md": _config(),
        "events.md": _events(),
        "http.md": _http(),
        "metrics.md": _metrics(),
    }
    return {name: _HEAD + text.strip() + "\n" for name, text in made.items()}


def _cli() -> str:
    from tidegate.cli.main import root
    from tidegate.core.errors import ExitCode

    group = root()
    parts = [
        "# Commands",
        "Options that every command takes:",
        _options(group, shared=True),
        "## Exit codes",
        _exit_codes(ExitCode),
    ]
    for name in group.list_commands(None):  # type: ignore[arg-type]  # it needs no context
        parts += _command(f"tidegate {name}", group.load(name))
    return "\n\n".join(part for part in parts if part)


def _exit_codes(codes: Any) -> str:
    """The members of the enumeration with the comment or sentence beside each in its source."""
    told = re.findall(r"^\s+(\w+) = (\d+)\s*(?:#\s*(.*))?$", inspect.getsource(codes), re.MULTILINE)
    return _table(("code", "name", "when"), [(value, name.lower().replace("_", " "), why) for name, value, why in told])


def _command(path: str, command: Any) -> Iterator[str]:
    level = "##" if path.count(" ") == 1 else "###"
    yield f"{level} {path}"
    if not isinstance(command, TyperGroup) or command.invoke_without_command:
        yield f"```text\n{_usage(path, command)}\n```"
    yield _paragraphs(command.help or "")
    yield _options(command, shared=False)
    if isinstance(command, TyperGroup):
        for name, one in command.commands.items():
            yield from _command(f"{path} {name}", one)


def _usage(path: str, command: Any) -> str:
    words = [path]
    if any(isinstance(one, TyperOption) and one.name not in _SHARED for one in command.params):
        words.append("[OPTIONS]")
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    words += [_argument(one) if one.required else f"[{_argument(one)}]" for one in arguments]
    return " ".join(words)


def _argument(one: TyperArgument) -> str:
    return str(one.metavar or one.name).strip("[]").upper()


def _paragraphs(text: str) -> str:
    return "\n".join(_escaped(line) for line in inspect.cleandoc(text).splitlines())


def _options(command: Any, *, shared: bool) -> str:
    rows = []
    for one in command.params:
        told = getattr(one, "hidden", False) or not isinstance(one, TyperOption | TyperArgument)
        if told or (one.name in _SHARED) is not shared:
            continue
        names = ", ".join(f"`{name}`" for name in (*one.opts, *one.secondary_opts))
        if isinstance(one, TyperArgument):
            names = f"`{_argument(one)}`"
        rows.append((names, _escaped(one.help or ""), _default(one)))
    return _table(("", "", "default"), rows)


def _default(parameter: Any) -> str:
    value = parameter.default
    return "" if value in {None, False} or callable(value) or parameter.required else f"`{value}`"


def _config() -> str:
    from tidegate.core import config

    document = config.schema()
    head = (
        "# tidegate.yaml\n\nEvery key, with its default. Unknown keys are errors; `tidegate config` prints what was "
        "resolved, `tidegate schema` the JSON schema that editors complete by."
    )
    top = [(name, key) for name, key in document["properties"].items() if _section(key, document) is None]
    rows = [_key_row(name, key, document, required=document["required"]) for name, key in top]
    parts = [head, "## Top level", _table(("key", "", "type", "default"), rows)]
    for name, key in document["properties"].items():
        section = _section(key, document)
        if section is not None:
            parts += _sections(name, section, document)
    return "\n\n".join(parts)


def _sections(path: str, section: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {path}"
    yield _escaped(section.get("description", ""))
    keys = section["properties"].items()
    # An environment repeats every section; they are told once.
    keys = [one for one in keys if path != "environments" or one[0] not in document["properties"] or one[0] in _PLACES]
    below = {name: _section(key, document) for name, key in keys}
    plain = [(name, key) for name, key in keys if below[name] is None]
    yield _table(
        ("key", "", "type", "default"), [_key_row(n, k, document, section.get("required", ())) for n, k in plain]
    )
    for name, one in below.items():
        if one is not None:
            yield from _sections(f"{path}.{name}", one, document)


def _section(key: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The section that a key holds, alone, in a list or by name; None of a plain value."""
    found = _reference(key)
    section = document["$defs"].get(found.rpartition("/")[2]) if found else None
    return section if section and "properties" in section else None


def _reference(key: Mapping[str, Any]) -> str:
    below = [*([key["items"]] if "items" in key else ()), *key.get("patternProperties", {}).values()]
    below += [*key.get("anyOf", ()), *key.get("oneOf", ())]
    return key.get("$ref") or next((found for one in below if (found := _reference(one))), "")


def _key_row(name: str, key: Mapping[str, Any], document: Mapping[str, Any], required: Any) -> tuple[str, ...]:
    default = "required" if name in required else f"`{_yaml(key.get('default'))}`"
    return f"`{name}`", _escaped(key.get("description", "")), _type(key, document), default


def _yaml(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value)


def _type(key: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    if several := key.get("anyOf") or key.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(one, document) for one in several if one.get("type") != "null"))
    if "$ref" in key:
        return key["$ref"].rpartition("/")[2].lower()
    if "enum" in key:
        return ", ".join(f"`{one}`" for one in key["enum"])
    if "const" in key:
        return f"`{key['const']}`"
    if key.get("type") == "array":
        return f"list of {_type(key.get('items', {}), document)}"
    return str(key.get("type", "any")).replace("object", "mapping")


def _events() -> str:
    from tidegate.registry import state

    source = inspect.getsource(state)
    told = dict(re.findall(r'^    "(\w+)": .*?#\s*(.*)$', source, re.MULTILINE))
    rows = [(f"`{kind}`", _escaped(told.get(kind, ""))) for kind in state.GRAMMAR]
    head = (
        "# Events\n\nThe ledger is one JSON object a file, `ledger/<model>.<environment>/<number>.json`, with `seq`, "
        "`at`, `kind`, `actor` and `data`. Nothing is changed or deleted; `tidegate events` prints it."
    )
    return f"{head}\n\n{_table(('kind', 'data, and what it means'), rows)}"


def _http() -> str:
    document = _openapi()
    parts = ["# HTTP of the console", "`Authorization: Bearer TOKEN`; the console's own page of this is `/api/docs`."]
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            parts += [
                f"## {method.upper()} {path}",
                _paragraphs(one.get("description") or one.get("summary", "")),
                _parameters(one),
            ]
    return "\n\n".join(part for part in parts if part)


def _openapi() -> dict[str, Any]:
    """What a console answers about itself, in a project of nothing."""
    import httpx

    from tidegate.console.app import create_app
    from tidegate.console.auth import Access
    from tidegate.core.project import open_project
    from tidegate.pipelines.environment import Environment

    token = secrets.token_hex(16)
    access = Access([("operator", token)], secrets.token_bytes(32), 8401)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tidegate.yaml").write_text(_LEAST, encoding="utf-8")
        app = create_app(Environment(open_project(Path(folder))), access)

        async def asked() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                return await client.get("/api/openapi.json", headers={"authorization": f"Bearer {token}"})

        return dict(asyncio.run(asked()).raise_for_status().json())


def _parameters(operation: Mapping[str, Any]) -> str:
    rows = [
        (f"`{one['name']}`", one["in"], _type(one["schema"], {}), _escaped(one.get("description", "")))
        for one in operation.get("parameters", ())
    ]
    return _table(("parameter", "in", "type", ""), rows)


def _metrics() -> str:
    console, service = (_ROOT / "console" / "metrics.py", _ROOT / "serving" / "service")
    parts = ["# Metrics", "## Console", _families(console.read_text()), "## A served model"]
    lane = (service / "lane.py").read_text() + (service / "metrics.py").read_text()
    names = sorted(set(re.findall(r'"(tidegate_[a-z_]+)"', lane)))
    parts.append(_table(("name", "type"), [(f"`{name}`", _kind(name)) for name in names]))
    return "\n\n".join(parts)


def _kind(name: str) -> str:
    return "counter" if name.endswith("_total") else "histogram" if name.endswith("_seconds") else "gauge"


def _families(source: str) -> str:
    """Name, type and help of every metric that the module spells as a tuple: (name, type, help) or (name, help)."""
    rows = []
    for node in ast.walk(ast.parse(source)):
        words = [_words(one) for one in node.elts] if isinstance(node, ast.Tuple) else []
        if words and words[0].startswith("tidegate_"):
            kind = words[1] if words[1] in {"counter", "gauge"} else "gauge"
            rows.append((f"`{words[0]}`", kind, words[2] if words[1] == kind else words[1]))
    return _table(("name", "type", ""), sorted(rows))


def _words(node: ast.expr) -> str:
    """A text of the source; what is filled in later is left out."""
    if isinstance(node, ast.JoinedStr):
        return re.sub(r"\s+(?=[. ])", "", "".join(_words(one) for one in node.values))
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
