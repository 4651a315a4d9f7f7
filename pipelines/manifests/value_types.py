"""The kinds of value that the charts take; what tidegate.yaml has too is checked by the same types."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel


class Values(BaseModel):
    """A mapping of values.yaml: camelCase keys, frozen, and a key that nobody knows is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )


Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""A DNS label: the name of most objects."""
Named = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$")]
"""The name of an object that somebody else made; empty: there is none."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
MaybeDigest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
Repository = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.:_/-]*$")]
"""Where an image lies, without tag and digest."""
Address = Annotated[str, Field(pattern=r"^(https?://[^\s/]+)?$")]
"""scheme://host[:port], without a path; empty: none."""
Hostname = Annotated[str, Field(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
WholePort = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Texts = dict[str, str]
Objects = list[dict[str, JsonValue]]
"""Kubernetes' own objects; the API server checks them."""
Free = dict[str, JsonValue]
