"""What is installed: runtimes of networks, the GPU and its driver, video decoders, the Kafka client."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata

from difffake import hardware
from engines.tensorrt_api import HostInfo
from stream.doctor.report import Check, State

#: The codecs of streams: name in FFmpeg -> name for people.
_CODECS = {"h264": "H.264", "hevc": "H.265", "av1": "AV1"}


def software_checks(host: HostInfo) -> list[Check]:
    """Everything about packages; ``host`` is what TensorRT's room found. Imports nothing of NVIDIA's itself."""
    return [_onnxruntime(), _openvino(), _tensorrt(host), _gpu(host), *_video(), _decoding(), _kafka()]


def _onnxruntime() -> Check:
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return Check("ONNX Runtime", f"{onnxruntime.__version__} ({', '.join(providers)})")


def _openvino() -> Check:
    """Its word on what the processor can do, which the kernel's flags do not always tell."""
    if importlib.util.find_spec("openvino") is None:
        return Check(
            "OpenVINO", "not installed", State.NOTE, "pip install 'difffake[openvino]', for faster engines on the CPU"
        )
    try:
        openvino = importlib.import_module("openvino")
        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception as error:  # a library that does not load raises ImportError, OSError or RuntimeError
        return Check("OpenVINO", f"installed and cannot be used: {_first_line(error)}", State.NOTE, "install it again")
    return Check("OpenVINO", f"{_version('openvino')} (the CPU does {', '.join(sorted(able))})")


def _tensorrt(host: HostInfo) -> Check:
    if host.runtimes:
        return Check("TensorRT", ", ".join(f"{flavour} {build}" for flavour, build in host.runtimes.items()))
    if not host.gpus:
        return Check("TensorRT", "not installed, and there is no GPU for it")
    return Check("TensorRT", "not installed", State.NOTE, "pip install 'difffake[tensorrt]', to use the GPU")


def _gpu(host: HostInfo) -> Check:
    if host.gpus:
        cards = ", ".join(f"{gpu.name} ({gpu.compute_capability}, {gpu.memory_bytes >> 30} GiB)" for gpu in host.gpus)
        return Check("GPU", f"{cards}; the driver serves CUDA {host.driver}")
    # On a machine for the CPU alone that is no fault: the reason stands there, what to do beside the engines.
    return Check("GPU", f"none: {host.problem}" if host.problem else "none")


def _video() -> list[Check]:
    import av
    import av.codec

    library = ".".join(map(str, av.library_versions["libavcodec"]))
    missing = []
    for name in _CODECS:
        try:
            av.codec.Codec(name, "r")
        except ValueError:
            missing.append(_CODECS[name])
    value = f"PyAV {av.__version__}, libavcodec {library}: "
    value += ", ".join(name for name in _CODECS.values() if name not in missing) or "no decoder"
    if not missing:
        return [Check("video", value)]
    state = State.PROBLEM if len(missing) == len(_CODECS) else State.NOTE
    hint = "pip install --force-reinstall --only-binary av av, whose FFmpeg has them"
    return [Check("video", f"{value}; missing: {', '.join(missing)}", state, hint)]


def _decoding() -> Check:
    why = hardware.problem()
    if why is None:
        return Check("decoding", "on the GPU where it is asked for (--hwaccel auto), else in software")
    return Check("decoding", f"in software; {why}")


def _kafka() -> Check:
    try:
        from kafka.record import util
    except Exception as error:  # absent or broken: the rest of the report is still wanted
        return Check(
            "kafka-python",
            f"cannot be imported: {_first_line(error)}",
            State.PROBLEM,
            "pip install 'kafka-python[crc32c]'",
        )
    if util.crc32c_c is None:
        return Check(
            "kafka-python",
            f"{_version('kafka-python')}, without its checksums in C: far too slow for video",
            State.PROBLEM,
            "pip install 'kafka-python[crc32c]'",
        )
    return Check("kafka-python", f"{_version('kafka-python')}, checksums in C")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of an unknown version"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
