"""The HTTP side: the page, the voices, the state of things."""

from __future__ import annotations

import contextlib
import logging
import math
from pathlib import Path
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.core.errors import BadToken, Forged, StoreAway, TooMany, UnderstudyError
from understudy.edge import listing
from understudy.edge.bundles import bundle_route
from understudy.edge.door import Door
from understudy.edge.edge import Edge
from understudy.edge.metrics import exposition
from understudy.edge.overview import Overview
from understudy.usage import as_rows, usage

log = logging.getLogger(__name__)

PAGE: Final = Path(__file__).parent.parent / "page"
_NO_PAGE: Final = """<!doctype html><title>Understudy</title>
<p>The page is not built. Run <code>make web</code> in the source tree, or install a release,
which has it inside. The API at <code>/v1</code> works without it.</p>"""
# ws: and wss: for older Safari, whose 'self' does not cover WebSockets; and the other edges.
_POLICY: Final = (
    "default-src 'self'; connect-src {}; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"microphone=(self), camera=(), geolocation=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


class Guard:
    """Refuses requests that other sites' pages made or that are too many, and sets the security
    headers. Leaves whom a request counts for in `scope["state"]["who"]`."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The build names assets by their content; everything else is asked for again.
                asset = scope["path"].startswith("/assets/") and message["status"] == 200
                caching = b"public, max-age=31536000, immutable" if asset else b"no-cache"
                reached = " ".join(["'self' ws: wss:", *sorted(self._door.hosts.edges())])
                policy = _POLICY.format(reached).encode("latin-1", "replace")
                message["headers"] = [
                    *message["headers"],
                    *_HEADERS,
                    (b"content-security-policy", policy),
                    (b"cache-control", caching),
                ]
                if origin is not None and self._door.hosts.welcomes(origin):
                    message["headers"].append(
                        (b"access-control-allow-origin", origin.encode("latin-1"))
                    )
                    message["headers"].append((b"vary", b"origin"))
            await send(message)

        answer = self._refusal(scope, headers) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> Response | None:
        if scope["path"] == "/healthz":  # a balancer asks by address, and often
            return None
        lines = [v.decode("latin-1") for n, v in scope["headers"] if n == b"x-forwarded-for"]
        peer = scope["client"][0] if scope["client"] else ""
        try:
            who = self._door.request(peer, lines, shows_key=b"authorization" in headers)
        except TooMany as error:
            return _refused(error)
        scope.setdefault("state", {})["who"] = who
        reason = self._door.hosts.refusal(headers.get(b"host"), headers.get(b"origin"))
        return _error(403, "forbidden", reason) if reason else None


def _missing() -> Response:
    return HTMLResponse(_NO_PAGE, 503)


def _error(status: int, code: str, message: str, *, retryable: bool = False) -> JSONResponse:
    body = {"error": {"code": code, "message": message, "retryable": retryable}}
    return JSONResponse(body, status)


def _refused(error: UnderstudyError) -> JSONResponse:
    answer = _error(error.http_status, error.code, error.message, retryable=error.retryable)
    if isinstance(error, TooMany):
        answer.headers["retry-after"] = str(math.ceil(error.wait_s))
    if error.http_status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    return answer


async def _refusing(request: Request, error: Exception) -> Response:
    assert isinstance(error, UnderstudyError)
    return _refused(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return _error(error.status_code, code, f"{request.url.path}: {error.detail}")


async def _server_error(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error(500, "internal", "a bug on the server's side; see its log", retryable=True)


def build_app(edge: Edge, overview: Overview, door: Door) -> Starlette:
    """What is shown of users, to others than this machine's own, needs the admin key."""

    def bearer(request: Request) -> str | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    def is_admin(request: Request) -> bool:
        """Raises BadToken on a wrong key: who shows one should hear that it is wrong."""
        key = bearer(request)
        if key is None or not door.private:
            return not door.private
        if not door.is_admin(key):
            door.wrong(request.state.who)
            raise BadToken("this is not the admin key ($UNDERSTUDY_ADMIN_KEY of the server)")
        return True

    def check_user(request: Request, user: str) -> None:
        """Everybody sees their own, and an admin anybody's. Raises BadToken."""
        key = bearer(request)
        if key is None or not door.is_admin(key):
            try:
                door.check_user(key, user)
            except Forged:
                door.wrong(request.state.who)
                raise

    async def fleet(request: Request) -> Response:
        names = is_admin(request)
        with contextlib.suppress(StoreAway):  # what was known last is better than nothing
            await overview.refresh()
        return JSONResponse(overview.as_json(names=names) | {"private": not names})

    async def metrics(request: Request) -> Response:
        is_admin(request)
        with contextlib.suppress(StoreAway):
            await overview.refresh()
        return Response(exposition(edge, overview, door.refused), media_type=CONTENT_TYPE_LATEST)

    async def fleet_page(request: Request) -> Response:
        return FileResponse(PAGE / "fleet.html") if (PAGE / "fleet.html").exists() else _missing()

    async def voices(request: Request) -> Response:
        return JSONResponse({"voices": listing.voices(edge, reasons=is_admin(request))})

    async def status(request: Request) -> Response:
        return JSONResponse(listing.status(edge, names=is_admin(request)))

    async def use(request: Request) -> Response:
        query = request.query_params
        user = query.get("user")
        check_user(request, user or "")
        await edge.write_ledger()
        uses = await usage(edge.store, user, query.get("from"), query.get("to"))
        return JSONResponse({"usage": as_rows(uses)})

    async def regions(request: Request) -> Response:
        edges = [
            {"name": row.name, "region": row.region, "url": row.url}
            for row in edge.seating.fleet.edges
        ]
        return JSONResponse({"region": edge.region, "edges": edges})

    async def health(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def no_page(request: Request) -> Response:
        return _missing()

    page: Route | Mount = Route("/", no_page)
    if (PAGE / "index.html").exists():
        page = Mount("/", StaticFiles(directory=PAGE, html=True))
    return Starlette(
        routes=[
            Route("/v1/voices", voices),
            Route("/v1/regions", regions),
            Route("/v1/status", status),
            Route("/v1/usage", use),
            Route("/v1/fleet", fleet),
            bundle_route(edge.store, edge.roster.serves),
            Route("/metrics", metrics),
            Route("/fleet", fleet_page),
            Route("/healthz", health),
            page,
        ],
        middleware=[Middleware(Guard, door=door)],
        exception_handlers={
            HTTPException: _http_error,
            UnderstudyError: _refusing,
            500: _server_error,
        },
    )
