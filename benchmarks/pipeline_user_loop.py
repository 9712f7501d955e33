"""The loop that a user would write: what DiffFake's pipeline is held against. A process of its own; says JSON.

    python benchmarks/pipeline_user_loop.py CLIP --seconds 20

OpenCV reads the file, every n-th picture goes through MTCNN (facenet-pytorch, whose weights travel in its package),
each face through the same architecture at the same size in eager torch, and its differences to the first 8 faces
through scikit-learn's GaussianMixture. Torch may use every core. No identity network: it does less than the pipeline.

facenet-pytorch pins an old torch, so it is put beside ours without its dependencies, into .cache/user_loop.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

# Without this, threads that wait for each other burn what a machine has where others use it, too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import torch
from sklearn.mixture import GaussianMixture

from difffake.bundle import Bundle
from difffake.extractor import build_extractor
from stream.bench.clock import Moment

FOLDER = Path(__file__).parents[1] / ".cache" / "user_loop"
PACKAGE = "facenet-pytorch==2.6.0"
ANCHOR = 8


def mtcnn(device: str) -> Any:
    """Every face of a picture, boxes and confidences."""
    if importlib.util.find_spec("facenet_pytorch") is None and not (FOLDER / "facenet_pytorch").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(FOLDER)]
        subprocess.run([*pip, "--no-deps", PACKAGE], check=True)
        subprocess.run([*pip, "requests"], check=True)  # imported by it, for weights that are not asked for
    sys.path.append(str(FOLDER))  # last: nothing of ours is replaced
    from facenet_pytorch import MTCNN

    return MTCNN(keep_all=True, device=device)


def mixture_of(bundle: Bundle) -> GaussianMixture:
    """The bundle's density of signed differences, in scikit-learn's hands."""
    ours = next(d for name, d in sorted(bundle.densities.items()) if name.startswith("signed"))
    model = GaussianMixture(ours.components, covariance_type=ours.covariance.value)
    model.weights_, model.means_ = ours.weights, ours.means
    model.precisions_cholesky_ = ours.precisions_cholesky
    return model


def main() -> None:
    """Parse, loop, say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--fps", type=float, default=2.0, help="pictures looked at per second of the clip")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long it may take; at least 8 pictures")
    parser.add_argument("--device", default="cpu", help="where torch runs both networks: cpu or cuda")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    bundle = Bundle.load()
    side = bundle.manifest.side_px
    model = build_extractor(bundle.manifest.backbone, pretrained=False).eval().to(options.device)
    detect, mixture = mtcnn(options.device), mixture_of(bundle)
    anchor: list[np.ndarray[Any, Any]] = []
    frames = faces = 0
    began: Moment | None = None
    over = False
    while not over:
        video = cv2.VideoCapture(str(options.clip))
        every = max(1, round(video.get(cv2.CAP_PROP_FPS) / options.fps))
        number = 0
        while not over and video.grab():
            number += 1
            if (number - 1) % every:
                continue
            if began is None and len(anchor) >= ANCHOR:
                began, frames, faces = Moment.now(), 0, 0
            picture = cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)
            boxes, _ = detect.detect(picture)
            for box in () if boxes is None else boxes:
                x1, y1, x2, y2 = (max(0, int(v)) for v in box)
                crop = picture[y1:y2, x1:x2]
                if not crop.size:
                    continue
                crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
                with torch.no_grad():
                    embedding, _ = model(torch.from_numpy(crop.transpose(2, 0, 1)[None].copy()).to(options.device))
                e = embedding.cpu().numpy()[0].astype(np.float64)
                if len(anchor) < ANCHOR:
                    anchor.append(e)
                else:
                    mixture.score_samples(e - np.stack(anchor)).mean()
                faces += 1
            frames += 1
            over = began is not None and frames >= ANCHOR and Moment.now().since(began).wall_s > options.seconds
        video.release()
        if not frames:
            raise SystemExit("no picture could be read")
        if not anchor:
            raise SystemExit("no face was found")
    spent = Moment.now().since(began or Moment.now())
    says = {"frames": frames, "faces": faces, "wall_s": spent.wall_s, "cpu_s": spent.cpu_s, "others": spent.others}
    versions = {"torch": torch.__version__, "opencv": cv2.__version__, "detector": PACKAGE}
    place = {"backbone": bundle.manifest.backbone, "threads": torch.get_num_threads(), "device": options.device}
    print(json.dumps(says | place | versions))


if __name__ == "__main__":
    main()
