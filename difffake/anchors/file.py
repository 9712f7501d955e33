"""``anchors.msgpack``: enrolled people of one stream, with the networks that they were enrolled with."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

import difffake
from difffake.anchors.pool import AnchorPool, Origin
from difffake.anchors.record import MAX_BYTES, PoolRecord, seal, unseal
from difffake.bundle import EXTRACTOR, IDENTITY, Bundle
from difffake.errors import AnchorError
from difffake.files import write_whole

KIND, VERSION = "difffake-anchors", 1
MAX_PEOPLE = 256
#: In verdicts, alerts and scores. Whoever is enrolled so could not be told from them.
_NAMELESS = re.compile(r"person\s*\d+|somebody|everybody", re.IGNORECASE)
MAX_SOURCES = 256
MAX_NAME = 200
_ENROL_AGAIN = "enrol again: difffake enroll --stream {stream} --person NAME FOOTAGE --out {file} --overwrite"


class Footage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a person was enrolled from: file name, SHA-256 (hex), and length, ``None`` for a photo."""

    name: str
    sha256: str
    duration_s: float | None


@dataclass(frozen=True, slots=True, eq=False)
class EnrolledPerson:
    """A person and their anchor.

    Args:
        name: unique in a file.
        pool: of origin ``enrolled``; ``times_s`` are seconds in the footage, file after file.
        footage: what it was made from.
        fps: frames analysed per second of it.
        created: ISO 8601, UTC.
        trusted: enrolled although its own `artifact` evidence was suspicious, by the operator's word.
    """

    name: str
    pool: AnchorPool
    footage: tuple[Footage, ...]
    fps: float
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    trusted: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class AnchorFile:
    """Enrolled people of one stream.

    Args:
        stream: id of the stream.
        extractor_sha256, identity_sha256: the networks' ONNX files, hex; ``None`` for no identity network.
        people: in the order of their enrolment.
        created: ISO 8601, UTC.
        difffake: the version that wrote the file.
        warnings: ``"code: what happened"`` while loading.
    """

    stream: str
    extractor_sha256: str
    identity_sha256: str | None
    people: tuple[EnrolledPerson, ...]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    difffake: str = difffake.__version__
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, stream: str, bundle: Bundle, people: tuple[EnrolledPerson, ...] = ()) -> AnchorFile:
        """A file for anchors made with a bundle's networks."""
        return cls(stream, *networks(bundle), people)

    def person(self, name: str) -> EnrolledPerson | None:
        """The person of that name."""
        return next((p for p in self.people if p.name == name), None)

    def with_person(self, person: EnrolledPerson) -> AnchorFile:
        """This file with the person added, or put in the place of the one of that name."""
        if self.person(person.name) is None:
            return replace(self, people=(*self.people, person))
        return replace(self, people=tuple(person if p.name == person.name else p for p in self.people))


class _PersonRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    pool: PoolRecord
    footage: list[Footage]
    fps: float
    created: str
    trusted: bool


class _FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    stream: str
    created: str
    difffake: str
    extractor_sha256: str
    identity_sha256: str | None
    people: list[_PersonRecord]


def networks(bundle: Bundle) -> tuple[str, str | None]:
    """SHA-256 of a bundle's extractor and of its identity network, if it has one."""
    files = bundle.manifest.files
    return files[EXTRACTOR].sha256, files[IDENTITY].sha256 if IDENTITY in files else None


def checked_name(text: str, what: str) -> str:
    """A name for a person or a stream, in Unicode's normal form C.

    Raises:
        AnchorError: empty, too long, with blanks at its ends or with control characters; of a person, what people
            without a name are called.
    """
    name = unicodedata.normalize("NFC", text)
    if not 0 < len(name) <= MAX_NAME or name != name.strip() or not name.isprintable():
        raise AnchorError(
            f"not a name for a {what}: {text[:60]!r}",
            hint=f"give 1 to {MAX_NAME} printable characters without blanks at the ends",
        )
    if what == "person" and _NAMELESS.fullmatch(name):
        raise AnchorError(
            f"not a name for a person: {name!r} is what people without a name are called",
            hint="give the person's own name, or another word, such as 'guest 1'",
        )
    return name


