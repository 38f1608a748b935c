"""Who may ask: the page that this server gave out, and programs of this machine; no other site.

A page of another site can make a browser send requests to 127.0.0.1, and can make its own name
point there (DNS rebinding). So the Host header has to be this server's own address, and what a
browser says about a request's origin has to be the same address.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = ("127.0.0.1", "localhost")
HTTP_PORT = 80
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware: refuses strangers, and adds the headers to every answer.

    Args:
        app: What is guarded.
        port: That the server listens on.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._hosts = set(host_names(port))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        problem = self._problem(scope)
        if problem:
            refusal = {"code": 403, "message": problem, "hint": "open the address of the terminal"}
            answer: ASGIApp = JSONResponse({"error": refusal}, 403)
        else:
            answer = self._app
        await answer(scope, receive, send_with_headers)

    def _problem(self, scope: Scope) -> str:
        """Why this request is refused, or an empty string."""
        headers = Headers(scope=scope)
        hosts = [host.lower() for host in headers.getlist("host")]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return "this server answers under its own address only"
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"http://{hosts[0]}":
            return "another site's page may not ask here"
        site = headers.get("sec-fetch-site", "none")
        opens_page = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not opens_page:
            return "another site's page may not ask here"
        return ""


def host_names(port: int) -> Iterable[str]:
    """The Host headers that are this server's; browsers leave the usual port out."""
    for name in NAMES:
        yield f"{name}:{port}"
        if port == HTTP_PORT:
            yield name
