"""Alerts out of Kafka to a web address: signed, at least once, in order, and never in a worker's way."""

from stream.hooks.delivery import Answer, Receiver
from stream.hooks.runner import Hooks
from stream.hooks.settings import HookError, HookSettings, PayloadKind
from stream.hooks.signature import SIGNATURE_HEADER, sign, verify

__all__ = [
    "SIGNATURE_HEADER",
    "Answer",
    "HookError",
    "HookSettings",
    "Hooks",
    "PayloadKind",
    "Receiver",
    "sign",
    "verify",
]
