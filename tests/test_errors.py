"""Errors as others meet them: from another process."""

from __future__ import annotations

import pickle
import sys
from importlib import resources

import pytest

import stream.broker.errors
import stream.decode.contract
import stream.wall.audit  # noqa: F401  (so that its leaves are known)
from difffake.errors import DeviceLostError, DiffFakeError, OutOfMemoryError, out_of_memory
from stream import cli, entry


def _leaves(kind: type[DiffFakeError]) -> list[type[DiffFakeError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _leaves(child))]


@pytest.mark.parametrize("kind", _leaves(DiffFakeError), ids=lambda kind: kind.__name__)
def test_an_error_comes_out_of_another_process(kind: type[DiffFakeError]) -> None:
    try:
        raise kind("clip.mp4: no face", hint="look")
    except DiffFakeError as raised:
        again = pickle.loads(pickle.dumps(raised))  # noqa: S301
    assert type(again) is kind
    assert str(again) == "clip.mp4: no face"
    assert again.hint == "look"
    assert again.args == ("clip.mp4: no face",)


@pytest.mark.parametrize("package", ["difffake", "engines", "stream"])
def test_type_checkers_of_users_see_our_types(package: str) -> None:
    assert resources.files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        ImportError("libx264.so.165: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Load model from extractor.onnx failed:std::bad_alloc"),
        RuntimeError(
            "Non-zero status code returned while running Conv node.\nbfc_arena.cc:360 Failed to allocate memory"
        ),
    ],
    ids=lambda error: str(error)[:30],
)
def test_whatever_a_library_says_of_memory_is_understood(error: Exception) -> None:
    found = out_of_memory(error)
    assert found is not None
    assert isinstance(found, MemoryError | DeviceLostError)  # a worker starts again; its record is not to blame
    assert "memory" in found.hint
    assert "\n" not in str(found)
    assert out_of_memory(found) is found


def test_what_has_nothing_to_do_with_memory_is_left_alone() -> None:
    assert out_of_memory(RuntimeError("Protobuf parsing failed.")) is None


def test_too_little_memory_for_our_libraries_is_one_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several hundred MiB are needed to load them: that is where too little shows first."""

    class Loader:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "stream.cli":
                raise ImportError("libx264.so.165: failed to map segment from shared object")

    monkeypatch.delitem(sys.modules, "stream.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Loader(), *sys.meta_path])
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert left.value.code == OutOfMemoryError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert "failed to map segment" in line
    assert "--threads 1" in line


def test_a_command_that_may_start_no_thread_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(cli, "app", work)
    with pytest.raises(SystemExit) as left:
        cli.main(["work"])
    assert left.value.code == OutOfMemoryError.exit_code
    assert "ulimit -v and -u" in capsys.readouterr().err
