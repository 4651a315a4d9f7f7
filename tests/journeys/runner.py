"""What a runner of GitHub does with a workflow, as far as ours need it: expressions, outputs, and the `run:` lines.

Steps that use an action are not run; what they would give is told by the test. A `run:` line is run by bash, as there.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = re.compile(r"\s*(&&|\|\||==|!=|!|\(|\)|,|'(?:[^']|'')*'|[\w.-]+)")


@dataclass
class Ran:
    """One step that ran."""

    line: str
    code: int
    stdout: str
    stderr: str
    outputs: dict[str, str]


@dataclass
class Job:
    """A job that was run: its steps by order, its outputs, and what it wrote to its summary."""

    steps: list[Ran]
    outputs: dict[str, str]
    summary: str
    failed: bool


@dataclass
class Runner:
    """A machine with a checkout; `environ` is added to every step, `given` are outputs of steps that use actions."""

    workspace: Path
    temp: Path
    environ: Mapping[str, str]
    github: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)

    def run(self, workflow: str, job: str, **inputs: str) -> Job:
        """Run the `run:` lines of one job."""
        document = yaml.safe_load((ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text())
        wanted = document[True]["workflow_call"]["inputs"]  # YAML 1.1 reads `on` as true
        assert set(inputs) <= set(wanted), "an input that the workflow does not have"
        values = {name: inputs.get(name, one.get("default")) for name, one in wanted.items()}
        assert None not in values.values(), "a required input is missing"
        described = document["jobs"][job]
        context: dict[str, Any] = {
            "inputs": values,
            "github": self.github,
            "secrets": {"mlflow-token": ""},
            "runner": {"temp": str(self.temp)},
            "steps": {},
            "needs": self.needs,
            "failed": False,
        }
        if "if" in described and not evaluate(str(described["if"]), context):
            return Job([], {}, "", failed=False)
        summary = self.temp / f"summary-{job}.md"
        ran = [one for step in described["steps"] if (one := self._step(step, described, context, summary))]
        outputs = {name: str(fill(value, context)) for name, value in described.get("outputs", {}).items()}
        self.needs[job] = {"outputs": outputs, "result": "failure" if context["failed"] else "success"}
        return Job(ran, outputs, summary.read_text() if summary.exists() else "", bool(context["failed"]))

    def _step(
        self, step: Mapping[str, Any], job: Mapping[str, Any], context: dict[str, Any], summary: Path
    ) -> Ran | None:
        named = step.get("id", "")
        wanted = str(step.get("if", "success()"))
        if "cancelled()" not in wanted and "success()" not in wanted:
            wanted = f"success() && {wanted.removeprefix('${{').removesuffix('}}')}"
        if not evaluate(wanted, context):
            context["steps"][named] = {"outcome": "skipped", "outputs": {}}
            return None
        if "uses" in step:
            context["steps"][named] = {"outcome": "success", "outputs": self.given.get(named, {})}
            return None
        ran = self._bash(step, job, context, summary)
        context["steps"][named] = {"outcome": "success" if ran.code == 0 else "failure", "outputs": ran.outputs}
        context["failed"] |= ran.code != 0 and not step.get("continue-on-error")
        return ran

    def _bash(self, step: Mapping[str, Any], job: Mapping[str, Any], context: dict[str, Any], summary: Path) -> Ran:
        line = str(step["run"])
        assert "${{" not in line, "an expression in a script is how a title becomes a command"
        output = self.temp / "output"
        output.write_text("")
        environ = {
            name: str(fill(value, context)) for name, value in {**job.get("env", {}), **step.get("env", {})}.items()
        }
        folder = fill(job.get("defaults", {}).get("run", {}).get("working-directory", "."), context)
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", line],
            cwd=self.workspace / str(folder),
            env={
                **os.environ,
                "GITHUB_ACTIONS": "true",
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(summary),
                "RUNNER_TEMP": str(self.temp),
                **self.environ,
                **environ,
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        outputs = dict(one.split("=", 1) for one in output.read_text().splitlines())
        return Ran(line, done.returncode, done.stdout, done.stderr, outputs)


def fill(text: object, context: Mapping[str, Any]) -> object:
    """A value with its `${{ }}` filled in."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda found: str(evaluate(found[1], context)), str(text))


