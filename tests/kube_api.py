"""A Kubernetes API server that keeps its objects in memory and speaks HTTP as the real one does, faults included.

What matters to a client is here: server-side apply with owners of fields and conflicts, resource versions and 409,
watches with bookmarks and 410, paging, status and scale apart from the rest, preconditions, discovery, access reviews,
logs; and on demand 429, 5xx, slow and lost answers, tokens that expire. What is not here is said in one place:
no schemas (`fieldValidation` finds nothing), no defaults, no admission, no controllers but the removal of what an
object owned. tests/core/test_kube.py holds it and, where `TIDEGATE_TEST_KUBECONFIG` names one, a real server to the
same promises.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tidegate.core.kube import KINDS, Kind

Document = dict[str, Any]
Path_ = tuple[str, ...]
# Lists of the core kinds whose items have a name of their own; every other list is replaced whole.
KEYED = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "ownerReferences": ("uid",),
    "conditions": ("type",),
}
STATUS_APART = {"Rollout", "AnalysisRun", "HTTPRoute", "Deployment", "ReplicaSet", "Pod", "Job", "Service", "Gateway"}
SCALED = {"Rollout", "Deployment", "ReplicaSet"}
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass
class Fault:
    """What goes wrong with requests that `hits` picks: an answer, a delay, an answer that is lost on its way."""

    hits: Callable[[str, str], bool]
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    lost: bool = False
    times: int = 1
    message: str = ""


class Refused(Exception):
    """An answer that is no success, as a Status document."""

    def __init__(self, code: int, reason: str, message: str, details: Document | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details or {},
            "code": code,
        }


@dataclass
class Call:
    """One request as it came in."""

    method: str
    kind: Kind
    namespace: str
    name: str
    subresource: str
    query: dict[str, str]
    body: Document
    content_type: str

    @property
    def verb(self) -> str:
        """As RBAC calls it."""
        if self.method == "GET":
            if self.query.get("watch") == "true":
                return "watch"
            return "get" if self.name else "list"
        return {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}[self.method]

    @property
    def resource(self) -> str:
        """The plural, with the subresource."""
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural


class KubeApi:
    """The server's memory; `serving` gives it an address. Tests read and write it while it serves."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.objects: dict[tuple[Kind, str, str], Document] = {}
        self.kinds: set[Kind] = set(KINDS.values())
        self.events: list[tuple[int, Kind, str, Document]] = []
        self.version = 100
        self.forgotten = 0
        self.faults: list[Fault] = []
        self.denied: set[tuple[str, str]] = set()
        self.tokens = {"sesame"}
        self.requests: list[str] = []
        self.logs: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self.cut_logs_after: list[int] = []
        self.cut_watches_after: list[int] = []
        self.hooks: list[Callable[[Kind, Document], None]] = []
        self.kubernetes = "v1.34.4"
        self.services: dict[tuple[str, int], Callable[[str], tuple[int, Document]]] = {}
        self.url = ""
        self.stopping = False
        self.seed("default")

    def seed(self, namespace: str) -> None:
        """Make a namespace."""
        kind = KINDS["v1", "Namespace"]
        self._store(kind, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}, "ADDED")

    def forget(self) -> None:
        """Compact the history: whoever watches from before now gets 410."""
        with self.lock:
            self.events.clear()
            self.forgotten = self.version
            self.version += 1

    def read(self, kind: Kind, name: str, namespace: str = "default") -> Document | None:
        """An object, without a request."""
        with self.lock:
            found = self.objects.get((kind, namespace if kind.namespaced else "", name))
            return copy.deepcopy(found)

    def all(self, kind: Kind, namespace: str = "default") -> list[Document]:
        """Every object of a kind, without a request."""
        with self.lock:
            found = sorted(self.objects.items(), key=lambda item: item[0][2])
            return [copy.deepcopy(one) for (of, where, _), one in found if (of, where) == (kind, namespace)]

    def write(
        self, kind: Kind, document: Document, namespace: str = "default", manager: str = "controller"
    ) -> Document:
        """Put an object as a controller would, status included."""
        with self.lock:
            place = namespace if kind.namespaced else ""
            before = self.objects.get((kind, place, document["metadata"]["name"]))
            made = copy.deepcopy(document)
            made["metadata"] = {**(before or {}).get("metadata", {}), **made["metadata"]}
            if before is not None:
                _own_changes(before, made, manager, "")
                if _plain(before) == _plain({**before, **made}):
                    return copy.deepcopy(before)
            return self._store(kind, place, made, "MODIFIED" if before else "ADDED")

    def answer(self, call: Call) -> tuple[int, Document]:
        """Carry a request out."""
        with self.lock:
            if call.kind.plural == "selfsubjectaccessreviews":
                asked = call.body["spec"]["resourceAttributes"]
                resource = "/".join(asked[key] for key in ("resource", "subresource") if key in asked)
                allowed = (asked["verb"], resource) not in self.denied
                return 201, {**call.body, "status": {"allowed": allowed}}
            if call.kind not in self.kinds:
                raise LookupError
            if (call.verb, call.resource) in self.denied:
                raise Refused(
                    403, "Forbidden",
                    f'{call.resource} is forbidden: User "ada" cannot {call.verb} resource "{call.resource}"'
                    f' in API group "{call.kind.group}" in the namespace "{call.namespace}"',
                    {"name": call.name, "group": call.kind.group, "kind": call.kind.plural},
                )  # fmt: skip
            status, document = getattr(self, f"_{call.verb}")(call)
        for hook in self.hooks:
            if call.method != "GET":
                hook(call.kind, document)
        return status, document

    def _get(self, call: Call) -> tuple[int, Document]:
        found = self._found(call)
        if call.subresource == "scale":
            return 200, _scale(found)
        return 200, found

    def _list(self, call: Call) -> tuple[int, Document]:
        wanted = _selector(call.query.get("labelSelector", ""))
        found = [one for one in self.all(call.kind, call.namespace) if wanted(one)]
        begin, version = 0, self.version
        if token := call.query.get("continue"):
            version, begin = map(int, token.split("."))
            if version <= self.forgotten:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
        limit = int(call.query.get("limit", "0")) or len(found)
        more = {"continue": f"{version}.{begin + limit}"} if begin + limit < len(found) else {}
        items = [{key: value for key, value in one.items() if key not in {"kind", "apiVersion"}} for one in found]
        return 200, {
            "kind": f"{call.kind.kind}List",
            "apiVersion": call.kind.api_version,
            "metadata": {"resourceVersion": str(version), **more},
            "items": items[begin : begin + limit],
        }

    def _create(self, call: Call) -> tuple[int, Document]:
        made = copy.deepcopy(call.body)
        metadata = made["metadata"]
        if prefix := metadata.get("generateName"):
            metadata.setdefault("name", f"{prefix}{uuid.uuid4().hex[:5]}")
        self._check(call, made)
        if (call.kind, call.namespace, metadata["name"]) in self.objects:
            raise Refused(
                409, "AlreadyExists", f'{call.resource}.{call.kind.group} "{metadata["name"]}" already exists',
                {"name": metadata["name"], "group": call.kind.group, "kind": call.kind.plural},
            )  # fmt: skip
        if call.kind.kind in STATUS_APART:
            made.pop("status", None)
        made["metadata"].pop("managedFields", None)
        _own_changes({"metadata": {}}, made, call.query.get("fieldManager", "unknown"), "")
        if "dryRun" in call.query:
            return 201, made
        return 201, self._store(call.kind, call.namespace, made, "ADDED")

    def _patch(self, call: Call) -> tuple[int, Document]:
        if call.content_type == "application/apply-patch+yaml":
            return self._apply(call)
        before = self._found(call)
        body = copy.deepcopy(call.body)
        if call.subresource == "scale":
            body = {"metadata": body.get("metadata", {}), "spec": {"replicas": body["spec"]["replicas"]}}
        elif call.subresource == "status":
            body = {"metadata": _versioned(body), "status": body.get("status", {})}
        elif call.kind.kind in STATUS_APART:
            body.pop("status", None)
        expected = body.get("metadata", {}).pop("resourceVersion", None)
        self._check_version(call, before, expected)
        after = _merged(before, body)
        _own_changes(before, after, call.query.get("fieldManager", "unknown"), call.subresource)
        return 200, self._changed(call, before, after)

    def _update(self, call: Call) -> tuple[int, Document]:
        before = self._found(call)
        body = copy.deepcopy(call.body)
        self._check_version(call, before, body["metadata"].get("resourceVersion"))
        kept = ("status",) if not call.subresource and call.kind.kind in STATUS_APART else ()
        after = {**body, **{key: before[key] for key in kept if key in before}}
        if call.subresource == "status":
            after = {**before, "status": body.get("status", {})}
        after["metadata"] = {**before["metadata"], **after["metadata"]}
        _own_changes(before, after, call.query.get("fieldManager", "unknown"), call.subresource)
        return 200, self._changed(call, before, after)

    def _apply(self, call: Call) -> tuple[int, Document]:
        manager = call.query["fieldManager"]
        before = self.objects.get((call.kind, call.namespace, call.name))
        applied = {key: value for key, value in call.body.items() if key not in {"apiVersion", "kind"}}
        if applied.get("metadata", {}).get("managedFields"):
            raise Refused(400, "BadRequest", "metadata.managedFields must be nil")
        if call.kind.kind in STATUS_APART and not call.subresource:
            applied.pop("status", None)
        after = copy.deepcopy(before) if before else {"apiVersion": call.kind.api_version, "kind": call.kind.kind}
        after.setdefault("metadata", {"name": call.name})
        owned = {(one["manager"], one["operation"], one.get("subresource", "")): _leaves_of(one["fieldsV1"])
                 for one in after["metadata"].get("managedFields", ())}  # fmt: skip
        mine = (manager, "Apply", call.subresource)
        keyed = _keyed(call.kind)
        new = {path: value for path, value in _leaves(applied, keyed) if path[:2] not in _IDENTITY}
        conflicts = [
            (path, key)
            for path, value in new.items()
            for key, paths in owned.items()
            if key[0::2] != mine[0::2] and path in paths and _at(after, path) != value
        ]
        if conflicts and call.query.get("force") != "true":
            raise _conflicting(call, conflicts)
        for path, key in conflicts:
            owned[key].discard(path)
        others = {path for key, paths in owned.items() if key != mine for path in paths}
        for path in sorted(owned.get(mine, set()) - set(new) - others, key=len, reverse=True):
            _remove(after, path)
        for path, value in new.items():
            _put(after, path, value)
        owned[mine] = set(new)
        after["metadata"]["managedFields"] = _managed(owned, call.kind.api_version)
        self._check(call, after)
        if before is None:
            if "dryRun" in call.query:
                return 201, after
            return 201, self._store(call.kind, call.namespace, after, "ADDED")
        return 200, self._changed(call, before, after)

    def _delete(self, call: Call) -> tuple[int, Document]:
        found = self._found(call)
        expected = (call.body.get("preconditions") or {}).get("uid")
        if expected and expected != found["metadata"]["uid"]:
            raise Refused(
                409, "Conflict",
                f"Precondition failed: UID in precondition: {expected}, UID in object meta: {found['metadata']['uid']}",
                {"name": call.name, "group": call.kind.group, "kind": call.kind.plural},
            )  # fmt: skip
        if found["metadata"].get("finalizers"):
            after = copy.deepcopy(found)
            after["metadata"]["deletionTimestamp"] = _now()
            return 200, self._store(call.kind, call.namespace, after, "MODIFIED")
        self._drop(call.kind, call.namespace, call.name)
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def _drop(self, kind: Kind, namespace: str, name: str) -> None:
        gone = self.objects.pop((kind, namespace, name))
        self.version += 1
        gone["metadata"]["resourceVersion"] = str(self.version)
        self.events.append((self.version, kind, "DELETED", copy.deepcopy(gone)))
        self.changed.notify_all()
        for (of, where, other), one in list(self.objects.items()):
            owners = {owner["uid"] for owner in one["metadata"].get("ownerReferences", ())}
            if owners and gone["metadata"]["uid"] in owners and (of, where, other) in self.objects:
                self._drop(of, where, other)

    def _changed(self, call: Call, before: Document, after: Document) -> Document:
        if "dryRun" in call.query or _plain(before) == _plain(after):
            return after
        return self._store(call.kind, call.namespace, after, "MODIFIED")

    def _store(self, kind: Kind, namespace: str, document: Document, what: str) -> Document:
        with self.lock:
            self.version += 1
            metadata = document["metadata"]
            before = self.objects.get((kind, namespace, metadata["name"]))
            if kind.namespaced:
                metadata["namespace"] = namespace
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", _now())
            metadata.setdefault("generation", 1)
            if before is not None and before.get("spec") != document.get("spec"):
                metadata["generation"] = before["metadata"]["generation"] + 1
            metadata["resourceVersion"] = str(self.version)
            document.setdefault("apiVersion", kind.api_version)
            document.setdefault("kind", kind.kind)
            if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
                self._drop(kind, namespace, metadata["name"])
                return document
            self.objects[kind, namespace, metadata["name"]] = copy.deepcopy(document)
            self.events.append((self.version, kind, what, copy.deepcopy(document)))
            self.changed.notify_all()
            return copy.deepcopy(document)

    def _found(self, call: Call) -> Document:
        found = self.objects.get((call.kind, call.namespace, call.name))
        if found is None:
            group = f".{call.kind.group}" if call.kind.group else ""
            raise Refused(
                404, "NotFound", f'{call.kind.plural}{group} "{call.name}" not found',
                {"name": call.name, "group": call.kind.group, "kind": call.kind.plural},
            )  # fmt: skip
        return copy.deepcopy(found)

    def _check(self, call: Call, document: Document) -> None:
        if call.kind.namespaced and (KINDS["v1", "Namespace"], "", call.namespace) not in self.objects:
            raise Refused(
                404, "NotFound", f'namespaces "{call.namespace}" not found',
                {"name": call.namespace, "kind": "namespaces"},
            )  # fmt: skip
        name = document["metadata"]["name"]
        if not NAME.fullmatch(name):
            raise Refused(
                422, "Invalid", f'{call.kind.kind} "{name}" is invalid: metadata.name: Invalid value: "{name}"',
                {"name": name, "kind": call.kind.kind},
            )  # fmt: skip

    def _check_version(self, call: Call, before: Document, expected: str | None) -> None:
        if expected and expected != before["metadata"]["resourceVersion"]:
            raise Refused(
                409, "Conflict",
                f'Operation cannot be fulfilled on {call.resource} "{call.name}": the object has been modified;'
                " please apply your changes to the latest version and try again",
                {"name": call.name, "group": call.kind.group, "kind": call.kind.plural},
            )  # fmt: skip

    def watching(self, call: Call) -> Iterator[Document]:
        """Events after a version until the time is up; bookmarks while nothing happens."""
        wanted = _selector(call.query.get("labelSelector", ""))
        version, end = int(call.query["resourceVersion"]), time.monotonic() + float(call.query["timeoutSeconds"])
        shown = {one["metadata"]["uid"] for one in self.all(call.kind, call.namespace) if wanted(one)}
        while not self.stopping and (left := end - time.monotonic()) > 0:
            if version < self.forgotten:
                refused = Refused(410, "Expired", f"too old resource version: {version} ({self.forgotten})")
                yield {"type": "ERROR", "object": refused.document}
                return
            with self.changed:
                news = [event for event in self.events if event[0] > version and event[1] == call.kind]
                if not news:
                    self.changed.wait(min(left, 0.2))
                    bookmark = {"type": "BOOKMARK", "object": self._bookmark(call.kind)}
                    news = [event for event in self.events if event[0] > version and event[1] == call.kind]
            if not news:
                version = int(bookmark["object"]["metadata"]["resourceVersion"])
                yield bookmark
                continue
            for number, _, what, document in news:
                version = number
                if document["metadata"].get("namespace", "") != call.namespace:
                    continue
                uid = document["metadata"]["uid"]
                if what != "DELETED" and not wanted(document):
                    # An object that no longer has the labels is gone for whoever watches them.
                    what = "DELETED" if uid in shown else ""  # noqa: PLW2901
                if what and (what != "DELETED" or uid in shown or wanted(document)):
                    shown.add(uid)
                    yield {"type": what, "object": document}

    def _bookmark(self, kind: Kind) -> Document:
        metadata = {"resourceVersion": str(self.version), "creationTimestamp": None}
        return {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata}

    def proxied(self, call: Call, path: str) -> tuple[int, Document]:
        """What a Service answers that is asked through us; nobody behind it is 503."""
        name, _, port = call.name.partition(":")
        if (call.verb, call.resource) in self.denied:
            raise Refused(
                403, "Forbidden", f"services {call.name!r} is forbidden", {"name": call.name, "kind": "services"}
            )
        with self.lock:
            self._found(replace(call, name=name))
        if (name, int(port)) not in self.services:
            raise Refused(503, "ServiceUnavailable", f"no endpoints available for service {name!r}")
        return self.services[name, int(port)](path)

    def resources(self, api_version: str) -> Document:
        """What discovery says of a group and version."""
        served = [one for one in self.kinds if one.api_version == api_version]
        if not served:
            raise LookupError
        return {
            "kind": "APIResourceList",
            "groupVersion": api_version,
            "resources": [{"name": one.plural, "kind": one.kind, "namespaced": one.namespaced} for one in served],
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: KubeApi
    # Headers and content go out apart: Nagle would hold the second back for 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(size)
        self.api.requests.append(f"{self.command} {self.path}")
        fault = self._fault()
        if fault is not None and fault.delay:
            time.sleep(fault.delay)
        if fault is not None and fault.status:
            refused = Refused(fault.status, "Fault", fault.message or f"made to fail with {fault.status}")
            return self._answer(fault.status, refused.document, fault.headers)
        if self.headers.get("Authorization") not in {f"Bearer {token}" for token in self.api.tokens}:
            return self._answer(401, Refused(401, "Unauthorized", "Unauthorized").document)
        try:
            answer = self._carry_out(content)
        except Refused as refused:
            answer = refused.code, refused.document
        except LookupError:
            return self._send(404, b"404 page not found\n", "text/plain; charset=utf-8")
        if fault is not None and fault.lost:
            self.close_connection = True
            self.connection.shutdown(2)
            return None
        return self._answer(*answer) if answer else None

    def _carry_out(self, content: bytes) -> tuple[int, Document] | None:
        url = urlsplit(self.path)
        if url.path == "/version":
            return 200, {"major": "1", "minor": "34", "gitVersion": self.api.kubernetes}
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        version, rest = (parts[1], parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
        if not rest:
            return 200, self.api.resources(version)
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        kinds = [one for one in _EVERY if one.api_version == version and one.plural == rest[0]]
        if not kinds:
            raise LookupError
        name, subresource = [*rest[1:3], "", ""][:2]
        body = json.loads(content) if content else {}
        content_type = self.headers.get("Content-Type", "")
        call = Call(self.command, kinds[0], namespace, name, subresource, query, body, content_type)
        if call.verb == "watch":
            self._stream_events(call)
            return None
        if subresource == "log":
            self._stream_logs(call)
            return None
        if subresource == "proxy":
            return self.api.proxied(call, "/".join(rest[3:]))
        return self.api.answer(call)

    def _stream_events(self, call: Call) -> None:
        if call.kind not in self.api.kinds:
            raise LookupError
        self._begin_chunks("application/json")
        cut = self.api.cut_watches_after.pop(0) if self.api.cut_watches_after else None
        for number, event in enumerate(self.api.watching(call)):
            if number == cut:
                return self._cut()
            if not self._chunk(json.dumps(event).encode() + b"\n"):
                return None
        self._chunk(b"")
        return None

    def _stream_logs(self, call: Call) -> None:
        self.api._found(call)
        lines = self.api.logs[call.name, call.query["container"]]
        since = call.query.get("sinceTime", "")[:19]
        self._begin_chunks("text/plain")
        cut = self.api.cut_logs_after.pop(0) if self.api.cut_logs_after else None
        for number, (stamp, text) in enumerate(line for line in lines if line[0][:19] >= since):
            if number == cut:
                return self._cut()
            self._chunk(f"{stamp} {text}\n".encode())
        self._chunk(b"")
        return None

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(2)

    def _begin_chunks(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, content: bytes) -> bool:
        try:
            self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
            self.wfile.flush()
        except OSError:
            self.close_connection = True
            return False
        return True

    def _fault(self) -> Fault | None:
        for fault in self.api.faults:
            if fault.times > 0 and fault.hits(self.command, self.path):
                fault.times -= 1
                return fault
        return None

    def _answer(self, status: int, document: Document, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(document).encode(), "application/json", headers)

    def _send(self, status: int, content: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True


@contextmanager
def serving(api: KubeApi) -> Iterator[KubeApi]:
    """Give the server an address of this machine."""
    handler = type("Handler", (_Handler,), {"api": api})
    server = _server(handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield api
    finally:
        api.stopping = True
        server.shutdown()
        server.server_close()
        thread.join()


def kubeconfig(folder: Path, api: KubeApi, user: Document | None = None) -> Path:
    """A kubeconfig with the context `fake`; `user` is how its user proves who they are."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": api.url}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "ada"}}],
        "users": [{"name": "ada", "user": user or {"token": "sesame"}}],
        "current-context": "fake",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))
    return path


class _Server(ThreadingHTTPServer):
    request_queue_size = 64


def _server(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    from tidegate.serving.deploy.local import free_port

    return _Server(("127.0.0.1", free_port()), handler)


_REVIEW = Kind("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False)
_EVERY = {*KINDS.values(), _REVIEW}
# A document says who it is about with these; nobody owns them.
_IDENTITY = {("metadata", "name"), ("metadata", "namespace"), ("metadata", "uid"), ("metadata", "resourceVersion"),
             ("metadata", "managedFields"), ("metadata", "creationTimestamp"), ("metadata", "generation")}  # fmt: skip


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _plain(document: Document) -> Document:
    """Without what changes by itself."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "resourceVersion"}
    managed = [{key: value for key, value in one.items() if key != "time"} for one in metadata.get("managedFields", ())]
    return {**document, "metadata": {**metadata, "managedFields": managed}}


def _versioned(body: Document) -> Document:
    version = body.get("metadata", {}).get("resourceVersion")
    return {"resourceVersion": version} if version else {}


def _selector(text: str) -> Callable[[Document], bool]:
    wanted = [part.partition("=") for part in text.split(",") if part]

    def matches(document: Document) -> bool:
        labels = document["metadata"].get("labels") or {}
        return all((key in labels and (not sign or labels[key] == value.lstrip("="))) for key, sign, value in wanted)

    return matches


def _scale(document: Document) -> Document:
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: document["metadata"][key] for key in ("name", "resourceVersion", "uid")},
        "spec": {"replicas": document["spec"].get("replicas", 1)},
        "status": {"replicas": document.get("status", {}).get("replicas", 0)},
    }


def _merged(before: Any, patch: Any) -> Any:
    """JSON merge patch, RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    after = dict(before) if isinstance(before, dict) else {}
    for key, value in patch.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = _merged(after.get(key), value)
    return after


def _keyed(kind: Kind) -> bool:
    """Whether lists have named items: those of custom resources, as Argo's and Gateway API's, are atomic."""
    return "." not in kind.group or (kind.group.endswith(".k8s.io") and not kind.group.startswith("gateway"))


def _leaves(value: Any, keyed: bool = True, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """What has an owner: scalars, empty mappings and lists that are replaced whole."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, keyed, (*path, key))
    elif keyed and isinstance(value, list) and path and path[-1] in KEYED and value:
        for item in value:
            mark = json.dumps({key: item.get(key) for key in KEYED[path[-1]]})
            yield from _leaves(item, keyed, (*path, f"k:{mark}"))
    else:
        yield path, value


def _fields(paths: set[Path_]) -> Document:
    """FieldsV1 of some paths."""
    tree: Document = {}
    for path in sorted(paths):
        node = tree
        for part in path:
            node = node.setdefault(part if part.startswith("k:") else f"f:{part}", {})
    return tree


def _leaves_of(tree: Document, path: Path_ = ()) -> set[Path_]:
    """The paths of a FieldsV1."""
    if not tree:
        return {path} if path else set()
    found: set[Path_] = set()
    for key, child in tree.items():
        part = key if key.startswith("k:") else key.removeprefix("f:")
        found |= _leaves_of(child, (*path, part))
    return found


def _managed(owned: Mapping[tuple[str, str, str], set[Path_]], api_version: str) -> list[Document]:
    return [
        {
            "manager": manager,
            "operation": operation,
            "apiVersion": api_version,
            "time": _now(),
            "fieldsType": "FieldsV1",
            "fieldsV1": _fields(paths),
            **({"subresource": subresource} if subresource else {}),
        }
        for (manager, operation, subresource), paths in sorted(owned.items())
        if paths
    ]


def _own_changes(before: Document, after: Document, manager: str, subresource: str) -> None:
    """Give `manager` every field that changed, and take it from whoever had it."""
    owned = {(one["manager"], one["operation"], one.get("subresource", "")): _leaves_of(one["fieldsV1"])
             for one in before["metadata"].get("managedFields", ())}  # fmt: skip
    hidden = {"managedFields"}
    old, new = (
        {path: value for path, value in _leaves({**one, "metadata": _without(one["metadata"], hidden)})
         if path[:2] not in _IDENTITY and path[0] not in {"apiVersion", "kind"}}
        for one in (before, after)
    )  # fmt: skip
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    for paths in owned.values():
        paths.difference_update(changed | (set(old) - set(new)))
    owned.setdefault((manager, "Update", subresource), set()).update(changed)
    after["metadata"]["managedFields"] = _managed(owned, after.get("apiVersion", "v1"))


def _without(mapping: Document, keys: set[str]) -> Document:
    return {key: value for key, value in mapping.items() if key not in keys}


def _conflicting(call: Call, conflicts: list[tuple[Path_, tuple[str, str, str]]]) -> Refused:
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{key[0]}" using {call.kind.api_version}',
            "field": "." + ".".join(path),
        }
        for path, key in conflicts
    ]
    count = f"{len(causes)} conflict{'s' * (len(causes) > 1)}"
    message = f"Apply failed with {count}: {causes[0]['message']}: {causes[0]['field']}"
    return Refused(409, "Conflict", message, {"name": call.name, "causes": causes})


