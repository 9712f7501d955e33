"""Every name of TensorRT's API that the code uses exists in the API that is recorded beside the tests.

Full TensorRT cannot be installed everywhere, and does little without a GPU: a misspelt name would be found by a user.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = json.loads((ROOT / "tests" / "data" / "tensorrt_names.json").read_text())

#: Module -> what its variables and attributes of this name hold, underscores aside.
HOLDS = {
    "tensorrt_build.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
    },
    "tensorrt.py": {
        "engine": "ICudaEngine",
        "context": "IExecutionContext",
        "runtime": "Runtime",
        "mode": "TensorIOMode",
    },
    "tensorrt_jit.py": {"engine": "ICudaEngine", "config": "IRuntimeConfig", "cache": "IRuntimeCache"},
}
#: What full TensorRT has, and the record of it does not.
UNRECORDED = {"ILogger", "IProgressMonitor"}
#: Asked of TensorRT-RTX alone.
RTX_ALONE = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability", "is_stream_capturable"}


def used(source: str, holds: dict[str, str]) -> set[tuple[str, str]]:
    """(class or enum, member) of every use of a TensorRT object in a module; the owner of the API's own names is ''."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute) or node.attr.startswith("__"):
            continue
        owner = node.value
        if _name(owner) in ("trt", "api"):
            found.add(("", node.attr))
        elif isinstance(owner, ast.Attribute) and _name(owner.value) in ("trt", "api"):
            found.add((owner.attr, node.attr))
        elif _name(owner) in holds:
            found.add((holds[_name(owner)], node.attr))
    return found


def _name(node: ast.expr) -> str:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name.lstrip("_")


def unknown(uses: set[tuple[str, str]], flavour: str) -> list[str]:
    """The uses that the recorded API of a flavour lacks."""
    names = NAMES[flavour]["names"]
    return sorted(f"{o}.{m}" for o, m in uses if m not in (names.get(o, ()) if o else names))


def uses_of(module: str) -> set[tuple[str, str]]:
    return used((ROOT / "engines" / module).read_text(), HOLDS[module])


@pytest.mark.parametrize(("module", "least"), [("tensorrt_build.py", 25), ("tensorrt.py", 15), ("tensorrt_jit.py", 6)])
def test_tensorrt_rtx_has_every_name_that_is_used(module: str, least: int) -> None:
    uses = uses_of(module)
    assert len(uses) >= least
    assert not unknown(uses, "tensorrt_rtx")


@pytest.mark.parametrize("module", ["tensorrt_build.py", "tensorrt.py"])
def test_full_tensorrt_has_every_name_that_is_used(module: str) -> None:
    uses = {(o, m) for o, m in uses_of(module) if not {o, m} & (UNRECORDED | RTX_ALONE)}
    assert len(uses) > 12
    assert not unknown(uses, "tensorrt")


@pytest.mark.parametrize(
    "line",
    ["config.max_workspace_size = 1", "trt.BuilderFlag.FP16", "self._builder.build_engine(network)", "trt.Bilder"],
)
def test_a_name_that_is_not_there_is_found(line: str) -> None:
    assert unknown(used(line, HOLDS["tensorrt_build.py"]), "tensorrt")
