"""Reads the weights of dlib's face recognition network from dlib's own file format.

The format is documented in dlib's headers (``serialize.h``, ``float_details.h``, ``cuda/tensor.h``, ``dnn/core.h``,
``dnn/layers.h``, ``dnn/input.h``, ``dnn/loss.h``):

- an integer is a control byte (bit 7: negative, low 4 bits: number of bytes) and its magnitude, little endian;
- a floating point number is two integers, mantissa and exponent of two; a bool is the character ``0`` or ``1``;
- a string is its length as an integer and its bytes;
- a tensor is version 2, four dimensions as integers, then float32 little endian; a view into a tensor is version 1
  and its four dimensions;
- a network is the version numbers of its layers from the output inwards, the input layer, then every layer's details
  from the input outwards.

A file does not say how its layers are connected: dlib knows that from the C++ type, we from `BLOCKS` (Davis King's
public domain example ``dnn_face_recognition_ex.cpp``). Everything that the file does say is checked against it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from difffake.errors import DataError

F32 = npt.NDArray[np.float32]

SIDE_PX = 150
DIM = 128
STEM_FILTERS = 32
#: (filters, stride) of every residual block, from the input to the output.
BLOCKS = (*[(32, 1)] * 3, (64, 2), *[(64, 1)] * 3, (128, 2), *[(128, 1)] * 2, (256, 2), *[(256, 1)] * 2, (256, 2))
#: The file has 22 MB; nothing much larger is this network.
MAX_BYTES = 64 * 2**20

_HINT = "use dlib_face_recognition_resnet_model_v1.dat as the package face_recognition_models 0.3.0 carries it"
_LONGEST_STRING = 64
#: Exponents that stand for infinity, its negative and no number.
_FIRST_SPECIAL_EXPONENT = 32000


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution and the affine layer after it: ``gamma * (filters * x + biases) + beta``.

    Attributes:
        filters: ``(K, C, H, W) float32``.
        biases: ``(K,) float32``.
        gamma: ``(K,) float32``.
        beta: ``(K,) float32``.
        stride: of both axes.
        padding: of both axes, zeros on every side.
    """

    filters: F32
    biases: F32
    gamma: F32
    beta: F32
    stride: int
    padding: int


@dataclass(frozen=True, slots=True)
class FaceNetWeights:
    """The weights of dlib's face recognition network.

    Attributes:
        mean_rgb: what is taken off red, green and blue before they are divided by 256, ``(3,) float32``.
        convolutions: the first, then two for each of `BLOCKS`.
        projection: the last layer, ``(256, 128) float32``, without bias.
    """

    mean_rgb: F32
    convolutions: tuple[Convolution, ...]
    projection: F32


