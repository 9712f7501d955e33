"""The networks of the GPU benchmark, for a host that has nothing but torch and onnx."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

SIDE_PX = 224
SHIPPED = Path(__file__).parents[1] / "difffake" / "models" / "default" / "extractor.onnx"
#: EfficientNet-B4 (Tan and Le 2019): expansion, channels, blocks, stride, kernel of each stage.
_B4 = [
    (1, 24, 2, 1, 3),
    (6, 32, 4, 2, 3),
    (6, 56, 4, 2, 5),
    (6, 112, 6, 2, 3),
    (6, 160, 6, 1, 5),
    (6, 272, 8, 2, 5),
    (6, 448, 2, 1, 3),
]
_STEM, _HEAD = 48, 1792


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """As it is deployed: batch norm is folded into weights and bias."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


class _Block(nn.Module):
    """Inverted bottleneck with squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide, narrow = inputs * expansion, max(1, inputs // 4)
        self.expand = _conv(inputs, wide) if expansion > 1 else None
        self.depthwise = _conv(wide, wide, kernel, stride, wide)
        self.squeeze, self.excite = _conv(wide, narrow), _conv(narrow, wide)
        self.project = _conv(wide, outputs)
        self.is_residual = stride == 1 and inputs == outputs
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.act(self.expand(x))
        y = self.act(self.depthwise(y))
        y = y * torch.sigmoid(self.excite(self.act(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = self.project(y)
        return x + y if self.is_residual else y


class EfficientNetB4(nn.Module):
    """The paper's backbone with our input and head. Weights are random: speed does not depend on them."""

    dim = _HEAD

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        blocks, channels = [], _STEM
        for expansion, outputs, count, stride, kernel in _B4:
            for number in range(count):
                blocks.append(_Block(channels, outputs, expansion, stride if number == 0 else 1, kernel))
                channels = outputs
        self.stem, self.blocks = _conv(3, _STEM, 3, 2), nn.Sequential(*blocks)
        self.last, self.head, self.act = _conv(channels, _HEAD), nn.Linear(_HEAD, 1), nn.SiLU()
        generator = torch.Generator().manual_seed(seed)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fan_in = layer.weight[0].numel()
                layer.weight.data.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        x = (faces.float() - 127.0) / 64.0
        x = self.blocks(self.act(self.stem(x)))
        embedding = self.act(self.last(x)).mean((2, 3))
        return embedding, self.head(embedding).squeeze(1)


def export_b4(path: Path) -> None:
    """Write it as fp32 ONNX, as `difffake fit` writes an extractor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            EfficientNetB4().eval(),
            (torch.zeros(2, 3, SIDE_PX, SIDE_PX, dtype=torch.uint8),),
            str(path),
            input_names=["faces"],
            output_names=["embedding", "logit"],
            dynamic_axes={name: {0: "batch"} for name in ("faces", "embedding", "logit")},
            opset_version=17,
            dynamo=False,
        )


def flops_per_face(module: nn.Module) -> int:
    """Floating point operations of the convolutions and matrices for one face (a multiply-add counts two)."""
    from torch.utils.flop_counter import FlopCounterMode

    # Nothing is computed: shapes are all that counts.
    shapes = copy.deepcopy(module).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.zeros(1, 3, SIDE_PX, SIDE_PX, dtype=torch.uint8, device="meta"))
    return int(counter.get_total_flops())
