"""Faces found by close-ups against faces found in every whole picture: cost, steadiness, and what it does to scores.

    python benchmarks/finder.py --out benchmarks/results/finder                    # cost alone, on the demo's clips
    python benchmarks/finder.py --clips FOLDER --out benchmarks/results/finder     # and the rest, on real footage

"before" is what a worker did until the finder came: each frame converted whole, CenterFace at 640 px, cuts and crops
from the whole frame. Times are processor time of one thread, medians over frames, both kinds interleaved: trust ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorPolicy
from difffake.bundle import Bundle
from difffake.crops import NearPicture, cut_out
from difffake.demo.clips import fetch_clips
from difffake.faces import CenterFace, Faces, Reason
from difffake.faces.finder import EveryFrame, FaceFinder, Finder, FinderState
from difffake.networks import open_networks
from difffake.picture import Picture, RgbConverter, RgbPicture, VideoPicture
from difffake.video import open_video
from stream.live import LiveModels, LiveSettings, LiveStream
from stream.messages import ScoreRecord, Source

U8 = npt.NDArray[np.uint8]
F64 = npt.NDArray[np.float64]

ROOT = Path(__file__).parents[1]
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
FACES = (1, 4)
FPS = 2.0
#: Height of a face in the made-up scenes, as a share of the picture's.
FACE_SHARE = 0.25
SCENE_FRAMES = 24
#: For the scores: analysed a second, so that anchors are there after few seconds of short clips.
SCORE_FPS, MAX_S = 5.0, 15.0
POLICY = AnchorPolicy(gap_s=0.15, min_frames=8)


# -- cost ------------------------------------------------------------------------------------------------------------
def scene(clip: Path, background: U8, size: tuple[int, int], count: int, folder: Path) -> list[av.VideoFrame]:
    """Decoded frames of a made-up scene: a clip's face, ``count`` times side by side, in a place without any."""
    detector = CenterFace(320, threads=1)
    width, height = size
    path = folder / f"{count}-{height}.mp4"
    with open_video(clip, fps=FPS, stop_s=SCENE_FRAMES / FPS) as video:
        images = [frame.image for frame in video]
    images = [images[i % len(images)] for i in range(SCENE_FRAMES)]
    (faces,) = detector.detect([images[0]])
    x1, y1, x2, y2 = faces.boxes_px[0]
    factor = FACE_SHARE * height / float(y2 - y1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=int(FPS), options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for image in images:
            canvas = np.asarray(cv2.resize(background, size), np.uint8)
            one = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            half = np.array([width / count / 2, height / 2]).astype(int)
            middle = (np.array([x1 + x2, y1 + y2]) / 2 * factor).astype(int)
            for i in range(count):
                at = np.array([int((i + 0.5) * width / count), height // 2])
                low = np.maximum(np.maximum(middle - half, 0), middle - at)
                high = np.minimum(middle + half, one.shape[1::-1])
                to = at + low - middle
                canvas[to[1] : to[1] + high[1] - low[1], to[0] : to[0] + high[0] - low[0]] = one[
                    low[1] : high[1], low[0] : high[0]
                ]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def costs(rounds: int) -> list[dict[str, Any]]:
    """Milliseconds a frame, before and now, for each size and number of faces."""
    clips = fetch_clips(ROOT / ".cache" / "clips")
    with open_video(clips["no_face"]) as video:
        background = next(iter(video)).image
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            for count in FACES:
                frames = scene(clips["woman"], background, size, count, Path(folder))
                rows.append({"size": name, "faces": count, **cost(frames, rounds)})
                print(rows[-1], flush=True)
    return rows


def cost(frames: list[av.VideoFrame], rounds: int) -> dict[str, float]:
    """Median milliseconds of the parts of a frame."""
    finders: dict[str, Finder] = {"before": EveryFrame(CenterFace(640, threads=1, max_faces=8))}
    finders["now"] = FaceFinder(threads=1)
    states = dict.fromkeys(finders, FinderState())
    spent: dict[str, list[float]] = defaultdict(list)
    found: dict[str, list[int]] = defaultdict(list)
    clock = 0
    for _ in range(rounds):
        for frame in frames:
            clock += round(1e9 / FPS)
            for name, finder in finders.items():
                picture: Picture = VideoPicture(frame, RgbConverter())
                start = time.process_time_ns()
                picture = RgbPicture(picture.rgb()) if name == "before" else NearPicture(picture)
                converted = time.process_time_ns()
                (seen,) = finder.find([picture], [clock], [states[name]])
                looked = time.process_time_ns()
                cut_out(picture, seen.faces, 224, has_identity=True)
                done = time.process_time_ns()
                states[name] = seen.state
                found[name].append(len(seen.faces))
                spent[f"{name} convert"].append((converted - start) / 1e6)
                spent[f"{name} find"].append((looked - converted) / 1e6)
                spent[f"{name} crops"].append((done - looked) / 1e6)
                spent[f"{name} all"].append((done - start) / 1e6)
                if name == "now":
                    spent["now whole" if seen.is_whole else "now close"].append((looked - converted) / 1e6)
    result = {name: float(np.median(values)) for name, values in spent.items()}
    # Every second frame is looked through: a mean of two kinds, which a median does not show.
    whole, close = result["now whole"], result["now close"]
    share = float(len(spent["now whole"]) / len(spent["now all"]))
    result["now find"] = share * whole + (1 - share) * close
    result["now all"] = result["now find"] + result["now crops"]
    result["whole share"], result["ratio"] = share, result["before all"] / result["now all"]
    for name, counts in found.items():
        result[f"{name} faces"] = float(np.mean(counts))
    return result


# -- steadiness ------------------------------------------------------------------------------------------------------
def spread(path: Path, rng: np.random.Generator) -> dict[str, float] | None:
    """How far landmarks move, in eye distances, when a picture is shifted by up to 8 px and nothing else changes."""
    with open_video(path, fps=1.0, stop_s=2.0) as video:
        image = next(iter(video)).image
    detector, finder = CenterFace(640, threads=1), FaceFinder(threads=1)
    marks: dict[str, list[F64]] = defaultdict(list)
    first: FinderState | None = None
    for shift in [(0, 0), *rng.integers(-8, 9, (8, 2)).tolist()]:
        moved = np.asarray(
            cv2.warpAffine(
                image,
                np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64),
                image.shape[1::-1],
                borderMode=cv2.BORDER_REPLICATE,
            ),
            np.uint8,
        )
        fresh, followed = (
            finder.find([RgbPicture(moved)], [1], [state])[0] for state in (FinderState(), first or FinderState())
        )
        first = first or fresh.state
        for name, faces in (
            ("before", detector.detect([moved])[0]),
            ("whole picture", fresh.faces),
            ("close-up", followed.faces),
        ):
            if len(faces):
                marks[name].append(largest(faces) - np.array(shift))
    if min(len(marks[name]) for name in ("before", "whole picture", "close-up")) < 9:
        return None
    stacks = {name: np.array(points) for name, points in marks.items()}
    eyes = float(np.linalg.norm(stacks["before"][0, 1] - stacks["before"][0, 0]))
    result = {name: float(points.std(axis=0).mean()) / eyes for name, points in stacks.items()}
    ways = np.sqrt(((stacks["whole picture"] - stacks["close-up"]) ** 2).mean(axis=(1, 2)))[1:]
    result["between the two ways"] = float(np.median(ways)) / eyes
    result["from before"] = (
        float(np.linalg.norm((stacks["close-up"] - stacks["before"]).mean(axis=0), axis=1).mean()) / eyes
    )
    return result


def largest(faces: Faces) -> F64:
    """Landmarks of the largest face ``(5, 2)``."""
    return np.asarray(faces.landmarks_px[int(np.argmax(faces.boxes_px[:, 3] - faces.boxes_px[:, 1]))], np.float64)


class Shifted:
    """CenterFace at 640 px on pictures shifted by a few pixels: what chance alone does to its landmarks."""

    def __init__(self) -> None:
        self._detector = CenterFace(640, threads=1, max_faces=8)

    def detect(self, images: Sequence[U8]) -> list[Faces]:
        """See `FaceDetector.detect`; coordinates are those of the pictures as given."""
        found = self._detector.detect([np.roll(image, (5, 3), axis=(0, 1)) for image in images])
        back = np.array([3, 5], np.float32)
        return [Faces(f.boxes_px - np.tile(back, 2), f.landmarks_px - back, f.confidence) for f in found]


# -- scores ----------------------------------------------------------------------------------------------------------
def frames_of(path: Path) -> Iterator[Any]:
    """Frames of a clip as a stream passes them."""
    with open_video(path, fps=SCORE_FPS, stop_s=MAX_S) as video:
        for frame in video:
            yield msgspec.defstruct("Frame", [("pts_ns", int), ("picture", object)])(
                round(frame.pts_s * 1e9), RgbPicture(frame.image)
            )


def scored(path: Path, models: LiveModels, settings: LiveSettings) -> list[ScoreRecord]:
    """What a worker says of a clip."""
    stream = LiveStream("clip", models, settings)
    source = Source(topic="t", partition=0, offset=0, index=0)
    return [record for frame in frames_of(path) for record in stream.process([frame], lambda _: source)]


def scores(paths: list[Path]) -> dict[str, Any]:
    """Shares of real frames with small p-values, and how far scores moved, by evidence."""
    bundle = Bundle.load(None)
    settings = LiveSettings(threads=1, anchor=POLICY)
    opened = open_networks(bundle, threads=1)
    finders: dict[str, Finder] = {
        "before": EveryFrame(CenterFace(640, threads=1, max_faces=8)),
        "before, picture shifted by 5 px": EveryFrame(Shifted()),
        "every frame whole (a scan)": FaceFinder(640, 0.0, threads=1),
        "now": FaceFinder(threads=1),
    }
    models = {n: LiveModels(bundle, opened.extractor, opened.identity, f, settings) for n, f in finders.items()}
    p_values: dict[str, dict[str, list[F64]]] = defaultdict(lambda: defaultdict(list))
    values: dict[str, dict[str, dict[tuple[str, int], float]]] = defaultdict(lambda: defaultdict(dict))
    frames: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for path in paths:
        for name, its in models.items():
            small: dict[str, list[float]] = defaultdict(list)
            for record in scored(path, its, settings):
                frames[name]["frames"] += 1
                frames[name]["faces"] += len(record.faces)
                frames[name]["fit faces"] += sum(face.quality is Reason.OK for face in record.faces)
                for evidence, face_evidence in main_evidence(record).items():
                    small[evidence].append(face_evidence.p_value)
                    values[evidence][name][path.name, record.pts_ns] = face_evidence.score
            for evidence, ps in small.items():
                p_values[evidence][name].append(np.array(ps))
        print(path.name, flush=True)
    evidences = {}
    for evidence, by_name in p_values.items():
        row: dict[str, Any] = {}
        for name, clips in by_name.items():
            both = values[evidence]["before"].keys() & values[evidence][name].keys()
            old = np.array([values[evidence]["before"][key] for key in sorted(both)])
            new = np.array([values[evidence][name][key] for key in sorted(both)])
            row[name] = {
                "frames": int(sum(map(len, clips))),
                # Each clip weighs the same: long ones would hide the others.
                "p < .05": float(np.mean([(p < 0.05).mean() for p in clips])),
                "p < .01": float(np.mean([(p < 0.01).mean() for p in clips])),
                "shift": float((new - old).mean() / old.std()),
                "spread of the shift": float((new - old).std() / old.std()),
                "correlation": float(np.corrcoef(old, new)[0, 1]),
            }
        evidences[evidence] = row
    return {"clips": len(paths), "found": {n: dict(f) for n, f in frames.items()}, "evidence": evidences}


def main_evidence(record: ScoreRecord) -> dict[str, Any]:
    """Evidence about the largest face."""
    faces = sorted(record.faces, key=lambda face: face.box_px[1] - face.box_px[3])
    return dict(faces[0].evidence) if faces else {}


# -- report ----------------------------------------------------------------------------------------------------------
def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        "| picture | faces | before: convert, find, crops | now: whole, close-ups, crops | before | now | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in report["cost"]:
        before = ", ".join(f"{r[f'before {part}']:.1f}" for part in ("convert", "find", "crops"))
        now = ", ".join(f"{r[f'now {part}']:.1f}" for part in ("whole", "close", "crops"))
        cells = r["size"], r["faces"], before, now, *(f"{r[n]:.1f}" for n in ("before all", "now all", "ratio"))
        lines += [f"| {' | '.join(map(str, cells))} |"]
    machine = f"{platform.machine()}, load {report['load']:.1f}"
    lines += ["", f"Milliseconds of one thread a frame at {FPS:g} frames a second, {machine}."]
    if steady := report.get("spread"):
        names = ("before", "whole picture", "close-up", "between the two ways", "from before")
        lines += ["", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        lines.append("| " + " | ".join(f"{np.median([row[n] for row in steady]):.4f}" for n in names) + " |")
        lines += ["", f"Medians over {len(steady)} clips, in eye distances."]
    if judged := report.get("scores"):
        lines += [
            "",
            "| evidence | finder | frames | p < .05 | p < .01 | shift | its spread | correlation |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for evidence, row in judged["evidence"].items():
            for name, r in row.items():
                lines.append(
                    f"| {evidence} | {name} | {r['frames']} | {r['p < .05']:.3f} | {r['p < .01']:.3f} "
                    f"| {r['shift']:+.3f} | {r['spread of the shift']:.3f} | {r['correlation']:.3f} |"
                )
        lines += [
            "",
            f"{judged['clips']} clips of real footage; shifts in standard deviations of the scores before.",
            "",
        ]
        for name, f in judged["found"].items():
            lines.append(f"- {name}: {f['faces']} faces in {f['frames']} frames, {f['fit faces']} fit for scoring")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, help="a folder of real footage")
    parser.add_argument("--limit", type=int, default=1000, help="look at so many clips only")
    parser.add_argument("--rounds", type=int, default=3, help="how often the made-up scenes are gone through")
    parser.add_argument("--out", type=Path, required=True, help="results go to OUT.md and OUT.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    report: dict[str, Any] = {"cost": costs(arguments.rounds), "load": os.getloadavg()[1]}
    if arguments.clips is not None:
        paths = sorted(p for p in arguments.clips.iterdir() if p.is_file())[: arguments.limit]
        rng = np.random.default_rng(0)
        report["spread"] = [row for path in paths if (row := spread(path, rng)) is not None]
        report["scores"] = scores(paths)
    arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
