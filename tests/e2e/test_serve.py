"""`serve.py` answers real clients as predict.py does, whatever others send or how they leave, and ends cleanly."""

import base64
import contextlib
import http.client
import importlib.util
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from helpers import encoded, meta_of, noise, photograph
from runner import ROOT
from trainer_classification import cli, models
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.config import ServeConfig
from trainer_classification.inference.predictor import Predictor
from trainer_classification.serving.command import run_server

MISSING = [name for name in ("starlette", "uvicorn", "python_multipart") if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the extra `serve` is not installed: {', '.join(MISSING)}")

CONNECTIONS = 64
SECONDS = 60  # a hang is an error
CLASSES = ["cat", "dög", "0 - zero", 'a "quoted", name']
# Of a confidence: the network's sums depend on the size of its batch.
TOLERANCE = 1e-5
HEAVY = ["numba", "hafnia", "polars", "pyarrow", "matplotlib", "jinja2", "rich", "torchvision", "torch._dynamo"]

PROGRAM = """
import runpy, sys
script, names, *sys.argv[1:] = sys.argv[1:]
from trainer_classification import cli

def look(code):
    print([name for name in names.split(",") if name in sys.modules], flush=True)
    sys.exit(code)

cli.leave = look
sys.path.insert(0, script)
runpy.run_path(script + "/serve.py", run_name="__main__")
"""


def write_model(path, **about):
    """Write a model.pth of random weights, which sees images at 32 px."""
    torch.manual_seed(0)
    network = models.build("resnet-small", len(CLASSES), 3, 32)
    about |= {"temperature": 0.01, "task": "animals"}
    checkpoint.save(
        path, {"model": network.state_dict()}, meta_of("resnet-small", CLASSES, image_size=32, width=0, **about)
    )
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """For photos that are resized to 40 px."""
    return write_model(tmp_path_factory.mktemp("serve") / "model.pth", resized=True, array_size=40)


@pytest.fixture(scope="module")
def quick_model(tmp_path_factory):
    """For images that keep their size, without kernels to load."""
    return write_model(tmp_path_factory.mktemp("quick") / "model.pth", resized=False, array_size=32)


class Server:
    """`serve.py` in a process of its own, at a port that the system has chosen."""

    def __init__(self, model: Path, *options: str) -> None:
        script = ["-c", PROGRAM, str(ROOT / "scripts"), ",".join(HEAVY)]
        options = ("--model", str(model), "--port", "0", "--device", "cpu", *options)
        self.process = subprocess.Popen(
            [sys.executable, *script, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("Serving "):
                break
        url = urlsplit("".join(self.said).rpartition(" at ")[2].strip())
        assert url.port, "".join(self.said)
        self.address = (url.hostname, url.port)

    def wait(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, error = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, out, error

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=SECONDS)

    def ask(self, *request, **more) -> tuple[int, dict]:
        """Status and JSON of one request on a connection of its own."""
        with contextlib.closing(self.connect()) as connection:
            return ask(connection, *request, **more)

    def memory(self) -> float:
        """Resident megabytes."""
        (line,) = [
            line
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        ]
        return int(line.split()[1]) / 1000


def ask(connection, *request, **more):
    connection.request(*(request or ("GET", "/ping")), **more)
    response = connection.getresponse()
    return response.status, json.load(response)


@contextlib.contextmanager
def open_server(*arguments):
    server = Server(*arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def server(model):
    with open_server(model, "--max-body", "2", "--top-k", "2") as server:
        yield server


@pytest.fixture(scope="module")
def photos():
    """128 files of several kinds and sizes."""
    kinds = ("JPEG", "PNG")
    return [encoded(photograph(number, 30 + number, 130 - number // 2), kinds[number % 2]) for number in range(128)]


@pytest.fixture(scope="module")
def expected(model, photos):
    """What predict says of them: class names and confidences."""
    predictions = Predictor(load_model(model), "cpu").predict(photos, top_k=2)
    return [(prediction.classes, pytest.approx(prediction.confidences, abs=TOLERANCE)) for prediction in predictions]


def ranking(result):
    """Class names and confidences of an answer."""
    entries = result["predictions"]
    return tuple(entry["class_name"] for entry in entries), tuple(entry["confidence"] for entry in entries)


def multipart(files):
    head = b'Content-Disposition: form-data; name="file"; filename="photo.jpg"'
    return b"".join(b"--B\r\n" + head + b"\r\n\r\n" + file + b"\r\n" for file in files) + b"--B--\r\n"


def test_64_connections_at_once_get_what_predict_says(server, photos, expected):
    """Two requests each, one after the other on one connection; raw, as forms and as JSON."""

    def talk(number):
        with contextlib.closing(server.connect()) as connection:
            return [ask_for(connection, index) for index in (number, number + CONNECTIONS)]

    def ask_for(connection, index):
        photo = photos[index]
        text = base64.b64encode(photo).decode()
        bodies = [
            (photo, "image/jpeg"),
            (multipart([photo]), "multipart/form-data; boundary=B"),
            (json.dumps({"image": text}), "application/json"),
        ]
        body, kind = bodies[index % 3]
        return ask(connection, "POST", "/invocations", body, {"Content-Type": kind})

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        answers = list(pool.map(talk, range(CONNECTIONS)))
    for number in range(CONNECTIONS):
        for (status, result), index in zip(answers[number], (number, number + CONNECTIONS), strict=True):
            assert status == 200, result
            assert ranking(result) == expected[index]
            assert result["image"] == {"height": 30 + index, "width": 130 - index // 2}


def test_many_images_of_one_request_are_results_in_order(server, photos, expected):
    texts = [base64.b64encode(photo).decode() for photo in photos]
    json_kind = {"Content-Type": "application/json"}
    form_kind = {"Content-Type": "multipart/form-data; boundary=B"}
    for body, kind in ((json.dumps({"images": texts}), json_kind), (multipart(photos), form_kind)):
        status, answer = server.ask("POST", "/invocations", body, kind)
        assert status == 200
        assert [ranking(result) for result in answer["results"]] == expected


COMMANDS = re.findall(r"^curl .*", (ROOT / "docs/serving.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_requests_of_the_docs_are_answered(server, photos, expected, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(photos[0])
    (tmp_path / "other.png").write_bytes(photos[1])
    assert len(COMMANDS) == 6
    for command in COMMANDS:
        here = command.replace("127.0.0.1:8080", "{}:{}".format(*server.address))
        done = subprocess.run(["bash", "-c", f"{here} --silent --fail"], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, f"{here}: {done.stdout.decode()}"
        answer = json.loads(done.stdout)
        results = answer.get("results", [answer]) if "invocations" in here else []
        assert [ranking(result) for result in results] == expected[: len(results)]


def test_the_model_is_described_without_a_path_of_the_machine(server, model):
    status, info = server.ask("GET", "/model-info")
    assert status == 200
    assert (info["name"], info["tasks"][0]["name"]) == ("resnet-small", "animals")
    assert [entry["name"] for entry in info["tasks"][0]["classes"]] == CLASSES
    assert str(model.parent) not in json.dumps(info)


def test_a_broken_image_is_400_with_the_reason_and_the_connection_goes_on(server, photos, expected):
    bomb = bytearray(encoded(noise(0)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height of the header, then its checksum
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    cases = {
        photos[1][:-30]: "The image cannot be classified: cannot be decoded: ",
        b"no image": "The image cannot be classified: not an image of a known format.",
        b"\0\0\0\x18ftypheic" + bytes(99): "The image cannot be classified: a .heic file, which cannot be read here: ",
        bytes(bomb): "The image cannot be classified: more than 89478485 pixels",
    }
    with contextlib.closing(server.connect()) as connection:
        for body, reason in cases.items():
            status, answer = ask(connection, "POST", "/invocations", body)
            assert status == 400
            assert answer["detail"].startswith(reason)
        assert ranking(ask(connection, "POST", "/invocations", photos[0])[1]) == expected[0]


def test_a_gigabyte_by_its_header_is_refused_before_it_is_sent(server):
    before = server.memory()
    with contextlib.closing(server.connect()) as connection:
        connection.putrequest("POST", "/invocations")
        connection.putheader("Content-Length", str(10**9))
        connection.endheaders()
        response = connection.getresponse()
        assert (response.status, "larger than 2,000,000 bytes" in json.load(response)["detail"]) == (413, True)
    assert server.memory() - before < 10


def test_a_body_in_chunks_is_refused_when_it_gets_too_large(server):
    def endless():
        for _ in range(100):
            yield bytes(100_000)

    before = server.memory()
    with contextlib.closing(server.connect()) as connection:
        status, _ = ask(connection, "POST", "/invocations", endless(), encode_chunked=True)
    assert status == 413
    assert server.memory() - before < 20


def leave(server, body, length):
    """Send a request with a part of its body, and go."""
    with socket.create_connection(server.address, SECONDS) as client:
        client.sendall(b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + body)


def test_64_clients_that_leave_in_the_middle_cost_nothing(server, photos, expected):
    """In the middle of their bodies of 1.5 MB, and while they wait for their answers."""

    def round_of_leavers():
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda _: leave(server, bytes(1_000_000), 1_500_000), range(CONNECTIONS)))
            list(pool.map(lambda photo: leave(server, photo, len(photo)), photos[:CONNECTIONS]))
        until = time.monotonic() + SECONDS
        status = 503
        while status == 503:  # what they sent is still being read
            assert time.monotonic() < until
            status, answer = server.ask("POST", "/invocations", photos[5])
        assert (status, ranking(answer)) == (200, expected[5])
        return server.memory()

    rounds = [round_of_leavers() for _ in range(6)]
    # Each has sent 64 MB. What threads have once had they keep and use again, so some rounds add a few MB at first.
    assert rounds[-1] - rounds[1] < 64, f"MB after each round: {rounds}"


@pytest.mark.parametrize(
    "options", [["--port", "PORT"], ["--host", "203.0.113.1"], ["--model", "gone.pth", "--port", "0"]]
)
def test_errors_of_the_user_are_one_line(server, capsys, options):
    options = [option.replace("PORT", str(server.address[1])) for option in options]
    assert cli.run(ServeConfig, run_server, ["--device", "cpu", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert options[1] in line


def test_a_signal_ends_it_after_the_accepted_requests_without_heavy_modules(quick_model, photos):
    """A request whose body is half sent is finished; new clients are refused meanwhile."""
    (expected,) = Predictor(load_model(quick_model), "cpu").predict(photos[:1])
    with open_server(quick_model) as server, contextlib.closing(server.connect()) as connection:
        assert server.ask() == (200, {"status": "ok"})
        photo = photos[0]
        connection.putrequest("POST", "/invocations")
        connection.putheader("Content-Length", str(len(photo)))
        connection.endheaders(photo[:100])
        server.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + SECONDS
        while is_listening(server):
            assert time.monotonic() < until
        connection.send(photo[100:])
        response = connection.getresponse()
        assert response.status == 200
        assert ranking(json.load(response)) == (expected.classes, pytest.approx(expected.confidences, abs=TOLERANCE))
        code, out, error = server.wait()
    assert code == 143
    assert error == "Terminated. The requests that were accepted have been answered.\n"
    assert out == "[]\n"


def is_listening(server):
    try:
        return server.ask()[0] == 200
    except OSError:
        return False


def test_a_closed_terminal_ends_it_too(quick_model):
    with open_server(quick_model) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.wait()[0] == 129
