"""Run `serve.py`: load the model, warm it up, and answer requests until a signal comes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from trainer_classification.checkpoint.load_model import Model, load_model
from trainer_classification.config import ServeConfig
from trainer_classification.console import log
from trainer_classification.environment import in_cloud
from trainer_classification.extras import import_from_extra
from trainer_classification.inference.command import newest_run
from trainer_classification.inference.predictor import Prediction, Predictor

_EXTRA = ("starlette", "uvicorn", "python_multipart")
_EVERYWHERE = "0.0.0.0"
_THIS_MACHINE = "127.0.0.1"
_BYTES_PER_MB = 1_000_000


def run_server(config: ServeConfig) -> None:
    """Serve the model that the options name.

    Raises:
        ValueError: the extra `serve` is not installed, or there is no such model,
            address or device.
    """
    for name in _EXTRA:
        import_from_extra(name, "serve")
    from trainer_classification.serving.app import RequestLimits, Service, build_app
    from trainer_classification.serving.batcher import Batcher
    from trainer_classification.serving.server import open_socket, serve, url_of

    with open_socket(_choose_host(config), config.port) as listener:
        model = load_model(config.model or newest_run())
        predictor = Predictor(model, config.device, threads=config.workers, amp=config.amp)
        _warm_up(predictor)

        def classify(images: Sequence[bytes]) -> list[Prediction]:
            return list(predictor.predict(images, config.top_k))

        def announce() -> None:
            log(f"Serving {_describe(model)} at {url_of(listener)}")

        batcher = Batcher(classify, config.max_batch or _choose_max_batch(predictor))
        limits = RequestLimits(config.max_body * _BYTES_PER_MB, config.max_waiting)
        try:
            serve(build_app(Service(model, batcher, limits)), listener, announce)
        finally:
            batcher.close()


def _choose_host(config: ServeConfig) -> str:
    """Return the address to listen at: that of a container has to be reached from outside."""
    return config.host or (_EVERYWHERE if in_cloud() else _THIS_MACHINE)


def _choose_max_batch(predictor: Predictor) -> int:
    """Return what fills the predictor's threads on a CPU, or a GPU: while it is classified, others arrive."""
    threads = predictor.threads if predictor.device.type == "cpu" else 1
    return predictor.batch_size * threads


def _warm_up(predictor: Predictor) -> None:
    """Classify JPEGs in all threads, so that the first client does not wait for compilers and libraries."""
    from PIL import Image

    side = 2 * predictor.model.array_size
    mode = "L" if predictor.model.channels == 1 else "RGB"
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).convert(mode).save(file, "JPEG")
    list(predictor.predict([file.getvalue()] * 2 * predictor.threads))


def _describe(model: Model) -> str:
    return f"{model.name} with {len(model.class_names)} classes ({model.source})"