def save_anchors(path: Path, anchors: AnchorFile) -> None:
    """Write an anchor file, whole or not at all.

    Raises:
        AnchorError: as `anchors_to_bytes`.
        OutputError: the file cannot be written.
    """
    # Identity embeddings are biometric data: a new file is its owner's alone.
    write_whole(path, anchors_to_bytes(anchors), private=True)


def anchors_to_bytes(anchors: AnchorFile) -> bytes:
    """The bytes of an anchor file.

    Raises:
        AnchorError: names that are none or occur twice, no people or too many.
    """
    _check(anchors)
    record = _FileRecord(
        stream=anchors.stream,
        created=anchors.created,
        difffake=anchors.difffake,
        extractor_sha256=anchors.extractor_sha256,
        identity_sha256=anchors.identity_sha256,
        people=[
            _PersonRecord(
                name=p.name,
                pool=PoolRecord.of(p.pool),
                footage=list(p.footage),
                fps=p.fps,
                created=p.created,
                trusted=p.trusted,
            )
            for p in anchors.people
        ],
    )
    data = seal(KIND, VERSION, record)
    if len(data) > MAX_BYTES:
        raise AnchorError(f"anchors of over {MAX_BYTES >> 20} MiB", hint="divide the people among files")
    return data


def read_anchors(path: Path) -> AnchorFile:
    """Read an anchor file, whatever networks it was made with: to show it, or to add a person.

    Raises:
        AnchorError: missing, unreadable, damaged, hostile or of a newer version.
    """
    try:
        if not path.is_file():
            raise AnchorError(f"{path}: no such file", hint="check the path, or write it with `difffake enroll`")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, AnchorError):
            raise
        raise AnchorError(f"{path}: cannot be read ({error})", hint="check the path and its rights") from error
    return anchors_from_bytes(data, path.name)


def anchors_from_bytes(data: bytes, name: str = "anchors") -> AnchorFile:
    """The anchor file in these bytes; ``name`` is what messages call it.

    Raises:
        AnchorError: damaged, hostile or of a newer version.
    """
    record = unseal(data, KIND, VERSION, _FileRecord, name=name)
    anchors = AnchorFile(
        stream=record.stream,
        extractor_sha256=record.extractor_sha256,
        identity_sha256=record.identity_sha256,
        people=tuple(
            EnrolledPerson(p.name, p.pool.pool(), tuple(p.footage), p.fps, p.created, p.trusted) for p in record.people
        ),
        created=record.created,
        difffake=record.difffake,
    )
    _check(anchors)
    return anchors


def load_anchors(path: Path, bundle: Bundle) -> AnchorFile:
    """Read an anchor file for use with a bundle; the part of a network that is not the bundle's is left out, and
    ``warnings`` say so: a fleet that updates its extractor keeps its identities.

    Raises:
        AnchorError: as `read_anchors`; or nobody in it was enrolled with this bundle's networks.
    """
    return fit_anchors(read_anchors(path), bundle, path)


def fit_anchors(anchors: AnchorFile, bundle: Bundle, path: Path) -> AnchorFile:
    """What of anchors a bundle can use, as `load_anchors`; ``path`` is what messages call them."""
    extractor, identity = networks(bundle)
    keeps_artifact = anchors.extractor_sha256 == extractor
    keeps_identity = identity is not None and anchors.identity_sha256 == identity
    again = _ENROL_AGAIN.format(stream=anchors.stream, file=path)
    warnings = []
    if not keeps_artifact:
        warnings.append(
            f"anchor: {path.name} was made with another extractor; only identity is compared. To mend: {again}"
        )
    if not keeps_identity and any(p.pool.has_identity for p in anchors.people):
        what = "has none" if identity is None else "has another"
        warnings.append(
            f"anchor: {path.name} has identities of a network, this bundle {what}; identity is not compared"
        )
    people = []
    for person in anchors.people:
        pool = _parts(person.pool, artifact=keeps_artifact, identity=keeps_identity)
        if pool is None:
            warnings.append(f"anchor: {person.name} was enrolled with other networks and is left out. To mend: {again}")
            continue
        if identity is not None and not person.pool.has_identity:
            warnings.append(f"anchor: {person.name} was enrolled without an identity network. To mend: {again}")
        people.append(replace(person, pool=pool))
    if not people:
        raise AnchorError(f"{path.name} was made with other networks than this bundle's", hint=again)
    return replace(anchors, people=tuple(people), warnings=tuple(warnings))