def read_face_net(data: bytes) -> FaceNetWeights:
    """Read ``dlib_face_recognition_resnet_model_v1.dat``.

    Args:
        data: the whole file.

    Raises:
        DataError: the bytes are truncated, go on after the network, are another network, or hold weights that are
            not finite. Time and memory stay within a small multiple of ``len(data)``, whatever they say.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{len(data)} bytes are too many for dlib's face network", hint=_HINT)
    layers = _layers()
    reader = DlibReader(data)
    mean_rgb = _read_head(reader, layers)
    convolutions: list[Convolution] = []
    filters = biases = projection = np.empty(0, np.float32)
    for index, layer in enumerate(layers):
        if layer.kind in _WIRING:
            continue
        reader.expect_text(layer.tag)
        if layer.kind == "con":
            filters, biases = _read_convolution(reader, layer)
        elif layer.kind == "affine":
            gamma, beta = _read_affine(reader, layer)
            stride, padding = layers[index - 1].settings
            convolutions.append(Convolution(filters, biases, gamma, beta, stride, padding))
        elif layer.kind == "fc":
            projection = _read_projection(reader, layer)
        else:
            for value in layer.settings:
                reader.expect_int(f"a setting of {layer.kind}", value)
        for _ in range(3):  # set up, gradient stale, getters disabled
            reader.flag()
        for _ in range(3):  # gradients and a cached output, which a trained file leaves empty
            reader.tensor((0, 0, 0, 0))
        if index == 0:
            reader.expect_int("the sample expansion factor", 1)
    reader.finish()
    weights = [mean_rgb, projection, *(a for c in convolutions for a in (c.filters, c.biases, c.gamma, c.beta))]
    if not all(np.isfinite(array).all() for array in weights):
        raise DataError("dlib's face network holds weights that are not finite", hint=_HINT)
    return FaceNetWeights(mean_rgb, tuple(convolutions), projection)


class DlibReader:
    """Takes the basic types of dlib's serialization off a byte string, one after another.

    Every method raises DataError when the bytes end too early or are not what is asked for.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        if count > len(self._data) - self._at:
            self._fail(f"the file ends within the {count} bytes that should follow")
        self._at += count
        return self._data[self._at - count : self._at]

    def integer(self) -> int:
        """Read an integer of up to 64 bits."""
        (control,) = self.take(1)
        size = control & 0x0F
        if not 1 <= size <= 8 or control & 0x70:
            self._fail(f"{control:#04x} introduces no integer")
        value = int.from_bytes(self.take(size), "little")
        return -value if control & 0x80 else value

    def number(self) -> float:
        """Read a floating point number, as float64; infinities and what is no number come back as NaN."""
        mantissa, exponent = self.integer(), self.integer()
        if exponent >= _FIRST_SPECIAL_EXPONENT:
            return math.nan
        try:
            return math.ldexp(mantissa, exponent)
        except OverflowError:
            self._fail(f"{mantissa} * 2**{exponent} is out of range")

    def flag(self) -> bool:
        """Read a bool."""
        character = self.take(1)
        if character not in (b"0", b"1"):
            self._fail(f"{character!r} is no bool")
        return character == b"1"

    def text(self) -> str:
        """Read an ASCII string of at most 64 characters."""
        length = self.integer()
        if not 0 <= length <= _LONGEST_STRING:
            self._fail(f"a name of {length} characters")
        raw = self.take(length)
        if not raw.isascii():
            self._fail(f"{raw!r} is no name")
        return raw.decode("ascii")

    def tensor(self, shape: tuple[int, int, int, int]) -> F32:
        """Read a tensor of exactly this shape; the result is a copy, ``shape float32``."""
        self.expect_int("the version of a tensor", 2)
        self._expect_shape(shape)
        return np.frombuffer(self.take(4 * math.prod(shape)), "<f4").reshape(shape).astype(np.float32)

    def view(self, shape: tuple[int, int, int, int]) -> None:
        """Read a view into a tensor, which holds nothing but its shape."""
        self.expect_int("the version of a view", 1)
        self._expect_shape(shape)

    def expect_int(self, what: str, wanted: int) -> None:
        """Read an integer and refuse any but ``wanted``."""
        found = self.integer()
        if found != wanted:
            self._fail(f"{what} is {found}, not {wanted}")

    def expect_text(self, wanted: str) -> None:
        """Read a string and refuse any but ``wanted``."""
        found = self.text()
        if found != wanted:
            self._fail(f"{found!r} where {wanted!r} belongs")

    def finish(self) -> None:
        """Refuse bytes that are left over."""
        left = len(self._data) - self._at
        if left:
            self._fail(f"{left} bytes follow after the network")

    def _expect_shape(self, shape: tuple[int, int, int, int]) -> None:
        found = tuple(self.integer() for _ in range(4))
        if found != shape:
            self._fail(f"a tensor of shape {found} where {shape} belongs")

    def _fail(self, message: str) -> NoReturn:
        raise DataError(f"not dlib's face network, at byte {self._at}: {message}", hint=_HINT)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer: its kind, the name dlib writes before its details, and what these must say."""

    kind: str
    tag: str = ""
    settings: tuple[int, ...] = ()
    shape: tuple[int, int, int, int] = field(default=(0, 0, 0, 0))


#: Layers that name or repeat an output of another; only their version is written.
_WIRING = frozenset({"tag", "skip"})


def _layers() -> list[_Layer]:
    """List the network's layers from the input to the output."""
    relu = _Layer("relu", "relu_")
    add = _Layer("add_prev", "add_prev_")
    # rows, columns, both strides, both paddings; 0 rows and columns are the whole picture
    halve = _Layer("pool", "avg_pool_2", (2, 2, 2, 2, 0, 0))

    def convolution(filters: int, channels: int, side: int, stride: int, padding: int) -> list[_Layer]:
        con = _Layer("con", "con_4", (stride, padding), (filters, channels, side, side))
        return [con, _Layer("affine", "affine_", shape=(1, filters, 1, 1))]

    layers = [*convolution(STEM_FILTERS, 3, 7, 2, 0), relu, _Layer("pool", "max_pool_2", (3, 3, 2, 2, 0, 0))]
    channels = STEM_FILTERS
    for filters, stride in BLOCKS:
        layers += [_Layer("tag"), *convolution(filters, channels, 3, stride, 1 if stride == 1 else 0), relu]
        layers += convolution(filters, filters, 3, 1, 1)
        if stride == 2:
            layers += [_Layer("tag"), _Layer("skip"), halve]
        layers += [add, relu]
        channels = filters
    layers += [_Layer("pool", "avg_pool_2", (0, 0, 1, 1, 0, 0)), _Layer("fc", "fc_2", shape=(channels, DIM, 1, 1))]
    return layers


