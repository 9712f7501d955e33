"""Decoding on the GPU, as the decoders of streams, doctor and metrics see it; see `difffake.hardware`."""

from difffake.hardware import COUNTS, HardwareStatus, HardwareUse, Hwaccel, check, problem

__all__ = ["COUNTS", "HardwareStatus", "HardwareUse", "Hwaccel", "check", "hardware_status", "problem"]


def hardware_status() -> HardwareStatus:
    """Streams of this process that asked for the GPU, and which of them software decoded."""
    return COUNTS.status()
