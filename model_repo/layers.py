"""Layers: what stands where the paper has conv → batch norm → ReLU, and the projections around it.

Knows single layers; must not know how a net is put together. `LAYERS` names the kinds that a description of a net may
ask for, so that a checkpoint can be opened without running code of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

LayerFactory = Callable[[int, int, float], nn.Module]
"""(input channels, output channels, dropout probability) -> a module that keeps height and width."""


class ConvLayer(nn.Module):
    """3x3 convolution → (dropout) → batch norm → ReLU (section 3.3): the layer of the paper's nets.

    The convolution has no bias, since batch norm has one. Weights are Caffe's Xavier (uniform, fan-in only), as the
    authors used. `kernel` is odd; height and width are kept by zero padding, or divided by `stride`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        dropout: float = 0.0,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.relu = relu
        xavier_fan_in(self.conv.weight)

    def forward(self, z: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h / stride, w / stride]."""
        normed: Tensor = self.norm(self.dropout(self.conv(z)))
        return F.relu(normed) if self.relu else normed


class SeparableLayer(nn.Module):
    """A depthwise 3x3 convolution, then a 1x1 one, each with batch norm and ReLU: the example of another layer.

    It has about a ninth of a convolution's parameters and multiply-adds. Dropout stands in the second half, as in
    ConvLayer.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = ConvLayer(inputs, inputs, groups=inputs)
        self.pointwise = ConvLayer(inputs, outputs, dropout, kernel=1)

    def forward(self, z: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, outputs, h, w]."""
        return self.pointwise(self.depthwise(z))  # type: ignore[no-any-return]


LAYERS: dict[str, LayerFactory] = {"conv": ConvLayer, "separable": SeparableLayer}


def projection(inputs: int, outputs: int) -> nn.Conv2d:
    """A linear 1x1 map that widens a thin column before a join: no batch norm, no bias, no ReLU (section 4.1)."""
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    xavier_fan_in(conv.weight)
    return conv


class ImageNetStem(nn.Module):
    """ResNet-34's first layer: 7x7 convolution with stride 2 to 64 channels, then a 3x3 max-pool with stride 2."""

    outputs = 64
    reduction = 4

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layer = ConvLayer(inputs, self.outputs, kernel=7, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        """[n, inputs, h, w] -> [n, 64, h / 4, w / 4]."""
        return F.max_pool2d(self.layer(images), 3, stride=2, padding=1)


def xavier_fan_in(weight: Tensor) -> None:
    """Fill in place: uniform in ±sqrt(3 / fan-in), Caffe's reading of Xavier."""
    bound = (3.0 / weight[0].numel()) ** 0.5
    nn.init.uniform_(weight, -bound, bound)
