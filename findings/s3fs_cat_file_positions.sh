#!/usr/bin/env bash
# cat_file(path, start, end) of s3fs reads another range than the one asked for, without an error.
#
# Versions  s3fs 2026.9.0 (fsspec 2026.9.0), moto 5.2.5 as the S3 server on the loopback.
# Guess     All file systems of fsspec take the arguments in the order that fsspec documents, `cat_file(path, start, end)`;
#           memory:// and local files do.
# Behavior  s3fs has `version_id` in second place. The start is taken for the id of a version, and 0 is as good as none; the
#           end is taken for the start. The answer is the rest of the object from there on.
# Output    bytes 0 to 4 of 0123456789: by memory:// 0123, by s3fs 456789, by s3fs with names 0123
# Hurts     Shards read by ranges: code that was tested with memory:// gets bytes of another place, and mostly far more of
#           them. Give start and end by name, and compare the length with what was asked for.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check s3fs==2026.9.0 "moto[server]==5.2.5"
cd "$folder"
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1 NO_PROXY=127.0.0.1
"$folder/venv/bin/python" - <<'PY'
import logging

import fsspec
import s3fs
from moto.server import ThreadedMotoServer

CONTENT = b"0123456789"
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
server.start()
host, port = server.get_host_and_port()

memory = fsspec.filesystem("memory")
memory.pipe("/shards/a", CONTENT)
store = s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}", use_listings_cache=False)
store.mkdir("shards")
store.pipe("shards/a", CONTENT)

expected = memory.cat_file("/shards/a", 0, 4).decode()
found = store.cat_file("shards/a", 0, 4).decode()
named = store.cat_file("shards/a", start=0, end=4).decode()
server.stop()

print(f"bytes 0 to 4 of {CONTENT.decode()}: by memory:// {expected}, by s3fs {found}, by s3fs with names {named}")
assert (expected, found, named) == ("0123", "456789", "0123"), "the behavior has changed"
PY
