from __future__ import annotations

import pytest
import torch
from torch import nn

from difffake.training.precision import mixed

CPU = torch.device("cpu")


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 1), (5, 2)])
def test_slow_depthwise_convolutions_are_computed_in_float32(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, kernel, stride, groups=8)
    faces = torch.randn(2, 8, 16, 16)
    with mixed(CPU, "bf16"):
        out = conv(faces)
    assert torch.equal(out, conv(faces).bfloat16())


def test_everything_else_follows_autocast_and_fp32_is_left_alone() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3)
    faces = torch.randn(2, 8, 16, 16)
    with mixed(CPU, "bf16"):
        assert conv(faces).dtype == torch.bfloat16
    with mixed(CPU, "fp32"):
        assert torch.equal(conv(faces), conv(faces).float())
        assert conv(faces).dtype == torch.float32


def test_gradients_reach_the_weights_of_either_kind() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 5, 2, groups=8), nn.Conv2d(8, 4, 1))
    faces = torch.randn(2, 3, 16, 16)
    with mixed(CPU, "bf16"):
        loss = network(faces).float().square().mean()
    loss.backward()
    ours = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    network(faces).square().mean().backward()
    theirs = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(ours) == len(theirs) == 6
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert torch.allclose(a, b, rtol=0.1, atol=0.05 * float(b.abs().max()))
