"""The ASGI application: scans as NIfTI bodies go in, vectors and neighbours come out.

    GET  /healthz                     {"status": "ok"}; the one address that asks for no token
    GET  /v1/models                   what is served, with each model's input contract, and the upload limit
    POST /v1/models/{ref}/embed       vector of the scan sent: the mean over crops in its body (backbones/scan.py)
    POST /v1/similar?k=5              the nearest scans of the lake by the index's own encoder, without the scan itself

Errors are JSON with one sentence: {"error", "code", ...evidence}. The application keeps nothing of a request. What
embeds and what searches is passed in, so it runs the same under uvicorn, in a test and in Ray Serve.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from semgen_platform import ids
from semgen_platform.discovery.neighbours import Neighbour
from semgen_platform.errors import InputError
from semgen_platform.serving.auth import is_allowed
from semgen_platform.serving.upload import RequestError, read_volume, receive
from semgen_platform.volume import Volume

log = logging.getLogger(__name__)

MOST_NEIGHBOURS = 100
CODES = {401: "unauthorised", 404: "not_found", 405: "method_not_allowed"}

T = TypeVar("T")


@dataclass(frozen=True)
class ServedModel:
    """A backbone as the server sees it: `name:version`, what /v1/models says of it, and a scan's vector."""

    ref: str
    description: Mapping[str, Any]
    embed: Callable[[Volume], NDArray[np.float32]]


@dataclass(frozen=True)
class ServedIndex:
    """An index of the lake's scans, with the encoder that it was made with; `near(volume, k)` leaves out the volume."""

    index_id: str
    encoder_id: str
    near: Callable[[Volume, int], Sequence[Neighbour]]


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    upload_bytes: int = 2**30
    voxel_bytes: int = 2**31
    """Of the volume as float32; reading and embedding take about twice as much."""
    at_once: int = 1
    """Scans that are read and embedded at the same time; others wait."""


def application(
    models: Mapping[str, ServedModel], index: ServedIndex | None, *, token: str | None, limits: Limits
) -> FastAPI:
    """The application. `models` maps every REF that an address may name to its model; `token` None lets everyone in."""
    app = FastAPI(title="semgen-platform", openapi_url=None)
    turn = asyncio.Semaphore(limits.at_once)

    def check_token(request: Request) -> None:
        if not is_allowed(request.headers.get("authorization"), token):
            raise RequestError(
                401, "this server needs its token; send the header Authorization: Bearer TOKEN", "unauthorised"
            )

    async def answer(request: Request, work: Callable[[Volume], T]) -> T:
        """`work` of the volume in the body, off the event loop."""
        with tempfile.TemporaryDirectory(prefix="semgen-") as folder:
            path = await receive(request.stream(), _declared_bytes(request), limits.upload_bytes, Path(folder))
            async with turn:
                return await asyncio.to_thread(lambda: work(read_volume(path, limits.voxel_bytes)))

    guarded = [Depends(check_token)]

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"status": "ok"}

    @app.get("/v1/models", dependencies=guarded)
    def list_models() -> dict[str, Any]:
        served = {model.ref: dict(model.description) for model in models.values()}
        return {
            "models": [{"ref": ref, **description} for ref, description in sorted(served.items())],
            "index": {"index_id": index.index_id, "encoder_id": index.encoder_id} if index else None,
            "limits": {"upload_bytes": limits.upload_bytes, "voxels": limits.voxel_bytes // 4},
        }

    @app.post("/v1/models/{ref}/embed", dependencies=guarded)
    async def embed(ref: str, request: Request) -> dict[str, Any]:
        if (model := models.get(ref)) is None:
            raise RequestError(
                404, f"no model {ref} is served; there are {', '.join(sorted(models)) or 'none'}", "not_found"
            )
        return await answer(request, lambda volume: _embedded(model, volume))

    @app.post("/v1/similar", dependencies=guarded)
    async def similar(request: Request, k: Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS)] = 5) -> dict[str, Any]:
        if index is None:
            raise RequestError(
                404, "the lake had no index when this server started; run build-index and start it again", "no_index"
            )
        return await answer(request, lambda volume: _neighbours(index, volume, k))

    _say_errors_in_one_sentence(app)
    return app


def _embedded(model: ServedModel, volume: Volume) -> dict[str, Any]:
    vector = model.embed(volume)
    return {
        "model": model.ref,
        "content_id": ids.content_id(volume.voxels),
        "dimensions": len(vector),
        "vector": [round(float(value), 7) for value in vector],
    }


def _neighbours(index: ServedIndex, volume: Volume, k: int) -> dict[str, Any]:
    return {
        "index_id": index.index_id,
        "encoder_id": index.encoder_id,
        "content_id": ids.content_id(volume.voxels),
        "neighbours": [asdict(neighbour) for neighbour in index.near(volume, k)],
    }


def _declared_bytes(request: Request) -> int | None:
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdigit() else None


def _say_errors_in_one_sentence(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    def refused(request: Request, error: RequestError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return _error(error.status, str(error), error.code, error.evidence, headers)

    @app.exception_handler(InputError)
    def unusable(request: Request, error: InputError) -> JSONResponse:
        return _error(422, str(error), "input")

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        fault = error.errors()[0]
        return _error(400, f"parameter {fault['loc'][-1]} is {fault['input']!r}: {fault['msg']}", "parameter")

    @app.exception_handler(HTTPException)
    @app.exception_handler(404)
    @app.exception_handler(405)
    def unknown(request: Request, error: HTTPException) -> JSONResponse:
        sentence = f"{request.method} {request.url.path} is not served; see GET /v1/models"
        return _error(error.status_code, sentence, CODES.get(error.status_code, "http"))

    @app.exception_handler(Exception)
    def bug(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed path=%s", request.url.path, exc_info=error)
        return _error(500, f"a bug of ours ({type(error).__name__}); the server's log has more", "bug")


def _error(
    status: int,
    sentence: str,
    code: str,
    evidence: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = {"error": sentence, "code": code, **({"evidence": dict(evidence)} if evidence else {})}
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))
