"""Records of a stream -> frames: images, self-contained segments, access units of a decoder that lives on."""

from stream.decode.contract import (
    CorruptInputError,
    Decoded,
    DecodedFrame,
    DecoderState,
    DecodeSettings,
    EncryptedInputError,
    Gear,
    InputError,
    LossReason,
    Lost,
    Payload,
    TooLargeError,
    UnknownTypeError,
)
from stream.decode.decoder import StreamDecoder
from stream.decode.sniff import sniff

__all__ = [
    "CorruptInputError",
    "DecodeSettings",
    "Decoded",
    "DecodedFrame",
    "DecoderState",
    "EncryptedInputError",
    "Gear",
    "InputError",
    "LossReason",
    "Lost",
    "Payload",
    "StreamDecoder",
    "TooLargeError",
    "UnknownTypeError",
    "sniff",
]
