"""Images of a request are checked and made anew before a model is given them, in the worker pool.

Bytes go to the worker and come back through files without a name, so that megabytes neither are written to a disk nor
hold the event loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import IO, Any

from ponder.compute.clock import now
from ponder.compute.engine import ModelCard
from ponder.compute.errors import NoVerdict, RequestError, TooBusy, first
from ponder.compute.groups import TaskGroup
from ponder.compute.pool import pool
from ponder.compute.text import Image, Message
from ponder.server.request import Request
from ponder.server.settings import Limits

TASK = "ponder.compute.images:normaliser"
SECONDS = 10.0
"""Of processor time, for one image. The largest that is let in by default takes up to four on a slow core."""
BYTES, HEAD = 4, 1 << 16
"""Of each pixel of a PNG at most, and of what is around them."""
WAIT = 60.0
"""Seconds on the clock for all images of a request, waiting for a place included."""


async def with_images(request: Request, card: ModelCard, limits: Limits, tenant: str) -> Request:
    """A request that has images, with those that its model may be given. Raises `RequestError` where the model reads
    none, or not so many, and what `checked` does."""
    _refuse_unread(request.messages, card)
    return replace(request, messages=await checked(request.messages, limits, tenant))


def _refuse_unread(messages: Sequence[Message], card: ModelCard) -> None:
    found = [image for message in messages for _, image in message.images]
    if "image" not in card.modalities:
        raise RequestError(
            f"{found[0].param} is an image, and this model reads text only: leave images out, or ask a model whose "
            "input_modalities in GET /v1/models have image",
            param=found[0].param,
            code="unsupported_content_part",
        )
    if card.images is not None and len(found) > card.images:
        raise RequestError(
            f"the request has {len(found)} images, and this model reads {card.images} at most",
            param=found[card.images].param,
            code="too_many",
        )


async def checked(messages: tuple[Message, ...], limits: Limits, tenant: str) -> tuple[Message, ...]:
    """The messages with their images made anew as PNG; one that stands there twice is looked at once. Raises
    `RequestError` for what is no image or too large, `TooBusy` where nobody had the time to look."""
    found = {image.data: image for message in messages for _, image in message.images}
    until = now() + WAIT
    try:
        async with TaskGroup() as group:
            tasks = {data: group.create_task(_checked(image, limits, tenant, until)) for data, image in found.items()}
    except BaseExceptionGroup as error:
        raise first(error) from None
    return tuple(
        replace(
            message,
            images=tuple((at, replace(tasks[one.data].result(), param=one.param)) for at, one in message.images),
        )
        if message.images
        else message
        for message in messages
    )


async def _checked(image: Image, limits: Limits, tenant: str, until: float) -> Image:
    with _file(image.data) as given, _file(b"") as made:
        bounds = json.dumps([limits.image_pixels, limits.image_read_pixels, _path(made)])
        try:
            said: dict[str, Any] = await pool().work(
                TASK, _path(given), bounds, tenant=tenant, seconds=SECONDS, until=until
            )
        except NoVerdict as none:
            if none.lasting:
                raise RequestError(
                    f"{image.param} takes too much time or memory to be decoded: make the image smaller",
                    param=image.param,
                    code="invalid_image",
                ) from None
            raise TooBusy(
                f"the images could not be looked at within {WAIT:.0f} s; try again", code="server_busy", retry_after=5
            ) from None
        if "refused" in said:
            words, code = said["refused"]
            raise RequestError(f"{image.param} {words}", param=image.param, code=code)
        data, digest = await asyncio.to_thread(_taken, made, BYTES * limits.image_read_pixels + HEAD, tenant)
    return Image("image/png", data, digest, image.param)


def _taken(file: IO[bytes], most: int, tenant: str) -> tuple[bytes, str]:
    """(what a worker has written, the name of that among the tenant's)."""
    file.seek(0)
    data = file.read(most)
    return data, blake2b(data, digest_size=32, key=tenant.encode()[:64]).hexdigest()


def _file(data: bytes) -> IO[bytes]:
    """A file that workers can open while it is open here, in memory where the system has such."""
    if sys.platform == "linux":
        file: Any = os.fdopen(os.memfd_create("image"), "w+b", buffering=0)
    else:
        file = tempfile.NamedTemporaryFile(buffering=0)  # noqa: SIM115 (closed by those that ask for it)
    file.write(data)
    return file


def _path(file: Any) -> str:
    return f"/proc/{os.getpid()}/fd/{file.fileno()}" if sys.platform == "linux" else file.name
