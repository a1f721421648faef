"""Graphs from elsewhere, built in milliseconds: float or uint8, NCHW or NHWC, that tell bright colours apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]


def colour_graph(
    channels: int = 4,
    *,
    layout: str = "nchw",
    kind: int = TensorProto.FLOAT,
    batch: str | int = "n",
    size: int | str = 8,
    classes: int = 3,
    softmax: bool = False,
    noise: float = 0.0,
) -> bytes:
    """Convolution, mean over the image, linear layer: logits follow the mean of each channel.

    More `channels` cost more; `noise` makes it err.
    """
    random = np.random.default_rng(channels)
    kernel = np.zeros((channels, 3, 3, 3), np.float32)
    for channel in range(channels):
        kernel[channel, channel % 3, 1, 1] = 1.0
    mix = np.zeros((channels, classes), np.float32)
    for channel in range(channels):
        mix[channel, channel % 3 % classes] = 12.0 / channels
    mix += random.normal(0, noise, mix.shape).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["c", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "mix"], ["y"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["y"], ["p"], axis=1))
    given = "x"
    if layout == "nhwc":
        nodes.insert(0, helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]))
        given = "f"
    if kind != TensorProto.FLOAT:
        nodes.insert(0, helper.make_node("Cast", ["i"], [given], to=TensorProto.FLOAT))
        given = "i"
    shape = [batch, 3, size, size] if layout == "nchw" else [batch, size, size, 3]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info(given, kind, shape)],
        [helper.make_tensor_value_info("p" if softmax else "y", TensorProto.FLOAT, [batch, classes])],
        [
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(mix, "mix"),
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    return model.SerializeToString()


def colour_images(folder: Path, each: int = 20) -> Path:
    """An ImageFolder of noisy patches of colour, 8 x 8."""
    random = np.random.default_rng(5)
    for label, colour in COLOURS.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = np.clip(random.normal(colour, 60, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder
