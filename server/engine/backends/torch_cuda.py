"""torch on an NVIDIA GPU, for where there is no TensorRT: folded, fp16, channels_last, one CUDA graph per batch size.

Knows torch; the net is read back from the stage's graph by model_repo.stored_net. Only stages of FractalNets can be: a
graph from elsewhere needs another runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from model_repo.repository import PublishedModel
from model_repo.stored_net import NotAFractalNet, StoredStage, read
from server.engine.backends.protocol import BackendUnusable, DeviceLost, StageRunner, StageUnusable
from server.engine.latency import buckets_up_to
from server.engine.padded import FixedBatch, PaddedStage

logger = logging.getLogger(__name__)

WARM_UPS = 3


class TorchCuda:
    """torch on the first GPU.

    Args:
        device: `cuda`; tests of a machine without a GPU say `cpu`, where the same is done in fp32 and without graphs.

    Raises:
        BackendUnusable: there is no GPU, or torch was built without CUDA.
    """

    name = "torch-cuda"

    def __init__(self, device: str = "cuda") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            built = torch.version.cuda
            why = "CUDA shows no usable GPU" if built else "this torch was built without CUDA"
            raise BackendUnusable(f"torch {torch.__version__}: {why}")
        self._device = torch.device(device)
        self._on_gpu = self._device.type == "cuda"
        self._dtype = torch.float16 if self._on_gpu else torch.float32
        self.device = torch.cuda.get_device_name(0) if self._on_gpu else "CPU"
        self._pool = torch.cuda.graph_pool_handle() if self._on_gpu else None
        torch.backends.cudnn.benchmark = (
            True  # shapes are fixed: the fastest algorithm of each is looked for once
        )

    def load_stage(self, model: PublishedModel, place: int, max_batch: int) -> StageRunner:
        """See the protocol; algorithms are tried and graphs captured here."""
        stage = model.manifest.stages[place]
        try:
            net = read(model.read(stage)).requires_grad_(False)
        except NotAFractalNet as error:
            raise StageUnusable(f"torch-cuda runs stages of FractalNets only: {error}") from error
        shape = (*model.image_size, 3)
        try:
            net.to(self._device)
            net.net.to(self._dtype)
            net.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing from torch's types
            # The largest first: the smaller ones fit into the memory that its graph leaves.
            sizes = buckets_up_to(max_batch)[::-1]
            # A captured graph has the addresses of the weights and does not keep them: the stage must.
            shared = [net]
            return PaddedStage([self._batch(net, (size, *shape)) for size in sizes], shared.clear)
        except torch.OutOfMemoryError as error:
            raise StageUnusable(f"out of memory: {_first_line(error)}") from error
        except RuntimeError as error:
            raise StageUnusable(_first_line(error)) from error

    def describe(self) -> dict[str, str]:
        """See the protocol."""
        return {
            "runtime": self.name,
            "version": torch.__version__,
            "cuda": str(torch.version.cuda),
            "gpu": self.device,
            "precision": str(self._dtype).removeprefix("torch."),
        }

    def _batch(self, net: StoredStage, shape: tuple[int, ...]) -> FixedBatch:
        pixels = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._on_gpu)
        logits = torch.zeros((shape[0], net.head.out_features), pin_memory=self._on_gpu)

        @torch.inference_mode()
        def work() -> None:
            logits.copy_(net(pixels.to(self._device, non_blocking=True)), non_blocking=True)

        launch, close = self._captured(work) if self._on_gpu else (work, lambda: None)
        return FixedBatch(pixels.numpy(), logits.numpy(), launch, close)

    def _captured(self, work: Callable[[], None]) -> tuple[Callable[[], None], Callable[[], None]]:
        """(What launches the work as one graph and waits, what frees it)."""
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):  # algorithms are chosen and memory is taken, which a capture must not
                work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            work()

        def replay() -> None:
            try:
                with torch.cuda.stream(stream):
                    graph.replay()
                stream.synchronize()
            except torch.AcceleratorError as error:
                raise DeviceLost(_first_line(error)) from error

        replay()
        return replay, graph.reset


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
