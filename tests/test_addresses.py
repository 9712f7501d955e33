"""What lies at an address of the web: a picture is the same picture that it is as a file."""

from __future__ import annotations

import http.server
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from media_files import corner_picture, seen_corners, write_video

from difffake import Detector, ScanSettings
from difffake.bundle import Bundle
from difffake.errors import DiffFakeError, LimitExceededError, MediaFormatError, MediaTruncatedError
from difffake.video import VideoSource, open_video
from stream.media_records import SourceReport, frames


class Web:
    """Serves files with and without their length, and more than a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, web = folder, self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                how, name = self.path.split("/")[1:]
                data = (web.folder / name).read_bytes()
                self.close_connection = True
                self.send_response(200)
                if how == "plain":
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                try:
                    for part in [data] if how != "endless" else itertools.chain([data], itertools.repeat(bytes(4096))):
                        self.wfile.write(part)
                except OSError:
                    pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def at(self, name: str, how: str = "plain") -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{how}/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and videos, some of them under names of others."""
    folder = tmp_path_factory.mktemp("web")
    picture = cv2.cvtColor(corner_picture(), cv2.COLOR_RGB2BGR)
    for name in ("a.jpg", "a.png", "a.webp", "a.bmp", "a.tiff", "a.jp2", "a.avif"):
        cv2.imwrite(str(folder / name), picture)
    jpeg = (folder / "a.jpg").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    for name, data in {
        "turned.jpg": turned,
        "turned": turned,
        "jpeg.mp4": jpeg,
        "png.jpg": (folder / "a.png").read_bytes(),
        "two.jpg": jpeg * 2,  # a phone's picture and its gain map
        "two": jpeg * 2,
        "many.jpg": jpeg * 9,
        "many.mjpg": jpeg * 9,
        "more.jpg": jpeg + bytes(500),
        "cut.jpg": jpeg[:-20],
        "head.png": (folder / "a.png").read_bytes()[:20],
        "page": b"<html>not found</html>" * 100,
        "page.jpg": b"<html>not found</html>" * 100,
    }.items():
        (folder / name).write_bytes(data)
    for count, name in itertools.product((1, 5), ("gif", "png", "webp")):
        codec, container, pixels = {
            "gif": ("gif", "gif", "rgb8"),
            "png": ("apng", "apng", "rgb24"),
            "webp": ("libwebp_anim", "webp", "bgra"),
        }[name]
        with av.open(str(folder / f"anim{count}.{name}"), "w", format=container) as target:
            stream = target.add_stream(codec, rate=5)
            stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
            for i in range(count):
                target.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(corner_picture(), 9 * i, 0))))
            target.mux(stream.encode())
    write_video(folder / "clip.mp4", frames=5)
    write_video(folder / "one.mp4", frames=1)
    (folder / "mp4.jpg").write_bytes((folder / "clip.mp4").read_bytes())
    return folder


@pytest.fixture(scope="module")
def web(folder: Path) -> Iterator[Web]:
    web = Web(folder)
    yield web
    web.close()


def seen(source: Path | str) -> tuple[object, ...]:
    """All that a scan is made from, of a picture or a video; or why there is none."""
    try:
        with open_video(source) as video:
            images = [frame.image.tobytes() for frame in video]
            kind = "video" if video.info.kind == "live" else video.info.kind
            return kind, video.info.codec, video.info.container, images, video.warnings
    except DiffFakeError as error:
        return type(error), str(error).rpartition(": ")[2]


PICTURES = [f"a.{suffix}" for suffix in ("jpg", "png", "webp", "bmp", "tiff", "jp2", "avif")]
PICTURES += ["turned.jpg", "turned", "jpeg.mp4", "png.jpg", "two.jpg", "two", "many.jpg", "many.mjpg", "more.jpg"]
PICTURES += ["anim1.gif", "anim1.png", "anim1.webp", "anim5.png", "one.mp4"]
OTHERS = ["anim5.gif", "anim5.webp", "clip.mp4", "mp4.jpg", "cut.jpg", "head.png", "page.jpg"]


@pytest.mark.parametrize("name", [*PICTURES, *OTHERS])
def test_the_same_bytes_are_the_same_at_an_address_and_in_a_file(web: Web, name: str) -> None:
    """A picture at an address was read as video: by another score, and not turned as its EXIF data says."""
    file = seen(web.folder / name)
    assert seen(web.at(name)) == file
    assert (file[0] == "image") == (name in PICTURES)


@pytest.mark.parametrize("name", ["a.jpg", "turned", "a.png", "a.webp", "two.jpg", "anim5.png"])
def test_a_server_need_not_say_how_long_a_picture_is(web: Web, name: str) -> None:
    assert seen(web.at(name, "no-length")) == seen(web.folder / name)


def test_a_picture_at_an_address_is_upright(web: Web) -> None:
    with open_video(web.at("turned.jpg")) as video:
        (frame,) = video
    assert seen_corners(frame.image) == [2, 0, 3, 1]
    assert (video.info.kind, video.path, video.sha256()) == ("image", None, None)


def test_a_face_at_an_address_gets_the_verdict_of_its_file(
    clips: dict[str, Path], folder: Path, web: Web, tiny_bundle: Bundle
) -> None:
    with open_video(clips["man"], stop_s=0.1) as video:
        cv2.imwrite(str(folder / "face.jpg"), cv2.cvtColor(next(iter(video)).image, cv2.COLOR_RGB2BGR))
    with Detector.load(tiny_bundle.path, ScanSettings(threads=1, analysis_side_px=320)) as detector:
        file, address = (detector.scan(source) for source in (folder / "face.jpg", web.at("face.jpg")))
    assert address.source.kind == "image"
    assert (address.people, address.moments, address.bands) == (file.people, file.moments, file.bands)
    assert set(address.people[0].verdicts) == {"artifact"}


def test_a_picture_at_an_address_is_published_as_it_is(web: Web) -> None:
    (record,) = frames(web.at("turned.jpg"), SourceReport())
    assert record.value == (web.folder / "turned.jpg").read_bytes()


def test_a_page_at_an_address_is_no_picture(web: Web) -> None:
    with pytest.raises(MediaFormatError, match="no video"):
        open_video(web.at("page"))
    with pytest.raises(MediaFormatError, match="no video"):  # read to its end, this test has none
        open_video(web.at("page", "endless"))


def test_a_picture_that_does_not_end_is_left(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difffake.video._OPEN_TIMEOUT_S", 1.0)
    monkeypatch.setattr("difffake.media.MAX_STILL_BYTES", 1 << 20)
    with pytest.raises(LimitExceededError, match="does not end") as raised:
        open_video(web.at("a.jpg", "endless"))
    assert "download it" in raised.value.hint


def test_a_picture_that_breaks_off_says_so(web: Web) -> None:
    with open_video(web.at("cut.jpg")) as video, pytest.raises(MediaTruncatedError, match="breaks off"):
        list(video)
    assert isinstance(video, VideoSource)
