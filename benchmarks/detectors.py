"""Faces found and milliseconds a frame, by face size: CenterFace at several analysis sizes, `FaceFinder`, BlazeFace.

    python benchmarks/detectors.py --clips FOLDER

rewrites the table in ``docs/detectors.md``, which says how the truth is made. BlazeFace takes part when a TFLite
interpreter is installed (``pip install ai-edge-litert``); without it the truth is not cross-checked either.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import onnxruntime as ort
from blazeface import BlazeFace, download_models, interpreter_importable

from difffake.demo.clips import fetch_clips
from difffake.faces import CenterFace
from difffake.faces.contract import F32, U8
from difffake.faces.finder import FaceFinder, FinderState
from difffake.picture import RgbPicture

ROOT = Path(__file__).parents[1]
FACE_HEIGHTS_PX = (20, 30, 40, 50, 60, 80, 120, 160, 200)
ANALYSIS_SIDES_PX = (320, 480, 640, 960, 1280)
FINDER_SIDES_PX = (320, 480, 640)
CANVAS_HW = (720, 1280)
BEGIN, END = "<!-- table: benchmarks/detectors.py -->", "<!-- end of table -->"

#: RGB picture -> (N, 4, 2) eyes, nose tip, mouth centre, best first
Points = Callable[[U8], F32]


@dataclass(frozen=True)
class Truth:
    """A frame with exactly one face that all the judges agree on."""

    clip: str
    frame: U8
    box: F32  # (4,)
    points: F32  # (4, 2)


def centerface_points(detector: CenterFace) -> Points:
    """Reduce five landmarks to the four points that both networks know."""

    def points(image: U8) -> F32:
        marks = detector.detect([image])[0].landmarks_px
        return np.concatenate([marks[:, :3], marks[:, 3:].mean(axis=1, keepdims=True)], axis=1)

    return points


def finder_points(finder: FaceFinder) -> Points:
    """The same for faces found in the whole picture and confirmed in a close-up."""

    def points(image: U8) -> F32:
        (found,) = finder.find([RgbPicture(image)], [0], [FinderState()])
        marks = found.faces.landmarks_px
        return np.concatenate([marks[:, :3], marks[:, 3:].mean(axis=1, keepdims=True)], axis=1)

    return points


def pairs_of_frames(path: Path, count: int) -> Iterator[tuple[U8, U8]]:
    """Yield ``count`` frames spread over the clip's first 300, each with its successor."""
    with av.open(str(path)) as container:
        packets = sum(packet.size > 0 for packet in container.demux(video=0))
    last = min(packets, 300) - 2
    wanted = set(np.linspace(0, max(0, last), count, dtype=int).tolist())
    with av.open(str(path)) as container:
        previous = None
        for index, frame in enumerate(container.decode(video=0)):
            if previous is not None and index - 1 in wanted:
                yield _pixels(previous), _pixels(frame)
            if index > last:
                break
            previous = frame


def _pixels(frame: av.VideoFrame) -> U8:
    return np.ascontiguousarray(frame.to_ndarray(format="rgb24"), np.uint8)


def find_truth(paths: list[Path], per_clip: int, threads: int, judge: Points | None) -> list[Truth]:
    """Collect the frames with one face of at least 100 px that every judge confirms."""
    reference = CenterFace(1280, threshold=0.3, threads=threads)
    truths = []
    for path in paths:
        for frame, successor in pairs_of_frames(path, per_clip):
            now, then = reference.detect([frame, successor])
            if len(now) != 1 or len(then) != 1 or now.confidence[0] < 0.7:
                continue
            box, marks = now.boxes_px[0], now.landmarks_px[0]
            points = np.concatenate([marks[:3], marks[3:].mean(axis=0, keepdims=True)])
            eyes = float(np.linalg.norm(points[1] - points[0]))
            moved = float(np.linalg.norm(then.landmarks_px[0] - marks, axis=1).mean())
            if box[3] - box[1] < 100 or moved > 0.25 * eyes:
                continue
            if judge is not None and not confirmed(judge, frame, box, points):
                continue
            truths.append(Truth(path.name, frame, box, points))
    return truths


def confirmed(judge: Points, frame: U8, box: F32, points: F32) -> bool:
    """Ask the other network, on a close-up, where the size of the face is no difficulty."""
    centre, side = (box[:2] + box[2:]) / 2, float(box[3] - box[1])
    x1, y1 = np.maximum(centre - side, 0).astype(int)
    x2, y2 = np.ceil(centre + side).astype(int)
    found = judge(np.ascontiguousarray(frame[y1:y2, x1:x2]))
    return landmark_error(found, points - (x1, y1)) <= 0.5


