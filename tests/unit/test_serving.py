"""Requests that wait are one batch, bodies are read within bounds, and answers have the form of the SDK's classes."""

import asyncio
import base64
import contextlib
import json
import sys
import threading
from types import SimpleNamespace

import pytest

from trainer_classification.inference.predictor import Prediction
from trainer_classification.serving.answers import AnswerFormat
from trainer_classification.serving.batcher import Batcher

starlette = pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("python_multipart", reason="the extra `serve` is not installed")

from trainer_classification.extras import import_from_extra  # noqa: E402
from trainer_classification.serving.app import RequestLimits, Service, build_app  # noqa: E402

SECONDS = 20  # a hang is an error
NAMES = ("one", "two", "three")
MODEL = SimpleNamespace(
    name="resnet-small",
    class_names=NAMES,
    task="",
    dataset="tiny",
    image_size=28,
    fingerprint="f",
)
MAX_BYTES = 1000


class Recorder:
    """A function of a batcher that notes its batches, and waits in the first one until it may go on."""

    def __init__(self, may_go=True):
        self.batches = []
        self.started = threading.Event()
        self.may_go = threading.Event()
        if may_go:
            self.may_go.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.started.set()
        assert self.may_go.wait(SECONDS)
        return [self.answer(item) for item in items]

    def answer(self, item):
        return item * 2


class Classifier(Recorder):
    """Takes an "image" for the name of its class."""

    def answer(self, item):
        name = item.decode()
        return Prediction("", (name,), (0.5,), "", 30, 20) if name in NAMES else Prediction("", error="no name")


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, SECONDS))


@contextlib.contextmanager
def open_batcher(function, max_batch=64):
    batcher = Batcher(function, max_batch)
    try:
        yield batcher
    finally:
        getattr(function, "may_go", threading.Event()).set()
        batcher.close()


async def started(recorder):
    assert await asyncio.to_thread(recorder.started.wait, SECONDS)


async def submit_behind_a_call(batcher, recorder, count):
    """Let items 1 to `count` wait for the end of the call with item 0."""
    first = batcher.submit([0])
    await started(recorder)
    return first + [future for number in range(1, count + 1) for future in batcher.submit([number])]


@pytest.mark.parametrize(("max_batch", "batches"), [(64, [[0], [1, 2, 3, 4, 5]]), (2, [[0], [1, 2], [3, 4], [5]])])
def test_what_waits_is_one_batch_up_to_the_most(max_batch, batches):
    async def main():
        recorder = Recorder(may_go=False)
        with open_batcher(recorder, max_batch) as batcher:
            futures = await submit_behind_a_call(batcher, recorder, 5)
            recorder.may_go.set()
            assert [await future for future in futures] == [0, 2, 4, 6, 8, 10]
        assert recorder.batches == batches

    run(main())


def test_what_is_forgotten_is_not_computed():
    async def main():
        recorder = Recorder(may_go=False)
        with open_batcher(recorder) as batcher:
            futures = await submit_behind_a_call(batcher, recorder, 3)
            batcher.forget(futures[:1] + futures[2:3])  # one in work, one that waits
            recorder.may_go.set()
            assert [await future for future in (futures[1], futures[3])] == [2, 6]
            assert [future.cancelled() for future in futures] == [True, False, True, False]
        assert recorder.batches == [[0], [1, 3]]

    run(main())


def test_an_error_is_that_of_its_batch_alone():
    def halve(items):
        return [8 // item for item in items]

    async def main():
        with open_batcher(halve) as batcher:
            with pytest.raises(ZeroDivisionError):
                await batcher.submit([0])[0]
            assert await batcher.submit([2])[0] == 4

    run(main())


def test_closing_finishes_what_waits():
    async def main():
        recorder = Recorder(may_go=False)
        batcher = Batcher(recorder, max_batch=2)
        futures = await submit_behind_a_call(batcher, recorder, 4)
        recorder.may_go.set()
        await asyncio.to_thread(batcher.close)
        assert [await future for future in futures] == [0, 2, 4, 6, 8]

    run(main())


class Client:
    """Calls the application without a network.

    Args:
        chunks: of the body.
        ends: whether the body ends with them; else more is expected.
        leaves: whether the client leaves then; else it waits.
    """

    def __init__(self, chunks=(b"one",), ends=True, leaves=False, path="/invocations", method="POST", **headers):
        self.taken = 0  # chunks
        self.sent = []
        self.messages = self.list_messages(chunks, ends, leaves)
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        }

    def list_messages(self, chunks, ends, leaves):
        for chunk in chunks:
            self.taken += 1
            yield {"type": "http.request", "body": chunk, "more_body": True}
        if ends:
            yield {"type": "http.request", "body": b"", "more_body": False}
        if leaves:
            yield {"type": "http.disconnect"}

    async def receive(self):
        return next(self.messages, None) or await asyncio.Event().wait()

    async def send(self, message):
        self.sent.append(message)

    async def ask(self, app):
        """Status and JSON of the answer."""
        await app(self.scope, self.receive, self.send)
        return self.sent[0]["status"], json.loads(self.sent[1]["body"] or "null")


