"""Mixed precision that is fast on a CPU too."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _DepthwiseInFloat32(TorchFunctionMode):
    """Takes depthwise convolutions with a stride or a large kernel out of autocast.

    Their backward pass in bfloat16 is 2 to 13 times slower than in float32 on CPUs with AVX512-BF16 (a stride
    of two is worst): with it, bfloat16 as a whole would be no faster than float32.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and torch.is_autocast_enabled("cpu") and len(args) > 1:
            faces, weight = args[0], args[1]
            stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
            strided = max(stride) > 1 if isinstance(stride, tuple | list) else stride > 1
            if weight.shape[1] == 1 and weight.shape[0] > 1 and (strided or weight.shape[2] > 3):
                with torch.autocast("cpu", enabled=False):
                    out: Tensor = func(faces.float(), weight, *args[2:], **kwargs)
                    return out.to(torch.bfloat16)
        return func(*args, **kwargs)


@contextlib.contextmanager
def mixed(device: torch.device, precision: str) -> Iterator[None]:
    """Inside, networks run as ``precision`` (``bf16`` or ``fp32``) asks; weights stay float32."""
    if precision != "bf16":
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(_DepthwiseInFloat32())
        yield