def landmark_error(found: F32, truth: F32) -> float:
    """Mean distance of the best matching face's points, in eye distances; infinite when nothing was found."""
    eyes = np.linalg.norm(truth[1] - truth[0])
    errors = np.linalg.norm(found - truth, axis=2).mean(axis=1) / eyes
    return float(errors.min(initial=np.inf))


def place(truth: Truth, height_px: int, background: U8) -> tuple[U8, F32]:
    """Put the frame, scaled to a face of ``height_px``, into the middle of a picture without faces."""
    factor = height_px / float(truth.box[3] - truth.box[1])
    rows, columns = CANVAS_HW
    size = max(1, round(truth.frame.shape[1] * factor)), max(1, round(truth.frame.shape[0] * factor))
    small = cv2.resize(truth.frame, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    # Larger frames are cut around the face.
    centre = (truth.box[:2] + truth.box[2:]) / 2 * factor
    x0 = int(np.clip(centre[0] - columns / 2, 0, max(0, size[0] - columns)))
    y0 = int(np.clip(centre[1] - rows / 2, 0, max(0, size[1] - rows)))
    small = small[y0 : y0 + rows, x0 : x0 + columns]
    top, left = (rows - small.shape[0]) // 2, (columns - small.shape[1]) // 2
    canvas = background.copy()
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas, np.asarray((truth.points + 0.5) * factor - 0.5 - (x0, y0) + (left, top), np.float32)


def measure(points: Points, truths: list[Truth], background: U8) -> tuple[list[float], float, float, float]:
    """Return recall by face height, mean extra faces a frame, median landmark error and median ms a frame."""
    recall, extra, errors, times = [], [], [], []
    points(background)
    for height in FACE_HEIGHTS_PX:
        hits = 0
        for truth in truths:
            canvas, target = place(truth, height, background)
            start = time.perf_counter()
            found = points(canvas)
            times.append((time.perf_counter() - start) * 1e3)
            error = landmark_error(found, target)
            hit = error <= 0.5
            hits += hit
            extra.append(len(found) - hit)
            if hit:
                errors.append(error)
        recall.append(hits / len(truths))
    return recall, float(np.mean(extra)), float(np.median(errors or [np.nan])), float(np.median(times))


def main() -> None:
    """Measure and rewrite the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True, help="folder of videos of people talking")
    parser.add_argument("--per-clip", type=int, default=1, help="frames taken from each clip")
    parser.add_argument("--threads", type=int, default=1, help="threads of each network")
    parser.add_argument("--max-clips", type=int, default=1000)
    parser.add_argument("--only", default="", help="print the rows whose name has this, and write nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "detectors.md")
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)

    ours = fetch_clips(ROOT / ".cache" / "clips")
    with av.open(str(ours["no_face"])) as container:
        empty = _pixels(next(container.decode(video=0)))
    background = np.asarray(cv2.resize(empty, CANVAS_HW[::-1]), np.uint8)

    others: dict[str, Points] = {}
    if interpreter_importable():
        for name, model in download_models().items():
            others[name] = BlazeFace(name, model, threads=options.threads).points
    paths = sorted(p for p in options.clips.iterdir() if p.suffix in {".mp4", ".mpg", ".mov", ".mkv"})
    paths = [ours["woman"], ours["man"], *paths][: options.max_clips]
    truths = find_truth(paths, options.per_clip, options.threads, others.get("back"))
    if not truths:
        raise SystemExit("no frame with a single confirmed face: nothing to measure")

    candidates: dict[str, Points] = {
        f"CenterFace {side}": centerface_points(CenterFace(side, threads=options.threads)) for side in ANALYSIS_SIDES_PX
    }
    candidates |= {
        f"finder {side}": finder_points(FaceFinder(side, threads=options.threads)) for side in FINDER_SIDES_PX
    }
    candidates |= {f"BlazeFace {name.upper()}": points for name, points in others.items()}
    heights = " | ".join(f"{h} px" for h in FACE_HEIGHTS_PX)
    lines = [
        f"| detector | {heights} | extra faces a frame | landmark error | ms a frame |",
        "|---" * (len(FACE_HEIGHTS_PX) + 4) + "|",
    ]
    for name, points in candidates.items():
        if options.only not in name:
            continue
        recall, extra, error, ms = measure(points, truths, background)
        cells = " | ".join(f"{r:.2f}" for r in recall)
        lines.append(f"| {name} | {cells} | {extra:.2f} | {error:.3f} | {ms:.1f} |")
        print(lines[-1], flush=True)
    clips = len({t.clip for t in truths})
    check = "cross-checked with BlazeFace BACK" if others else "not cross-checked (no TFLite interpreter)"
    lines += [
        "",
        f"{len(truths)} frames of {clips} clips per face height, {check}; {options.threads} thread(s), "
        f"{platform.machine()} with {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}, "
        f"onnxruntime {ort.__version__}.",
    ]
    if options.only:
        return
    text = options.out.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    table = "\n".join(lines)
    options.out.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
