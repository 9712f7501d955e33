"""Rewrite tests/data/tensorrt_names.json: the names of TensorRT's Python API that our code may use.

    scripts/tensorrt_names.py API_DUMP

API_DUMP lists the bindings of full TensorRT, one ``CLASS Name ['member', ...]`` or ``ENUM Name [...]`` a line (as
``dir()`` gives them), its version in the first. Those of TensorRT-RTX are read from the installed package.
"""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path

import tensorrt_rtx

CLASSES = [
    "Builder",
    "IBuilderConfig",
    "INetworkDefinition",
    "ICudaEngine",
    "IExecutionContext",
    "Runtime",
    "OnnxParser",
    "IOptimizationProfile",
    "IHostMemory",
    "ITimingCache",
    "IRuntimeConfig",
    "ITensor",
]
ENUMS = [
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "HardwareCompatibilityLevel",
    "DataType",
    "TensorIOMode",
    "MemoryPoolType",
    "ExecutionContextAllocationStrategy",
    "ProfilingVerbosity",
    "OnnxParserFlag",
]
#: Of TensorRT-RTX alone, or not in the dump: the error of the parser, and what users derive from.
RTX = [
    "ComputeCapability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "IRuntimeCache",
    "ParserError",
    "IProgressMonitor",
    "ILogger",
    "Logger",
]


def main(dump: Path) -> None:
    """Write the names beside the tests."""
    lines = dump.read_text().splitlines()
    full: dict[str, list[str]] = {}
    for line in lines[1:]:
        kind, name, rest = [*line.split(" ", 2), "", ""][:3]
        if (kind, name) in {("CLASS", n) for n in CLASSES} | {("ENUM", n) for n in ENUMS}:
            full[name] = sorted(ast.literal_eval(rest))
    rtx = {
        name: sorted(n for n in dir(getattr(tensorrt_rtx, name)) if not n.startswith("_"))
        for name in CLASSES + ENUMS + RTX
    }
    names = {
        "tensorrt": {"version": lines[0].strip(), "names": full},
        "tensorrt_rtx": {"version": tensorrt_rtx.__version__, "names": rtx},
    }
    out = Path(__file__).parents[1] / "tests" / "data" / "tensorrt_names.json"
    out.write_text(json.dumps(names, indent=1, sort_keys=True) + "\n")
    print(f"{out}: {len(full)} classes and enums of full TensorRT, {len(rtx)} of TensorRT-RTX")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("api_dump", type=Path)
    main(parser.parse_args().api_dump)
