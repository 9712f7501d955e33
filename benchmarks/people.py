"""Who is who, on real clips: purity and completeness of person ids, and cuts found, as recorded and after H.264.

    python benchmarks/people.py CLIPS --identity identity.onnx --out benchmarks/results/people

CLIPS is a folder of real videos. Clips named in ``people_labels.json`` show several people and are scored against
labels made by looking at them (a span of time, a part of the picture, a letter). All others must show one person
throughout; from them broadcasts are cut together at random: a few seconds of one, then of another, coming back to the
first ones again and again. A broadcast is put together from what was seen in its clips, each encoded on its own.

B-cubed (Bagga and Baldwin 1998), over the faces with an id: purity is the mean share of a face's id that is its
person, completeness the mean share of its person that has its id.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from difffake import __version__
from difffake.evaluation import Codec, Recompression
from difffake.evaluation.recompress import recompress
from difffake.faces import EYE_DISTANCE, CenterFace, Faces, align, assess
from difffake.identity import align_identity
from difffake.people import CutDetector, CutMemory, People, Sightings, Tracker
from difffake.video import open_video
from engines.onnx import OnnxEngine

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

LABELS = Path(__file__).with_name("people_labels.json")
CONDITIONS: dict[str, Recompression | None] = {
    "as recorded": None,
    "H.264 CRF 23": Recompression(Codec.H264, 23),
    "H.264 CRF 35": Recompression(Codec.H264, 35),
}
#: People in a broadcast, its shots, and broadcasts of that kind.
BROADCASTS = ((5, 40, 8), (10, 60, 4), (0, 160, 2))
SHOT_S = (1.0, 4.0)
THUMBNAIL_PX = 160
SEED = 20


@dataclass(frozen=True)
class Seen:
    """One analysed frame: its time, a small picture of it, its faces in pixels of that picture, identities."""

    time_s: float
    picture: NDArray[np.uint8]
    faces: Faces
    identity: F32


class Looker:
    """Frames of files -> faces with identity embeddings."""

    def __init__(self, identity: Path, fps: float, threads: int) -> None:
        self._detector = CenterFace(threads=threads)
        self._engine = OnnxEngine(identity, threads=threads)
        self._fps = fps

    def look(self, path: Path) -> list[Seen]:
        """Everything seen in a video."""
        seen: list[Seen] = []
        with open_video(path, fps=self._fps) as video:
            for frame in video:
                image = frame.image
                (faces,) = self._detector.detect([image])
                crops, _ = align(image, faces.landmarks_px, side_px=224)
                fit = assess(image.shape[:2], faces, crops, eye_distance=EYE_DISTANCE).ok
                identity = np.full((len(faces), self._engine.spec.dim), np.nan, np.float32)
                if fit.any():
                    aligned = align_identity(image, faces.landmarks_px[fit])
                    identity[fit] = self._engine.infer(np.ascontiguousarray(aligned.transpose(0, 3, 1, 2))).embedding
                scale = np.float32(THUMBNAIL_PX / image.shape[1])
                size = (THUMBNAIL_PX, max(2, round(image.shape[0] * float(scale))))
                picture = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
                small = Faces(faces.boxes_px * scale, faces.landmarks_px * scale, faces.confidence)
                seen.append(Seen(frame.pts_s, picture, small, identity))
        return seen


@dataclass
class Followed:
    """What came out for a sequence of frames."""

    frame: I64
    now: I64
    final: I64
    cut: NDArray[np.bool_]
    events: int


def follow(frames: list[Seen]) -> Followed:
    """Run cuts, tracks and people over frames."""
    tracker, cuts, people = Tracker(), CutDetector(), People()
    memory = CutMemory()
    shot, cut = 0, np.zeros(len(frames), bool)
    track, now, frame_of = [], [], []
    for i, seen in enumerate(frames):
        cut[i], memory = cuts.look(seen.picture, seen.faces.boxes_px, memory)
        shot += int(cut[i])
        ids = tracker.update(seen.faces, seen.time_s, cut=bool(cut[i]))
        n = len(ids)
        sightings = Sightings(np.full(n, seen.time_s), ids, np.full(n, shot), seen.identity, seen.faces.boxes_px)
        now.append(people.update(sightings))
        track.append(ids)
        frame_of.append(np.full(n, i))
    frame, tracks = np.concatenate(frame_of), np.concatenate(track)
    times = np.array([seen.time_s for seen in frames])[frame]
    return Followed(frame, np.concatenate(now), people.resolve(tracks, times), cut, len(people.take_events()))


def figures(truth: NDArray[np.str_], got: Followed, rows: I64) -> dict[str, float]:
    """How well ids fit the people at these rows of faces."""
    final = got.final[rows]
    known = final >= 0
    people, at_t = np.unique(truth[known], return_inverse=True)
    ids, at_p = np.unique(final[known], return_inverse=True)
    table = np.zeros((len(people), len(ids)))
    np.add.at(table, (at_t, at_p), 1)
    switches = sum(int((np.diff(final[known][at_t == k]) != 0).sum()) for k in range(len(people)))
    faces = float(table.sum())
    return {
        "faces": len(rows),
        "people": len(np.unique(truth)),
        "ids": len(ids),
        "purity": float((table**2 / table.sum(axis=0)).sum() / faces),
        "completeness": float((table**2 / table.sum(axis=1, keepdims=True)).sum() / faces),
        "switches": switches,
        "without_id": float(1 - known.mean()),
        "without_id_at_first": float((got.now[rows] < 0).mean()),
        "corrections": got.events,
    }


def labelled(frames: list[Seen], spans: list[dict[str, Any]]) -> dict[str, float]:
    """Score one clip against its labels."""
    got = follow(frames)
    rows, truth = [], []
    index = 0
    for seen in frames:
        height, width = seen.picture.shape[:2]
        for x1, y1, x2, y2 in seen.faces.boxes_px.tolist():
            x, y = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
            letters = [
                s["person"]
                for s in spans
                if s["from_s"] <= seen.time_s < s["to_s"]
                and s["x"][0] <= x <= s["x"][1]
                and s["y"][0] <= y <= s["y"][1]
            ]
            if len(letters) == 1:
                rows.append(index)
                truth.append(letters[0])
            index += 1
    return figures(np.array(truth), got, np.array(rows))


def broadcast(
    clips: dict[str, list[Seen]], cast: list[str], shots: int, fps: float, rng: np.random.Generator
) -> tuple[list[Seen], list[str], set[int]]:
    """Frames of a broadcast, the clip that each comes from, and the frames that follow a cut."""
    frames: list[Seen] = []
    source: list[str] = []
    cuts: set[int] = set()
    last = ""
    for _ in range(shots):
        last = str(rng.choice([name for name in cast if name != last]))
        clip = clips[last]
        length = max(2, round(rng.uniform(*SHOT_S) * fps))
        start = int(rng.integers(0, max(1, len(clip) - length)))
        if frames:
            cuts.add(len(frames))
        for seen in clip[start : start + length]:
            biggest = np.argsort(-(seen.faces.boxes_px[:, 2] - seen.faces.boxes_px[:, 0]))[:1]
            frames.append(Seen(len(frames) / fps, seen.picture, seen.faces[biggest], seen.identity[biggest]))
            source.append(last)
    return frames, source, cuts


def broadcasts(clips: dict[str, list[Seen]], same: list[list[str]], fps: float) -> list[dict[str, float]]:
    """Figures of the random broadcasts, one row per kind."""
    alias = {name: group[0] for group in same for name in group}
    rng = np.random.default_rng(SEED)
    rows = []
    for size, shots, repeats in BROADCASTS:
        parts = []
        for _ in range(repeats):
            cast = list(clips) if not size else [str(c) for c in rng.choice(list(clips), min(size, len(clips)), False)]
            frames, source, cuts = broadcast(clips, cast, shots, fps, rng)
            got = follow(frames)
            truth = np.array([alias.get(name, name) for name in source])[got.frame]
            found = set(np.flatnonzero(got.cut).tolist())
            # A cut between two clips of one person is one all the same.
            minutes = len(frames) / fps / 60
            parts.append(
                figures(truth, got, np.arange(len(truth)))
                | {
                    "minutes": minutes,
                    "cuts_missed": len(cuts - found) / len(cuts),
                    "false_cuts_per_min": len(found - cuts) / minutes,
                }
            )
        total = {"faces", "people", "ids", "switches", "corrections", "minutes"}
        row = {k: float((np.sum if k in total else np.mean)([p[k] for p in parts])) for k in parts[0]}
        rows.append({"cast": len(cast), "broadcasts": repeats, **row})
    return rows


def single(clips: dict[str, list[Seen]], fps: float) -> dict[str, float]:
    """Clips of one person in one shot: how often the id changes, or a cut is seen."""
    ids = switched = cuts = 0
    for frames in clips.values():
        got = follow(frames)
        biggest = [int(np.argmax(s.faces.boxes_px[:, 2] - s.faces.boxes_px[:, 0])) for s in frames if len(s.faces)]
        starts = np.searchsorted(got.frame, [i for i, s in enumerate(frames) if len(s.faces)])
        people = got.final[starts + np.array(biggest, np.int64)]
        distinct = len(np.unique(people[people >= 0]))
        ids, switched, cuts = ids + distinct, switched + (distinct != 1), cuts + int(got.cut.sum())
    minutes = sum(len(f) for f in clips.values()) / fps / 60
    return {"clips": len(clips), "minutes": minutes, "ids": ids, "clips_with_other_than_one_id": switched, "cuts": cuts}


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"Person ids on real clips, {report['fps']:g} frames a second, difffake {report['version']}.",
        "",
        f"Hand-labelled: {report['labelled_clips']} clips with several people. {report['single_clips']} clips show one",
        "person each, as looking at them told; broadcasts are cut together from these at random. The thresholds of",
        "`PeopleSettings` and `CutDetector` were chosen on the clips as recorded: expect less elsewhere.",
        "",
        "| clip | encode | faces | people | ids | purity | completeness | switches | no id |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for condition, part in report["conditions"].items():
        for name, r in part["labelled"].items():
            lines.append(
                f"| {name} | {condition} | {r['faces']} | {r['people']} | {r['ids']} | {r['purity']:.3f} "
                f"| {r['completeness']:.3f} | {r['switches']} | {r['without_id']:.0%} |"
            )
    lines += [
        "",
        "Clips of one person in one shot:",
        "",
        "| encode | clips | minutes | clips with other than one id | false cuts |",
        "|---|---|---|---|---|",
    ]
    for condition, part in report["conditions"].items():
        r = part["single"]
        lines.append(
            f"| {condition} | {r['clips']} | {r['minutes']:.1f} | {r['clips_with_other_than_one_id']} | {r['cuts']} |"
        )
    lines += [
        "",
        "Broadcasts; people and ids are summed over the broadcasts of a kind:",
        "",
        "| encode | clips in each | broadcasts | minutes | people | ids | purity | completeness | id changes "
        "| no id at first | no id | cuts missed | false cuts a minute |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for condition, part in report["conditions"].items():
        for r in part["broadcasts"]:
            lines.append(
                f"| {condition} | {r['cast']:.0f} | {r['broadcasts']} | {r['minutes']:.1f} | {r['people']:.0f} "
                f"| {r['ids']:.0f} | {r['purity']:.3f} | {r['completeness']:.3f} | {r['switches']:.0f} "
                f"| {r['without_id_at_first']:.1%} | {r['without_id']:.1%} | {r['cuts_missed']:.1%} "
                f"| {r['false_cuts_per_min']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--identity", type=Path, required=True, help="the identity network, ONNX")
    parser.add_argument("--out", type=Path, required=True, help="results go to OUT.md and OUT.json")
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="look at so many clips only")
    arguments = parser.parse_args()
    labels = json.loads(LABELS.read_text())
    looker = Looker(arguments.identity, arguments.fps, arguments.threads)
    paths = sorted(p for p in arguments.clips.iterdir() if p.is_file())[: arguments.limit]
    report: dict[str, Any] = {"version": __version__, "fps": arguments.fps, "conditions": {}}
    with tempfile.TemporaryDirectory() as folder:
        for condition, encode in CONDITIONS.items():
            clips: dict[str, list[Seen]] = {}
            for path in paths:
                source = path if encode is None else recompress(path, Path(folder) / f"{path.stem}.mp4", encode)
                clips[path.stem] = looker.look(source)
                print(condition, path.stem, flush=True)
            several = {
                name: labelled(clips.pop(name), spans) for name, spans in labels["spans"].items() if name in clips
            }
            report["labelled_clips"], report["single_clips"] = len(several), len(clips)
            report["conditions"][condition] = {
                "labelled": several,
                "single": single(clips, arguments.fps),
                "broadcasts": broadcasts(clips, labels["same"], arguments.fps),
            }
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
