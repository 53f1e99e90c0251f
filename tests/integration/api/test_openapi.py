"""The OpenAPI document is what the API does: schemathesis tries each operation against it."""

import asyncio
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from wfhub_api.routes.batches import BATCH_TIMEOUT_S

EXAMPLES_MAX = 5
TIME_MAX_S = 220  # half a minute on a quiet machine


@pytest.mark.timeout(TIME_MAX_S + 20)
async def test_every_operation_keeps_to_the_document(hub: Any) -> None:
    async def ended(task_id: str) -> None:  # so that no generated call waits for a task's end
        await hub.scheduler.finish(task_id, "succeeded")

    hub.scheduler.on_submit = ended
    binary = Path(sysconfig.get_path("scripts")) / "schemathesis"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(binary), "run", f"{hub.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {hub.token}"),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", str(EXAMPLES_MAX), "--seed", "1", "--workers", "1"),
        # A batch of 500 is waited for by the API itself for BATCH_TIMEOUT_S.
        *("--request-timeout", str(BATCH_TIMEOUT_S + 10), "--no-color"),
        # Not asked: that all which the document allows is accepted (JSON Schema cannot say "no
        # NUL"), nor that all else is refused (pydantic reads `false` as 0 and "5" as 5).
        *("--exclude-checks", "positive_data_acceptance,negative_data_rejection"),
        cwd=hub.tmp,
        env=hub.env(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(TIME_MAX_S):
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-8000:]


async def test_every_operation_documents_its_errors_as_problems(hub: Any) -> None:
    document = hub.app.openapi()
    assert "Problem" in document["components"]["schemas"]
    assert "HTTPValidationError" not in str(document)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            errors = {s: r for s, r in operation["responses"].items() if s >= "400"}
            for status, response in errors.items():
                assert list(response["content"]) == ["application/problem+json"], (path, status)
            if path not in ("/healthz", "/readyz"):
                assert {"401", "422", "503"} <= set(errors), path
                assert operation["security"], path
