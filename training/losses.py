"""What one training step minimises: the losses of the drawn subnetworks on one mini-batch.

Knows roles (labels, teacher, student) and private batch norms; must not know the optimiser or where images come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from model_repo.fractalnet import FractalNet, stages
from training.drop_path import Draw
from training.evaluate import norms_of

Teacher = Callable[[Tensor], Tensor]
"""Normalised images [n, c, h, w] -> logits [n, classes], without gradients."""


class PrivateNorms(nn.Module):
    """Batch norms that belong to one stage each: scale, shift and running statistics of every norm it passes.

    The last stage, the full net, uses the net's own.
    """

    def __init__(self, net: FractalNet) -> None:
        super().__init__()
        self._names: dict[str, dict[str, str]] = {}
        *others, _last = stages(net.config).items()
        for stage, subnetwork in others:
            self._names[stage] = {}
            for name, norm in norms_of(net, subnetwork).items():
                self._adopt(stage, name, norm)

    def _adopt(self, stage: str, name: str, norm: nn.BatchNorm2d) -> None:
        for key, tensor in (*norm.named_parameters(), *norm.named_buffers()):
            own = f"{stage}/{name}/{key}".replace(".", "/")
            self._names[stage][f"{name}.{key}"] = own
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(own, nn.Parameter(tensor.detach().clone()))
            else:
                self.register_buffer(own, tensor.clone())

    def tensors(self, stage: str) -> dict[str, Tensor]:
        """A stage's own tensors by their name in the net; none for the full net."""
        return {name: getattr(self, own) for name, own in self._names.get(stage, {}).items()}

    def weights(self, stage: str) -> dict[str, Tensor]:
        """Scale and shift alone, as copies: what the stage keeps when its statistics are estimated anew."""
        own = self.tensors(stage)
        return {n: t.detach().cpu().clone() for n, t in own.items() if isinstance(t, nn.Parameter)}


class StepLosses(nn.Module):
    """A net with what its training step needs.

    Attributes:
        private: batch norms per stage, or None where all share the net's.
        teacher: answers for the students where no drawn subnetwork teaches.
    """

    def __init__(self, net: FractalNet, private: PrivateNorms | None, label_smoothing: float) -> None:
        super().__init__()
        self.net, self.private = net, private
        self.label_smoothing = label_smoothing
        self.teacher: Teacher | None = None

    def each(self, images: Tensor, labels: Tensor, draws: Sequence[Draw]) -> Iterator[tuple[Draw, Tensor]]:
        """Every draw with its mean loss, not yet weighted; the caller may go backward between two.

        Args:
            images: normalised, float32 [n, c, h, w].
            labels: int64 [n].
            draws: a teacher stands before its students.
        """
        soft: Tensor | None = None
        for draw in draws:
            logits = self.answers(images, draw)
            if draw.role == "student":
                if soft is None:
                    soft = self._taught(images)
                yield draw, F.cross_entropy(logits, soft)
                continue
            if draw.role == "teacher":
                soft = logits.detach().float().softmax(1)
            yield draw, F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def forward(self, images: Tensor, labels: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, list[Tensor]]:
        """The weighted sum of all losses, for one way back, and every draw's own."""
        found = list(self.each(images, labels, draws))
        total = torch.stack([draw.weight * loss for draw, loss in found]).sum()
        return total, [loss.detach() for _, loss in found]

    def answers(self, images: Tensor, draw: Draw) -> Tensor:
        """Logits [n, classes] of a draw, with the batch norms of its mode."""
        own = self.private.tensors(draw.mode) if self.private else {}
        if not own:
            return self.net(images, draw.subnetwork)  # type: ignore[no-any-return]
        return functional_call(self.net, own, (images, draw.subnetwork))  # type: ignore[no-any-return]

    def _taught(self, images: Tensor) -> Tensor:
        if self.teacher is None:
            raise ValueError("a student was drawn and there is no teacher")
        with torch.no_grad():
            return self.teacher(images).float().softmax(1)
