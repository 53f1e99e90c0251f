"""Client: the REST API as typed calls (synchronous).

Each is repeated while the service is unreachable or says "later" (rest.py), up to `patience_s`; a
submission carries an Idempotency-Key, which makes that safe. Event streams resume where they were
cut. Units: seconds. Raises: Refused, Unreachable (errors.py).
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from wfhub_client import log_lines, shapes
from wfhub_client.patience import Patience
from wfhub_client.rest import Rest, part
from wfhub_client.webhooks import WebhookCalls


class Client:
    """`patience_s` of it may be changed between calls."""

    def __init__(self, url: str, token: str, *, patience_s: float = 15.0) -> None:
        self.patience_s = patience_s
        self._rest = Rest(url, token, lambda: Patience(self.patience_s))
        self.url = self._rest.url
        self.webhooks = WebhookCalls(self._rest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._rest.close()

    # --- tasks -----------------------------------------------------------------------------

    def submit(
        self,
        spec: dict[str, Any],
        *,
        project: str = "default",
        idempotency_key: str | None = None,
    ) -> shapes.Submission:
        """`spec` has the fields of a TaskSpec. The same key again is the same task."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        raw = self._rest.json(
            "POST", "/v1/tasks", json={**spec, "project": project}, headers=headers
        )
        return shapes.Submission(raw["task_id"], raw["state"], raw["created"])

    def retry(self, task_id: str, *, idempotency_key: str | None = None) -> shapes.Submission:
        """A new task with all that one was asked. Raises: Refused (409) where it has not ended."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        raw = self._rest.json("POST", f"/v1/tasks/{part(task_id)}/retry", headers=headers)
        return shapes.Submission(raw["task_id"], raw["state"], raw["created"])

    def get(self, task_id: str) -> shapes.Task:
        return shapes.task(self._rest.json("GET", f"/v1/tasks/{part(task_id)}"))

    def list(
        self,
        *,
        project: str | None = None,
        states: tuple[str, ...] = (),
        workflow: str | None = None,
        limit: int | None = None,
    ) -> Iterator[shapes.Task]:
        """Newest first, page by page; all of them without a `limit`."""
        params: dict[str, Any] = {"limit": min(limit or 200, 200), "state": list(states)}
        if project is not None:
            params["project"] = project
        if workflow is not None:
            params["workflow"] = workflow
        left = limit
        while True:
            page = self._rest.json("GET", "/v1/tasks", params=params)
            for raw in page["tasks"]:
                if left == 0:
                    return
                left = None if left is None else left - 1
                yield shapes.task(raw)
            if not page["next_cursor"]:
                return
            params["cursor"] = page["next_cursor"]

    def cancel(self, task_id: str) -> str:
        """Its state: what is at work ends soon. Raises: Refused (409) when it is too late."""
        return str(self._rest.json("POST", f"/v1/tasks/{part(task_id)}/cancel")["state"])

    def review(self, task_id: str, decision: str, comment: str = "") -> str:
        """`decision`: approved | declined. The task's state then. Raises: Refused (409) when it is
        not in review."""
        body = {"decision": decision, "comment": comment}
        return str(self._rest.json("POST", f"/v1/tasks/{part(task_id)}/review", json=body)["state"])

    def submit_batch(self, tasks: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """Each has the fields of a TaskSpec, `project` and, to make a repetition safe, an
        `idempotency_key`. Answers `{status, submitted | problem}` for each, in their order."""
        keyed = [{"idempotency_key": uuid.uuid4().hex, **task} for task in tasks]
        results: Sequence[dict[str, Any]]
        results = self._rest.json("POST", "/v1/tasks:batch", json={"tasks": keyed})["results"]
        return results

    # --- projects, pools, runners -----------------------------------------------------------

    def create_project(self, name: str, **settings: Any) -> dict[str, Any]:
        return self._rest.json("POST", "/v1/projects", json={"name": name, **settings})

    def project(self, ref: str) -> dict[str, Any]:
        """With what runs and what waits. `ref` is a name or an id."""
        return self._rest.json("GET", f"/v1/projects/{part(ref)}")

    def projects(self) -> Iterator[dict[str, Any]]:
        """By name. Without what runs and waits: `project` counts that."""
        cursor: str | None = ""
        while cursor is not None:
            page = self._rest.json("GET", "/v1/projects", params={"cursor": cursor})
            yield from page["projects"]
            cursor = page["next_cursor"]

    def update_project(self, ref: str, changes: dict[str, Any]) -> dict[str, Any]:
        return self._rest.json("PATCH", f"/v1/projects/{part(ref)}", json=changes)

    def pools(self) -> Iterator[dict[str, Any]]:
        yield from self._rest.json("GET", "/v1/pools")["pools"]

    def update_pool(self, name: str, changes: dict[str, Any]) -> dict[str, Any]:
        return self._rest.json("PATCH", f"/v1/pools/{part(name)}", json=changes)

    def runners(self) -> Iterator[dict[str, Any]]:
        """All of them by id, page by page."""
        params: dict[str, str] = {}
        while True:
            page = self._rest.json("GET", "/v1/runners", params=params)
            yield from page["runners"]
            if not page["next_cursor"]:
                return
            params["cursor"] = page["next_cursor"]

    def drain_runner(self, runner_id: str, *, drain: bool = True) -> dict[str, Any]:
        """It ends what it has and gets nothing new, until it is undone."""
        path = f"/v1/runners/{part(runner_id)}/drain"
        return self._rest.json("POST", path, json={"drain": drain})

    # --- schedules --------------------------------------------------------------------------

    def put_schedule(
        self, name: str, spec: dict[str, Any], *, project: str = "default"
    ) -> dict[str, Any]:
        """Makes it, or makes it so; `spec` has the fields of a ScheduleSpec."""
        return self._rest.json("PUT", _schedule(name), json=spec, params={"project": project})

    def schedules(self, *, project: str | None = None) -> Iterator[dict[str, Any]]:
        """By name, page by page."""
        params = {"project": project} if project else {}
        while True:
            page = self._rest.json("GET", "/v1/schedules", params=params)
            yield from page["schedules"]
            if not page["next_cursor"]:
                return
            params["cursor"] = page["next_cursor"]

    def schedule(self, ref: str, *, project: str = "default") -> dict[str, Any]:
        """With its latest firings. `ref` is a name in the project, or an id."""
        return self._rest.json("GET", _schedule(ref), params={"project": project})

    def next_instants(
        self, ref: str, *, project: str = "default", count: int = 10
    ) -> dict[str, Any]:
        params = {"project": project, "count": count}
        return self._rest.json("GET", _schedule(ref, "next"), params=params)

    def pause_schedule(self, ref: str, *, paused: bool, project: str = "default") -> dict[str, Any]:
        path = _schedule(ref, "pause" if paused else "resume")
        return self._rest.json("POST", path, params={"project": project})

    def fire_schedule(
        self, ref: str, *, project: str = "default", idempotency_key: str | None = None
    ) -> dict[str, Any]:
        """The same key again is the same firing. Raises: Refused (409) while one is at work."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        params = {"project": project}
        return self._rest.json("POST", _schedule(ref, "fire"), params=params, headers=headers)

    def delete_schedule(self, ref: str, *, project: str = "default") -> None:
        self._rest.answer("DELETE", _schedule(ref), params={"project": project})

    # --- workflows --------------------------------------------------------------------------

    def submit_workflow(
        self,
        document: bytes,
        content_type: str,
        *,
        project: str = "default",
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """As JSON or YAML. The same key and document again is the same workflow. Raises: Refused,
        with `faults` in its fields where the document is at fault."""
        key = idempotency_key or uuid.uuid4().hex
        return self._rest.json(
            "POST",
            "/v1/workflows",
            content=document,
            params={"project": project},
            headers={"Content-Type": content_type, "Idempotency-Key": key},
        )

    def workflow(self, workflow_id: str, *, tasks: bool = True) -> dict[str, Any]:
        """Without `tasks` it is short, however many there are."""
        path = f"/v1/workflows/{part(workflow_id)}"
        return self._rest.json("GET", path, params={"tasks": _flag(tasks)})

    def workflow_document(self, workflow_id: str) -> dict[str, Any]:
        """As it was submitted."""
        return self._rest.json("GET", f"/v1/workflows/{part(workflow_id)}/document")

    def workflows(
        self, *, project: str | None = None, states: tuple[str, ...] = (), limit: int
    ) -> Iterator[dict[str, Any]]:
        """Newest first, page by page."""
        params: dict[str, Any] = {"limit": min(limit, 200), "state": list(states)}
        if project is not None:
            params["project"] = project
        while limit > 0:
            page = self._rest.json("GET", "/v1/workflows", params=params)
            yield from page["workflows"][:limit]
            limit -= len(page["workflows"])
            if not page["next_cursor"]:
                return
            params["cursor"] = page["next_cursor"]

    def cancel_workflow(self, workflow_id: str) -> dict[str, Any]:
        """Raises: Refused (409) when it has ended."""
        return self._rest.json("POST", f"/v1/workflows/{part(workflow_id)}/cancel")

    # --- dead letters -----------------------------------------------------------------------

    def dead_letters(
        self, *, state: str | None = None, source: str | None = None, limit: int
    ) -> Iterator[dict[str, Any]]:
        """Newest first, without their bodies."""
        given = {"state": state, "source": source, "limit": str(min(limit, 200))}
        params = {name: value for name, value in given.items() if value is not None}
        while limit > 0:
            page = self._rest.json("GET", "/v1/dead-letters", params=params)
            yield from page["dead_letters"][:limit]
            limit -= len(page["dead_letters"])
            if not page["next_cursor"]:
                return
            params["cursor"] = page["next_cursor"]

    def dead_letter(self, dead_letter_id: str) -> dict[str, Any]:
        return self._rest.json("GET", f"/v1/dead-letters/{part(dead_letter_id)}")

    def decide_dead_letter(self, dead_letter_id: str, what: str) -> dict[str, Any]:
        """`what`: replay or discard. A letter is decided once; again is the same answer."""
        return self._rest.json("POST", f"/v1/dead-letters/{part(dead_letter_id)}/{what}")

    # --- tokens -----------------------------------------------------------------------------

    def create_token(self, name: str) -> dict[str, Any]:
        """With `token`, which is shown this once. For the admin's own token, as all of these."""
        return self._rest.json("POST", "/v1/tokens", json={"name": name})

    def tokens(self) -> Iterator[dict[str, Any]]:
        yield from self._rest.json("GET", "/v1/tokens")["tokens"]

    def revoke_token(self, token_id: str) -> None:
        self._rest.answer("DELETE", f"/v1/tokens/{part(token_id)}")

    # --- what happens -----------------------------------------------------------------------

    def events(
        self, task_id: str, *, after: str | None = None, follow: bool = True
    ) -> Iterator[shapes.Event]:
        """The task's events, to the end of the task with `follow`; resumes what was cut."""
        path = f"/v1/tasks/{part(task_id)}/events"

        def over() -> bool:
            return not follow or self.get(task_id).final

        for message in self._rest.events(path, {"follow": _flag(follow)}, after or "", over):
            event = shapes.event(message.id, json.loads(message.data))
            yield event
            if event.final_state and follow:
                return

    def logs(
        self, task_id: str, *, attempt: str | None = None, follow: bool = False
    ) -> Iterator[str]:
        """Lines of the log, each log under its header; resumes what was cut."""
        params = {"follow": _flag(follow), **({"attempt": attempt} if attempt else {})}
        path = f"/v1/tasks/{part(task_id)}/logs"
        return log_lines.lines(self._rest.events(path, params, "", over=lambda: False))

    def steer(self, task_id: str, text: str | None) -> None:
        """A message to its agent; None: that it hands in what it has."""
        what, body = ("hand-in", None) if text is None else ("messages", {"text": text})
        self._rest.answer("POST", f"/v1/tasks/{part(task_id)}/{what}", json=body)

    def artifacts(self, task_id: str, attempt_id: str) -> Iterator[dict[str, Any]]:
        """What the attempt left: name, digest, size where it is known."""
        path = "/".join(map(part, ("artifacts", task_id, attempt_id)))
        yield from self._rest.json("GET", f"/v1/{path}")["artifacts"]

    def artifact(self, task_id: str, attempt_id: str, name: str) -> bytes:
        path = "/".join(map(part, ("artifacts", task_id, attempt_id, name)))
        return self._rest.answer("GET", f"/v1/{path}").content

    # --- proofs -----------------------------------------------------------------------------

    def proof(self, proof_id: str) -> dict[str, Any]:
        """The export: all that offline verification needs but a trusted key."""
        return self._rest.json("GET", f"/v1/proofs/{part(proof_id)}")

    def public_key(self) -> str:
        """The proof-store's public key as the API tells it, PEM."""
        return self._rest.answer("GET", "/v1/proofs/public-key").text


def _schedule(ref: str, *more: str) -> str:
    return "/".join(["/v1/schedules", part(ref), *more])


def _flag(value: bool) -> str:
    return "true" if value else "false"