def evaluate(text: str, context: Mapping[str, Any]) -> Any:
    """An expression: names, strings, `!`, `==`, `!=`, `&&`, `||`, parentheses, and the functions that ours call."""
    text = text.strip().removeprefix("${{").removesuffix("}}").strip()
    tokens = TOKEN.findall(text)
    assert "".join(tokens) == re.sub(r"\s+", "", text) or "'" in text, f"not understood: {text}"
    value = _either(tokens, context)
    assert not tokens, f"not understood: {text}"
    return value


def _either(tokens: list[str], context: Mapping[str, Any]) -> Any:
    value = _both(tokens, context)
    while tokens and tokens[0] == "||":
        tokens.pop(0)
        right = _both(tokens, context)
        value = value or right
    return value


def _both(tokens: list[str], context: Mapping[str, Any]) -> Any:
    value = _equal(tokens, context)
    while tokens and tokens[0] == "&&":
        tokens.pop(0)
        right = _equal(tokens, context)
        value = value and right
    return value


def _equal(tokens: list[str], context: Mapping[str, Any]) -> Any:
    value = _one(tokens, context)
    while tokens and tokens[0] in {"==", "!="}:
        same = tokens.pop(0) == "=="
        value = (str(value) == str(_one(tokens, context))) is same
    return value


def _one(tokens: list[str], context: Mapping[str, Any]) -> Any:
    token = tokens.pop(0)
    if token == "!":
        return not _one(tokens, context)
    if token == "(":
        value = _either(tokens, context)
        assert tokens.pop(0) == ")"
        return value
    if token.startswith("'"):
        return token[1:-1].replace("''", "'")
    if tokens and tokens[0] == "(":
        return _call(token, tokens, context)
    value = context
    for part in token.split("."):
        value = value.get(part, "") if isinstance(value, Mapping) else ""
    return value


def _call(name: str, tokens: list[str], context: Mapping[str, Any]) -> Any:
    tokens.pop(0)
    arguments = []
    while tokens[0] != ")":
        arguments.append(_either(tokens, context))
        if tokens[0] == ",":
            tokens.pop(0)
    tokens.pop(0)
    functions = {
        "success": lambda: not context["failed"],
        "cancelled": lambda: False,
        "format": lambda text, *values: text.format(*values),
    }
    return functions[name](*arguments)


@dataclass
class Comments:
    """The comment API of one pull request: what is there, and every request that came."""

    found: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    refuse: int = 0
    address: str = ""

    def say(self, body: str, login: str, kind: str = "User", association: str = "NONE") -> None:
        """Somebody else writes a comment."""
        user = {"login": login, "type": kind}
        self.found.append({"id": len(self.found) + 1, "body": body, "user": user, "author_association": association})

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, object]:
        """What GitHub would answer."""
        if self.refuse:
            return self.refuse, {"message": "no"}
        if method == "GET":
            page = int(path.rpartition("page=")[2])
            return 200, self.found[100 * (page - 1) : 100 * page]
        if method == "POST":
            self.say(body["body"], "github-actions[bot]", "Bot")
            one = self.found[-1]
        else:
            one = next(one for one in self.found if one["id"] == int(path.rpartition("/")[2]))
            one["body"] = body["body"]
        return 201 if method == "POST" else 200, {**one, "html_url": f"https://github.com/#{one['id']}"}


@contextmanager
def comments_api() -> Iterator[Comments]:
    """Serve `Comments` on a port of this machine."""
    comments = Comments()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            comments.requests.append((self.command, self.path, self.headers.get("authorization", "")))
            status, answer = comments.answer(self.command, self.path, json.loads(body) if body else {})
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = _any  # noqa: N815 - http.server finds them by these names

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    comments.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield comments
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
