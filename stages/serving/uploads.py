"""A request's body on disk: under a random name, no longer than allowed, gone when it was read.

Reads: a stream of bytes.   Writes: one file in the server's private folder. Nothing that the
sender says about the file, its name least of all, is used.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from stages.core.errors import MachineError
from stages.serving.limits import KILOBYTE, MEGABYTE

NAME_BYTES = 16
IDLE_SECONDS = 30.0
"""After which a sender is taken to have gone; others wait for its place."""
DRAIN_SECONDS, DRAIN_BYTES = 5.0, 2_000_000_000
"""How long, and how much, is still read and dropped of a body that was refused."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@asynccontextmanager
async def uploaded(request: Request, folder: Path, most: int) -> AsyncIterator[Path]:
    """The body of `request` as a file, as long as the block lasts.

    Args:
        request: Whose body it is.
        folder: Where it is put.
        most: Bytes.

    Raises:
        HTTPException: 413, it is longer; 400, it is empty; 408, nothing comes any more.
        MachineError: The disk is full.
    """
    _check_announced(request, most)
    path = folder / secrets.token_hex(NAME_BYTES)
    try:
        try:
            await _receive(request, path, most)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise MachineError("the disk is full here", "free some of the folder TMPDIR") from None
        yield path
    finally:
        path.unlink(missing_ok=True)


async def read_body(request: Request, most: int) -> bytes:
    """The body of a small request.

    Raises:
        HTTPException: 413, it is longer than `most` bytes.
    """
    _check_announced(request, most)
    body = b""
    async for chunk in _in_time(request.stream()):
        body += chunk
        if len(body) > most:
            raise _too_large(most)
    return body


class RefusedBody(JSONResponse):
    """An answer given before the body was read to its end.

    A connection that is closed while the other end still sends is reset, and the answer may be
    lost with it. So the rest is read and dropped, for a while.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, drain, and only then end."""

        async def keep_open(message: Message) -> None:
            body = message["type"] == "http.response.body"
            await send({**message, "more_body": True} if body else message)

        await super().__call__(scope, receive, keep_open)
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await _drop(receive)
        await send({"type": "http.response.body", "body": b""})


async def _drop(receive: Receive) -> None:
    size, more = 0, True
    while more and size < DRAIN_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)  # not in the message of a connection that closed


async def _receive(request: Request, path: Path, most: int) -> None:
    size = 0
    with path.open("xb") as file:
        async for chunk in _in_time(request.stream()):
            size += len(chunk)
            if size > most:
                raise _too_large(most)
            file.write(chunk)
    if not size:
        raise HTTPException(400, "the request has no body: a video file is expected")


async def _in_time(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, as long as it goes on."""
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise HTTPException(408, f"nothing came for {IDLE_SECONDS:g} s") from None
        yield chunk


def _check_announced(request: Request, most: int) -> None:
    """Refuse before the first byte what says itself that it is too long."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most:
        raise _too_large(most)


def _too_large(most: int) -> HTTPException:
    return HTTPException(413, f"more than {_size(most)}, which is the limit here")


def _size(size: int) -> str:
    if size < MEGABYTE:
        return f"{size / KILOBYTE:g} kB"
    return f"{size / MEGABYTE:g} MB"
