"""What an operator may do through the wall: the same commands as on the command line, on the same topic."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from difffake.errors import DiffFakeError
from stream import operate
from stream.broker.contract import Broker
from stream.messages import AlertRecord, Command, CommandRecord, EvidenceName
from stream.messages.codec import Name, StreamId

_DAY_S = 86_400.0


class ActionError(DiffFakeError, ValueError):
    """An action that makes no sense."""


class Act(StrEnum):
    """What is to be done."""

    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    RESET = "reset"
    GEAR_WATCH = "gear-watch"
    GEAR_ANALYSE = "gear-analyse"
    GEAR_SCRUTINISE = "gear-scrutinise"
    GEAR_DEFAULT = "gear-default"
    MUTE = "mute"
    UNMUTE = "unmute"
    BUDGET = "budget"
    ACKNOWLEDGE = "acknowledge"


class Action(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One action, as a page sends it.

    Args:
        act: what.
        stream: the stream's id.
        person: an enrolled name or a number of the scores; null: everybody. For anchors and muting.
        alert: the id of the alert that is acknowledged.
        evidence: whose alerts are muted or have a budget; null: all.
        seconds: of stream time for which alerts are muted; null: until unmuted.
        per_day: false alerts allowed per stream-day; null: what the workers were told.
    """

    act: Act
    stream: StreamId
    person: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] | Name | None = None
    alert: Name | None = None
    evidence: EvidenceName | None = None
    seconds: Annotated[float, msgspec.Meta(gt=0, le=7 * _DAY_S)] | None = None
    per_day: Annotated[float, msgspec.Meta(gt=0, le=1000)] | None = None

    def told(self) -> dict[str, object]:
        """What an audit trail says of it."""
        return {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}


_DECODER = msgspec.json.Decoder(Action)


def parse_action(body: bytes) -> Action:
    """The action in a request's body.

    Raises:
        ActionError: it is none.
    """
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ActionError(f"not an action: {error}", hint="reload the page: it may be older than the wall") from error


def perform(broker: Broker, topic: str, action: Action, alert: AlertRecord | None, by: str) -> CommandRecord:
    """Send it to every worker; returns the command when the broker has it.

    Args:
        broker: of the cluster.
        topic: of enrolments and commands.
        action: what to do.
        alert: the one that is acknowledged.
        by: the operator.

    Raises:
        ActionError: an alert that this wall does not have.
        BrokerError, MessageError: see `stream.operate.send_command`.
    """
    stream, person, evidence = action.stream, action.person, action.evidence
    match action.act:
        case Act.ACKNOWLEDGE:
            if alert is None or alert.stream != stream:
                raise ActionError("the wall has no such alert", hint="it may have been left out; reload the page")
            return operate.acknowledge_alert(broker, topic, alert, by=by)
        case Act.MUTE:
            return operate.mute_alerts(
                broker, topic, stream=stream, person=person, evidence=evidence, seconds=action.seconds, by=by
            )
        case Act.UNMUTE:
            return operate.unmute_alerts(broker, topic, stream=stream, person=person, evidence=evidence, by=by)
        case Act.BUDGET:
            return operate.set_alert_budget(
                broker, topic, stream=stream, per_day=action.per_day, evidence=evidence, by=by
            )
        case _:
            command = Command(action.act.value)
            whom = None if command.value.startswith("gear") else person
            return operate.send_command(broker, topic, command, stream=stream, person=whom, by=by)
