"""What one would write without this project: FastAPI, Pillow, ONNX Runtime, the full network and nothing
else.

One process, one thread, no deadline, no batching, no queue. `python -m loadtest.baselines.bare_fastapi`.
"""

import argparse
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image


def open_session(graph: Path) -> ort.InferenceSession:
    """The graph on one CPU thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])


def build_app(folder: Path, *, null: bool = False) -> FastAPI:
    """An app that serves the last rung, the full net, of a model version's folder.

    `null`: instead of running it, every image gets the same logits: what is left is a plain route's own work.
    """
    manifest = json.loads((folder / "manifest.json").read_text())
    height, width, labels = manifest["input"]["height"], manifest["input"]["width"], manifest["labels"]
    last = manifest["stages"][-1]
    run = _constant(len(labels)) if null else _graph(folder / last["file"])
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, Any]:
        with Image.open(io.BytesIO(await request.body())) as image:
            fitted = image.convert("RGB").resize((width, height))
            pixels = np.asarray(fitted, dtype=np.uint8)[None]
        logits = run(pixels)
        shares = np.exp(logits - logits.max())
        index = int(shares.argmax())
        # The last two fields are ours, constant, so that one reader suffices for both servers.
        return {
            "label": labels[index],
            "index": index,
            "probability": float(shares[index] / shares.sum()),
            "stages_run": [last["name"]],
            "stage": {"name": last["name"]},
        }

    return app


def _graph(path: Path) -> Callable[[Any], Any]:
    session = open_session(path)
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0][0]


def _constant(classes: int) -> Callable[[Any], Any]:
    logits = np.zeros(classes, np.float32)
    return lambda _pixels: logits


def newest_version(models_dir: Path, model: str) -> Path:
    """Folder of the model's highest version. Raises ValueError where there is none."""
    versions = [path for path in (models_dir / model).glob("*") if path.name.isdigit()]
    return max(versions, key=lambda path: int(path.name))


def main() -> None:
    """Command line of the baseline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models-dir", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cpu", type=int, default=0)
    parser.add_argument("--null", action="store_true", help="run no network")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cpu})
    app = build_app(newest_version(options.models_dir, options.model), null=options.null)
    uvicorn.run(app, host="127.0.0.1", port=options.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
