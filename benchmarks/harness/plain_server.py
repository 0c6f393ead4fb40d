"""A server as a script of the usual kind has it, without a batch: python plain_server.py inline|threads MODEL

The image is decoded and resized by Pillow, and the network runs on a batch of one:
`inline` in the event loop, one request after the other; `threads` in Starlette's
pool of threads, as an endpoint without `async` does.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trainer_classification.checkpoint.load_model import Model, load_model

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def make_predict(model: Model) -> Callable[[bytes], dict[str, Any]]:
    """Return a function that classifies one image file."""
    side = model.image_size
    mode = "L" if model.channels == 1 else "RGB"
    mean = torch.tensor(model.mean).view(-1, 1, 1)
    std = torch.tensor(model.std).view(-1, 1, 1)

    def predict(data: bytes) -> dict[str, Any]:
        image = Image.open(io.BytesIO(data)).convert(mode)
        if image.size != (side, side):
            image = image.resize((side, side), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).view(side, side, -1).permute(2, 0, 1)
        with torch.inference_mode():
            batch = ((pixels / 255 - mean) / std)[None]
            probabilities = model.network(batch).softmax(1)[0]
        confidence, index = probabilities.max(0)
        return {"class": model.class_names[int(index)], "confidence": float(confidence)}

    return predict


def make_endpoint(predict: Callable[[bytes], dict[str, Any]], kind: str) -> Endpoint:
    """Return the endpoint that predicts one by one."""

    async def inline(request: Request) -> Response:
        return JSONResponse(predict(await request.body()))

    async def in_threads(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(predict, await request.body()))

    return inline if kind == "inline" else in_threads


class _Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        print(f"Serving at http://{host}:{port}", file=sys.stderr, flush=True)


def main(kind: str, path: str) -> None:
    """Serve a model at a free port of this machine."""
    endpoint = make_endpoint(make_predict(load_model(path)), kind)
    app = Starlette(routes=[Route("/invocations", endpoint, methods=["POST"])])
    # As serve.py has it: without a log of requests.
    config = uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off")
    asyncio.run(_Server(config).serve())


if __name__ == "__main__":
    main(*sys.argv[1:])
