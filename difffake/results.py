"""What a scan says. Each evidence answers its own question; they are never mixed into one number.

All structs are JSON by `msgspec.json.encode`; times are seconds from the start of the file.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from difffake.settings import ScanSettings

#: In the order in which they are told.
EVIDENCES = ("artifact", "anchor", "identity")
#: The question that each evidence answers.
QUESTIONS = {
    "artifact": "Does this face look manufactured?",
    "anchor": "Did this face change unnaturally against its anchor?",
    "identity": "Is this still the person of the anchor?",
}
#: What each evidence cannot tell.
LIMITS = {
    "artifact": "It sees traces of manipulation, not lies: a genuine face in a false setting raises nothing, and a "
    "generator that leaves no trace the model knows passes.",
    "anchor": "Against a self-anchor it takes the first good moments of the face as genuine: what was manipulated from "
    "the start on raises nothing. Against enrolled footage it wants the same camera and encoder. A new light, "
    "camera or encoder can raise it.",
    "identity": "It tells another person from the anchor's, whatever put them there. An imitation of the anchor's own "
    "face is built to pass: “nothing unusual” does not say that the face is real.",
}
#: Where an anchor's frames come from, in words.
ORIGINS = {
    "self": "this person's own first good frames in this stream",
    "enrolled": "footage enrolled as trusted",
}


class Level(StrEnum):
    """How unusual evidence is against real footage."""

    NOTHING = "nothing unusual"
    SUSPICIOUS = "suspicious"
    STRONG = "strong evidence"

    @property
    def rank(self) -> int:
        """0, 1, 2: higher is more suspicious."""
        return _RANKS[self]


_RANKS = {level: rank for rank, level in enumerate(Level)}


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One evidence about one face in one span of time.

    Args:
        score: higher is more suspicious; the mean over the frames.
        log_density: mean log density, nats, where the score is one; else ``None``.
        p_value: how often real footage scores as high; small is suspicious.
        level: the p-value in words, by the thresholds of the settings.
        frames: scored frames behind it.
    """

    score: float
    log_density: float | None
    p_value: float
    level: Level
    frames: int


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One face in one time window. A missing evidence is ``None`` and ``missing`` says why."""

    start_s: float
    end_s: float
    artifact: Evidence | None
    anchor: Evidence | None
    identity: Evidence | None
    missing: dict[str, str]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One evidence over the whole video.

    Args:
        p_value: those of the windows combined after Simes (1986), which holds both a short strong trace and a long
            weak one against the number of windows. It has a floor, so it does not order what is highly suspicious.
        score: higher is more suspicious; the mean over all frames: what orders videos beside each other, and what
            `difffake evaluate` judges. Comparable where ``Person.scores`` names the same score.
        frames: scored frames behind it.
    """

    p_value: float
    score: float
    frames: int
    level: Level
    worst_start_s: float
    sentence: str


class FrameScores(msgspec.Struct, frozen=True, kw_only=True):
    """Aligned lists, one entry a scored frame: for charts. ``None`` where the evidence does not apply."""

    time_s: list[float]
    artifact_p: list[float | None]
    anchor_p: list[float | None]
    identity_p: list[float | None]


class AnchorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Against which anchor an evidence was held.

    Args:
        origin: ``self`` or ``enrolled``, see `ORIGINS`.
        name: the enrolled person's name; ``None`` for a self-anchor.
        frames: K, reference frames in it.
        start_s, end_s: first and last of them, seconds in the footage that they come from.
        source: the enrolled footage's file name.
        created: when it was enrolled, ISO 8601, UTC.
    """

    origin: str
    name: str | None
    frames: int
    start_s: float
    end_s: float
    source: str | None = None
    created: str | None = None


class Span(msgspec.Struct, frozen=True):
    """A stretch of one shot in which a person is seen."""

    start_s: float
    end_s: float


class IdentitySwitch(msgspec.Struct, frozen=True, kw_only=True):
    """The face in one place became another person's without a cut.

    Args:
        label: whose place it was.
        time_s: the first frame with the other face; ``end_s`` the last one.
        p_value: how often a frame of the same person differs as much from the anchor as these do in the mean.
        frames: scored frames with the other face.
        now: label of the person in this video whom the other face resembles, if any.
    """

    label: str
    time_s: float
    end_s: float
    p_value: float
    level: Level
    frames: int
    origin: str
    now: str | None
    sentence: str
    before_jpeg: bytes | None
    after_jpeg: bytes | None


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """One person of the video, across all shots. Without an identity network in the bundle: one face in one shot.

    Args:
        label: the enrolled name, or "person 1" on, by first appearance.
        name: the enrolled name, ``None`` for anybody else.
        spans: where it was seen, one entry a shot and place.
        ambiguous_with: labels of people who cannot be told from this one by their faces (twins, picture-in-picture).
        anchors: evidence -> the anchor behind it.
        verdicts: evidence -> verdict; absent where it could not be computed, then ``missing`` says why.
        scores: evidence -> the bundle's name of the score that was read.
    """

    label: str
    name: str | None
    start_s: float
    end_s: float
    spans: list[Span]
    faces_seen: int
    faces_scored: int
    ambiguous_with: list[str]
    anchors: dict[str, AnchorInfo]
    verdicts: dict[str, Verdict]
    scores: dict[str, str]
    missing: dict[str, str]
    windows: list[Window]
    frames: FrameScores
    thumbnail_jpeg: bytes | None

    @property
    def missing_by_reason(self) -> dict[str, list[str]]:
        """Why -> the evidences that are missing for it: `anchor` and `identity` share most reasons."""
        told: dict[str, list[str]] = {}
        for evidence, why in self.missing.items():
            told.setdefault(why, []).append(evidence)
        return told


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """One of the most suspicious frames of an evidence; ``thumbnail_jpeg`` was taken at ``thumbnail_s``.

    ``heat_jpeg``: the face, red where the score hangs on it most (`difffake.explain`); for `artifact`, if asked for.
    """

    evidence: str
    label: str
    time_s: float
    score: float
    p_value: float
    level: Level
    thumbnail_jpeg: bytes | None
    thumbnail_s: float | None
    heat_jpeg: bytes | None = None


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A span in which all analysed frames had one status; ``reason`` says why quality was low."""

    start_s: float
    end_s: float
    status: str
    reason: str


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The file or address: what it is. ``sha256`` and ``path`` (as it was given) are ``None`` for live sources,
    ``sha256`` also where the file was written to meanwhile."""

    name: str
    path: str | None = None
    kind: str
    sha256: str | None
    container: str
    codec: str
    width: int
    height: int
    rotation: int
    fps: float | None
    duration_s: float | None
    pixel_format: str
    interlaced: bool


class ScanResult(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer of one scan.

    Args:
        coverage: share of the analysed frames in which a face was scored, 0 to 1: tells "clean" from "not looking".
        people: by first appearance.
        switches: faces that became somebody else's without a cut, in order of time.
        moments: most suspicious first, per evidence.
        warnings: ``"code: what happened"``.
    """

    format: int = 2
    difffake: str
    model_id: str
    source: Source
    settings: ScanSettings
    frames_analysed: int
    frames_by_status: dict[str, int]
    coverage: float
    people: list[Person]
    switches: list[IdentitySwitch]
    moments: list[Moment]
    bands: list[Band]
    warnings: list[str]

    @property
    def levels(self) -> dict[str, Level]:
        """evidence -> the highest level of anybody in the video."""
        found: dict[str, Level] = {}
        told = [(e, v.level) for person in self.people for e, v in person.verdicts.items()]
        for evidence, level in [*told, *(("identity", switch.level) for switch in self.switches)]:
            found[evidence] = max(found.get(evidence, Level.NOTHING), level, key=lambda level: level.rank)
        return found

    def to_json(self) -> bytes:
        """This result as JSON; thumbnails are base64."""
        return msgspec.json.encode(self)

    def summary(self) -> str:
        """A few lines of text: per person and evidence what was found."""
        lines = [f"{self.source.name}: {self.coverage:.0%} of {self.frames_analysed} frames scored"]
        for person in self.people:
            lines.append(f"  {person.label} ({person.start_s:.1f} to {person.end_s:.1f} s)")
            lines += [f"    {name}: {v.sentence}" for name, v in person.verdicts.items()]
            lines += [f"    {' and '.join(names)}: {why}" for why, names in person.missing_by_reason.items()]
        lines += [f"  identity switch: {switch.sentence}" for switch in self.switches]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)
