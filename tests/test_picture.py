"""Parts and small versions of a picture: the colours are those of the whole."""

from __future__ import annotations

import gc
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from av.video.reformatter import ColorRange, Colorspace
from media_files import write_video

from difffake.crops import NearPicture
from difffake.picture import Picture, RgbConverter, RgbPicture, VideoPicture, deinterlaced

U8 = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 192, 128


def scene(width: int = WIDTH, height: int = HEIGHT) -> U8:
    """Many colours, edges of every direction, no symmetry; none so bright or deep that it is clipped."""
    y, x = np.mgrid[:height, :width]
    image = 128 + 40 * np.stack([np.sin(x / 9 + y / 31), np.cos(y / 7 - x / 23), np.sin((x + 2 * y) / 17)], axis=-1)
    image[height // 4 : height // 2, width // 3 : width // 2] = (170, 90, 80)
    return image.astype(np.uint8)


def frame(
    pixel_format: str = "yuv420p",
    space: Colorspace | None = None,
    colours: ColorRange | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(scene(*size), format="rgb24").reformat(
        format=pixel_format, dst_colorspace=space, dst_color_range=colours
    )


def decoded(path: Path) -> tuple[av.VideoFrame, RgbConverter]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        first = next(container.decode(stream))
        return first, RgbConverter(float(stream.sample_aspect_ratio or 1))


def regions(picture: Picture) -> list[tuple[int, int, int, int]]:
    """The whole, single pixels in the corners, and regions of every parity."""
    width, height = picture.width_px, picture.height_px
    rng = np.random.default_rng(3)
    corners = [(x, y, x + 1, y + 1) for x in (0, width - 1) for y in (0, height - 1)]
    xs, ys = (np.sort(rng.integers(0, size, (40, 2)), axis=1) for size in (width, height))
    return [(0, 0, width, height), *corners, *((a, c, b + 1, d + 1) for (a, b), (c, d) in zip(xs, ys, strict=True))]


def check(make: object, tolerance: float = 1.5) -> None:
    """Crops are those of the whole to the bit, whatever was asked before; small ones have its colours."""
    assert callable(make)
    picture, whole = make(), make().rgb()
    assert whole.shape == (picture.height_px, picture.width_px, 3)
    assert whole.flags.c_contiguous
    for x0, y0, x1, y1 in regions(picture):
        part = picture.crop(x0, y0, x1, y1)
        assert np.array_equal(part, whole[y0:y1, x0:x1])
        assert part[:1].flags.c_contiguous
    for width, height in (
        (picture.width_px // 2, picture.height_px // 2),
        (picture.width_px // 4, picture.height_px // 4),
        (61, 45),
        (picture.width_px, picture.height_px),
    ):
        small = picture.small(width, height)
        want = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA).astype(int)
        assert small.shape == (height, width, 3)
        assert small.flags.c_contiguous
        assert np.abs(small - want).mean() < tolerance
        assert np.abs((small - want).mean(axis=(0, 1))).max() < tolerance
    assert np.array_equal(picture.rgb(), whole)
    assert np.array_equal(picture.small(61, 45), make().small(61, 45))


FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "yuv420p10le", "yuv422p10le", "gray", "rgb24")


@pytest.mark.parametrize("colours", [ColorRange.MPEG, ColorRange.JPEG])
@pytest.mark.parametrize("space", [Colorspace.ITU601, Colorspace.ITU709])
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_parts_have_the_colours_of_the_whole(pixel_format: str, space: Colorspace, colours: ColorRange) -> None:
    source = frame(pixel_format, space, colours)
    check(lambda: VideoPicture(source, RgbConverter()))


def test_matrices_and_ranges_give_different_colours() -> None:
    # If not, the test before this one could not see a matrix or range that was lost on the way.
    grey = av.VideoFrame.from_ndarray(np.full((96, 64), 90, np.uint8), format="yuv420p")
    seen = set()
    for space in (1, 5):
        for colours in (ColorRange.MPEG, ColorRange.JPEG):
            grey.colorspace, grey.color_range = space, colours
            seen.add(tuple(VideoPicture(grey, RgbConverter()).crop(8, 8, 9, 9).ravel().tolist()))
    assert len(seen) == 4


@pytest.mark.parametrize("size", [(191, 127), (190, 127), (130, 66), (1280, 720)])
def test_sizes_that_fit_no_grid(size: tuple[int, int]) -> None:
    source = frame(size=size)
    check(lambda: VideoPicture(source, RgbConverter()), tolerance=3)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_turned_video(tmp_path: Path, rotation: int, pixel_format: str) -> None:
    clip = write_video(tmp_path / "a.mp4", frames=1, image=scene(), rotation=rotation, pixel_format=pixel_format)
    source, converter = decoded(clip)
    check(lambda: VideoPicture(source, converter))


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(3, 4)])
def test_anamorphic_video(tmp_path: Path, aspect: Fraction) -> None:
    clip = write_video(tmp_path / "a.mkv", frames=1, image=scene(), aspect=aspect)
    source, converter = decoded(clip)
    assert VideoPicture(source, converter).width_px == WIDTH * aspect
    check(lambda: VideoPicture(source, converter), tolerance=3)


