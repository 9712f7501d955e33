"""The published schemas are those of the structs, and a struct cannot change behind its version."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import message_strategies as made
import msgspec
import pytest
from hypothesis import given, settings

from stream.messages import (
    AlertRecord,
    AnchorsRecord,
    BatchRecord,
    CommandRecord,
    EnrolmentRecord,
    Message,
    PartitionRecord,
    ScoreRecord,
    StateRecord,
    encode,
)
from stream.messages.codec import current_version

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "schema"
FILES: dict[type[Message], str] = {
    ScoreRecord: "scores.json",
    AlertRecord: "alerts.json",
    StateRecord: "stream-state.json",
    AnchorsRecord: "stream-anchors.json",
    PartitionRecord: "partition-state.json",
    EnrolmentRecord: "enrolment.json",
    CommandRecord: "command.json",
    BatchRecord: "batch.json",
}


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("schema_script", ROOT / "scripts" / "schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT = _script()


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / name).read_text(encoding="utf-8"))
    return found


VALIDATORS = {kind: jsonschema.Draft202012Validator(read(name)) for kind, name in FILES.items()}


def test_docs_hold_what_the_structs_say() -> None:
    wanted = SCRIPT.documents(DOCS / "versions.json")
    found = {path.name: path.read_text(encoding="utf-8") for path in DOCS.iterdir()}
    assert found == wanted, "run `make docs` and commit docs/schema"


def test_every_version_of_today_is_locked() -> None:
    lock = read("versions.json")
    assert set(lock) == set(SCRIPT.MESSAGES)
    for name in lock:
        assert lock[name][str(SCRIPT.version_of(name))] == SCRIPT.digest(read(f"{name}.json"))


@settings(max_examples=200)
@given(made.messages)
def test_what_is_written_keeps_to_the_schema(message: Message) -> None:
    module = msgspec.json if message.FORMAT == "json" else msgspec.msgpack
    VALIDATORS[type(message)].validate(module.decode(encode(message)))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("version"),
        lambda record: record.update(version=1),
        lambda record: record.update(status="FINE"),
        lambda record: record.update(pts_ns="1"),
        lambda record: record["source"].pop("offset"),
        lambda record: record["faces"][0]["evidence"].update(luck=record["faces"][0]["evidence"]["anchor"]),
        lambda record: record["faces"][0]["evidence"]["anchor"].update(p_value=2),
    ],
)
def test_the_schema_refuses_what_readers_would_refuse(change: Any) -> None:
    evidence = {"score": 1, "log_density": None, "p_value": 0.5, "accumulated": None, "level": "suspicious"}
    face = {
        "person": -1,
        "name": None,
        "track": 0,
        "box_px": [0, 0, 1, 1],
        "confidence": 1,
        "quality": "ok",
        "evidence": {"anchor": evidence},
        "missing": {},
        "anchor": None,
    }
    record: dict[str, Any] = {
        "version": current_version(ScoreRecord),
        "stream": "s",
        "pts_ns": 0,
        "source": {"topic": "t", "partition": 0, "offset": 0, "index": 0},
        "status": "SCORED",
        "reason": "",
        "faces": [face],
        "model_id": "m",
        "difffake": "0",
    }
    VALIDATORS[ScoreRecord].validate(record)
    change(record)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATORS[ScoreRecord].validate(record)


def test_asyncapi_names_every_message_and_refers_to_nothing_that_is_not_there() -> None:
    document = read("asyncapi.json")
    assert document["asyncapi"] == "3.0.0"
    seen = []

    def look(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                seen.append(node["$ref"])
            node = list(node.values())
        for child in node if isinstance(node, list) else ():
            look(child)

    look(document)
    for reference in seen:
        path, _, pointer = reference.partition("#")
        found = read(path) if path else document
        for part in pointer.split("/")[1:]:
            found = found[part]
    assert {f"./{name}.json" for name in SCRIPT.MESSAGES} <= set(seen)


class _Before(msgspec.Struct, frozen=True):
    """A message.

    Args:
        version: of it.
        a: a number.
    """

    a: int
    version: int = 1


class _Redescribed(msgspec.Struct, frozen=True):
    """The same message, told better.

    Args:
        version: of this message.
        a: some number.
    """

    a: int
    version: int = 1


class _Changed(msgspec.Struct, frozen=True):
    """A message.

    Args:
        version: of it.
        a: a number.
    """

    a: float
    version: int = 1


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.schema(kind)
    return dict(found["$defs"][kind.__name__])


def test_a_schema_that_changes_under_its_version_is_refused_with_what_to_do() -> None:
    before, changed = ({**_real(), "scores": _schema(kind)} for kind in (_Before, _Changed))
    lock = SCRIPT.locked({}, before)
    with pytest.raises(SystemExit, match=r"'scores' changed.*\n.*version \d+ in ScoreRecord.*make docs"):
        SCRIPT.locked(lock, changed)


def test_better_words_are_no_new_version() -> None:
    before, after = ({**_real(), "scores": _schema(kind)} for kind in (_Before, _Redescribed))
    lock = SCRIPT.locked({}, before)
    assert SCRIPT.locked(lock, after) == lock


def test_a_new_version_is_added_and_the_old_one_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before, changed = ({**_real(), "scores": _schema(kind)} for kind in (_Before, _Changed))
    lock = SCRIPT.locked({}, before)
    now = SCRIPT.version_of("scores")
    real = SCRIPT.version_of
    monkeypatch.setattr(SCRIPT, "version_of", lambda name: real(name) + (name == "scores"))
    raised = SCRIPT.locked(lock, changed)
    assert set(raised["scores"]) == {str(now), str(now + 1)}
    assert raised["scores"][str(now)] == lock["scores"][str(now)]
    monkeypatch.undo()
    with pytest.raises(SystemExit, match="went back"):
        SCRIPT.locked(raised, before)


def _real() -> dict[str, dict[str, Any]]:
    return {name: read(f"{name}.json") for name in SCRIPT.MESSAGES}


def test_the_script_writes_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["schema.py", str(tmp_path / "made")])
    SCRIPT.main()
    assert {path.name for path in (tmp_path / "made").iterdir()} == {path.name for path in DOCS.iterdir()}


@pytest.mark.parametrize("name", [*FILES.values(), "dead-letter.json"])
def test_every_field_is_described(name: str) -> None:
    schema = read(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    for part in [schema, *schema.get("$defs", {}).values()]:
        assert part["description"]
        for field, property_ in part.get("properties", {}).items():
            assert property_["description"][0].isupper() or property_["description"][0] == "`", field
