"""Mutated records through `StreamDecoder`: counts what came of them and watches memory.

python benchmarks/fuzz_decode.py 3000 --seed 1

Every record must give frames, a typed error, or counted losses; nothing else may be raised. Records are valid images,
segments and access units, then damaged: flipped bits, cut ends, spliced kinds, sizes that lie, wrong headers. The same
seed gives the same records. Exits with 1 if an unexpected exception was raised. A crash of the process is a failure
too: the last seed and number printed on stderr with --trace find it again.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stream.decode import DecodeSettings, Gear, InputError, Payload, StreamDecoder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "stream"))

from stream_media import AV1_GOP, H264_B, H264_OPEN, H265_OPEN, access_units, image, segment

_SEGMENTS: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = (
    ("video/mp4", "mp4", "libx264", ()),
    ("video/mp4", "mp4", "libx264", (("movflags", "frag_keyframe+empty_moov+default_base_moof"),)),
    ("video/mp4", "mp4", "libx265", ()),
    ("video/mp4", "mp4", "libsvtav1", ()),
    ("video/mp2t", "mpegts", "libx264", ()),
    ("video/mp2t", "mpegts", "mpeg2video", ()),
    ("video/x-matroska", "matroska", "libx264", ()),
    ("video/x-matroska", "webm", "libvpx-vp9", ()),
    ("video/x-matroska", "webm", "libvpx", ()),
)
_UNITS = (("video/h264", H264_B), ("video/h264", H264_OPEN), ("video/h265", H265_OPEN), ("video/av1", AV1_GOP))
_GEARS = (Gear.ANALYSE, Gear.ANALYSE, Gear.ANALYSE, Gear.SCRUTINISE, Gear.WATCH, Gear.SHED)
#: Boundary values for fields that hold a size, a count or a time.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_LIES = (
    b"image/jpeg",
    b"video/mp4",
    b"video/mp2t",
    b"video/h264",
    b"video/h265",
    b"video/av1",
    b"text/plain",
    b"\xff;",
)


def valid_records() -> list[tuple[str, list[bytes]]]:
    """(content type, records of one stream) for every kind."""
    kinds: list[tuple[str, list[bytes]]] = [
        (f"image/{kind}", [image(extension, seed=n) for n in range(3)])
        for kind, extension in (("jpeg", ".jpg"), ("png", ".png"), ("webp", ".webp"))
    ]
    kinds += [(kind, [segment(container, 12, codec, options)]) for kind, container, codec, options in _SEGMENTS]
    kinds += [(kind, [data for data, _ in access_units(kind, 30, options)]) for kind, options in _UNITS]
    return kinds


def mutate(value: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to three kinds of damage; now and then none."""
    data = bytearray(value)
    for _ in range(int(rng.integers(0, 4))):
        if len(data) < 16:
            break
        at = int(rng.integers(len(data)))
        # Headers hold what parsers trust: half of the damage goes there.
        if rng.random() < 0.5:
            at = int(rng.integers(min(len(data), 256)))
        match int(rng.integers(8)):
            case 0:
                for _ in range(int(rng.integers(1, 40))):
                    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                del data[at:]
            case 3:
                data[at : at + 4] = int(rng.choice(_NUMBERS)).to_bytes(4, "big")
            case 4:
                start = int(rng.integers(len(other)))
                data[at:] = other[start:]
            case 5:
                length = int(rng.integers(1, 512))
                data[at:at] = data[at : at + length] * int(rng.integers(1, 4))
            case 6:
                del data[at : at + int(rng.integers(1, 256))]
            case _:
                data[at : at + 64] = rng.bytes(64)
    return bytes(data)


def records(count: int, seed: int) -> Iterator[tuple[int, Payload]]:
    """(stream, record): each stream carries one kind most of the time, with records of others strewn in."""
    rng = np.random.default_rng(seed)
    kinds = valid_records()
    sent = [0] * len(kinds)
    for number in range(count):
        stream = int(rng.integers(len(kinds)))
        kind, values = kinds[stream if rng.random() < 0.95 else int(rng.integers(len(kinds)))]
        other = kinds[int(rng.integers(len(kinds)))][1][0]
        value = values[sent[stream] % len(values)]
        sent[stream] += 1
        value = mutate(value, other, rng)
        headers: list[tuple[str, bytes]] = []
        if rng.random() < 0.7:
            headers.append(("content-type", kind.encode() if rng.random() < 0.9 else _LIES[int(rng.integers(8))]))
        if rng.random() < 0.5:
            pts = number * 40_000_000 if rng.random() < 0.9 else int(rng.integers(-(2**62), 2**62))
            headers.append(("pts-ns", str(pts).encode() if rng.random() < 0.95 else rng.bytes(5)))
        timestamp = number * 40 if rng.random() < 0.95 else int(rng.integers(-1, 2**62))
        yield stream, Payload(value, tuple(headers), timestamp, number)


def run(count: int, seed: int, *, trace: bool = False) -> Counter[str]:
    """Decode them all; the counts by outcome, the slowest record in ms, and growth of peak memory in MiB."""
    outcome: Counter[str] = Counter()
    settings = DecodeSettings(fps=None, max_pixels=1920 * 1088, max_frames=500)
    decoders: dict[int, StreamDecoder] = {}
    last: dict[int, int] = {}
    gears = np.random.default_rng(seed)
    peak = 0
    for number, (stream, payload) in enumerate(records(count, seed)):
        if number == count // 10:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if trace:
            print(f"seed {seed} record {number}", file=sys.stderr, flush=True)
        began = time.perf_counter()
        try:
            decoder = decoders.setdefault(stream, StreamDecoder(settings))
            decoded = decoder.decode(payload, _GEARS[int(gears.integers(len(_GEARS)))])
            frames = 0
            for frame in decoded.frames:
                picture = frame.picture
                picture.small(64, 36)
                picture.crop(0, 0, max(picture.width_px // 2, 1), max(picture.height_px // 2, 1))
                picture.rgb()
                if frame.pts_ns <= last.get(stream, -(2**70)):
                    raise AssertionError("time went back")
                last[stream], frames = frame.pts_ns, frames + 1
            decoder.state()
            outcome["records with frames" if frames else "records without"] += 1
            outcome["frames"] += frames
            outcome["lost"] += len(decoded.lost)
        except InputError as error:
            outcome[f"refused: {error.kind}"] += 1
        except Exception as error:  # what this program is for
            outcome["UNEXPECTED"] += 1
            print(f"record {number}: {type(error).__name__}: {error}", file=sys.stderr)
            del decoders[stream]
        outcome["slowest ms"] = max(outcome["slowest ms"], round(1000 * (time.perf_counter() - began)))
    outcome["peak MiB grown"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024
    return outcome


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("count", type=int, nargs="?", default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print every record's number before it is decoded")
    options = parser.parse_args()
    outcome = run(options.count, options.seed, trace=options.trace)
    for name, value in sorted(outcome.items()):
        print(f"{name:24} {value}")
    print(f"records={options.count} unexpected={outcome['UNEXPECTED']}")
    return 1 if outcome["UNEXPECTED"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
