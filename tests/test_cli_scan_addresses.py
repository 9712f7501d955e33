"""`difffake scan` of addresses: what is told of them, and what is not."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import msgspec
import pytest
from command_line import run

from difffake.bundle import Bundle
from difffake.media import without_secrets
from stream.commands_scan import ScanDocument, _key


@pytest.fixture
def base(tiny_bundle: Bundle) -> list[str]:
    return ["--bundle", str(tiny_bundle.path), "--threads", "1"]


def remux(path: Path, into: Path) -> None:
    """The same packets in another container."""
    with av.open(str(path)) as source, av.open(str(into), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)


@pytest.fixture
def served(clips: dict[str, Path], tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    remux(clips["man"], tmp_path / "live.ts")
    handler = partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_address[1]}/live.ts?token=hidden"
        server.shutdown()


def test_an_address_is_scanned_and_its_secrets_are_kept(
    served: str, base: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run("scan", served, *base, "--duration", 1, "--json", "-") == 0
    out, err = capfdbinary.readouterr()
    (result,) = msgspec.json.decode(out, type=ScanDocument).results
    assert result.source.kind == "live"
    assert result.source.sha256 is None
    assert 0 < result.frames_analysed <= 5  # a second of the clock: a busy machine sees less of the stream
    assert b"secret" not in out + err
    assert b"hidden" not in out + err


def test_a_file_at_an_address_of_which_only_all_can_be_had_is_to_be_downloaded(
    served: str, base: list[str], clips: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """FFmpeg needs its end first; "copy or download it again" sent people to look for damage."""
    remux(clips["man"], tmp_path / "late.mp4")
    assert run("scan", served.replace("live.ts", "late.mp4"), *base, "-q") == 13
    assert "Download the file and scan that" in capsys.readouterr().err


def test_an_address_that_does_not_answer_keeps_its_secrets_too(
    base: list[str], capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    address, target = "rtsp://user:secret@127.0.0.1:9", tmp_path / "scores.csv"
    assert run("scan", address, address + "/a.mp4?token=secret", *base, "--json", "-", "--scores", target) == 10
    out, err = capfdbinary.readouterr()
    failures = msgspec.json.decode(out, type=ScanDocument).failures
    assert [(f.name, f.path) for f in failures] == [("rtsp://127.0.0.1:9", None), ("rtsp://127.0.0.1:9/a.mp4", None)]
    assert b"secret" not in out + err + target.read_bytes()


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://admin:secret@host/x",
        "rtsp://admin:secr@et@host/x",
        "rtsp://admin:sec/ret@host/x",
        "rtsp://admin:sec?ret@host/x",
        "http://host/x?token=secret",
        "http://host/x?mail=secret@there",
    ],
)
def test_no_part_of_a_password_is_told(address: str) -> None:
    assert without_secrets(address) == f"{address.partition(':')[0]}://host/x"


def test_addresses_that_only_their_queries_tell_apart_have_lines_of_their_own() -> None:
    assert _key("http://host/clip?id=1") != _key("http://host/clip?id=2")
    assert "id=1" not in _key("http://host/clip?id=1")
    assert _key("http://host/clip") == "http://host/clip"
