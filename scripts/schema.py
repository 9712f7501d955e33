"""Writes the wire contract as JSON Schema, as an AsyncAPI document and as a page: python scripts/schema.py docs/schema

Refuses when a schema changed under a version that is already in ``versions.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

import difffake
import stream.messages as messages
from difffake.anchors import AnchorState, Origin
from difffake.fitness import Reason
from difffake.results import Level
from stream.messages import (
    AlertEnd,
    AlertKind,
    AlertRecord,
    AlertState,
    AnchorsRecord,
    BatchRecord,
    Command,
    CommandRecord,
    EnrolmentRecord,
    ErrorHeaders,
    HeldAgainst,
    PartitionRecord,
    ScoreRecord,
    StateRecord,
    Status,
)
from stream.messages.codec import current_version
from stream.messages.dead_letters import VERSION as DEAD_LETTER_VERSION

Schema = dict[str, Any]

MESSAGES: dict[str, type[msgspec.Struct]] = {
    "scores": ScoreRecord,
    "alerts": AlertRecord,
    "stream-state": StateRecord,
    "stream-anchors": AnchorsRecord,
    "partition-state": PartitionRecord,
    "enrolment": EnrolmentRecord,
    "command": CommandRecord,
    "batch": BatchRecord,
    "dead-letter": ErrorHeaders,
}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: In the order in which they are declared; msgspec sorts them.
_ENUMS: tuple[type[StrEnum], ...] = (
    AlertEnd,
    AlertKind,
    AlertState,
    AnchorState,
    Command,
    HeldAgainst,
    Level,
    Origin,
    Reason,
    Status,
)
#: Draft 7 knows every keyword used here, and every AsyncAPI tool must know draft 7.
_FORMAT = "application/schema+json;version=draft-07"
_BYTES = {"$comment": "msgpack bin: raw bytes"}
_ANNOTATIONS = ("title", "description", "default", "$comment", "$schema", "$id")
_MEDIA = ["image/jpeg", "image/png", "image/webp", "video/mp4", "video/mp2t", "video/x-matroska"]
_MEDIA += ["video/h264", "video/h265", "video/av1"]
_INPUT_HEADERS = {
    "content-type": {"type": "string", "enum": _MEDIA, "description": "What the value is; looked at when absent."},
    "pts-ns": {"type": "string", "pattern": "^-?[0-9]+$", "description": "Presentation time, nanoseconds, in digits."},
    "traceparent": {"type": "string", "description": "W3C Trace Context."},
}
#: name: address, action of a worker, cleanup policy, messages, key, what it is
_CHANNELS: dict[str, tuple[str, str, str, tuple[str, ...], str, str]] = {
    "input": ("video.in", "receive", "delete", ("video",), "stream id", "Video to watch; any topic, or a pattern."),
    "scores": ("difffake.scores", "send", "delete", ("scores",), "stream id", "One record per analysed frame."),
    "alerts": ("difffake.alerts", "send", "delete", ("alerts",), "stream id", "Opened, updated, closed."),
    "state": (
        "difffake.state",
        "send",
        "compact",
        ("stream-state", "stream-anchors", "partition-state"),
        "topic/partition/stream, topic/partition:anchors/stream, or topic/partition",
        "For workers alone: where another goes on when one stops.",
    ),
    "enrolments": (
        "difffake.enrolments",
        "receive",
        "compact",
        ("enrolment", "command", "batch"),
        "stream/person, stream/#command/person, or #workers/batch",
        "Trusted anchors, operator commands, and how batches are put together; every worker reads all of it.",
    ),
    "deadletters": (
        "difffake.deadletters",
        "send",
        "delete",
        ("dead-letter",),
        "the original key",
        "Input that could not be used: the original bytes, and headers that say why.",
    ),
}
_PAGE = """# The wire contract

Made by `make docs` from `stream/messages/`: one JSON Schema per message, [asyncapi.json](asyncapi.json) (AsyncAPI 3:
topics, keys, headers), and `versions.json`, which keeps a schema from changing under its version.

| topic (default name) | key | message | cleanup |
|---|---|---|---|
{topics}

- Read with `isolation.level=read_committed`: then every analysed frame is there once, whatever was killed.
- Scores, alerts, enrolments, commands and batches are JSON in UTF-8; bytes in it are base64. State is msgpack, and no
  business of other programs.
- Every field is always there; null says that there is nothing to say. There is no NaN. Equal records are equal bytes.
- Times are 64-bit integers, nanoseconds: JavaScript needs a reader that makes them BigInt, or loses the last digits.
- Any change of a schema raises the `version` of its message. DiffFake refuses versions that it does not know. A reader
  of your own should look at `version` first and ignore fields that it does not know, as DiffFake does in scores and
  alerts; in state, enrolments, commands and batches, an unknown field is an error.
