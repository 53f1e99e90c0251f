"""The few calls to the Kubernetes API that a run needs, with the runner's service account.

The token is read for each call: the kubelet renews it. Rights needed, in one namespace: jobs
create, get, list, delete; pods get, list; pods/log get.
Raises: CannotAsk with the API server's sentence.
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 30.0
LOG_SILENT_S = 3600.0  # an agent may think for long


class CannotAsk(Exception):
    """The API server refused, or did not answer."""


@dataclass(frozen=True)
class Cluster:
    http: httpx.AsyncClient
    namespace: str
    token_file: Path = ACCOUNT / "token"

    async def create_job(self, manifest: dict[str, Any]) -> None:
        await self._json("POST", f"{self._jobs}", json=manifest)

    async def pod_of(self, job: str) -> dict[str, Any] | None:
        """The pod of a Job; None while, or since, there is none."""
        selector = {"labelSelector": f"batch.kubernetes.io/job-name={job}"}
        found = await self._json("GET", self._pods, params=selector)
        items = found.get("items") or []
        return dict(items[0]) if items else None

    async def job(self, name: str) -> dict[str, Any] | None:
        return await self._json("GET", f"{self._jobs}/{name}", missing=True) or None

    async def jobs_of(self, label: str, value: str) -> list[str]:
        """Names."""
        selector = {"labelSelector": f"{label}={value}"}
        found = await self._json("GET", self._jobs, params=selector)
        return [str(each["metadata"]["name"]) for each in found.get("items") or []]

    async def delete_job(self, name: str) -> None:
        """With its pod; the Job is there until the pod is gone."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        await self._json("DELETE", f"{self._jobs}/{name}", json=body, missing=True)

    @contextlib.asynccontextmanager
    async def log(self, pod: str, container: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """From the beginning, for as long as the container writes."""
        path = f"{self._pods}/{pod}/log"
        asked = {"container": container, "follow": "true"}
        timeout = httpx.Timeout(TIMEOUT_S, read=LOG_SILENT_S)
        try:
            async with self.http.stream(
                "GET", path, params=asked, headers=self._headers(), timeout=timeout
            ) as answer:
                if answer.is_error:
                    await answer.aread()
                    raise CannotAsk(_sentence(answer))
                yield answer.aiter_bytes()
        except httpx.HTTPError as e:
            raise CannotAsk(f"the API server: {e!r}") from e

    async def version(self) -> str:
        return str((await self._json("GET", "/version")).get("gitVersion", ""))

    @property
    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs"

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def _headers(self) -> dict[str, str]:
        try:
            return {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
        except OSError as e:
            raise CannotAsk(f"no service account here: {e}") from e

    async def _json(
        self, method: str, path: str, *, missing: bool = False, **sent: Any
    ) -> dict[str, Any]:
        try:
            answer = await self.http.request(method, path, headers=self._headers(), **sent)
        except httpx.HTTPError as e:
            raise CannotAsk(f"the API server: {e!r}") from e
        if missing and answer.status_code == httpx.codes.NOT_FOUND:
            return {}
        if answer.is_error:
            raise CannotAsk(_sentence(answer))
        return dict(answer.json())


def _sentence(answer: httpx.Response) -> str:
    try:
        why = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        why = answer.text[:500]
    return f"the API server answered {answer.status_code}: {why}"
