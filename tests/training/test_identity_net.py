"""dlib's network in torch, its parts against NumPy, and its export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

from difffake.training.dlib_weights import BLOCKS, Convolution, FaceNetWeights
from difffake.training.identity_net import IdentityNet, add_padded, export_identity, fold
from engines.onnx import OnnxEngine


def convolution(
    rng: np.random.Generator, count: int, channels: int, side: int = 3, stride: int = 1, padding: int = 1
) -> Convolution:
    filters = rng.normal(size=(count, channels, side, side)) * np.sqrt(1.0 / (channels * side * side))
    biases, beta = rng.normal(size=(2, count)) * 0.1
    gamma = rng.uniform(0.5, 1.5, count)
    arrays = (a.astype(np.float32) for a in (filters, biases, gamma, beta))
    return Convolution(*arrays, stride=stride, padding=padding)


def random_weights(seed: int) -> FaceNetWeights:
    rng = np.random.default_rng(seed)
    convolutions = [convolution(rng, 32, 3, 7, 2, 0)]
    channels = 32
    for filters, stride in BLOCKS:
        convolutions.append(convolution(rng, filters, channels, 3, stride, int(stride == 1)))
        convolutions.append(convolution(rng, filters, filters))
        channels = filters
    projection = (rng.normal(size=(256, 128)) * 0.05).astype(np.float32)
    return FaceNetWeights(np.array([122.782, 117.001, 104.298], np.float32), tuple(convolutions), projection)


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=6, max_size=6), st.integers(0, 1000))
def test_the_smaller_is_filled_up_with_zeros_behind_its_end(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(2, *sizes[:3])).astype(np.float32)
    b = rng.normal(size=(2, *sizes[3:])).astype(np.float32)
    wanted = np.zeros((2, *np.maximum(sizes[:3], sizes[3:])), np.float32)
    wanted[:, : sizes[0], : sizes[1], : sizes[2]] += a
    wanted[:, : sizes[3], : sizes[4], : sizes[5]] += b
    np.testing.assert_array_equal(add_padded(torch.from_numpy(a), torch.from_numpy(b)).numpy(), wanted)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0)])
def test_a_folded_convolution_is_the_convolution_and_its_affine_layer(stride: int, padding: int) -> None:
    rng = np.random.default_rng(3)
    weights = convolution(rng, 4, 3, stride=stride, padding=padding)
    picture = rng.normal(size=(3, 9, 9))
    padded = np.pad(picture, ((0, 0), (padding, padding), (padding, padding)))
    plain = [
        sum(correlate2d(plane, f, mode="valid") for plane, f in zip(padded, kernel, strict=True))
        for kernel in weights.filters
    ]
    wanted = np.stack(plain)[:, ::stride, ::stride] + weights.biases[:, None, None]
    wanted = wanted * weights.gamma[:, None, None] + weights.beta[:, None, None]
    with torch.inference_mode():
        found = fold(weights)(torch.from_numpy(picture[None]).float())[0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_export_is_the_network_and_the_same_every_time(tmp_path: Path) -> None:
    net = IdentityNet(random_weights(0)).eval()
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    export_identity(net, first)
    export_identity(IdentityNet(random_weights(0)), second)
    assert first.read_bytes() == second.read_bytes()
    faces = np.random.default_rng(1).integers(0, 256, (5, 3, 150, 150), np.uint8)
    with torch.inference_mode():
        wanted = net(torch.from_numpy(faces)).numpy()
    assert np.isfinite(wanted).all()
    assert np.linalg.norm(wanted[0] - wanted[1]) > 1e-3
    with OnnxEngine(first, threads=1, max_batch=3) as engine:
        assert (engine.spec.side_px, engine.spec.dim, engine.spec.has_logit) == (150, 128, False)
        np.testing.assert_allclose(engine.infer(faces).embedding, wanted, rtol=1e-4, atol=1e-5)