@contextlib.contextmanager
def open_app(classifier=None, **limits):
    with open_batcher(classifier or Classifier()) as batcher:
        yield build_app(
            Service(MODEL, batcher, RequestLimits(**({"max_bytes": MAX_BYTES, "max_requests": 4} | limits)))
        )


def ask(client, **limits):
    async def main():
        with open_app(**limits) as app:
            return await client.ask(app)

    return run(main())


def result(name):
    entry = {"class_name": name, "class_idx": NAMES.index(name), "confidence": 0.5, "ground_truth": False}
    entry |= {"task_name": "image_classification"}
    nothing = ("object_id", "created_at", "updated_at", "meta", "classifications")
    return {"predictions": [entry | dict.fromkeys(nothing)], "image": {"height": 20, "width": 30}}


def form(*files, name="file", kind='; filename="a.jpg"'):
    parts = [f'--B\r\nContent-Disposition: form-data; name="{name}"{kind}\r\n\r\n{text}\r\n' for text in files]
    return Client(["".join([*parts, "--B--\r\n"]).encode()], content_type="multipart/form-data; boundary=B")


def json_client(content):
    text = content if isinstance(content, str) else json.dumps(content)
    return Client([text.encode()], content_type="application/json; charset=utf-8")


def in_base64(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("client", "answer"),
    [
        (lambda: Client([b"t", b"wo"], content_type="image/jpeg"), result("two")),
        (lambda: Client(), result("one")),
        (lambda: form("three"), result("three")),
        (lambda: form("three", "one"), {"results": [result("three"), result("one")]}),
        (lambda: json_client({"image": in_base64("two")}), result("two")),
        (lambda: json_client({"image": "dH\ndv\r\n"}), result("two")),
        (lambda: json_client({"images": [in_base64("two")]}), {"results": [result("two")]}),
        (
            lambda: json_client({"images": [in_base64(name) for name in NAMES]}),
            {"results": [result(name) for name in NAMES]},
        ),
    ],
)
def test_every_kind_of_body_is_answered(client, answer):
    assert ask(client()) == (200, answer)


@pytest.mark.parametrize(
    ("client", "sentence"),
    [
        (lambda: Client([]), "The body is empty: send the bytes of an image file."),
        (lambda: Client([b"four"]), "The image cannot be classified: no name."),
        (lambda: form("one", "four", "one"), "Image 2 of 3 cannot be classified: no name."),
        (lambda: form("one", kind=""), "The form holds no file: send one file or several."),
        (
            lambda: Client([b"--C"], content_type="multipart/form-data; boundary=B"),
            "The form cannot be read: Invalid multipart data.",
        ),
        (lambda: json_client("{"), "The body is no JSON: Expecting"),
        (lambda: json_client("[" * 900), "The body is no JSON: "),
        (lambda: Client([b"\xff\xfe\xff"], content_type="application/json"), "The body is no JSON: 'utf-16"),
        (lambda: json_client([1]), "The JSON body must be an object with `image`"),
        (lambda: json_client({"images": []}), "The JSON body must be an object with `image`"),
        (lambda: json_client({"image": 3}), "Image 1 of the JSON body must be a text in base64, but is 3."),
        (lambda: json_client({"images": ["dHdv", "dHd"]}), "Image 2 of the JSON body is no base64: Incorrect padding."),
        (lambda: json_client({"image": "\ud800"}), "Image 1 of the JSON body is no base64: "),
    ],
)
def test_what_is_no_image_is_answered_with_a_sentence(client, sentence):
    status, answer = ask(client())
    assert status == 400
    assert answer["detail"].startswith(sentence)


