"""Frames out of every kind of file: order, time, size, colour, orientation."""

from __future__ import annotations

import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from media_files import CORNERS, corner_picture, cut, seen_corners, write_audio, write_video

from difffake.errors import LimitExceededError, MediaEmptyError, NoVideoError
from difffake.limits import Limits
from difffake.video import Frame, VideoSource, open_video


def read(path: Path, **options: object) -> tuple[list[Frame], VideoSource]:
    with open_video(path, **options) as video:  # type: ignore[arg-type]
        return list(video), video


def test_frames_come_whole_in_order_and_in_rgb(tmp_path: Path) -> None:
    frames, video = read(write_video(tmp_path / "a.mp4", frames=30))
    assert [f.index for f in frames] == list(range(30))
    np.testing.assert_allclose([f.pts_s for f in frames], np.arange(30) / 25, atol=1e-3)
    image = frames[0].image
    assert image.shape == (64, 96, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert np.abs(image[10, 10].astype(int) - CORNERS[0]).max() < 20
    assert video.warnings == []
    assert (video.info.codec, video.info.width, video.info.height, video.info.fps) == ("h264", 96, 64, 25.0)
    assert video.info.duration_s == pytest.approx(1.2)


def test_sampling_takes_the_first_frame_of_each_slot(tmp_path: Path) -> None:
    frames, _ = read(write_video(tmp_path / "a.mp4", frames=50), fps=5)
    np.testing.assert_allclose([f.pts_s for f in frames], np.arange(10) / 5, atol=1e-3)


def test_a_variable_frame_rate_is_sampled_by_time(tmp_path: Path) -> None:
    dense, sparse = list(range(0, 1000, 20)), list(range(1000, 5000, 500))
    path = write_video(tmp_path / "vfr.mkv", frames=len(dense + sparse), pts=dense + sparse)
    frames, _ = read(path, fps=4)
    np.testing.assert_allclose([f.pts_s for f in frames], [0, 0.26, 0.5, 0.76, *np.arange(1, 5, 0.5)], atol=0.011)


@pytest.mark.parametrize(
    ("rotation", "corners"),
    [(0, [0, 1, 2, 3]), (90, [1, 3, 0, 2]), (-90, [2, 0, 3, 1]), (180, [3, 2, 1, 0])],
)
def test_rotation_metadata_turns_the_picture(tmp_path: Path, rotation: int, corners: list[int]) -> None:
    frames, video = read(write_video(tmp_path / "r.mp4", frames=3, rotation=rotation))
    assert seen_corners(frames[0].image) == corners
    assert frames[0].image.shape[:2] == ((96, 64) if rotation in (90, -90) else (64, 96))
    assert video.info.rotation == rotation % 360
    assert frames[0].image.flags.c_contiguous


def test_portrait_stays_portrait(tmp_path: Path) -> None:
    frames, _ = read(write_video(tmp_path / "p.mp4", frames=3, image=corner_picture(64, 128)))
    assert frames[0].image.shape == (128, 64, 3)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "name"),
    [
        ("libx264", "yuv420p10le", "a.mkv"),
        ("libx264", "yuv444p", "a.mkv"),
        ("ffv1", "gray", "a.mkv"),
        ("ffv1", "bgr0", "a.mkv"),
        ("mpeg4", "yuv420p", "a.avi"),
        ("mjpeg", "yuvj420p", "a.mov"),
        ("libvpx-vp9", "yuv420p", "a.webm"),
    ],
)
def test_pixel_formats_become_8_bit_rgb(tmp_path: Path, codec: str, pixel_format: str, name: str) -> None:
    path = write_video(tmp_path / name, frames=4, codec=codec, pixel_format=pixel_format)
    frames, video = read(path)
    assert len(frames) == 4
    assert video.info.pixel_format == pixel_format
    expected = corner_picture()
    if pixel_format == "gray":
        expected = np.repeat(cv2.cvtColor(expected, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    # Chroma is coded at half size, so the quarters' edges are left out.
    difference = np.abs(frames[0].image.astype(int) - expected)[8:24, 8:40]
    assert difference.mean() < 14


def test_hdr_is_brought_to_ordinary_brightness(tmp_path: Path) -> None:
    options = {"x264-params": "transfer=smpte2084:colorprim=bt2020:colormatrix=bt2020nc"}
    grey = np.full((64, 96, 3), 120, np.uint8)
    plain, hdr = tmp_path / "plain.mkv", tmp_path / "hdr.mkv"
    write_video(plain, frames=2, image=grey, pixel_format="yuv420p10le")
    write_video(hdr, frames=2, image=grey, pixel_format="yuv420p10le", codec_options=options)
    # Code value 0.47 of PQ is about 75 cd/m2: much lighter than 0.47 on a BT.709 screen of 100 cd/m2.
    assert read(hdr)[0][0].image.mean() > read(plain)[0][0].image.mean() + 20


def test_anamorphic_pixels_become_square(tmp_path: Path) -> None:
    frames, _ = read(write_video(tmp_path / "a.mkv", frames=2, aspect=Fraction(4, 3)))
    assert frames[0].image.shape == (64, 128, 3)


def test_interlaced_video_loses_its_comb(tmp_path: Path) -> None:
    path = tmp_path / "i.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 8_000_000
        for i in range(12):
            image = np.full((64, 96, 3), 40, np.uint8)
            # A bar that moves between the two fields of a frame: even lines ahead of odd ones.
            image[0::2, 4 * i : 4 * i + 16] = 220
            image[1::2, 4 * i + 8 : 4 * i + 24] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        woven = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    frames, video = read(path)
    assert video.info.interlaced
    assert len(frames) == len(woven)
    np.testing.assert_allclose(np.diff([f.pts_s for f in frames]), 0.04, atol=1e-3)

    def comb(image: np.ndarray) -> float:
        grey = image[..., 1].astype(float)
        return float(np.abs(grey[1:-1] - (grey[:-2] + grey[2:]) / 2).mean())

    assert comb(frames[5].image) < 0.5 * comb(woven[5])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_still_image_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    bgr = cv2.cvtColor(corner_picture(), cv2.COLOR_RGB2BGR)
    # The name lies: images are recognised by content.
    path = tmp_path / "still.mp4"
    path.write_bytes(cv2.imencode(f".{suffix}", bgr)[1].tobytes())
    frames, video = read(path, fps=5)
    assert [(f.index, f.pts_s) for f in frames] == [(0, 0.0)]
    assert seen_corners(frames[0].image) == [0, 1, 2, 3]
    assert video.info.kind == "image"
    assert (video.info.width, video.info.height) == (96, 64)


def test_of_an_animated_png_the_first_picture_is_looked_at_and_that_is_said(tmp_path: Path) -> None:
    whole = cv2.imencode(".png", cv2.cvtColor(corner_picture(), cv2.COLOR_RGB2BGR))[1].tobytes()
    animation = b"acTL" + struct.pack(">II", 2, 0)
    chunk = struct.pack(">I", 8) + animation + struct.pack(">I", zlib.crc32(animation))
    for name, data in (("still.png", whole), ("animated.png", whole[:33] + chunk + whole[33:])):
        (tmp_path / name).write_bytes(data)
        frames, video = read(tmp_path / name)
        assert seen_corners(frames[0].image) == [0, 1, 2, 3]
        assert [w.split(":")[0] for w in video.warnings] == ["animation"] * name.startswith("animated")


def test_a_photo_is_turned_by_its_exif_orientation(tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(corner_picture(), cv2.COLOR_RGB2BGR))[1].tobytes()
    # APP1 with one TIFF entry: Orientation (0x0112) = 6, "turn clockwise by 90 degrees".
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    exif = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg[:2] + exif + jpeg[2:])
    frames, video = read(path)
    assert frames[0].image.shape == (96, 64, 3)
    assert seen_corners(frames[0].image) == [2, 0, 3, 1]
    assert (video.info.width, video.info.height) == (96, 64)


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_a_video_cut_off_in_the_middle_gives_what_there_is_and_says_so(tmp_path: Path, name: str) -> None:
    path = cut(write_video(tmp_path / f"whole-{name}", frames=100), tmp_path / name)
    frames, video = read(path)
    assert 20 < len(frames) < 90
    assert [w.split(":")[0] for w in video.warnings if w.startswith("truncated")] == ["truncated"]


def test_an_mp4_with_its_index_in_front_survives_a_cut(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", frames=100, container_options={"movflags": "faststart"})
    frames, video = read(cut(whole, tmp_path / "cut.mp4"))
    assert 5 < len(frames) < 90
    assert any(w.startswith("truncated: the picture ends at") for w in video.warnings)


def test_a_video_that_begins_late_is_not_called_truncated(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mkv", frames=50, pts=list(range(3000, 5000, 40)))
    frames, video = read(path)
    assert len(frames) == 50
    assert video.info.duration_s == pytest.approx(2.0, abs=0.05)
    assert video.warnings == []


def test_damage_in_the_middle_is_counted_and_placed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=100, codec_options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 10] = bytes(len(data) // 10)
    path.write_bytes(data)
    frames, video = read(path, fps=25)
    assert 50 < len(frames) < 100
    assert [w.split(":")[0] for w in video.warnings] == ["damaged"]
    assert video.decode_errors >= len(video.lost_s) > 0
    assert all(1 < at_s < 3 for at_s in video.lost_s)


def test_a_long_time_without_a_picture_is_told(tmp_path: Path) -> None:
    times = [*range(0, 1000, 40), *range(6000, 7000, 40)]
    _, video = read(write_video(tmp_path / "gap.mkv", frames=len(times), pts=times))
    assert video.warnings == ["gap: no new picture for 5.0 s at 1.0 s"]


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    write_audio(path)
    with pytest.raises(NoVideoError, match="only audio"):
        open_video(path)


def test_a_header_without_frames_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    with open_video(path) as video, pytest.raises(MediaEmptyError, match="without a single frame"):
        list(video)


def test_limits_hold_in_header_and_in_flight(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=50)
    with pytest.raises(LimitExceededError, match="96 x 64"):
        open_video(path, limits=Limits(max_width_px=95))
    with pytest.raises(LimitExceededError, match="2 s long"):
        open_video(path, limits=Limits(max_duration_s=1))
    frames, video = read(path, limits=Limits(max_frames=7))
    assert len(frames) == 7
    assert video.warnings == ["cut: stopped after 7 frames, the limit max_frames"]
    frames, video = read(path, limits=Limits(max_duration_s=1), stop_s=0.5)
    assert 0.4 < frames[-1].pts_s < 0.5
    assert video.warnings == []


def test_a_picture_that_grows_in_mid_stream_is_refused(tmp_path: Path) -> None:
    small, large = tmp_path / "s.ts", tmp_path / "l.ts"
    write_video(small, frames=10)
    write_video(large, frames=10, image=corner_picture(192, 128))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with open_video(both, limits=Limits(max_width_px=100)) as video, pytest.raises(LimitExceededError, match="192"):
        list(video)


def test_a_clock_that_starts_again_goes_on(tmp_path: Path) -> None:
    one = write_video(tmp_path / "one.ts", frames=50)
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() * 2)
    frames, video = read(both)
    times = np.array([f.pts_s for f in frames])
    assert len(times) == 100
    assert (np.diff(times) > 0).all()
    assert times[-1] == pytest.approx(3.96, abs=0.1)
    assert video.warnings == ["clock: timestamps started again 1 times"]


def test_real_clips_decode_whole(clips: dict[str, Path]) -> None:
    for path in clips.values():
        frames, video = read(path, fps=2)
        assert video.warnings == []
        assert video.info.duration_s is not None
        assert len(frames) == pytest.approx(2 * video.info.duration_s, abs=1.5)


def test_names_that_are_no_text_and_names_that_look_like_protocols_are_files(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", frames=3)
    for name in (b"caf\xe9.mp4", b"concat:a|b.mp4", b"100%03d.mp4"):
        path = Path(str(tmp_path)) / name.decode(errors="surrogateescape")
        path.write_bytes(source.read_bytes())
        frames, video = read(path)
        assert len(frames) == 3
        assert video.name.encode()


def test_a_damaged_video_shows_the_same_pictures_every_time(tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "whole.mkv", frames=100, image=corner_picture(640, 360)).read_bytes())
    for place in np.random.default_rng(0).integers(len(data) // 10, len(data) * 9 // 10, 200):
        data[place] ^= 0xFF
    (tmp_path / "damaged.mkv").write_bytes(bytes(data))
    seen = set()
    for _ in range(4):
        frames, video = read(tmp_path / "damaged.mkv")
        pictures = zlib.crc32(b"".join(frame.image.tobytes() for frame in frames))
        seen.add((pictures, len(frames), video.decode_errors, tuple(video.warnings)))
    assert len(seen) == 1
    assert video.decode_errors
