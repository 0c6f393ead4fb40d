"""Answer the requests of Hafnia's inference container: `GET /ping`, `GET /model-info`, `POST /invocations`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from trainer_classification.checkpoint.load_model import Model
from trainer_classification.inference.predictor import Prediction
from trainer_classification.serving.answers import AnswerFormat
from trainer_classification.serving.batcher import Batcher
from trainer_classification.serving.images import read_images

ImageBatcher = Batcher[bytes, Prediction]

_BODY_SECONDS = 60.0
_NOBODY_READS = Response()


@dataclass(frozen=True)
class RequestLimits:
    """What a server takes on.

    Attributes:
        max_bytes: of one body.
        max_requests: that are read or wait for their answer at the same time.
        body_seconds: in which a body has to arrive.
    """

    max_bytes: int
    max_requests: int
    body_seconds: float = _BODY_SECONDS


class Service:
    """The endpoints of a model.

    Args:
        model: that answers.
        batcher: classifies image files.
        limits: what is taken on.
    """

    def __init__(self, model: Model, batcher: ImageBatcher, limits: RequestLimits) -> None:
        self._format = AnswerFormat(model)
        self._batcher = batcher
        self._limits = limits
        self._active = 0

    async def ping(self, _: Request) -> Response:
        """Say that the model is loaded."""
        return _respond({"status": "ok"})

    async def model_info(self, _: Request) -> Response:
        """Describe the model."""
        return _respond(self._format.describe_model())

    async def invocations(self, request: Request) -> Response:
        """Classify the images of a request.

        Raises:
            HTTPException: the request cannot be answered; the text is the reason.
        """
        try:
            with self._take_on():
                async with asyncio.timeout(self._limits.body_seconds):
                    images, is_list = await read_images(request, self._limits.max_bytes)
                predictions = await self._classify(request, images)
        except ClientDisconnect:
            return _NOBODY_READS
        except TimeoutError:
            raise HTTPException(
                408, f"The body did not arrive within {self._limits.body_seconds:g} seconds."
            ) from None
        except asyncio.CancelledError:
            raise HTTPException(503, "The server is stopping: try again later.") from None

        _refuse_bad_images(predictions)
        return _respond(self._format.describe_results(predictions, is_list))

    @contextmanager
    def _take_on(self) -> Iterator[None]:
        """Count a request among those that are worked on, and refuse it where these are too many."""
        if self._active >= self._limits.max_requests:
            raise HTTPException(
                503, f"{self._active} requests are waiting already: try again in a moment."
            )
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    async def _classify(self, request: Request, images: Sequence[bytes]) -> list[Prediction]:
        """Return the predictions of image files, unless the client leaves before.

        Raises:
            ClientDisconnect: it has left; images that still wait are dropped.
        """
        futures = self._batcher.submit(images)
        leaving = asyncio.ensure_future(_wait_for_leaving(request))
        leaving.add_done_callback(lambda _: self._batcher.forget(futures))
        try:
            return [await future for future in futures]
        except asyncio.CancelledError:
            if leaving.done():
                raise ClientDisconnect from None
            raise
        finally:
            self._batcher.forget(futures)
            leaving.cancel()


def build_app(service: Service) -> ASGIApp:
    """Return the ASGI application of a service; its errors are JSON, with a sentence as `detail`."""
    return Router(
        [
            Route("/ping", _Endpoint(service.ping), methods=["GET"]),
            Route("/model-info", _Endpoint(service.model_info), methods=["GET"]),
            Route("/invocations", _Endpoint(service.invocations), methods=["POST"]),
        ]
    )


@dataclass(frozen=True)
class _Endpoint:
    """The ASGI application of one handler.

    An application of Starlette's would wrap it in two layers of middleware, which
    take a quarter of what a request costs beside its image.
    """

    handler: Callable[[Request], Coroutine[Any, Any, Response]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            response = await self.handler(Request(scope, receive))
        except HTTPException as error:
            response = _respond({"detail": error.detail}, error.status_code)
        await response(scope, receive, send)


async def _wait_for_leaving(request: Request) -> None:
    """Wait until the client of a request, whose body has been read, is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refuse_bad_images(predictions: Sequence[Prediction]) -> None:
    """Raise HTTPException for the first image that could not be classified."""
    for number, prediction in enumerate(predictions, 1):
        if prediction.error:
            which = (
                "The image" if len(predictions) == 1 else f"Image {number} of {len(predictions)}"
            )
            raise HTTPException(400, f"{which} cannot be classified: {prediction.error}.")


def _respond(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content), status, media_type="application/json")
