"""What an API server's refusals mean to us, and what to type next. Pure: it sees only the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from tidegate.core.errors import Conflict, Permanent, Temporary, TidegateError


class FieldsOwned(Conflict):
    """Others own fields that were to be applied; `owners` are their field managers."""

    def __init__(self, message: str, hint: str, owners: frozenset[str]) -> None:
        super().__init__(message, hint)
        self.owners = owners


# https://kubernetes.io/docs/reference/using-api/api-concepts/ and net/http's names of the numbers.
UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
CONFLICT: Final = 409
GONE: Final = 410
TOO_MANY: Final = 429
_SERVER: Final = 500
# Answers that say nothing of whether the request was carried out; 429 says that it was not.
UNSURE: Final = frozenset({500, 502, 503, 504})
# What server-side apply says of a field that the kind does not have.
_UNTYPED: Final = "failed to create typed patch object"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request in words: the verb as RBAC calls it, the plural of the kind, and whom it is about."""

    verb: str
    plural: str
    name: str = ""
    group: str = ""
    namespace: str = ""
    context: str = ""

    def __str__(self) -> str:
        place = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.plural}{f' {self.name}' if self.name else ''}{place} of {self.context}"

    @property
    def can_i(self) -> str:
        """The command that asks the cluster whether one may."""
        resource = f"{self.plural}.{self.group}" if self.group else self.plural
        return f"kubectl auth can-i {self.verb} {resource}{f' -n {self.namespace}' if self.namespace else ''}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the number, the document, and how many seconds the server wants to be left alone."""

    status: int
    document: dict[str, Any] = field(default_factory=dict)
    wait: float | None = None

    @staticmethod
    def of(status: int, content: bytes, retry_after: str | None) -> Answer:
        """Read an answer; what is no JSON object becomes the message of one."""
        try:
            document = json.loads(content) if content else {}
        except ValueError:
            document = {}
        if not isinstance(document, dict):
            document = {}
        if not document and content:
            document = {"message": content[:300].decode(errors="replace").strip()}
        wait = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return Answer(status, document, wait)

    @property
    def message(self) -> str:
        """The server's own words, or the number where it had none."""
        return str(self.document.get("message") or f"it answered {self.status}")

    @property
    def busy(self) -> bool:
        """Whether the same request may do better later: a patch that fits no schema is answered with 500 too."""
        return self.status in {TOO_MANY, *UNSURE} and _UNTYPED not in self.message

    @property
    def about_object(self) -> bool:
        """Whether a 404 is about the object: an API that is not served answers with text, not with a Status."""
        return self.document.get("kind") == "Status" and bool((self.document.get("details") or {}).get("name"))


def error_for(answer: Answer, ask: Ask) -> TidegateError:
    """The error of an answer that is no success."""
    if answer.status == UNAUTHORIZED:
        return Permanent(
            f"The cluster {ask.context} does not know who asks: {answer.message}.",
            "The token or certificate has expired or is of another cluster: log in again, then `kubectl auth whoami`.",
        )
    if answer.status == _FORBIDDEN:
        return Permanent(
            f"You may not {ask}: {answer.message}",
            f"`{ask.can_i}` asks for it; the roles that tidegate needs are in docs/kubernetes.md.",
        )
    if answer.status == NOT_FOUND:
        return _missing(answer, ask)
    if answer.status == CONFLICT:
        return _conflict(answer, ask)
    if answer.busy or (answer.status >= _SERVER and _UNTYPED not in answer.message):
        return Temporary(
            f"The cluster {ask.context} could not {ask.verb} {ask.plural} {ask.name}".rstrip() + f": {answer.message}",
            "It is busy or being upgraded; run the same command again.",
        )
    return Permanent(f"The cluster refused to {ask}: {answer.message}", "Nothing was changed by this request.")


def _missing(answer: Answer, ask: Ask) -> TidegateError:
    details = answer.document.get("details") or {}
    if details.get("kind") == "namespaces":
        return Permanent(
            f"There is no namespace {ask.namespace} in {ask.context}.", f"`kubectl create namespace {ask.namespace}`."
        )
    if answer.about_object:
        return Conflict(
            f"There is no {ask.plural} {ask.name} in namespace {ask.namespace} of {ask.context} (any more)."
        )
    return not_served(ask)


def not_served(ask: Ask) -> Permanent:
    """The API itself is not there."""
    api = f"{ask.plural}.{ask.group}" if ask.group else ask.plural
    return Permanent(
        f"The cluster {ask.context} does not serve {api}.",
        f"What brings it is not installed, or is too old: `kubectl get crd {api}`; docs/kubernetes.md lists what is"
        " needed.",
    )


def _conflict(answer: Answer, ask: Ask) -> Conflict:
    causes = (answer.document.get("details") or {}).get("causes") or []
    owned = [cause for cause in causes if cause.get("reason") == "FieldManagerConflict"]
    if not owned:
        return Conflict(
            f"Somebody else changed it first: could not {ask}: {answer.message}", "Look at it, then run this again."
        )
    fields = ", ".join(f"{cause.get('field')} ({_owner(cause)})" for cause in owned)
    return FieldsOwned(
        f"Others own fields of {ask.plural} {ask.name} in namespace {ask.namespace}: {fields}.",
        "Let them give the fields up, or `tidegate apply --force` takes them over.",
        frozenset(map(_owner, owned)),
    )


def _owner(cause: dict[str, Any]) -> str:
    """`conflict with "helm" using apps/v1 at ...` -> helm."""
    message = str(cause.get("message", ""))
    quoted = message.split('"')
    return quoted[1] if len(quoted) > 1 else message
