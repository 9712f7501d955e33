"""Every kind of bad input: one line that says what and what to do, its own exit code, the others still scanned."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from media_files import cut, png, write_audio, write_encrypted, write_tiles, write_video

from difffake import errors
from difffake.bundle import Bundle
from difffake.video import open_video
from stream.cli import main

Maker = Callable[[Path], Path]


def _write(name: str, data: bytes) -> Maker:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def _cut_mp4(folder: Path) -> Path:
    return cut(write_video(folder / "whole.mp4"), folder / "cut.mp4")


def _cut_still(suffix: str) -> Maker:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = cv2.imencode(suffix, noise)[1].tobytes()
    return _write(f"cut{suffix}", data[: len(data) // 2])


def _large_video(folder: Path) -> Path:
    return write_video(
        folder / "large.mkv",
        frames=1,
        image=np.zeros((16, 16_384, 3), np.uint8),
        codec="mjpeg",
        pixel_format="yuvj420p",
    )


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


_M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfilm.ts\n"
_MPD = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" codecs="avc1.42c00a">'
    "<BaseURL>film.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"
)


def _list(name: str, text: str) -> Maker:
    """A list of a film that lies beside it."""

    def make(folder: Path) -> Path:
        write_video(folder / "film.ts")
        write_video(folder / "film.mp4")
        (folder / name).write_text(text)
        return folder / name

    return make


def _sparse(folder: Path) -> Path:
    path = _write("sparse.png", png(64, 64))(folder)
    os.truncate(path, 20 << 30)
    return path


BAD: dict[str, tuple[Maker, type[errors.DiffFakeError], str]] = {
    "missing": (lambda folder: folder / "missing.mp4", errors.MediaNotFoundError, "no such file"),
    "pipe": (_pipe, errors.MediaNotFoundError, "not a regular file"),
    "empty": (_write("empty.mp4", b""), errors.MediaEmptyError, "0 bytes"),
    "text": (_write("text.mp4", b"This is no video.\n" * 100), errors.MediaFormatError, "neither a video nor an image"),
    "playlist": (
        _write("list.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"),
        errors.MediaFormatError,
        "neither",
    ),
    "playlist of a film beside it": (_list("list.m3u8", _M3U8 + "#EXT-X-ENDLIST\n"), errors.MediaFormatError, "a list"),
    "playlist without an end": (_list("list.m3u8", _M3U8), errors.MediaFormatError, "a list of others"),
    "ffconcat": (
        _list("list.mp4", "ffconcat version 1.0\nfile film.ts\n"),
        errors.MediaFormatError,
        "a list of others",
    ),
    "dash": (_list("list.mpd", _MPD), errors.MediaFormatError, "a list of others"),
    "noise": (_write("noise.mp4", np.random.default_rng(1).bytes(9000)), errors.MediaFormatError, "neither"),
    "cut mp4": (_cut_mp4, errors.MediaTruncatedError, "breaks off before its index"),
    "cut jpeg": (_cut_still(".jpg"), errors.MediaTruncatedError, "JPEG breaks off"),
    "cut png": (_cut_still(".png"), errors.MediaTruncatedError, "PNG breaks off"),
    "cut webp": (_cut_still(".webp"), errors.MediaTruncatedError, "WEBP breaks off"),
    "stub of a png": (_write("a.png", png(64, 64)[:20]), errors.MediaTruncatedError, "within its header"),
    "broken png": (_write("b.png", png(64, 64, b"\x07" * 99)), errors.MediaFormatError, "PNG is damaged"),
    "animated webp": (
        _write("a.webp", b"RIFF\x96\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02" + bytes(200)),
        errors.MediaFormatError,
        "an animated WebP",
    ),
    "tiles": (lambda folder: write_tiles(folder / "photo.heic"), errors.MediaFormatError, "in tiles"),
    "audio": (lambda folder: write_audio(folder / "sound.mp4"), errors.NoVideoError, "only audio"),
    "encrypted": (lambda folder: write_encrypted(folder / "drm.mp4"), errors.MediaEncryptedError, "encrypted"),
    "16k png": (_write("big.png", png(16_384, 16_384)), errors.LimitExceededError, "16384 x 16384"),
    "a picture of gigabytes": (_sparse, errors.LimitExceededError, "an image in more than 512 MiB"),
    "16k video": (_large_video, errors.LimitExceededError, "16384 x 16"),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_error_says_what_and_what_to_do(tmp_path: Path, kind: str) -> None:
    make, error, words = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(error, match=words) as caught, open_video(path) as video:
        list(video)
    assert path.name in str(caught.value)
    assert len(caught.value.hint) > 10


def test_exit_codes_are_distinct() -> None:
    leaves = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.DiffFakeError)]
    codes = [c.exit_code for c in leaves]
    assert len(set(codes)) == len(codes)
    assert not {0, 2, 3, 130} & set(codes)


@pytest.mark.parametrize("kind", BAD)
def test_the_command_prints_one_line_and_its_code(
    tmp_path: Path, tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    make, error, words = BAD[kind]
    with pytest.raises(SystemExit) as left:
        main(["scan", str(make(tmp_path)), "--bundle", str(tiny_bundle.path), "--threads", "1"])
    out, err = capfd.readouterr()
    assert left.value.code == error.exit_code
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert "Traceback" not in out + err


def test_the_other_files_are_still_scanned(
    tmp_path: Path, tiny_bundle: Bundle, clips: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    bad = [make(tmp_path) for make, _, _ in BAD.values()]
    target = tmp_path / "out.json"
    arguments = ["scan", str(bad[2]), str(clips["man"]), *map(str, bad[3:]), str(clips["no_face"])]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--bundle", str(tiny_bundle.path), "--threads", "1", "--json", str(target)])
    document = msgspec.json.decode(target.read_bytes())
    assert [r["source"]["name"] for r in document["results"]] == ["single_face.mp4"]
    assert len(document["failures"]) == len(bad) - 2 + 1
    assert document["failures"][-1]["error"] == "NoFaceError"
    assert left.value.code == errors.MediaEmptyError.exit_code
    assert capfd.readouterr().err.count("\n") == len(document["failures"])


def test_a_bundle_with_one_flipped_byte_is_refused(
    tmp_path: Path, tiny_bundle: Bundle, clips: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    for file in sorted(tiny_bundle.path.iterdir()):
        if file.name == "manifest.json":
            continue
        folder = tmp_path / file.name
        shutil.copytree(tiny_bundle.path, folder)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        (folder / file.name).write_bytes(data)
        with pytest.raises(SystemExit) as left:
            main(["scan", str(clips["man"]), "--bundle", str(folder)])
        err = capfd.readouterr().err
        assert left.value.code == errors.BundleError.exit_code
        assert err.count("\n") == 1
        assert f"{file.name} is damaged" in err


def test_a_path_that_may_not_be_looked_at_is_no_bug_of_ours(
    tmp_path: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = os.stat

    def refusing(path: object, *args: object, **more: object) -> os.stat_result:  # to root nothing is closed
        if str(path).endswith("closed/a.mp4"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", refusing)
    with pytest.raises(SystemExit) as left:
        main(["scan", str(tmp_path / "closed" / "a.mp4"), "--bundle", str(tiny_bundle.path)])
    assert left.value.code == errors.MediaNotFoundError.exit_code
    assert "permission denied. Check the permissions of the folders that it lies in" in capfd.readouterr().err


def test_addresses_that_do_not_answer(capfd: pytest.CaptureFixture[str], tiny_bundle: Bundle) -> None:
    for address, words in (
        ("http://user:secret@127.0.0.1:9/live.ts?token=hidden", "does not answer"),
        ("gopher://127.0.0.1/x", "cannot open gopher addresses"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["scan", address, "--bundle", str(tiny_bundle.path)])
        err = capfd.readouterr().err
        assert left.value.code == errors.MediaNotFoundError.exit_code
        assert words in err
        assert "secret" not in err
        assert "hidden" not in err
