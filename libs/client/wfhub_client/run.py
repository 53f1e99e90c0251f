"""`wfhub run` and `wfhub retry`: submit a task, follow it to its end, say how it ended.

Ctrl-C once asks to cancel the task and keeps following; twice leaves (the task goes on).
"""

import json
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from wfhub_client import describe, trust
from wfhub_client.client import Client
from wfhub_client.errors import ClientError, Refused, Usage
from wfhub_client.session import Session, connected
from wfhub_client.shapes import Submission, Task
from wfhub_client.views import View, view_on

FOLLOW_PATIENCE_S = 120.0  # an accepted task outlives a restart of the service, so do we
LOG_END_WAIT_S = 3.0
WAIT_SAID_AFTER_S = 5.0  # most tasks have begun by then
EXIT_FAILED = 1


def run(submit: Callable[[Client], Submission], *, detach: bool, as_json: bool) -> int:
    """The exit code: 0 only when the task succeeded (or was handed over with `detach`)."""
    progress = sys.stderr if as_json else sys.stdout
    with connected(make=True) as session:
        if detach and not session.outlives:
            raise Usage(
                "--detach: the service must outlive this command; start one with `wfhub up`"
            )
        client = session.client
        submission = submit(client)
        if detach:
            task = client.get(submission.task_id)
            print(json.dumps(describe.result(task)) if as_json else task.task_id, flush=True)
            return 0
        with view_on(progress) as view:
            view.note(f"task {submission.task_id}")
            task = follow(client, submission.task_id, view)
        if task.proof_id and session.local:
            _trust_on_first_use(session)
    print("\n".join(["", *describe.summary(task)]), file=progress, flush=True)
    if as_json:
        print(json.dumps(describe.result(task)), flush=True)
    return 0 if task.state == "succeeded" else EXIT_FAILED


def follow(client: Client, task_id: str, view: View) -> Task:
    """Show what happens until the task has ended. Raises: KeyboardInterrupt at the second one."""
    waiting = threading.Timer(WAIT_SAID_AFTER_S, _say_why_it_waits, (client, task_id, view))
    waiting.daemon = True
    waiting.start()
    try:
        return _followed(client, task_id, view)
    except KeyboardInterrupt:
        view.note(f"left; the task goes on: wfhub status {task_id}")
        raise
    finally:
        waiting.cancel()


def _followed(client: Client, task_id: str, view: View) -> Task:
    """The first KeyboardInterrupt cancels the task; one while that is asked is the second."""
    client.patience_s = FOLLOW_PATIENCE_S
    began_at = client.get(task_id).created_at
    logs = threading.Thread(target=_show_logs, args=(client, task_id, view), daemon=True)
    logs.start()
    after: str | None = None
    asked = False
    while True:
        try:
            for event in client.events(task_id, after=after):
                after = event.position
                at_s = (event.time - began_at).total_seconds()
                view.step(describe.event_line(event), max(0.0, at_s))
                if event.type == "task.state_changed" and event.data.get("to") == "review":
                    view.note(f"waits for a person: {describe.how_to_review(task_id)}")
            task = client.get(task_id)
            logs.join(LOG_END_WAIT_S)
        except KeyboardInterrupt:
            if asked:
                raise
            asked = True
            view.note("cancelling the task; Ctrl-C again leaves it running")
            _cancel(client, task_id, view)
        else:
            return task


def _cancel(client: Client, task_id: str, view: View) -> None:
    try:
        client.cancel(task_id)
    except Refused as e:
        view.note(str(e))


def _say_why_it_waits(client: Client, task_id: str, view: View) -> None:
    with suppress(ClientError):  # `wfhub status` says it too
        if reasons := client.get(task_id).raw.get("waits_because"):
            view.note(f"waits: {'; '.join(reasons)}")


def _show_logs(client: Client, task_id: str, view: View) -> None:
    try:
        for line in client.logs(task_id, follow=True):
            view.log(line)
    except ClientError as e:  # the steps go on without it; the whole log is an artifact
        view.note(f"live log ended: {e}")


def _trust_on_first_use(session: Session) -> None:
    folder = session.settings.config_dir
    try:
        if trust.remember(folder, session.trust_name, session.client.public_key()):
            where = folder / "trust" / f"{session.trust_name}.pem"
            print(f"first use: trusting this stack's proof key, kept in {where}", file=sys.stderr)
    except (ClientError, OSError) as e:
        print(f"warning: {e}", file=sys.stderr)
