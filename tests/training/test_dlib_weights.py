"""dlib's file format, against an encoder of its own written from the same headers."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difffake.errors import DataError
from difffake.training.dlib_weights import BLOCKS, MAX_BYTES, DlibReader, read_face_net


def integer(value: int) -> bytes:
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def number(value: float) -> bytes:
    fraction, exponent = math.frexp(value)
    mantissa, exponent = int(fraction * 2**53), exponent - 53
    for _ in range(8):  # low zero bytes go into the exponent, as dlib does it
        if mantissa & 0xFF:
            break
        mantissa, exponent = mantissa >> 8, exponent + 8
    return integer(mantissa) + integer(exponent)


def text(value: str) -> bytes:
    return integer(len(value)) + value.encode()


def shape(*sizes: int) -> bytes:
    return b"".join(map(integer, sizes))


def tensor(array: np.ndarray) -> bytes:
    return integer(2) + shape(*array.shape) + array.astype("<f4").tobytes()


EMPTY = tensor(np.zeros((0, 0, 0, 0)))
NO_VIEW = integer(1) + shape(0, 0, 0, 0)
STATE = b"110" + 3 * EMPTY


def convolution(rng: np.random.Generator, count: int, channels: int, side: int, stride: int, padding: int) -> bytes:
    params = rng.normal(size=(count * (channels * side * side + 1), 1, 1, 1))
    out = text("con_4") + tensor(params) + shape(count, side, side, stride, stride, padding, padding)
    out += integer(1) + shape(count, channels, side, side) + integer(1) + shape(1, count, 1, 1)
    return out + number(1.0) + number(1.0) + number(1.0) + number(0.0)


def affine(rng: np.random.Generator, count: int) -> bytes:
    views = 2 * (integer(1) + shape(1, count, 1, 1))
    return text("affine_") + tensor(rng.normal(size=(2 * count, 1, 1, 1))) + views + integer(0) + STATE


def pool(name: str, *settings: int) -> bytes:
    return text(name) + shape(*settings) + STATE


def network(seed: int) -> bytes:
    """A file as dlib writes it, with random weights."""
    rng = np.random.default_rng(seed)
    relu, add = text("relu_") + STATE, text("add_prev_") + STATE
    details = convolution(rng, 32, 3, 7, 2, 0) + STATE + integer(1) + affine(rng, 32) + relu
    details += pool("max_pool_2", 3, 3, 2, 2, 0, 0)
    versions = [2, 2, 2]  # affine, relu, max_pool
    channels = 32
    for filters, stride in BLOCKS:
        details += convolution(rng, filters, channels, 3, stride, int(stride == 1)) + STATE + affine(rng, filters)
        details += relu + convolution(rng, filters, filters, 3, 1, 1) + STATE + affine(rng, filters)
        versions += [1, 2, 2, 2, 2, 2]  # tag, con, affine, relu, con, affine
        if stride == 2:
            details += pool("avg_pool_2", 2, 2, 2, 2, 0, 0)
            versions += [1, 1, 2]  # tag, skip, avg_pool
        details += add + relu
        versions += [2, 2]
        channels = filters
    details += pool("avg_pool_2", 0, 0, 1, 1, 0, 0)
    details += text("fc_2") + integer(128) + integer(256) + tensor(rng.normal(size=(256, 128, 1, 1)))
    details += integer(1) + shape(256, 128, 1, 1) + NO_VIEW + integer(1)
    details += number(1.0) + number(1.0) + number(1.0) + number(0.0) + STATE
    head = integer(1) + text("loss_metric_2") + number(0.04) + number(0.6)
    head += b"".join(map(integer, reversed([*versions, 2, 2]))) + integer(3)
    head += text("input_rgb_image_sized") + number(122.782) + number(117.001) + number(104.298) + shape(150, 150)
    return head + details


@pytest.fixture(scope="module")
def file() -> bytes:
    return network(0)


@given(st.integers(-(2**64) + 1, 2**64 - 1))
def test_integers_come_back(value: int) -> None:
    reader = DlibReader(integer(value))
    assert reader.integer() == value
    reader.finish()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_come_back(value: float) -> None:
    reader = DlibReader(number(value))
    assert reader.number() == value
    reader.finish()


def test_bytes_that_dlib_itself_wrote_for_the_mean_red() -> None:
    # 122.782 as float32: mantissa 0xf59062, exponent -17
    assert np.float32(DlibReader(bytes.fromhex("036290f58111")).number()) == np.float32(122.782)


@pytest.mark.parametrize("exponent", [32000, 32001, 32002])
def test_special_exponents_are_no_numbers(exponent: int) -> None:
    assert math.isnan(DlibReader(integer(0) + integer(exponent)).number())


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_data_error(data: bytes) -> None:
    for method in ("integer", "number", "flag", "text"):
        with contextlib.suppress(DataError):
            getattr(DlibReader(data), method)()
    with pytest.raises(DataError):
        read_face_net(data)


def test_a_whole_file(file: bytes) -> None:
    weights = read_face_net(file)
    np.testing.assert_array_equal(weights.mean_rgb, np.array([122.782, 117.001, 104.298], np.float32))
    assert len(weights.convolutions) == 1 + 2 * len(BLOCKS) == 29
    # The first numbers drawn are the first filters; then its biases, gamma and beta.
    drawn = np.random.default_rng(0).normal(size=32 * (3 * 49 + 1) + 64).astype(np.float32)
    stem = weights.convolutions[0]
    np.testing.assert_array_equal(stem.filters.ravel(), drawn[: 32 * 147])
    np.testing.assert_array_equal(stem.biases, drawn[32 * 147 : 32 * 148])
    np.testing.assert_array_equal(stem.gamma, drawn[32 * 148 : 32 * 149])
    np.testing.assert_array_equal(stem.beta, drawn[32 * 149 :])
    assert (stem.stride, stem.padding) == (2, 0)
    last = weights.convolutions[-1]
    assert last.filters.shape == (256, 256, 3, 3)
    assert (last.stride, last.padding) == (1, 1)
    assert weights.projection.shape == (256, 128)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_truncated_file_is_refused(file: bytes, data: st.DataObject) -> None:
    # Both the densely packed head and anywhere.
    end = data.draw(st.one_of(st.integers(0, 400), st.integers(0, len(file) - 1)))
    with pytest.raises(DataError, match="not dlib's face network"):
        read_face_net(file[:end])


@given(st.integers(0, 360), st.integers(1, 255))
def test_a_changed_head_does_no_harm(file: bytes, position: int, flip: int) -> None:
    changed = bytearray(file[:400])
    changed[position] ^= flip
    # The rest of the file is missing: however the head is misread, it must end in this error and no other.
    with pytest.raises(DataError):
        read_face_net(bytes(changed))


def test_bytes_behind_the_network_are_refused(file: bytes) -> None:
    with pytest.raises(DataError, match="1 bytes follow"):
        read_face_net(file + b"\0")


def test_a_larger_file_than_the_network_is_refused() -> None:
    with pytest.raises(DataError, match="too many"):
        read_face_net(bytes(MAX_BYTES + 1))


def test_weights_that_are_not_finite_are_refused(file: bytes) -> None:
    at = file.index(b"con_4") + 400
    with pytest.raises(DataError, match="not finite"):
        read_face_net(file[:at] + np.full(4, np.nan, "<f4").tobytes() + file[at + 16 :])


def test_a_huge_tensor_is_not_allocated() -> None:
    size = 2**60
    with pytest.raises(DataError, match="the file ends"):
        DlibReader(integer(2) + shape(size, 1, 1, 1)).tensor((size, 1, 1, 1))


def test_another_shape_than_the_network_has_is_refused(file: bytes) -> None:
    first = integer(2) + shape(32 * 148, 1, 1, 1)
    other = integer(2) + shape(2**62, 2**62, 1, 1)
    with pytest.raises(DataError, match="a tensor of shape"):
        read_face_net(file.replace(first, other, 1))


def test_a_network_of_other_layers_is_refused(file: bytes) -> None:
    with pytest.raises(DataError, match="'con_9' where 'con_4' belongs"):
        read_face_net(file.replace(b"con_4", b"con_9", 1))
    at = file.index(b"max_pool_2") + 10
    with pytest.raises(DataError, match="a setting of pool"):
        read_face_net(file[:at] + integer(5) + file[at + 2 :])


@pytest.mark.parametrize("name", ["x" * 65, "\u00e9"])
def test_names_are_short_and_ascii(name: str) -> None:
    raw = name.encode()
    with pytest.raises(DataError):
        DlibReader(integer(len(raw)) + raw).text()