def _read_head(reader: DlibReader, layers: list[_Layer]) -> F32:
    """Read the versions of all layers and the input layer; return the mean colour ``(3,)``."""
    reader.expect_int("the version of the loss layer", 1)
    reader.expect_text("loss_metric_2")
    for _ in range(2):  # margin and threshold of the loss
        reader.number()
    for layer in reversed(layers[1:]):
        reader.expect_int(f"the version of a layer {layer.kind}", 1 if layer.kind in _WIRING else 2)
    reader.expect_int("the version of the first layer", 3)
    reader.expect_text("input_rgb_image_sized")
    mean_rgb = np.array([reader.number() for _ in range(3)], np.float32)
    for axis in ("rows", "columns"):
        reader.expect_int(f"the input's {axis}", SIDE_PX)
    return mean_rgb


def _read_convolution(reader: DlibReader, layer: _Layer) -> tuple[F32, F32]:
    count, channels, rows, columns = layer.shape
    size = math.prod(layer.shape)
    params = reader.tensor((size + count, 1, 1, 1)).ravel()
    reader.expect_int("the number of filters", count)
    for what, wanted in (("rows", rows), ("columns", columns)):
        reader.expect_int(f"the filters' {what}", wanted)
    stride, padding = layer.settings
    for what, wanted in (("stride", stride), ("padding", padding)):
        for _ in range(2):
            reader.expect_int(f"a {what}", wanted)
    reader.view((count, channels, rows, columns))
    reader.view((1, count, 1, 1))
    for _ in range(4):  # multipliers of the training
        reader.number()
    return params[:size].reshape(layer.shape), params[size:]


def _read_affine(reader: DlibReader, layer: _Layer) -> tuple[F32, F32]:
    count = layer.shape[1]
    params = reader.tensor((2 * count, 1, 1, 1)).ravel()
    for _ in range(2):
        reader.view(layer.shape)
    reader.expect_int("the mode of an affine layer", 0)  # one pair for each channel
    return params[:count], params[count:]


def _read_projection(reader: DlibReader, layer: _Layer) -> F32:
    inputs, outputs = layer.shape[:2]
    reader.expect_int("the length of the embedding", outputs)
    reader.expect_int("the inputs of the last layer", inputs)
    params = reader.tensor(layer.shape)
    reader.view(layer.shape)
    reader.view((0, 0, 0, 0))
    reader.expect_int("the bias mode of the last layer", 1)  # without
    for _ in range(4):
        reader.number()
    return params[:, :, 0, 0]