- Compacted topics: a null value takes its key back. In the keys of enrolments, `%`, `/` and `#` inside the names of
  streams and people are written `%25`, `%2F` and `%23`. A command's key ends in the person: a name, `#3` for person 3,
  `#all` for everybody. In the keys of state, the stream is all that follows the second slash.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in documents(folder / "versions.json").items():
        (folder / name).write_text(data, encoding="utf-8")


def documents(lock: Path) -> dict[str, str]:
    """File name -> content of everything in ``docs/schema``; ``lock`` is ``versions.json`` as it was, if there is one.

    Raises:
        SystemExit: a schema changed under its version.
    """
    schemas = {name: schema_of(name, kind) for name, kind in MESSAGES.items()}
    known = json.loads(lock.read_text(encoding="utf-8")) if lock.exists() else {}
    made = {f"{name}.json": schema for name, schema in schemas.items()}
    made["versions.json"] = locked(known, schemas)
    made["asyncapi.json"] = asyncapi(schemas)
    texts = {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in made.items()}
    return texts | {"README.md": page(schemas)}


def version_of(name: str) -> int:
    """Version of a message's schema."""
    kind = MESSAGES[name]
    return current_version(kind) if issubclass(kind, messages.Message) else DEAD_LETTER_VERSION


def schema_of(name: str, kind: type[msgspec.Struct]) -> Schema:
    """JSON Schema of a message, with the descriptions of its fields from their docstrings."""
    whole = msgspec.json.schema(kind)
    definitions: Schema = whole["$defs"]
    structs = {s.__name__: s for s in vars(messages).values() if inspect.isclass(s) and issubclass(s, msgspec.Struct)}
    enums = {e.__name__: e for e in _ENUMS}
    for title, definition in definitions.items():
        if "properties" in definition:
            _describe(definition, structs[title])
        else:
            definition["description"] = inspect.cleandoc(definition["description"])
            definition["enum"] = [member.value for member in enums[title]]
    root = definitions.pop(kind.__name__)
    # Always written, and there to be looked at first: only its default makes msgspec call it optional.
    for field, property_ in root["properties"].items():
        if "default" in property_:
            del property_["default"]
            root["required"].insert(list(root["properties"]).index(field), field)
    head = {"$schema": _DIALECT, "$id": f"urn:difffake:{name}:{version_of(name)}"}
    schema: Schema = head | root | ({"$defs": definitions} if definitions else {})
    if getattr(kind, "FORMAT", "json") == "msgpack":
        return {key: _raw_bytes(value) for key, value in schema.items()}
    return schema


def _describe(definition: Schema, kind: type[msgspec.Struct]) -> None:
    text, _, arguments = inspect.cleandoc(definition["description"]).partition("\n\nArgs:\n")
    definition["description"] = " ".join(text.split())
    said: dict[str, str] = {}
    field = ""
    for line in arguments.splitlines():
        if line.startswith("    ") and not line.startswith("     "):
            field, _, rest = line.strip().partition(": ")
            said[field] = rest
        else:
            said[field] += " " + line.strip()
    for field_info in msgspec.structs.fields(kind):
        if field_info.name not in said:
            raise SystemExit(f"{kind.__name__}: its docstring does not describe {field_info.name!r}")
        description, property_ = said.pop(field_info.name), definition["properties"][field_info.encode_name]
        property_["description"] = description[0].upper() + description[1:]
        # msgspec checks such keys, and leaves them out of its schema.
        if keys := get_args(get_args(field_info.type)[0]) if get_origin(field_info.type) is dict else ():
            property_["propertyNames"] = {"enum": list(keys)}
    if said:
        raise SystemExit(f"{kind.__name__}: its docstring describes fields that it does not have: {sorted(said)}")
    if "type" in definition["properties"]:
        definition["properties"]["type"]["description"] = "Tells the records of the topic apart."


