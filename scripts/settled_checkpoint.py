"""A checkpoint of an untrained backbone whose batch norms have seen real faces, to try engines on where no weights are.

    scripts/settled_checkpoint.py efficientnet_b4 OUT.pt [CLIP_OR_FOLDER ...]

With random statistics the activations of a deep network die or explode, and parity would say nothing. Without clips it
takes those of the demonstration.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from difffake.compiling.pictures import collect_pictures
from difffake.demo.clips import fetch_clips
from difffake.extractor import build_extractor, save_checkpoint
from difffake.faces import CROP_SIDE_PX, EYE_DISTANCE

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("backbone")
parser.add_argument("out", type=Path)
parser.add_argument("sources", type=Path, nargs="*")
options = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(2)
faces = torch.from_numpy(
    collect_pictures(
        options.sources or list(fetch_clips(Path(".cache/clips")).values()),
        eye_distance=EYE_DISTANCE,
        max_faces=64,
    ).faces.faces
)
extractor = build_extractor(options.backbone, pretrained=False, dropout=0.0)
for module in extractor.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = None  # the plain mean over all batches
        module.reset_running_stats()
extractor.train()
with torch.no_grad():
    for part in faces[torch.randperm(len(faces))].split(16):
        extractor(part)
save_checkpoint(options.out, extractor.eval(), side_px=CROP_SIDE_PX, step=0)
print(f"{options.out}: {options.backbone}, untrained, batch norms settled on {len(faces)} faces")
