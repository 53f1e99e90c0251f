"""The checker: decides each invariant from a run's evidence, offline. Pure.

I1 one publication a task, one ref      I5 subscribers see dense, ordered positions
I2 accepted tasks reach a final state   I6 limits are never exceeded
I3 published digests are stored, verify I7 recovery within the stated time
I4 only current attempts move           I8 nothing acknowledged is missing

Order is that of the events' ids: a claim that counted an end was made after it, so a limit that
looks exceeded in this order was exceeded.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from chaos.evidence import Evidence, Row

FINAL = {"succeeded", "failed", "cancelled"}
ENDED = {"won", "rejected", "failed", "cancelled", "lost"}
BRANCH, MARKER = "refs/heads/wfhub/", "refs/wfhub/published/"
PUBLISHED_NOW = "Published"
VIOLATIONS_LISTED_MAX = 50


@dataclass(frozen=True)
class Violation:
    invariant: str
    what: str
    about: str = ""


def check(found: Evidence) -> list[Violation]:
    return [
        Violation(name, what, about)
        for name, rule in INVARIANTS.items()
        for what, about in rule(found)
    ]


Found = Iterator[tuple[str, str]]  # what, about whom


def one_publication(found: Evidence) -> Found:
    of_task: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for ref in found.refs:
        for kind in (BRANCH, MARKER):
            if ref["name"].startswith(kind):
                of_task[ref["name"].removeprefix(kind)][kind].append(ref)
    tasks = {task["task_id"]: task for task in found.tasks}
    for task_id, refs in of_task.items():
        task = tasks.get(task_id)
        if task is None or task["state"] != "succeeded":
            yield f"published, and its task is {task and task['state']}", task_id
        for kind, each in refs.items():
            if len(each) > 1:
                yield f"{len(each)} refs {kind}…", task_id
            elif task is not None and kind == BRANCH and each[0]["commit"] != task["commit_id"]:
                yield f"{each[0]['commit']} was published, not {task['commit_id']}", task_id
    for task_id, task in tasks.items():
        if task["state"] == "succeeded" and set(of_task[task_id]) != {BRANCH, MARKER}:
            yield "succeeded, and its refs are not both there", task_id
    yield from _unapproved(found, set(of_task))
    made: dict[str, set[str]] = defaultdict(set)
    for line in _of(found, "publish", "ok"):
        if line["result"] == PUBLISHED_NOW:
            made[line["branch_ref"]].add(line["commit"])
    for ref_name, commits in made.items():
        if len(commits) > 1:
            yield f"published {len(commits)} commits", ref_name


def _unapproved(found: Evidence, published: set[str]) -> Found:
    wanted = {line["task_id"] for line in found.history if line["op"] == "review-wanted"}
    approved = {
        line["task_id"] for line in _of(found, "review", "invoke") if line["decision"] == "approved"
    }
    for task_id in (wanted & published) - approved:
        yield "published, and nobody approved it", task_id


def reaches_an_end(found: Evidence) -> Found:
    for task in found.tasks:
        if task["state"] not in FINAL:
            yield f"still {task['state']}", task["task_id"]
    for key, told in _submissions(found).items():
        if not told["answered"]:
            yield "a submission was never told yes or no", key


def digests_are_stored(found: Evidence) -> Found:
    attempts = {attempt["attempt_id"]: attempt for attempt in found.attempts}
    for task in found.tasks:
        if task["state"] != "succeeded":
            continue
        proof = found.proofs.get(task["task_id"])
        if proof is None or not proof["verified"]:
            yield "no proof that verifies", task["task_id"]
        elif proof["commit"] != task["commit_id"]:
            yield f"the proof is of {proof['commit']}, not {task['commit_id']}", task["task_id"]
        receipts = attempts.get(task["winner"], {}).get("receipts", [])
        if not receipts:
            yield "published without a receipt", task["task_id"]
        for receipt in receipts:
            if not found.blobs.get(receipt["digest"]):
                yield f"{receipt['name']} is not stored, or not whole", task["task_id"]


def only_current_attempts_move(found: Evidence) -> Found:
    live: dict[str, str] = {}  # task → its attempt
    ended: set[str] = set()
    states: dict[str, str] = {}
    for event in found.events:
        data, task_id = event["data"], event["task_id"]
        if event["type"] == "task.submitted":
            states[task_id] = data["state"]
        elif event["type"] == "task.state_changed":
            if states.get(task_id) != data["from"]:
                yield f"left {data['from']}, and was {states.get(task_id)}", task_id
            if data["from"] in FINAL:
                yield f"{data['from']} and then {data['to']}", task_id
            states[task_id] = data["to"]
        elif event["type"] == "attempt.state_changed":
            attempt_id = event["entity_id"]
            if data["to"] == "leased":
                if task_id in live:
                    yield f"leased while {live[task_id]} was live", attempt_id
                live[task_id] = attempt_id
            elif live.get(task_id) != attempt_id or attempt_id in ended:
                yield f"became {data['to']}, and was not current", attempt_id
            if data["to"] in ENDED:
                ended.add(attempt_id)
                if live.get(task_id) == attempt_id:
                    del live[task_id]
    for task in found.tasks:
        if task["task_id"] in states and states[task["task_id"]] != task["state"]:
            yield (
                f"is {task['state']}, its events end in {states[task['task_id']]}",
                task["task_id"],
            )


def subscribers_see_all_in_order(found: Evidence) -> Found:
    wanted = {event["event_id"] for event in found.events}
    for event in found.events:
        if event["pos"] is None:
            yield "has no position", event["event_id"]
    for who, heard in found.heard.items():
        last: tuple[int, int] | None = None
        for line in heard:
            at = (line["generation"], line["pos"])
            if last is not None and at <= last:
                yield f"{who} heard {at} after {last}", line["id"]
            elif last is not None and at[0] == last[0] and at[1] != last[1] + 1:
                yield f"{who} heard {at} right after {last}", line["id"]
            last = at
        if missing := wanted - {line["id"] for line in heard}:
            yield f"{who} never heard of {len(missing)} events", min(missing)
        if extra := {line["id"] for line in heard} - wanted:
            yield f"{who} heard of {len(extra)} events that are not in the log", min(extra)


def limits_hold(found: Evidence) -> Found:
    """Of projects. A runner's slots are its own: it claims again for work that it gave up, of which
    the scheduler thinks as live until the lease is over."""
    limits = {row["project_id"]: row["running_limit"] for row in found.projects}
    at_work: dict[str, set[str]] = defaultdict(set)
    for event in found.events:
        if event["type"] != "attempt.state_changed":
            continue
        whom = event["project_id"]
        if event["data"]["to"] == "leased":
            at_work[whom].add(event["entity_id"])
            if len(at_work[whom]) > limits[whom]:
                yield f"{len(at_work[whom])} at work; its limit is {limits[whom]}", whom
        elif event["data"]["to"] in ENDED:
            at_work[whom].discard(event["entity_id"])


def recovers_in_time(found: Evidence) -> Found:
    for line in found.history:
        if line["op"] == "canary" and line["seconds"] > found.recovery_s_max:
            yield (
                f"{line['seconds']:.1f} s until a task was published; at most"
                f" {found.recovery_s_max:.0f}",
                line["fault"],
            )
        if line["op"] == "busy" and line["cores"] > line["cores_max"]:
            yield f"{line['cores']:.2f} cores while it could only wait", line["node"]


def nothing_told_is_missing(found: Evidence) -> Found:
    by_title: dict[str, list[Row]] = defaultdict(list)
    for task in found.tasks:
        by_title[task["title"]].append(task)
    for key, told in _submissions(found).items():
        kept = {task["task_id"] for task in by_title.get(key, ())}
        for task_id in told["ids"] - kept:
            yield f"{task_id} was acknowledged and is not there", key
        if len(kept) > 1:
            yield f"one key made {len(kept)} tasks", key
    tasks = {task["task_id"]: task for task in found.tasks}
    for line in _of(found, "read", "ok"):
        kept_task = tasks.get(line["task_id"])
        is_ = kept_task and kept_task["state"]
        if is_ is None or (line["state"] in FINAL and is_ != line["state"]):
            yield f"read as {line['state']}, is {is_}", line["task_id"]
    for line in _of(found, "review", "ok"):
        state = tasks[line["task_id"]]["state"]
        if line["decision"] == "declined" and state != "failed":
            yield f"was declined, is {state}", line["task_id"]
    attempts = {attempt["attempt_id"]: attempt for attempt in found.attempts}
    for line in _of(found, "complete", "ok"):
        attempt = attempts.get(line["attempt_id"])
        if attempt is None or attempt["state"] != line["outcome"]:
            yield (
                f"{line['outcome']} was acknowledged, it is {attempt and attempt['state']}",
                line["attempt_id"],
            )


INVARIANTS: dict[str, Callable[[Evidence], Found]] = {
    "I1": one_publication,
    "I2": reaches_an_end,
    "I3": digests_are_stored,
    "I4": only_current_attempts_move,
    "I5": subscribers_see_all_in_order,
    "I6": limits_hold,
    "I7": recovers_in_time,
    "I8": nothing_told_is_missing,
}


def _of(found: Evidence, op: str, phase: str) -> Iterator[Row]:
    return (line for line in found.history if line["op"] == op and line["phase"] == phase)


def _submissions(found: Evidence) -> dict[str, dict[str, Any]]:
    """What was said of each key: the ids, and whether an answer came at all."""
    said: dict[str, dict[str, Any]] = {}
    for line in found.history:
        if line["op"] != "submit":
            continue
        told = said.setdefault(line["key"], {"ids": set(), "answered": False})
        if line["phase"] in {"ok", "fail"}:
            told["answered"] = True
        if line["phase"] == "ok":
            told["ids"].add(line["task_id"])
    return said
