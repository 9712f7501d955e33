"""Video decoded by the GPU: software's pictures to the bit, and a frame that torch can take where it lies."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

for package in ("av", "cv2", "msgspec", "structlog"):
    pytest.importorskip(package, reason=f"{package} is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "stream"))

import av  # noqa: E402
from stream_media import H264_B, H265_CLOSED, segment, unit_records  # noqa: E402
from stream_media import pictures as moving  # noqa: E402

from stream.decode import DecodeSettings, Payload, StreamDecoder  # noqa: E402
from stream.decode.hardware import Hwaccel, hardware_status, problem  # noqa: E402

pytestmark = pytest.mark.gpu


def pictures(mode: Hwaccel, payloads: list[Payload]) -> list[tuple[int, str]]:
    decoder = StreamDecoder(DecodeSettings(fps=None, hwaccel=mode))
    found = [(f.pts_ns, f.image) for payload in payloads for f in decoder.decode(payload).frames]
    found += [(f.pts_ns, f.image) for f in decoder.drain().frames]
    return [(pts_ns, hashlib.sha256(image).hexdigest()) for pts_ns, image in found]


def larger_h265() -> list[Payload]:
    """Access units of 256 x 192: the GPU takes no H.265 of the size of our other test pictures."""
    encoder = av.CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 256, 192, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.options = dict(H265_CLOSED)
    packets = []
    for number, picture in enumerate(moving(30, 256, 192)):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [
        Payload(
            bytes(packet),
            (("content-type", b"video/h265"), ("pts-ns", str(10**18 + int(packet.pts) * 40_000_000).encode())),
            10**12 + 40 * number,
            number,
        )
        for number, packet in enumerate(packets)
    ]


@pytest.mark.parametrize("kind", ["video/h264", "video/h265", "mp4", "mpegts"])
def test_the_gpu_decodes_to_the_bit(kind: str) -> None:
    assert problem() is None, problem()
    before = hardware_status()
    if "/" in kind:
        payloads = unit_records(kind, H264_B if kind == "video/h264" else H265_CLOSED)
    else:
        payloads = [Payload(segment(kind), offset=n, timestamp_ms=1000 * n) for n in range(3)]
    assert pictures(Hwaccel.CUDA, payloads) == pictures(Hwaccel.OFF, payloads)
    after = hardware_status()
    if after.software != before.software and kind == "video/h265":
        pytest.skip(f"the same pictures, but in software: {after.software}")
    assert (after.hardware - before.hardware, after.software) == (1, before.software)


def test_the_gpu_decodes_beside_torch() -> None:
    """FFmpeg takes the primary context only if whoever was there first lets waiting threads sleep."""
    code = (
        "from engines.torch_cuda import TorchDevice; from stream.decode.hardware import problem; import torch; "
        "TorchDevice(); torch.zeros(1, device='cuda').sum().item(); assert problem() is None, problem()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
