"""The wire contract: what is written to Kafka and read from it. JSON Schema of it: ``docs/schema/``."""

from stream.messages.alerts import AlertEnd, AlertKind, AlertRecord, AlertState, alert_id
from stream.messages.codec import EvidenceName, Message, MessageError, bounded, decode, encode
from stream.messages.dead_letters import DeadLetter, ErrorHeaders
from stream.messages.enrolments import (
    BatchRecord,
    Command,
    CommandRecord,
    EnrolmentRecord,
    decode_enrolment,
    enrolment_key,
)
from stream.messages.scores import (
    FIRST_LOST_INDEX,
    UNKNOWN,
    Face,
    FaceAnchor,
    FaceEvidence,
    HeldAgainst,
    ScoreRecord,
    Source,
    Status,
)
from stream.messages.state import (
    AnchorsRecord,
    PartitionRecord,
    StateKey,
    StateRecord,
    decode_state,
    digest_of,
    pack_arrays,
    unpack_arrays,
)

__all__ = [
    "FIRST_LOST_INDEX",
    "UNKNOWN",
    "AlertEnd",
    "AlertKind",
    "AlertRecord",
    "AlertState",
    "AnchorsRecord",
    "BatchRecord",
    "Command",
    "CommandRecord",
    "DeadLetter",
    "EnrolmentRecord",
    "ErrorHeaders",
    "EvidenceName",
    "Face",
    "FaceAnchor",
    "FaceEvidence",
    "HeldAgainst",
    "Message",
    "MessageError",
    "PartitionRecord",
    "ScoreRecord",
    "Source",
    "StateKey",
    "StateRecord",
    "Status",
    "alert_id",
    "bounded",
    "decode",
    "decode_enrolment",
    "decode_state",
    "digest_of",
    "encode",
    "enrolment_key",
    "pack_arrays",
    "unpack_arrays",
]
