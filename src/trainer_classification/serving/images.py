"""Read the images of a request: a raw body, a form with files, or JSON with base64."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message

MAX_IMAGES = 1000  # of one request
_WHITESPACE = b" \t\r\n"


async def read_images(request: Request, max_bytes: int) -> tuple[list[bytes], bool]:
    """Return the image files of a request, not decoded, and whether it asks for a list of results.

    Args:
        request: its body is read as `application/json` (an object with `image`, a
            text in base64, or `images`, a list of them), as `multipart/form-data`
            (one file or several), or else as the file of one image.
        max_bytes: of the body.

    Raises:
        HTTPException: 413, the body is larger; 400, it holds no images.
        ClientDisconnect: the client has gone.
    """
    bounded = _bound_body(request, max_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        images, is_list = _parse_json(await bounded.body())
    elif kind == "multipart/form-data":
        images = await _read_files(bounded)
        is_list = len(images) > 1
    else:
        images, is_list = [await bounded.body()], False
        if not images[0]:
            raise HTTPException(400, "The body is empty: send the bytes of an image file.")

    if len(images) > MAX_IMAGES:
        raise HTTPException(
            400, f"The body holds {len(images):,} images: send at most {MAX_IMAGES:,} at once."
        )
    return images, is_list


def _bound_body(request: Request, max_bytes: int) -> Request:
    """Return a request whose body cannot be larger; a header that says so is refused at once."""
    refusal = HTTPException(413, f"The body is larger than {max_bytes:,} bytes: send less at once.")
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise refusal
    count = 0

    async def receive() -> Message:
        nonlocal count
        message = await request.receive()
        count += len(message.get("body", b""))
        if count > max_bytes:
            raise refusal
        return message

    return Request(request.scope, receive)


async def _read_files(request: Request) -> list[bytes]:
    try:
        async with request.form(max_files=MAX_IMAGES) as form:
            files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            if not files:
                raise HTTPException(400, "The form holds no file: send one file or several.")
            return [await file.read() for file in files]
    except MultiPartException as error:
        raise HTTPException(400, f"The form cannot be read: {error.message}") from None


def _parse_json(body: bytes) -> tuple[list[bytes], bool]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The body is no JSON: {error}.") from None
    has_list = isinstance(content, dict) and isinstance(content.get("images"), list)
    if has_list and content["images"]:
        texts = content["images"]
    elif isinstance(content, dict) and "image" in content and "images" not in content:
        texts = [content["image"]]
    else:
        raise HTTPException(
            400,
            "The JSON body must be an object with `image`, a text in base64, or `images`, a list of them.",
        )
    return [_decode_base64(text, number) for number, text in enumerate(texts, 1)], has_list


def _decode_base64(text: Any, number: int) -> bytes:
    if not isinstance(text, str):
        raise HTTPException(
            400, f"Image {number} of the JSON body must be a text in base64, but is {text!r:.50}."
        )
    try:
        return base64.b64decode(text.encode().translate(None, _WHITESPACE), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise HTTPException(
            400, f"Image {number} of the JSON body is no base64: {error}."
        ) from None
