"""`GET /v1/bundles/REVISION`: hands the files of a bundle to the workers that are to load it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from understudy.core.errors import StoreAway
from understudy.seams import Store

PIECE_BYTES: Final = 64 * 1024
_REVISION: Final = re.compile(r"[0-9a-f]{12,64}")


def bundle_route(store: Store, admits: Callable[[str, str], bool]) -> Route:
    """`admits(node, secret)`: whether this is a worker of ours; it says the first as `node` in the
    query, the second as a bearer token (RFC 6750)."""

    async def bundle(request: Request) -> Response:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not admits(request.query_params.get("node", ""), secret):
            return _refusal(401, "bad_token", "bundles are for workers of this fleet only")
        revision = request.path_params["revision"]
        try:
            size = await store.bundle_size(revision) if _REVISION.fullmatch(revision) else None
        except StoreAway as away:
            return _refusal(503, away.code, away.message)
        if size is None:
            words = "this fleet keeps no such bundle; `understudy deploy` its folder again"
            return _refusal(404, "not_found", words)
        # A piece at a time, and the next only once this one has left: a slow worker costs a part
        # here, and between two pieces audio has its turn. A store that goes away cuts the answer
        # off, which its length shows; the worker asks again.
        return StreamingResponse(
            _pieces(store.bundle(revision)),
            media_type="application/x-tar",
            headers={"content-length": str(size)},
        )

    return Route("/v1/bundles/{revision}", bundle)


async def _pieces(parts: AsyncIterator[bytes]) -> AsyncIterator[memoryview]:
    async for part in parts:
        for at in range(0, len(part), PIECE_BYTES):
            yield memoryview(part)[at : at + PIECE_BYTES]
            await asyncio.sleep(0)  # noqa: TID251  # no time: the others' turn


def _refusal(status: int, code: str, message: str) -> Response:
    error = {"code": code, "message": message, "retryable": status == 503}
    return JSONResponse({"error": error}, status)
