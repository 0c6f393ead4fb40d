#!/usr/bin/env bash
# s3fs uploads what was written so far when an exception leaves the "with" block, over the good object.
#
# Versions  s3fs 2026.9.0 (fsspec 2026.9.0), moto 5.2.5 as the S3 server on the loopback.
# Guess     An object store has no half-written objects: an exception within `with fs.open(path, "wb")` gives the
#           upload up, and the object stays as it was.
# Behavior  Leaving the block closes the file, closing uploads the buffer, and the object now has the first bytes of the
#           new one. Within `with fs.transaction:` the upload is dropped.
# Output    object of 400 bytes; after a failed write: 4 bytes; after one within a transaction: 400 bytes
# Hurts     A disk or memory error while a checkpoint is being serialized destroys the last good checkpoint as well,
#           though S3 itself would have kept it. Write to a new key, check the length, then point to it.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check s3fs==2026.9.0 "moto[server]==5.2.5"
cd "$folder"
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1 NO_PROXY=127.0.0.1
"$folder/venv/bin/python" - <<'PY'
import contextlib
import logging

import s3fs
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
host, port = server.get_host_and_port()
files = s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}", use_listings_cache=False)
files.mkdir("example-models")
PATH = "example-models/checkpoint"


def fail_while_writing(context: contextlib.AbstractContextManager) -> int:
    """Put a good object, fail while writing the next one, and return the object's length."""
    files.pipe(PATH, bytes(400))
    with contextlib.suppress(MemoryError), context, files.open(PATH, "wb") as file:
        file.write(bytes(4))
        raise MemoryError
    return len(files.cat(PATH))


plain = fail_while_writing(contextlib.nullcontext())
guarded = fail_while_writing(files.transaction)
server.stop()

print(f"object of 400 bytes; after a failed write: {plain}; after one within a transaction: {guarded}")
assert (plain, guarded) == (4, 400), "the behavior has changed"
PY
