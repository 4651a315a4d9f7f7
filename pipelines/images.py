"""`tidegate package --image` and `release verify`: the image of a release, and proof that it is one.

An image belongs to the ledger and not to the release: the release's id is the hash of what was gated, and the same
release may be built on another base tomorrow. The newest `imaged` event of a release is the one that counts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.core import secret
from tidegate.core.errors import TidegateError, UsageError
from tidegate.pipelines.environment import Environment
from tidegate.registry import releases
from tidegate.registry.ledger import Draft
from tidegate.registry.state import Imaged, State, deciding
from tidegate.serving.image import archive, builders, context, provenance, sbom
from tidegate.serving.image.containerfile import BUNDLE

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from tidegate.core.artifacts import Release
    from tidegate.core.progress import Progress
    from tidegate.serving.image.builders import Builder


@dataclass(frozen=True, slots=True)
class Verified:
    """An image that is what its release and the ledger say; `signed_by` is the key's id, None without a key."""

    release: str
    image: Imaged
    signed_by: str | None


def build(environment: Environment, release: Release, bundle: Path, progress: Progress, *, push: bool) -> Imaged:
    """Build the image of a release, write down what is in it and where it came from, and tell ledger and registry.

    Raises:
        UsageError: no tool to build with; a secret that is not there; `push` without a repository.
        TidegateError: the build or the push failed.
    """
    project = environment.project
    builder = builders.find()
    repository = project.config.environment(project.env).image_repository
    if push and not repository:
        raise UsageError(
            f"The environment {project.env} has no image_repository, so nobody knows where to push.",
            f"Add it: environments: {{{project.env}: {{image_repository: ghcr.io/acme/{project.config.model}}}}}",
        )
    key = _signing_key(environment)
    reference = builders.reference(release.id, release.model, repository)
    with tempfile.TemporaryDirectory(prefix="tidegate-image-") as scratch:
        place = Path(scratch) / "context"
        place.mkdir()
        context.write(release, bundle, project.config.image, place)
        builders.build(builder, place, reference, build_secrets(environment), progress)
    with progress.task("list what is in it"), saved(builder, reference) as image:
        digest, listed = image.digest, sbom.of(image)
    facts = provenance.Facts(digest, reference, project.config.image.base, _sha256(listed), builder.name)
    signed = provenance.envelope(provenance.statement(release, facts), key)
    pushed = ""
    if push:
        with progress.task(f"push {reference}"):
            pushed = builders.push(builder, reference)
    made = Imaged(digest, reference, pushed, _sha256(listed), _sha256(signed), _public(key))
    environment.store.write(_place(digest, "sbom.json"), listed)
    environment.store.write(_place(digest, "provenance.json"), signed)
    _record(environment, release, made)
    return made


def verify(environment: Environment, target: str, progress: Progress, key: bytes | None = None) -> Verified:
    """Prove that an image is what the ledger says of its release: layers, model, packages, origin, signature.

    Args:
        environment: whose ledger.
        target: a release, or an image's name or digest.
        progress: where to report.
        key: PEM of the public key that must have signed it; None takes image.sign's, else the ledger's.

    Raises:
        UsageError: nothing was built for it.
        TidegateError: something is not as it was recorded; it must not be deployed.
    """
    found, known = _recorded(environment, target)
    release = releases.load(environment.store, found)
    trusted = provenance.public_key(key) if key is not None else _trusted(environment, known)
    listed = _stated(environment, known, release, trusted)
    builder = builders.find()
    with progress.task(f"look into {known.reference}"):
        name = _at_hand(builder, known)
        with saved(builder, name) as image:
            _same("The image", image.digest, known.digest)
            _same("The image's labels", dict(context.labels(release)), _ours(image, release))
            _same("The model in the image", _bundle_digest(image), release.bundle)
            _same("The list of packages", sbom.of(image), listed)
    return Verified(found, known, provenance.key_id(trusted) if trusted else None)


def check_before_deploy(environment: Environment, release: Release, progress: Progress) -> None:
    """Refuse to deploy what is not what was gated, as far as this machine can see.

    The release, the list of packages and the signed statement are held against the ledger everywhere; the image's
    layers where a tool can open them. Elsewhere the digest stands for them: a cluster pulls by it and by nothing else.

    Raises:
        UsageError: the image was not pushed; says what to type.
        TidegateError: something is not as it was recorded.
    """
    image = environment.state().images.get(release.id)
    if image is None or not image.pushed:
        raise UsageError(
            f"The image of release {release.id} was not pushed, so no cluster can pull it.",
            f"`tidegate package {release.version} --image --push --env {environment.project.env}`, then ship again.",
        )
    releases.files_of(environment.store, release)
    trusted = _trusted(environment, image)
    _stated(environment, image, release, trusted)
    try:
        builders.find()
    except UsageError:
        progress.note(
            "No tool here opens images, so the layers were not looked at; the digest is the one that was pushed, and "
            "its statement and list of packages are as they were recorded."
        )
        return
    verify(environment, release.id, progress)


