"""What decoding costs in each gear: milliseconds of one core for a second of a stream.

    python benchmarks/decode.py --out benchmarks/results/decode

A real clip (one face, free licence) is encoded at three sizes: H.264, 25 pictures a second, CRF 23, a key frame every
2 s; as MP4 segments of 2 s with B-frames, and as access units without (a camera). Every way of decoding takes its turn
in each round; the figure is the smallest over the rounds of the process's processor time. The last table says what is
done with a picture once it is decoded: converted whole, or a small one for finding faces and a crop of one.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from difffake.demo.clips import fetch_clips
from difffake.picture import RgbConverter, VideoPicture
from stream.decode import DecodedFrame, DecodeSettings, Gear, Payload, StreamDecoder

ROOT = Path(__file__).parents[1]
SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}
FPS, GOP = 25, 50
CROP_PX = 256

Records = list[Payload]
Way = Callable[[Records], None]


def encode(pictures: list[av.VideoFrame], size: tuple[int, int], *, b_frames: int) -> list[av.Packet]:
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, FPS), Fraction(FPS)
    params = f"keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes={b_frames}"
    encoder.options = {"crf": "23", "preset": "veryfast", "x264-params": params}
    packets = [packet for picture in pictures for packet in encoder.encode(picture)]
    return [*packets, *encoder.encode(None)]


def segments(packets: list[av.Packet], size: tuple[int, int]) -> Records:
    """Each from a key frame to before the next one."""
    groups: list[list[av.Packet]] = []
    for packet in packets:
        if packet.is_keyframe:
            groups.append([])
        groups[-1].append(packet)
    return [segment(group, size, number) for number, group in enumerate(groups)]


def segment(packets: list[av.Packet], size: tuple[int, int], number: int) -> Payload:
    out = io.BytesIO()
    begin = packets[0].pts or 0
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=FPS)
        stream.width, stream.height = size
        stream.time_base = Fraction(1, FPS)
        for source in packets:
            packet = av.Packet(bytes(source))
            packet.pts, packet.dts = (source.pts or 0) - begin, (source.dts or 0) - begin
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, FPS), stream, source.is_keyframe
            file.mux(packet)
    return Payload(out.getvalue(), (("pts-ns", str(begin * 10**9 // FPS).encode()),), offset=number)


def access_units(packets: list[av.Packet]) -> Records:
    headers = [
        (("content-type", b"video/h264"), ("pts-ns", str((p.pts or 0) * 10**9 // FPS).encode())) for p in packets
    ]
    return [Payload(bytes(p), header, offset=n) for n, (p, header) in enumerate(zip(packets, headers, strict=True))]


def ignore(_: DecodedFrame) -> None: ...


def look(frame: DecodedFrame) -> None:
    """What the worker asks of a picture with one face: a small one, and the face."""
    picture = frame.picture
    picture.small(320, 320 * picture.height_px // picture.width_px)
    x, y = (picture.width_px - CROP_PX) // 2, (picture.height_px - CROP_PX) // 2
    picture.crop(x, y, x + CROP_PX, y + CROP_PX)


def whole(frame: DecodedFrame) -> None:
    frame.image  # noqa: B018 - converts it


def by_gear(gear: Gear, use: Callable[[DecodedFrame], None]) -> Way:
    def way(records: Records) -> None:
        decoder = StreamDecoder(DecodeSettings(fps=2.0, scrutinise_fps=10.0))
        for record in records:
            for frame in decoder.decode(record, gear).frames:
                use(frame)

    return way


def plain(skip: str, *, convert: bool) -> Way:
    """FFmpeg alone, as everybody does it: decode, and convert two pictures a second."""

    def way(records: Records) -> None:
        converter = RgbConverter()
        for number, frame in enumerate(plain_frames(records, skip)):
            if convert and number % (FPS // 2) == 0:
                converter(frame)

    return way


def plain_frames(records: Records, skip: str) -> Iterator[av.VideoFrame]:
    if records[0].headers[0][0] == "content-type":
        context = av.VideoCodecContext.create("h264", "r")
        context.thread_count, context.skip_frame = 1, skip
        for record in records:
            yield from context.decode(av.Packet(record.value))
        yield from context.decode(None)
        return
    for record in records:
        with av.open(io.BytesIO(record.value)) as file:
            stream = file.streams.video[0]
            stream.codec_context.thread_count, stream.codec_context.skip_frame = 1, skip
            yield from file.decode(stream)


WAYS: dict[str, Way] = {
    "FFmpeg, every picture": plain("DEFAULT", convert=False),
    "FFmpeg, every picture, 2 a second to RGB": plain("DEFAULT", convert=True),
    "FFmpeg, without non-reference pictures": plain("NONREF", convert=False),
    "FFmpeg, key frames": plain("NONKEY", convert=False),
    "scrutinise, 10 a second": by_gear(Gear.SCRUTINISE, ignore),
    "analyse, 2 a second": by_gear(Gear.ANALYSE, ignore),
    "analyse, whole pictures to RGB": by_gear(Gear.ANALYSE, whole),
    "analyse, a small picture and a crop": by_gear(Gear.ANALYSE, look),
    "watch": by_gear(Gear.WATCH, ignore),
    "watch, a small picture and a crop": by_gear(Gear.WATCH, look),
    "shed": by_gear(Gear.SHED, ignore),
}


def measure(records: Records, seconds: float, rounds: int) -> dict[str, float]:
    """Way -> ms of a core for a second of the stream."""
    best = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for name, way in WAYS.items():
            began = time.process_time()
            way(records)
            best[name] = min(best[name], (time.process_time() - began) / seconds * 1e3)
    return best


def conversions(pictures: list[av.VideoFrame], rounds: int) -> dict[str, float]:
    """ms a picture."""
    converter = RgbConverter()
    width, height = pictures[0].width, pictures[0].height
    x, y = (width - CROP_PX) // 2, (height - CROP_PX) // 2
    side = (320, 320 * height // width)
    uses: dict[str, Callable[[av.VideoFrame], object]] = {
        "whole": converter,
        "whole, then OpenCV to 320 (area)": lambda f: cv2.resize(converter(f), side, interpolation=cv2.INTER_AREA),
        "small, 320": lambda f: VideoPicture(f, converter).small(*side),
        "small, 640": lambda f: VideoPicture(f, converter).small(640, 640 * height // width),
        f"crop, {CROP_PX}": lambda f: VideoPicture(f, converter).crop(x, y, x + CROP_PX, y + CROP_PX),
    }
    best = dict.fromkeys(uses, float("inf"))
    for _ in range(rounds):
        for name, use in uses.items():
            began = time.process_time()
            for picture in pictures[:20]:
                use(picture)
            best[name] = min(best[name], (time.process_time() - began) / 20 * 1e3)
    return best


def pictures_of(clip: Path, size: tuple[int, int], count: int) -> list[av.VideoFrame]:
    made = []
    with av.open(str(clip)) as file:
        for number, frame in enumerate(file.decode(video=0)):
            if number >= count:
                break
            picture = frame.reformat(*size, format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, FPS)
            made.append(picture)
    return made


def markdown(report: dict[str, dict[str, dict[str, float]]], machine: str) -> str:
    lines = ["# Decoding, by gear", "", f"`python benchmarks/decode.py`. {machine}.", ""]
    for title, columns in report.items():
        names = list(columns)
        lines += [f"## {title}", "", "| | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for row in columns[names[0]]:
            cells = [f"{columns[name][row]:.2f}" for name in names]
            first = next(iter(columns[names[0]]))
            ratios = [f"{columns[name][row] / columns[name][first]:.2f}" for name in names]
            lines.append(f"| {row} | " + " | ".join(f"{c} ({r})" for c, r in zip(cells, ratios, strict=True)) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--out", type=Path, help="stem of the .json and .md to write")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    clip = fetch_clips(ROOT / ".cache" / "clips")["woman"]
    titles = (
        "MP4 segments with B-frames, ms of a core a second of stream (share of the first row)",
        "Access units without B-frames, ms of a core a second of stream (share of the first row)",
        "A picture, ms (share of the first row)",
    )
    report: dict[str, dict[str, dict[str, float]]] = {title: {} for title in titles}
    for name in options.sizes:
        size = SIZES[name]
        made = pictures_of(clip, size, options.seconds * FPS)
        seconds = len(made) / FPS
        records = segments(encode(made, size, b_frames=3), size)
        report[titles[0]][name] = measure(records, seconds, options.rounds)
        report[titles[1]][name] = measure(access_units(encode(made, size, b_frames=0)), seconds, options.rounds)
        report[titles[2]][name] = conversions(made, options.rounds)
        print(json.dumps({title: columns[name] for title, columns in report.items()}, indent=1), flush=True)
    machine = f"{platform.machine()}, one thread, Python {platform.python_version()}, PyAV {av.__version__}"
    text = markdown(report, f"{machine}, NumPy {np.__version__}")
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