def test_too_many_images_are_refused_before_they_are_decoded():
    client = json_client({"images": ["dHdv"] * 1001})
    assert ask(client, max_bytes=100_000) == (
        400,
        {"detail": "The body holds 1,001 images: send at most 1,000 at once."},
    )


def test_a_body_that_is_too_large_by_its_header_is_not_read():
    client = Client([b"x"], content_length="1000000000")
    assert ask(client) == (413, {"detail": "The body is larger than 1,000 bytes: send less at once."})
    assert client.taken == 0


@pytest.mark.parametrize("kind", ["image/png", "application/json", "multipart/form-data; boundary=B"])
def test_a_body_without_a_length_is_read_up_to_the_bound(kind):
    head = b'--B\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
    chunks = [head, *[b"x" * 100] * 1000] if kind.startswith("multipart") else [b"x" * 100] * 1000
    client = Client(chunks, content_type=kind)
    assert ask(client)[0] == 413
    assert client.taken <= 11


def test_a_body_that_does_not_arrive_in_time_is_given_up():
    client = Client([b"on"], ends=False)
    assert ask(client, body_seconds=0.01) == (408, {"detail": "The body did not arrive within 0.01 seconds."})


def test_more_requests_than_may_wait_are_sent_away_and_others_still_answered():
    async def main():
        classifier = Classifier(may_go=False)
        with open_app(classifier, max_requests=2) as app:
            waiting = [asyncio.ensure_future(Client().ask(app)) for _ in range(2)]
            await started(classifier)
            status, answer = await Client().ask(app)
            assert (status, answer["detail"]) == (503, "2 requests are waiting already: try again in a moment.")
            assert (await Client([], path="/ping", method="GET").ask(app))[0] == 200
            classifier.may_go.set()
            assert [await answer for answer in waiting] == [(200, result("one"))] * 2
            assert await Client().ask(app) == (200, result("one"))

    run(main())


@pytest.mark.parametrize("ends", [True, False])
def test_a_client_that_leaves_costs_no_computation_and_makes_room(ends):
    """While it waits for its answer, and in the middle of its body."""

    async def main():
        classifier = Classifier(may_go=False)
        with open_app(classifier, max_requests=2) as app:
            first = asyncio.ensure_future(Client().ask(app))
            await started(classifier)
            for _ in range(10):
                client = Client([b"two"], ends, leaves=True)
                await app(client.scope, client.receive, client.send)
            classifier.may_go.set()
            assert await first == (200, result("one"))
            assert await Client([b"three"]).ask(app) == (200, result("three"))
        assert classifier.batches == [[b"one"], [b"three"]]

    run(main())


@pytest.mark.parametrize(("request_line", "status"), [({"path": "/other"}, 404), ({"method": "GET"}, 405)])
def test_other_paths_and_methods_are_refused(request_line, status):
    async def main():
        client = Client(**request_line)
        with open_app() as app:
            await app(client.scope, client.receive, client.send)
        assert client.sent[0]["status"] == status

    run(main())


@pytest.mark.parametrize("task", ["", "animals"])
def test_answers_have_the_form_of_the_sdks_own_classes(task):
    from hafnia.dataset.benchmark.inference_model import ModelInfo
    from hafnia.dataset.primitives import Classification

    from trainer_classification.outputs.hafnia_predictions import make_task

    model = SimpleNamespace(**(vars(MODEL) | {"task": task}))
    format = AnswerFormat(model)
    described = format.describe_model()
    info = ModelInfo(
        name="resnet-small",
        description="Trained on tiny at 28 px.",
        meta={"fingerprint": "f"},
        tasks=[make_task(task or Classification.default_task_name(), NAMES)],
    )
    assert described == info.model_dump(mode="json")

    ranked = Prediction("", ("two", "one"), (0.75, 0.25), "", 30, 20)
    (answer,) = format.describe_results([ranked], is_list=True)["results"]
    primitives = [
        Classification(class_name=name, class_idx=index, confidence=confidence, ground_truth=False, task_name=task)
        for name, index, confidence in (("two", 1, 0.75), ("one", 0, 0.25))
    ]
    assert answer["predictions"] == [primitive.model_dump(mode="json") for primitive in primitives]


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ValueError, match="uvicorn is not installed: install this package's extra `serve`"):
        import_from_extra("uvicorn", "serve")