def _item(items: list[Any], mark: str) -> Any:
    wanted = json.loads(mark.removeprefix("k:"))
    for item in items:
        if all(item.get(key) == value for key, value in wanted.items()):
            return item
    return None


def _at(document: Any, path: Path_) -> Any:
    for part in path:
        if document is None:
            return None
        document = _item(document, part) if part.startswith("k:") else document.get(part)
    return document


def _put(document: Any, path: Path_, value: Any) -> None:
    node = document
    for part, following in zip(path, (*path[1:], ""), strict=True):
        if part.startswith("k:"):
            found = _item(node, part)
            if found is None:
                found = json.loads(part.removeprefix("k:"))
                node.append(found)
            node = found
        elif not following:
            node[part] = copy.deepcopy(value)
        else:
            node = node.setdefault(part, [] if following.startswith("k:") else {})


def _remove(document: Any, path: Path_) -> None:
    parent = _at(document, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)
    # A mapping that held nothing else goes with its last key, an item with its name.
    for depth in range(len(path) - 1, 0, -1):
        node, above = _at(document, path[:depth]), _at(document, path[: depth - 1])
        if node == {} and isinstance(above, dict):
            above.pop(path[depth - 1], None)
        elif isinstance(above, list) and path[depth - 1].startswith("k:"):
            if node is not None and set(node) <= set(json.loads(path[depth - 1].removeprefix("k:"))):
                above.remove(node)
        else:
            return