def _raw_bytes(node: Any) -> Any:
    if isinstance(node, list):
        return [_raw_bytes(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("contentEncoding") == "base64":
        return {key: value for key, value in node.items() if key == "description"} | _BYTES
    return {key: _raw_bytes(value) for key, value in node.items()}


def digest(schema: Schema) -> str:
    """SHA-256 of what a schema allows: names of definitions and descriptions may change without a new version."""
    text = json.dumps(_essence(schema, schema.get("$defs", {})), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _essence(node: Any, definitions: Schema) -> Any:
    if isinstance(node, list):
        return [_essence(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _essence(definitions[node["$ref"].removeprefix("#/$defs/")], definitions)
    kept = {key: value for key, value in node.items() if key not in (*_ANNOTATIONS, "$defs", "properties")}
    essence = {key: _essence(value, definitions) for key, value in kept.items()}
    if "required" in essence:
        essence["required"] = sorted(essence["required"])
    if "properties" in node:
        essence["properties"] = {name: _essence(value, definitions) for name, value in node["properties"].items()}
    return essence


def locked(known: dict[str, dict[str, str]], schemas: dict[str, Schema]) -> dict[str, dict[str, str]]:
    """The lock with the versions of today.

    Raises:
        SystemExit: a schema is not the one that its version had.
    """
    lock = {name: dict(known.get(name, {})) for name in schemas}
    for name, schema in schemas.items():
        version, now = version_of(name), digest(schema)
        if lock[name].setdefault(str(version), now) != now:
            raise SystemExit(
                f"the schema of {name!r} changed, and its version {version} did not.\n"
                f"Set version {version + 1} in {MESSAGES[name].__name__}, say in CHANGELOG.md what readers must do, "
                f"and run `make docs`.\nOnly if version {version} was never released: remove it from "
                "docs/schema/versions.json instead."
            )
        if max(map(int, lock[name])) > version:
            raise SystemExit(f"the version of {name!r} went back to {version}; versions.json knows a later one.")
    return lock


def asyncapi(schemas: dict[str, Schema]) -> Schema:
    """The AsyncAPI 3 document: the schemas by reference, the rest in it."""
    channels, operations, described = {}, {}, {}
    for channel, (address, action, cleanup, names, key, text) in _CHANNELS.items():
        channels[channel] = {
            "address": address,
            "description": text,
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
            "bindings": {
                "kafka": {
                    "topic": address,
                    "topicConfiguration": {"cleanup.policy": [cleanup]},
                    "bindingVersion": "0.5.0",
                }
            },
        }
        operations[f"{action}-{channel}"] = {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
        }
        for name in names:
            described[name] = _message(name, schemas.get(name), key)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "DiffFake",
            "version": difffake.__version__,
            "description": "A worker reads video and writes scores, alerts and dead letters.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": described},
    }


def _message(name: str, schema: Schema | None, key: str) -> Schema:
    message: Schema = {
        "name": name,
        "bindings": {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": "0.5.0"}},
    }
    reference = {"schemaFormat": _FORMAT, "schema": {"$ref": f"./{name}.json"}}
    if schema is None:
        headers = {"type": "object", "properties": _INPUT_HEADERS}
        return message | {"summary": "An image, a segment, or an access unit.", "headers": headers}
    message["summary"] = schema["description"]
    kind = MESSAGES[name]
    if kind is ErrorHeaders:
        return message | {"contentType": "application/octet-stream", "headers": reference}
    content_type = "application/msgpack" if getattr(kind, "FORMAT", "") == "msgpack" else "application/json"
    return message | {"contentType": content_type, "payload": reference}


def page(schemas: dict[str, Schema]) -> str:
    """``README.md``: the rules, and a table of fields per message."""
    rows = [
        f"| `{address}` | {key} | {', '.join(f'[{n}](#{n})' if n in schemas else n for n in names)} | {cleanup} |"
        for address, _, cleanup, names, key, _ in _CHANNELS.values()
    ]
    lines = [_PAGE.format(topics="\n".join(rows))]
    told: set[str] = set()
    for name, schema in schemas.items():
        lines += [
            f"## {name}",
            "",
            f"[{name}.json]({name}.json), version {version_of(name)}. {schema['description']}",
            "",
        ]
        lines += _table(schema)
        for title, definition in schema.get("$defs", {}).items():
            if title in told:
                continue
            told.add(title)
            lines += [f"### {title}", "", definition["description"], ""]
            lines += _table(definition) if "properties" in definition else [_type(definition), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(schema: Schema) -> list[str]:
    rows = [f"| `{name}` | {_type(p)} | {p['description']} |" for name, p in schema["properties"].items()]
    return ["| field | type | what |", "|---|---|---|", *rows, ""]


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        title = schema["$ref"].removeprefix("#/$defs/")
        return f"[{title}](#{title.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(part) for part in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("$comment") == _BYTES["$comment"]:
        return "bytes"
    if "contentEncoding" in schema:
        return "base64"
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if schema["type"] == "object":
        keys = schema.get("propertyNames")
        return f"{_type(keys) if keys else 'text'} → {_type(schema['additionalProperties'])}"
    if schema["type"] == "string":
        return "text"
    return str(schema["type"])


if __name__ == "__main__":
    main()
