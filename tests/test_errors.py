"""Errors as others meet them: from another process."""

from __future__ import annotations

import pickle
from importlib import resources

import pytest

import stream.broker.errors
import stream.decode.contract
import stream.wall.audit  # noqa: F401  (so that its leaves are known)
from difffake.errors import DiffFakeError


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
