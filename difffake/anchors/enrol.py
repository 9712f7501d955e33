"""Trusted footage -> the anchor of one person; what does not show one person alone, well and long enough is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from difffake.anchors.choose import IDENTITY_RADIUS, PHOTO_RADIUS, agreeing, choose_diverse
from difffake.anchors.pool import QUALITIES, AnchorPool, Origin
from difffake.errors import AnchorError, NoFaceError

if TYPE_CHECKING:
    from difffake.observe import Observations

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Good frames from which on the centre of a shot's identities is worth looking at.
_MIN_SHOT = 5
_ONE_PERSON = "give footage of one person alone, or cut out the part where they are"


class EnrolmentRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What footage must show.

    Args:
        size: K, members of the anchor.
        gap_s: least time between two of them.
        min_span_s: the person must be seen well over this time.
        min_photos: photos need be so many: fewer do not show how a face varies.
        bystander: a face smaller than this share of the largest one in its frame (by the root of its area) is not
            looked at: people behind a presenter.
        max_together: two faces side by side in more than this share of the frames are refused, in fewer are left out.
        identity_radius, photo_radius: faces of one person lie within this of their medoid, in one recording, and in
            photos or several recordings.
        centre_radius: the centres of shots with 5 good frames or more lie within this of their medoid. They tell more
            than frames do: in 44 real clips, 0.02 to 0.21 between recordings of one person, 0.42 on between people.
        max_strangers: other faces in more than this share of the good frames are refused, in fewer are left out.
        suspicious_p, max_suspicious: refused if more than this share of the good frames, or photos, has a p-value of
            its own `artifact` evidence below that.
        strong_p: of a single photo below this a warning is given: among genuine ones about one in a hundred.
    """

    size: int = 8
    gap_s: float = 0.15
    min_span_s: float = 2.0
    min_photos: int = 3
    bystander: float = 1 / 3
    max_together: float = 0.05
    identity_radius: float = IDENTITY_RADIUS
    photo_radius: float = PHOTO_RADIUS
    centre_radius: float = 0.4
    max_strangers: float = 0.1
    suspicious_p: float = 0.05
    max_suspicious: float = 0.5
    strong_p: float = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Observations of one file.

    Args:
        name: of the file, for messages.
        seen: its N faces.
        artifact_p: ``(N,) float64``, p-value of each face's own `artifact` evidence; NaN where there is none.
        duration_s: ``None`` for a photo.
        sha256: of what was read.
    """

    name: str
    seen: Observations
    artifact_p: F64
    duration_s: float | None
    sha256: str = ""


class EnrolmentFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What an enrolment was made from. Pairs are the least and the greatest of the anchor's members.

    Args:
        frames, good: frames analysed, and frames with the face fit for scoring.
        together, strangers: frames left out, with two faces, and with another face than the rest.
        span_s: time over which the face was seen well; 0 for photos.
        identity_spread: greatest distance of a member from the centre of the identity embeddings.
        suspicious: share of good frames, or photos, with suspicious `artifact` evidence of their own.
    """

    frames: int
    good: int
    together: int
    strangers: int
    span_s: float
    yaw_deg: tuple[float, float]
    pitch_deg: tuple[float, float]
    luma: tuple[float, float]
    identity_spread: float | None
    suspicious: float


