"""The endpoint on Starlette. Imported only where it is served, since it needs the extra `serve`."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rlhf.apps.local import calls_this_machine
from rlhf.apps.serve.engine import Engine, Job
from rlhf.apps.serve.protocol import ChatRequest, CompletionRequest, Refused, read
from rlhf.apps.serve.replies import CHAT, DONE, TEXT, Reply, Shape, event
from rlhf.data.jsonl import MAX_LINE_BYTES

LOG = logging.getLogger(__name__)
OPEN_TO_ALL = "/health"


def make_app(engine: Engine, name: str, key: str | None) -> Any:
    """The ASGI application.

    Args:
        name: of the model; requests that name another are refused.
        key: that all but /health needs. None asks for none, and answers only who calls the server
            by a name of this machine: a page in a browser cannot.
    """
    service = Service(engine, name)
    return Starlette(
        routes=[
            Route(OPEN_TO_ALL, service.health),
            Route("/v1/models", service.models),
            Route("/v1/models/{name:path}", service.model),
            Route("/v1/chat/completions", service.chat, methods=["POST"]),
            Route("/v1/completions", service.complete, methods=["POST"]),
        ],
        middleware=[Middleware(Gate, key=key), Middleware(Farewell)],
        exception_handlers={Refused: _refuse, HTTPException: _no_such, Exception: _fail},
    )


class Gate:
    """Lets through who has the key, before anything else is read."""

    def __init__(self, app: Any, key: str | None) -> None:
        self.app, self.key = app, key

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = self.app
        if scope["type"] == "http" and scope["path"] != OPEN_TO_ALL:
            refused = self._refusal(Headers(scope=scope))
            app = app if refused is None else _answer_to(refused)
        await app(scope, receive, send)

    def _refusal(self, headers: Any) -> Refused | None:
        if self.key is None:
            host = headers.get("host", "")
            if calls_this_machine(host):
                return None
            return Refused(f"{host}: call this server localhost", status=403)
        given = headers.get("authorization", "").encode()
        if secrets.compare_digest(given, f"Bearer {self.key}".encode()):
            return None
        told = "no or a wrong API key: send the header Authorization: Bearer KEY"
        return Refused(told, status=401, code="invalid_api_key")


class Farewell:
    """Tells who still waits that the server ends now, unless their answer has begun."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def noted(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:
            if not begun:
                await _answer_to(_stopped())(scope, receive, send)


class Service:
    """What each address answers."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name
        self.started = int(time.time())

    async def health(self, _: HTTPRequest) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, _: HTTPRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._described]})

    async def model(self, http: HTTPRequest) -> Response:
        self._check_name(http.path_params["name"])
        return JSONResponse(self._described)

    async def chat(self, http: HTTPRequest) -> Response:
        return await self._answer(http, read(ChatRequest, await _body(http)), CHAT)

    async def complete(self, http: HTTPRequest) -> Response:
        return await self._answer(http, read(CompletionRequest, await _body(http)), TEXT)

    async def _answer(
        self, http: HTTPRequest, request: ChatRequest | CompletionRequest, shape: Shape
    ) -> Response:
        self._check_name(request.model)
        job = await self.engine.job(request)
        reply = Reply(shape, self.name, len(job.prompt))
        if request.stream:
            usage = request.stream_options is not None and request.stream_options.include_usage
            events = self._events(http, job, reply, usage)
            return StreamingResponse(events, media_type="text/event-stream")
        try:
            async with aclosing(self.engine.pieces(job, http.is_disconnected)) as pieces:
                async for piece in pieces:
                    reply.take(piece)
        except Exception:
            raise _failure() from None
        if len(reply.ends) < job.answers:  # a client that has gone reads nothing of this
            raise _stopped()
        return JSONResponse(reply.whole)

    async def _events(
        self, http: HTTPRequest, job: Job, reply: Reply, usage: bool
    ) -> AsyncIterator[str]:
        try:
            async with aclosing(self.engine.pieces(job, http.is_disconnected)) as pieces:
                async for piece in pieces:
                    if told := reply.event(piece):
                        yield told
        except asyncio.CancelledError:  # in the middle of a token, once patience has ended
            if not self.engine.leaving():
                raise
        except Exception:  # the status has been sent, so that only an event can tell
            yield event(_failure().content)
            return
        if len(reply.ends) < job.answers:
            yield event(_stopped().content)
            return
        if usage:
            yield reply.usage_event()
        yield DONE

    def _check_name(self, name: str) -> None:
        if name != self.name:
            raise Refused(
                f"model: {name} is not served here, only {self.name}",
                status=404,
                param="model",
                code="model_not_found",
            )

    @property
    def _described(self) -> dict[str, Any]:
        owned = {"created": self.started, "owned_by": "rlhf"}
        return {"id": self.name, "object": "model", **owned}


async def _body(http: HTTPRequest) -> bytes:
    """JSON by its header too: without this, any page in a browser could have things written.

    What is too long is heard to its end, unkept: a client that is cut short reads no answer.
    """
    if http.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused("send the header Content-Type: application/json", status=415)
    body, size = bytearray(), 0
    try:
        async for chunk in http.stream():
            size += len(chunk)
            body += chunk if size <= MAX_LINE_BYTES else b""
    except ClientDisconnect:
        raise Refused("the client went away in the middle of its request") from None
    if size > MAX_LINE_BYTES:
        told = f"a request of {size} bytes; {MAX_LINE_BYTES} is the longest that is read"
        raise Refused(told, status=413)
    return bytes(body)


def _answer_to(refused: Refused) -> Response:
    return JSONResponse(refused.content, status_code=refused.status)


async def _refuse(_: HTTPRequest, error: Refused) -> Response:
    return _answer_to(error)


async def _no_such(http: HTTPRequest, error: HTTPException) -> Response:
    told = f"{http.method} {http.url.path}: {error.detail}"
    return _answer_to(Refused(told, status=error.status_code))


async def _fail(_: HTTPRequest, error: Exception) -> Response:
    """What nothing here foresaw. Starlette hands it on to the server, which prints it."""
    return _answer_to(_broken())


def _stopped() -> Refused:
    return Refused("the server is being stopped", status=503, kind="server_error")


def _failure() -> Refused:
    """What to tell of the exception being handled, which goes to the server's own output."""
    LOG.exception("answering failed")
    return _broken()


def _broken() -> Refused:
    told = "the model failed at this request; the server's own output tells why"
    return Refused(told, status=500, kind="server_error")
