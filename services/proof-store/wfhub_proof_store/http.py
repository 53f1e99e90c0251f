"""HTTP: blobs in and out, exported proofs, the log's checkpoint, the public key.

PUT       /blobs/sha256/{hex}   201 new, 200 was here; 413, 422 (wrong digest), 507 (disk full)
GET, HEAD /blobs/sha256/{hex}   the bytes
GET       /proofs/{proof_id}, /checkpoint, /public-key
GET       /healthz, /readyz     the only ones without a service token
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import BinaryIO

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from wfhub_common import digests, httpauth, ids, problems, signing
from wfhub_common.digests import Digest
from wfhub_common.errors import Corrupt, Rejected
from wfhub_common.log import get_logger
from wfhub_common.tracing_http import Traced

from wfhub_proof_store import access, transparency
from wfhub_proof_store.blobs import Blobs, StorageFull, too_large
from wfhub_proof_store.metrics import Metrics

PIECE_BYTES = 1024 * 1024  # read, hashed and written at once, in a thread
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

log = get_logger(__name__)


def make_app(
    *,
    blobs: Blobs,
    engine: AsyncEngine,
    public_key: signing.PublicKey,
    accepted: dict[str, str],
    ready: Callable[[], Awaitable[str]],
    metrics: Metrics | None = None,
) -> Starlette:
    """`ready` says what is missing, or nothing."""
    counts = metrics or Metrics()

    def sender(request: Request) -> str:
        return access.sender(request.headers.get("authorization"), accepted)

    async def put_blob(request: Request) -> Response:
        access.check_may_write(sender(request))
        digest = _digest_of(request)
        try:
            new, size = await _store(request, blobs, digest)
        except StorageFull as e:
            counts.not_stored("full")
            log.error("storage full", digest=digest)
            return problems.problem(507, e.code, e.message)
        except ClientDisconnect:
            counts.not_stored("cut")
            return problems.problem(400, "upload-cut", "the upload ended early; send it again")
        except Rejected:
            counts.not_stored("refused")
            raise
        counts.stored(new=new, size=size)
        return JSONResponse({"digest": digest}, status_code=201 if new else 200, headers=HEADERS)

    async def get_blob(request: Request) -> Response:
        sender(request)
        digest = _digest_of(request)
        size = await asyncio.to_thread(blobs.size, digest)
        file = await asyncio.to_thread(blobs.open, digest) if request.method == "GET" else None
        if size is None or (file is None and request.method == "GET"):
            raise Rejected("blob-not-found", f"there is no blob {digest}", status=404)
        headers = {**HEADERS, "Content-Length": str(size)}
        kind = "application/octet-stream"
        if file is None:
            return Response(headers=headers, media_type=kind)
        return StreamingResponse(
            _checked_pieces(file, digest, counts), headers=headers, media_type=kind
        )

    async def get_proof(request: Request) -> Response:
        sender(request)
        proof_id = ids.checked(request.path_params["proof_id"], "prf")
        export = await transparency.export(engine, proof_id, public_key)
        return JSONResponse(export.model_dump(mode="json"), headers=HEADERS)

    async def get_checkpoint(request: Request) -> Response:
        sender(request)
        return PlainTextResponse(await transparency.checkpoint(engine), headers=HEADERS)

    async def get_public_key(request: Request) -> Response:
        whose = {httpauth.SENDER_HEADER: sender(request)}  # theirs to compare with who they are
        return PlainTextResponse(signing.public_pem(public_key), headers={**HEADERS, **whose})

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        missing = await ready()
        if missing:
            return problems.problem(503, "not-ready", missing)
        return JSONResponse({"status": "ready"})

    app = Starlette(
        routes=[
            Route("/blobs/sha256/{hex}", put_blob, methods=["PUT"]),
            Route("/blobs/sha256/{hex}", get_blob, methods=["GET", "HEAD"]),
            Route("/proofs/{proof_id}", get_proof, methods=["GET"]),
            Route("/checkpoint", get_checkpoint, methods=["GET"]),
            Route("/public-key", get_public_key, methods=["GET"]),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readyz, methods=["GET"]),
        ],
        # Before who asks is known: nobody but our services reaches this port.
        middleware=[Middleware(Traced)],
    )
    problems.install(app)
    return app


def _digest_of(request: Request) -> Digest:
    return digests.parse("sha256:" + request.path_params["hex"])


async def _store(request: Request, blobs: Blobs, digest: Digest) -> tuple[bool, int]:
    """Whether it is new, and its bytes."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > blobs.bytes_max:
        raise too_large(blobs.bytes_max)  # before a byte is written
    upload = await asyncio.to_thread(blobs.upload, digest)
    with upload:
        piece = bytearray()
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= PIECE_BYTES:
                await asyncio.to_thread(upload.write, bytes(piece))
                piece.clear()
        await asyncio.to_thread(upload.write, bytes(piece))
        return await asyncio.to_thread(upload.commit), upload.size


async def _checked_pieces(file: BinaryIO, digest: Digest, counts: Metrics) -> AsyncIterator[bytes]:
    """The blob, its last piece only once all of it matched the digest: a reader of a rotten blob
    gets a cut answer, never a whole one."""
    state = hashlib.sha256()
    with file:
        held = b""
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            if held:
                yield held
            await asyncio.to_thread(state.update, piece)
            held = piece
    good = "sha256:" + state.hexdigest() == digest
    counts.checked("blob", good=good)
    if not good:
        log.critical("a stored blob does not match its digest", digest=digest)
        raise Corrupt("blob-corrupt", f"the stored bytes of {digest} have changed on disk")
    yield held