@dataclass(frozen=True, slots=True, eq=False)
class Enrolment:
    """An anchor and how it came about; ``warnings`` are ``"code: what happened"``."""

    pool: AnchorPool
    figures: EnrolmentFigures
    warnings: list[str]

    @property
    def trusted(self) -> bool:
        """Whether only the operator's word let it pass."""
        return any(w.startswith("suspicious:") for w in self.warnings)


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The good faces of the person, of all clips, end to end."""

    clip: I64
    shot: I64
    time_s: F64
    at_s: F64
    embedding: F32
    logit: F32
    identity: F32
    yaw_deg: F32
    pitch_deg: F32
    luma: F32
    sharpness: F32
    artifact_p: F64

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, rows: I64 | Mask) -> _Rows:
        return _Rows(*(getattr(self, name)[rows] for name in self.__slots__))


def enrol(clips: Sequence[Clip], rules: EnrolmentRules | None = None, *, trust: bool = False) -> Enrolment:
    """Make an anchor from footage that is known to show the genuine person, alone.

    Video gives both embeddings. Photos give identity alone: the extractor's embedding tells of the camera and the
    light too, and those of photos say nothing about a stream. Cuts within the footage are fine. Footage that mostly
    looks manufactured is refused; a photo that does, among others that do not, is enrolled with a warning.

    Args:
        clips: all video, or all photos; ``times_s`` of the anchor count on from one file to the next.
        trust: take footage whose own `artifact` evidence is suspicious at the operator's word.

    Raises:
        NoFaceError: a file without a face.
        AnchorError: two people, or one of them twice, in a picture; a face that changes; too small, turned or
            blurred; too short; suspicious evidence.
    """
    rules = rules or EnrolmentRules()
    photos = _are_photos(clips, rules)
    alone = [_only_face(clip, rules) for clip in clips]
    rows = _joined(clips, [rows[clip.seen.scored[rows]] for clip, (rows, _) in zip(clips, alone, strict=True)])
    _check_quality(clips, [rows for rows, _ in alone], rows, rules)
    agree = _one_person(clips, rows, rules)
    warnings = [] if rows.identity.shape[1] else ["identity: the bundle cannot check that it is one person throughout"]
    suspicious = float(np.mean(rows.artifact_p < rules.suspicious_p)) if len(rows) else 0.0
    if suspicious > rules.max_suspicious:
        warnings.append(_suspicious(clips, suspicious, photos=photos, trust=trust))
    elif photos:
        warnings += _strong_photos(clips, rows, rules)
    members = _members(clips, rows[agree], rules, photos=photos)
    pool = AnchorPool(
        embeddings=members.embedding[:, :0] if photos else members.embedding,
        logits=np.full_like(members.logit, np.nan) if photos else members.logit,
        times_s=members.time_s,
        origin=Origin.ENROLLED,
        identity=members.identity,
        **{name: getattr(members, name) for name in QUALITIES},
    )
    figures = EnrolmentFigures(
        frames=sum(len(clip.seen.frame_status) for clip in clips),
        good=len(rows),
        together=sum(together for _, together in alone),
        strangers=int((~agree).sum()),
        span_s=_span_s(rows[agree]),
        yaw_deg=_range(members.yaw_deg),
        pitch_deg=_range(members.pitch_deg),
        luma=_range(members.luma),
        identity_spread=_spread(pool.identities) if pool.has_identity else None,
        suspicious=suspicious,
    )
    return Enrolment(pool, figures, warnings)


def _suspicious(clips: Sequence[Clip], share: float, *, photos: bool, trust: bool) -> str:
    told = f"{share:.0%} of the {'photos' if photos else 'good frames'} look manufactured"
    if not trust:
        raise AnchorError(
            f"{_names(clips)}: {told}, and an anchor must be genuine",
            hint="take other footage; if you know that this is genuine, say so with --trust",
        )
    return f"suspicious: {told}; enrolled at your word (--trust)"


def _strong_photos(clips: Sequence[Clip], rows: _Rows, rules: EnrolmentRules) -> list[str]:
    """Photos that look manufactured though most do not: any one may be bad luck, and the operator has to look."""
    return [
        f"photo: {clips[rows.clip[row]].name} looks manufactured (p = {rows.artifact_p[row]:.2g}): is it genuine?"
        for row in np.flatnonzero(rows.artifact_p < rules.strong_p).tolist()
    ]


def _members(clips: Sequence[Clip], rows: _Rows, rules: EnrolmentRules, *, photos: bool) -> _Rows:
    picked = choose_diverse(
        rows.time_s,
        k=rules.size,
        min_gap_s=0.0 if photos else rules.gap_s,
        yaw_deg=rows.yaw_deg,
        pitch_deg=rows.pitch_deg,
        luma=rows.luma,
    )
    if not photos and (len(picked) < rules.size or _span_s(rows) < rules.min_span_s):
        raise AnchorError(
            f"{_names(clips)}: too short: the face is seen well in {len(rows)} frames over {_span_s(rows):.1f} s",
            hint=f"give video with {rules.min_span_s:g} s or more of the face, and {rules.size} good frames "
            f"{rules.gap_s:g} s apart, or {rules.min_photos} or more photos",
        )
    return rows[picked]


def _are_photos(clips: Sequence[Clip], rules: EnrolmentRules) -> bool:
    photos = [clip.duration_s is None for clip in clips]
    if not clips or (any(photos) and not all(photos)):
        raise AnchorError(
            "no footage" if not clips else "photos and video together",
            hint="give one or more videos, or photos alone",
        )
    if not any(photos):
        return False
    if not clips[0].seen.identity.shape[1]:
        raise AnchorError(
            "photos enrol who a person is, and this bundle has no identity network",
            hint="give video, or a bundle with an identity network",
        )
    if len(clips) < rules.min_photos:
        raise AnchorError(
            f"{_names(clips)}: {len(clips)} photo{'s' * (len(clips) > 1)}: too few to show how the face varies",
            hint=f"give {rules.min_photos} or more photos of this person, or video of {rules.min_span_s:.0f} s or more",
        )
    return True


def _only_face(clip: Clip, rules: EnrolmentRules) -> tuple[I64, int]:
    """Rows of the face that is alone in its frame, and the number of frames left out because it was not."""
    seen = clip.seen
    if not len(seen.frame_of):
        raise NoFaceError(
            f"{clip.name}: no face in {len(seen.frame_status)} analysed frames",
            hint="give footage in which the person's face is visible and upright",
        )
    size = np.sqrt(np.prod(np.maximum(seen.boxes_px[:, 2:] - seen.boxes_px[:, :2], 0), axis=1))
    largest = np.zeros(len(seen.frame_status))
    np.maximum.at(largest, seen.frame_of, size)
    large = np.flatnonzero(size >= rules.bystander * largest[seen.frame_of])
    count = np.bincount(seen.frame_of[large], minlength=len(largest))
    crowded = np.flatnonzero(count > 1)
    if len(crowded) > rules.max_together * (count > 0).sum():
        raise _together(clip, large, crowded, rules)
    return large[count[seen.frame_of[large]] == 1], len(crowded)


def _together(clip: Clip, large: I64, crowded: I64, rules: EnrolmentRules) -> AnchorError:
    """Two people, or one face twice? Told by the nearest pair of each frame in which both are recognised."""
    seen = clip.seen
    where = f"in {len(crowded)} of {len(seen.frame_status)} frames, {_when(clip, seen.frame_time_s[crowded])}"
    nearest = []
    for frame in crowded if seen.identity.shape[1] else crowded[:0]:
        faces = seen.identity[large[seen.frame_of[large] == frame]].astype(np.float64)
        faces = faces[np.isfinite(faces).all(axis=1)]
        apart = np.sqrt(((faces[:, None] - faces[None]) ** 2).sum(axis=2))[np.triu_indices(len(faces), 1)]
        nearest += [apart.min()] if len(apart) else []
    if nearest and np.median(nearest) <= rules.identity_radius:
        return AnchorError(
            f"{clip.name}: the same face twice in one picture {where}",
            hint="a picture in the picture, a mirror, a wall of screens or twins: nobody can tell which one is meant; "
            "give footage with one of them alone",
        )
    return AnchorError(f"{clip.name}: two or more people at once {where}", hint=_ONE_PERSON)


def _joined(clips: Sequence[Clip], rows: list[I64]) -> _Rows:
    starts = np.cumsum([0.0, *(clip.duration_s or 1.0 for clip in clips)])[:-1]
    of = [clip.seen for clip in clips]

    def join(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(seen, name)[r] for seen, r in zip(of, rows, strict=True)])

    clip_of = np.repeat(np.arange(len(clips)), [len(r) for r in rows])
    return _Rows(
        clip=clip_of,
        time_s=join("time_s") + starts[clip_of],
        at_s=join("time_s"),
        artifact_p=np.concatenate([clip.artifact_p[r] for clip, r in zip(clips, rows, strict=True)]),
        **{name: join(name) for name in _Rows.__slots__ if name not in ("clip", "time_s", "at_s", "artifact_p")},
    )


def _check_quality(clips: Sequence[Clip], seen_rows: list[I64], good: _Rows, rules: EnrolmentRules) -> None:
    """Refuse faces that are there but not fit; too few of them altogether is another error, told later."""
    for number, (clip, rows) in enumerate(zip(clips, seen_rows, strict=True)):
        found = int((good.clip == number).sum())
        poor = Counter(r.value for r in np.array(clip.seen.reason, object)[rows[~clip.seen.scored[rows]]])
        enough = found > 0 if clip.duration_s is None or len(clips) > 1 else found >= rules.size
        if not enough and sum(poor.values()) > found:
            (worst, _), told = poor.most_common(1)[0], ", ".join(f"{n} {r}" for r, n in poor.most_common())
            raise AnchorError(
                f"{clip.name}: the face is mostly unfit ({worst}): {found} good of {len(rows)} ({told})",
                hint=_REMEDIES.get(worst, "give a sharper or larger picture of the face, seen from the front"),
            )


#: By `difffake.faces.Reason`.
_REMEDIES = {
    "too small": "come nearer, or give footage of higher resolution: the eyes must be 20 pixels apart or more",
    "truncated": "give footage with the whole face in the picture",
    "pose": "give footage in which the person looks towards the camera",
    "exposure": "give footage that is neither too dark nor too bright",
    "blurred": "give sharper footage, at a higher bit rate or in focus",
}


def _one_person(clips: Sequence[Clip], rows: _Rows, rules: EnrolmentRules) -> Mask:
    """Mask of the rows that show the same face as most of them."""
    if not rows.identity.shape[1] or not len(rows):
        return np.ones(len(rows), bool)
    agree = agreeing(rows.identity, rules.identity_radius if len(clips) == 1 else rules.photo_radius)
    strange = ~agree | _in_other_shots(rows, agree, rules.centre_radius)
    strangers = np.bincount(rows.clip[strange], minlength=len(clips))
    whole = strangers == np.bincount(rows.clip, minlength=len(clips))
    allowed = 0 if clips[0].duration_s is None else rules.max_strangers * len(rows)
    if strangers.sum() <= allowed and not (whole & (strangers > 0)).any() and (strange == ~agree).all():
        return agree
    told = []
    for number in np.flatnonzero(strangers).tolist():
        times = rows.at_s[(rows.clip == number) & strange]
        told.append(clips[number].name if whole[number] else f"{clips[number].name} {_when(clips[number], times)}")
    raise AnchorError(
        f"more than one person: another face in {', '.join(told[:5])} ({strangers.sum()} of {len(rows)} good frames)",
        hint=_ONE_PERSON,
    )


def _in_other_shots(rows: _Rows, agree: Mask, radius: float) -> Mask:
    """Mask of the rows in shots whose centre is not that of most: somebody who looks much like the person."""
    _, shot = np.unique(np.stack([rows.clip, rows.shot]), axis=1, return_inverse=True)
    shot = shot.ravel()
    long = np.flatnonzero(np.bincount(shot[agree]) >= _MIN_SHOT)
    centres = np.array([rows.identity[agree & (shot == s)].mean(axis=0) for s in long])
    if len(centres) < 2:
        return np.zeros(len(rows), bool)
    return np.isin(shot, long[~agreeing(centres, radius)])


def _when(clip: Clip, times: F64) -> str:
    if clip.duration_s is None:
        return "in the photo"
    return f"from {times.min():.1f} to {times.max():.1f} s" if len(times) > 1 else f"at {times[0]:.1f} s"


def _span_s(rows: _Rows) -> float:
    """Time over which the face is seen, clip by clip."""
    return float(sum(np.ptp(rows.at_s[rows.clip == number]) for number in np.unique(rows.clip)))


def _range(values: F32) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _spread(rows: F32) -> float:
    wide = rows.astype(np.float64)
    return float(np.sqrt(((wide - wide.mean(axis=0)) ** 2).sum(axis=1)).max())


def _names(clips: Sequence[Clip]) -> str:
    more = len(clips) - 3
    return ", ".join(clip.name for clip in clips[:3]) + (f" and {more} more" if more > 0 else "")
