"""`wfhub artifacts`: what an attempt left, and its exchanges with models, by name."""

import json
import sys
from pathlib import Path

from wfhub_client.agent_events import chosen
from wfhub_client.errors import Usage
from wfhub_client.session import connected
from wfhub_client.text import one_line


def show(
    task_id: str, name: str | None, attempt: str | None, output: Path | None, *, as_json: bool
) -> None:
    """Without `name`: the list, of the latest attempt or that with the number or id `attempt`."""
    with connected() as session:
        attempts = session.client.get(task_id).raw.get("attempts") or []
        found = chosen([a for a in attempts if a["kind"] == "agent"], attempt)
        at = found["attempt_id"]
        if name is None:
            for each in session.client.artifacts(task_id, at):
                print(json.dumps(each) if as_json else line_of(each))
            return
        content = session.client.artifact(task_id, at, name)
    if output is None:
        sys.stdout.buffer.write(content)
        return
    try:
        output.write_bytes(content)
    except OSError as e:
        raise Usage(f"-o: cannot write {output}: {e.strerror}") from e


def line_of(artifact: dict[str, object]) -> str:
    size = "" if artifact["size"] is None else str(artifact["size"])
    return f"{one_line(str(artifact['name'])):<32}  {size:>10}  {artifact['digest']}"