def add_person(
    path: Path, stream: str, bundle: Bundle, person: EnrolledPerson, *, overwrite: bool = False
) -> AnchorFile:
    """Write a person into a file, new or there already; one of that name is replaced, the others stay.

    Args:
        overwrite: begin a new file, where the one there is of another stream, of other networks, or damaged.

    Raises:
        AnchorError: the file there is of another stream, of other networks, or damaged.
    """
    anchors = check_target(path, stream, bundle, overwrite=overwrite)
    anchors = anchors.with_person(replace(person, name=checked_name(person.name, "person")))
    save_anchors(path, anchors)
    return anchors


def check_target(path: Path, stream: str, bundle: Bundle, *, overwrite: bool = False) -> AnchorFile:
    """The file that `add_person` would add to, before the work of an enrolment; raises as it does."""
    new = AnchorFile.of(checked_name(stream, "stream"), bundle)
    if not path.exists():
        return new
    try:
        there = read_anchors(path)
        _check_same(path, there, new)
    except AnchorError:
        if not overwrite:
            raise
        return new
    return there


def _check_same(path: Path, there: AnchorFile, new: AnchorFile) -> None:
    if there.stream != new.stream:
        raise AnchorError(
            f"{path.name} is of the stream {there.stream}, not {new.stream}",
            hint="write another file with --out, or begin this one anew with --overwrite",
        )
    if (there.extractor_sha256, there.identity_sha256) != (new.extractor_sha256, new.identity_sha256):
        raise AnchorError(
            f"{path.name} was made with other networks than this bundle's",
            hint="enrol all its people again, the first of them with --overwrite, or write another file with --out",
        )


def _parts(pool: AnchorPool, *, artifact: bool, identity: bool) -> AnchorPool | None:
    """The pool without the parts that are not wanted; None if nothing is left."""
    artifact, identity = artifact and pool.has_artifact, identity and pool.has_identity
    if artifact == pool.has_artifact and identity == pool.has_identity:
        return pool
    if not artifact and not identity:
        return None
    empty = np.zeros((len(pool), 0), np.float32)
    return replace(
        pool,
        embeddings=pool.embeddings if artifact else empty,
        logits=pool.logits if artifact else np.full(len(pool), np.nan, np.float32),
        identity=pool.identities if identity else empty,
    )


def _check(anchors: AnchorFile) -> None:
    checked_name(anchors.stream, "stream")
    names = [checked_name(p.name, "person") for p in anchors.people]
    if not 1 <= len(names) <= MAX_PEOPLE or any(len(p.footage) > MAX_SOURCES for p in anchors.people):
        raise AnchorError(
            f"{len(names)} people from {sum(len(p.footage) for p in anchors.people)} files",
            hint=f"a file holds 1 to {MAX_PEOPLE} people, each from up to {MAX_SOURCES} files",
        )
    if any(p.pool.origin is not Origin.ENROLLED for p in anchors.people):
        raise AnchorError("an anchor that a stream made of itself", hint="enrol from trusted footage")
    numbers = [n for p in anchors.people for n in (p.fps, *(f.duration_s for f in p.footage)) if n is not None]
    if not all(math.isfinite(n) and n >= 0 for n in numbers):
        raise AnchorError("a frame rate or a duration that is no number", hint="enrol again with `difffake enroll`")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise AnchorError(f"the name {twice[0]} occurs twice", hint="give every person another name")
    dims = {(p.pool.embeddings.shape[1], p.pool.identities.shape[1]) for p in anchors.people}
    if any(len({d[i] for d in dims if d[i]}) > 1 for i in (0, 1)):
        raise AnchorError(f"embeddings of several sizes in one file: {sorted(dims)}", hint="enrol all people again")
