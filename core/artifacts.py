"""The frozen things that travel along the road. Data only: nothing here reads or writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

VerdictWord = Literal["promote", "rollback", "continue", "inconclusive"]


@dataclass(frozen=True, slots=True)
class DatasetRef:
    """A data file at one content: `path` relative to the project, `md5` as DVC records it."""

    path: str
    md5: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class RunRef:
    """One MLflow run and what it measured on the holdout."""

    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: DatasetRef | None = None
    git_commit: str = ""
    git_dirty: bool = False


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of the registered model, as `model list` shows it.

    `git_dirty` says that its code was not all in `git_commit`; `own` that a training run of this project logged exactly
    this content, while an adopted version is somebody else's.
    """

    name: str
    version: int
    run_id: str
    aliases: tuple[str, ...] = ()
    git_commit: str = ""
    data_md5: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    status: str = ""
    source: str = ""
    own: bool = False
    git_dirty: bool = False


@dataclass(frozen=True, slots=True)
class GateResult:
    """The offline decision with every reason, good and bad; `champion` is the version compared with.

    `advice` says for what was refused which line of the config drew the limit, and what would pass.
    """

    passed: bool
    reasons: tuple[str, ...]
    champion: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """The immutable bundle that is promoted and rolled back whole.

    `id` is derived from everything else, so the same content is the same release.
    `bundle` is the sha256 of what the serving process loads; `bento` is the Bento that carries it.
    `files` maps a path inside the project to the sha256 of its stored copy. `reference` names what its live data is
    compared with (`references/` of the store); None: it was made before there was one.
    """

    model: str
    version: int
    run_id: str
    bento: str
    bundle: str
    git_commit: str
    git_dirty: bool
    data: tuple[DatasetRef, ...]
    files: Mapping[str, str]
    config: Mapping[str, Any]
    contract: Mapping[str, Any]
    image: str | None = None
    reference: str | None = None

    @property
    def id(self) -> str:
        """`r-` and 10 hexadecimal digits of the content's sha256."""
        return "r-" + hashlib.sha256(canonical(self.to_json())).hexdigest()[:10]

    def to_json(self) -> dict[str, Any]:
        """The release as its file in the store and `release show --json` hold it."""
        document = dataclasses.asdict(self)
        if self.reference is None:
            # Releases that are older than this field keep their ids.
            del document["reference"]
        return document

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Release:
        """Read what `to_json` wrote."""
        data = tuple(DatasetRef(**one) for one in document["data"])
        return Release(**{**document, "data": data})


def canonical(document: object) -> bytes:
    """JSON bytes that are equal when the content is: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
