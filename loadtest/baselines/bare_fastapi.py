"""What one would write without this project: FastAPI, Pillow, ONNX Runtime, the full network and nothing
else.

One process, one thread, no deadline, no batching, no queue. `python -m loadtest.baselines.bare_fastapi`.
"""

import argparse
import io
import json
import os
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


def build_app(folder: Path) -> FastAPI:
    """An app that serves the last rung, the full net, of a model version's folder."""
    manifest = json.loads((folder / "manifest.json").read_text())
    height, width, labels = manifest["input"]["height"], manifest["input"]["width"], manifest["labels"]
    last = manifest["stages"][-1]
    session = open_session(folder / last["file"])
    name = session.get_inputs()[0].name
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/classify")
    async def classify(request: Request) -> dict[str, Any]:
        with Image.open(io.BytesIO(await request.body())) as image:
            fitted = image.convert("RGB").resize((width, height))
            pixels = np.asarray(fitted, dtype=np.uint8)[None]
        logits = session.run(None, {name: pixels})[0][0]
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
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cpu})
    app = build_app(newest_version(options.models_dir, options.model))
    uvicorn.run(app, host="127.0.0.1", port=options.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
