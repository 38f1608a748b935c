"""The JSON of docs/serve.md: what the page asks, and what it is told.

Reads: requests.   Writes: an uploaded video, for as long as it is looked at.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from stages.asking.answers import Answered
from stages.asking.questions import Asked, problem_of, wrong_fields
from stages.core.errors import DataError, MachineError, UsageError, VideoError, VqaError
from stages.serving.guard import Guard
from stages.serving.limits import Limits
from stages.serving.turns import Turns
from stages.serving.uploads import RefusedBody, read_body, uploaded
from stages.serving.videos import KeptVideos, LookedAt, look_at

if TYPE_CHECKING:
    from stages.ask import Asker

Value = TypeVar("Value")
Endpoint = Callable[[Request], Awaitable[Response]]
STATUS: tuple[tuple[type[VqaError], int], ...] = (
    (VideoError, 415),
    (DataError, 422),
    (UsageError, 422),
    (MachineError, 503),
)
"""Of the errors that a request may end with, the special ones first."""
UNREAD = (413, 503)
"""Given while the other end may still send."""
INTERNAL = 500
CLOSED = 499
"""Nobody reads it: the browser has gone."""
KINDS = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
FORGOTTEN = "this video is not kept any more"
log = logging.getLogger(__name__)


class Service:
    """What the requests share.

    Args:
        asker: Who answers.
        facts: What `/api/system` tells of it.
        folder: Where uploads lie while they are looked at.
        decoder: As in `--decoder`.
        limits: What is refused.
        turns: Where everything is computed.
    """

    def __init__(
        self,
        asker: Asker,
        facts: dict[str, Any],
        folder: Path,
        decoder: str,
        limits: Limits,
        turns: Turns,
    ) -> None:
        self._asker, self._facts, self._folder = asker, facts, folder
        self._decoder, self._limits, self._turns = decoder, limits, turns
        self._kept = KeptVideos(limits.kept_videos)
        self._uploads = 0

    async def system(self, _: Request) -> Response:
        """Who answers, and the limits."""
        return JSONResponse(self._facts | {"limits": self._limits.as_json()})

    async def add_video(self, request: Request) -> Response:
        """Take a video, look at it, forget the file."""
        if self._uploads >= self._limits.uploads:
            raise HTTPException(503, "other videos are being looked at; try again in a moment")
        self._uploads += 1
        try:
            async with uploaded(request, self._folder, self._limits.upload_bytes) as path:
                video = await _while_there(request, self._turns.do(lambda: self._look(path)))
        finally:
            self._uploads -= 1
        self._kept.add(video)
        return JSONResponse(video.as_json(), 201)

    async def picture(self, request: Request) -> Response:
        """One frame as it was seen, small."""
        video = self._video(request.path_params["video"])
        picture = video.pictures.get(request.path_params["frame"])
        if picture is None:
            raise HTTPException(404, "this frame was not looked at")
        return Response(picture, media_type="image/jpeg")

    async def answer(self, request: Request) -> Response:
        """Answer one question about a video that was looked at."""
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise HTTPException(415, "application/json is expected")
        body = await read_body(request, self._limits.request_bytes)
        name, item = _question(body, self._limits)
        video = self._video(name)
        turn = self._turns.do(lambda: self._asker.answer(video.encoded, item))
        answered = await _while_there(request, turn)
        return _answer(answered, video)

    def _look(self, path: Path) -> LookedAt:
        return look_at(path, self._asker, self._decoder, self._limits.decode_seconds)

    def _video(self, name: str) -> LookedAt:
        video = self._kept.get(name)
        if video is None:
            raise HTTPException(404, FORGOTTEN)
        return video


def build_app(service: Service, port: int) -> ASGIApp:
    """Everything the server answers, guarded."""
    routes = [
        Route("/", _file("page.html")),
        Route("/page.css", _file("page.css")),
        Route("/page.js", _file("page.js")),
        Route("/api/system", _explained(service.system)),
        Route("/api/videos", _explained(service.add_video), methods=["POST"]),
        Route("/api/videos/{video}/frames/{frame:int}.jpg", _explained(service.picture)),
        Route("/api/answers", _explained(service.answer), methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={HTTPException: _refused}), port)


def _file(name: str) -> Endpoint:
    content = (resources.files("stages.serving") / name).read_bytes()

    async def give(_: Request) -> Response:
        return Response(content, headers={"content-type": KINDS[name]})

    return give


def _explained(endpoint: Endpoint) -> Endpoint:
    """The one place where errors become answers; a bug costs one request, not the server."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HTTPException:
            raise
        except ClientDisconnect:
            return Response(status_code=CLOSED)
        except VqaError as error:
            status = next((code for kind, code in STATUS if isinstance(error, kind)), INTERNAL)
            return _error(status, error.message, error.hint)
        except Exception as error:
            log.error(
                "%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error
            )
            log.info("traceback", exc_info=error)
            if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
                return _error(503, "not enough memory for this video", "fewer --frames")
            return _error(INTERNAL, "this is a bug of vqa", "start vqa serve with --debug")

    return answer


async def _while_there(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
    """What `work` returns, if whoever asked stays; its body was read before.

    Raises:
        ClientDisconnect: Nobody waits any more; what had not begun is dropped.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)
    return _error(refusal.status_code, refusal.detail)


def _error(status: int, message: str, hint: str = "") -> Response:
    content = {"error": {"code": status, "message": message, "hint": hint}}
    if status not in UNREAD:
        return JSONResponse(content, status)
    # A further request would have to wait behind what is drained: it takes another connection.
    return RefusedBody(content, status, {"connection": "close"})


def _question(body: bytes, limits: Limits) -> tuple[str, Asked]:
    """The video's id and what is asked of it.

    Raises:
        HTTPException: It is no question of ours.
        UsageError: It cannot be asked.
    """
    try:
        record: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "this is not JSON") from None
    if not isinstance(record, dict):
        raise HTTPException(400, "a JSON object is expected")
    video = record.get("video")
    wrong = wrong_fields(record) if isinstance(video, str) else "video: a text is expected"
    if wrong:
        raise HTTPException(400, wrong)
    question, options = record["question"], record.get("options") or []
    _check_lengths(question, options, limits)
    problem = problem_of(question, options)
    if problem:
        raise UsageError(problem)
    return str(video), Asked(question, tuple(options))


def _check_lengths(question: str, options: list[str], limits: Limits) -> None:
    if len(question) > limits.question_characters:
        most = limits.question_characters
        raise UsageError(f"the question has {len(question):,} characters; {most:,} at most")
    if len(options) > limits.options:
        raise UsageError(f"{len(options)} options; {limits.options} at most")
    longest = max(map(len, options), default=0)
    if longest > limits.option_characters:
        most = limits.option_characters
        raise UsageError(f"an option has {longest:,} characters; {most:,} at most")


def _answer(answered: Answered, video: LookedAt) -> Response:
    if answered.problem:
        return _error(422, f"this system cannot be asked this: {answered.problem}")
    bounds = [round(second, 6) for second in video.encoded.seen.bounds]
    return JSONResponse(answered.as_json() | {"video": video.id, "bounds": bounds})