def _stated(environment: Environment, known: Imaged, release: Release, trusted: Ed25519PublicKey | None) -> bytes:
    """The list of packages, once it and the statement are what the ledger and the release say."""
    listed, signed = _kept(environment, known)
    stated = provenance.opened(signed, trusted)
    sources = {one["name"]: one for one in stated["predicate"]["buildDefinition"]["resolvedDependencies"]}
    builder = stated["predicate"]["runDetails"]["builder"]["id"].rpartition("/")[2]
    base = sources["base"]["uri"].removeprefix("docker://")
    facts = provenance.Facts(known.digest, known.reference, base, known.sbom, builder)
    _same("The provenance", stated, provenance.statement(release, facts))
    return listed


def _at_hand(builder: Builder, known: Imaged) -> str:
    """The image's name on this machine, pulled by its digest where it was built on another one."""
    if builders.has(builder, known.reference) or not known.pushed:
        return known.reference
    by_digest = f"{known.reference.rpartition(':')[0]}@{known.pushed}"
    builders.pull(builder, by_digest)
    return by_digest


def document(release: str, image: Imaged) -> dict[str, Any]:
    """What `--json` shows of an image."""
    return {"release": release, **asdict(image)}


def _recorded(environment: Environment, target: str) -> tuple[str, Imaged]:
    images = environment.state().images
    for release, image in images.items():
        by_digest = f"{image.reference.rpartition(':')[0]}@{image.pushed}"
        if target in {image.reference, image.digest, image.pushed, by_digest}:
            return release, image
    if target.startswith("r-"):
        release = releases.resolve(environment.store, target)
        if release in images:
            return release, images[release]
        raise UsageError(
            f"No image of release {release} was built.", "`tidegate package --image` builds the champion's."
        )
    raise UsageError(
        f"The ledger knows no image {target}.",
        "So it is none of ours, or it was built again since. `tidegate events` shows those that were built.",
    )


def _kept(environment: Environment, known: Imaged) -> tuple[bytes, bytes]:
    """The SBOM and the provenance as they were recorded."""
    contents = []
    for name, expected in (("sbom.json", known.sbom), ("provenance.json", known.provenance)):
        place = _place(known.digest, name)
        try:
            content = environment.store.read(place)
        except FileNotFoundError as error:
            raise TidegateError(
                f"{place} is missing in the store.", "`tidegate package --image` makes it again."
            ) from error
        _same(f"{place} in the store", _sha256(content), expected)
        contents.append(content)
    return contents[0], contents[1]


def _bundle_digest(image: archive.Image) -> str:
    """As `manifest.digest` does for a folder, of the files that a container sees."""
    prefix = BUNDLE.strip("/")
    whole = hashlib.sha256()
    for path in sorted(image.below(prefix), key=lambda one: Path(one).parts):
        whole.update(path.removeprefix(f"{prefix}/").encode() + b"\0")
        whole.update(hashlib.sha256(image.read(path)).digest())
    return whole.hexdigest()


def _ours(image: archive.Image, release: Release) -> dict[str, str]:
    return {name: image.labels.get(name, "") for name in context.labels(release)}


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        short = f": {found} and not {expected}" if isinstance(found, str) else ""
        raise TidegateError(
            f"{what} is not what was recorded{short}.",
            "It will not be used: it was changed, or built elsewhere. `tidegate package --image` builds it again.",
        )


def _record(environment: Environment, release: Release, made: Imaged) -> None:
    def once(state: State) -> Draft | None:
        if state.images.get(release.id) == made:
            return None
        return Draft("imaged", {"release": release.id, **asdict(made)})

    environment.ledger.append(deciding(once))
    environment.registry.tag_image(release.version, made.pushed or made.digest)


def _signing_key(environment: Environment) -> Ed25519PrivateKey | None:
    reference = environment.project.config.image.sign
    return provenance.private_key(secret.resolve(reference, environment.project.root)) if reference else None


def _public(key: Ed25519PrivateKey | None) -> str:
    return key.public_key().public_bytes_raw().hex() if key else ""


def _trusted(environment: Environment, known: Imaged) -> Ed25519PublicKey | None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = _signing_key(environment)
    if key is not None:
        return key.public_key()
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(known.key)) if known.key else None


def build_secrets(environment: Environment) -> dict[str, str]:
    """The index and the authorities, for the build's commands only."""
    image, root = environment.project.config.image, environment.project.root
    found = {}
    if image.index:
        plain = image.index.startswith(("https://", "http://"))
        found["index"] = image.index if plain else secret.resolve(image.index, root)
    if image.ca:
        found["ca"] = secret.resolve(f"file:{image.ca}", root)
    return found


@contextmanager
def saved(builder: Builder, reference: str) -> Iterator[archive.Image]:
    """The image, opened from an archive that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tidegate-archive-") as scratch:
        file = Path(scratch) / "image.tar"
        builders.save(builder, reference, file)
        with archive.opened(file) as image:
            yield image


def folder(digest: str) -> str:
    """Where the store keeps what is known of an image."""
    return f"images/{digest.removeprefix('sha256:')}"


def _place(digest: str, name: str) -> str:
    return f"{folder(digest)}/{name}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