def test_interlaced_video(tmp_path: Path) -> None:
    options = {"x264-params": "tff=1", "flags": "+ildct+ilme"}
    source, converter = decoded(write_video(tmp_path / "a.mkv", frames=1, image=scene(), codec_options=options))
    assert source.interlaced_frame
    check(lambda: VideoPicture(deinterlaced(source), converter))


def test_hdr_video(tmp_path: Path) -> None:
    options = {"x264-params": "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"}
    clip = write_video(tmp_path / "a.mkv", frames=1, image=scene(), pixel_format="yuv420p10le", codec_options=options)
    source, converter = decoded(clip)
    check(lambda: VideoPicture(source, converter))


def test_an_rgb_image() -> None:
    image = scene()
    check(lambda: RgbPicture(image))


@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (191, 127), (130, 66)])
def test_parts_that_lie_near_others_have_the_same_pixels(size: tuple[int, int]) -> None:
    source = frame(size=size)
    check(lambda: NearPicture(VideoPicture(source, RgbConverter())), tolerance=3)
    near = NearPicture(VideoPicture(source, RgbConverter()))
    part = near.crop(21, 13, 100, 60)
    assert np.shares_memory(near.crop(30, 20, 90, 60), part)


def test_hardware_frames_give_the_colours_of_software_ones() -> None:
    software = frame("yuv420p")
    hardware = software.reformat(format="nv12")
    assert np.array_equal(VideoPicture(software, RgbConverter()).rgb(), VideoPicture(hardware, RgbConverter()).rgb())


@pytest.mark.parametrize("region", [(0, 0, 0, 5), (5, 0, 4, 5), (-1, 0, 5, 5), (0, 0, WIDTH + 1, 5), (0, 9, 5, 999)])
def test_regions_beyond_the_edges_are_refused(region: tuple[int, int, int, int]) -> None:
    for picture in (RgbPicture(scene()), VideoPicture(frame(), RgbConverter())):
        with pytest.raises(ValueError, match="no part of"):
            picture.crop(*region)


def test_a_picture_lets_its_frame_go_at_once(tmp_path: Path) -> None:
    # Else the decoder makes a new buffer for every picture until the garbage collector comes.
    source, converter = decoded(write_video(tmp_path / "a.mp4", frames=1, image=scene(), rotation=90))
    gc.collect()
    gc.disable()
    try:
        before = sum(type(one) is av.VideoFrame for one in gc.get_objects())
        for _ in range(5):
            picture = VideoPicture(source.reformat(width=96, height=64), converter)
            picture.small(24, 16)
            picture.crop(0, 0, 8, 8)
            picture.rgb()
        del picture
        assert sum(type(one) is av.VideoFrame for one in gc.get_objects()) == before
    finally:
        gc.enable()
