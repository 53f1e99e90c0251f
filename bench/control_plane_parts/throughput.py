"""Throughput, submit → succeeded: tasks a second from the first submission to the last publication.

Tasks are submitted as fast as they are taken while the far side works them off: the same shape as
the peers are measured in. The database says afterwards whether each of them succeeded.
"""

import dataclasses
import json
import statistics
from typing import Any
from urllib.request import Request, urlopen

from wfhub_common import digests
from wfhub_local import ports

from control_plane_parts import far_side
from control_plane_parts.hub import Hub, bench_env, module
from control_plane_parts.processes import Child, Family, until
from control_plane_parts.servers import Postgres

RUN_S_MAX = 240.0
RUNNERS, SLOTS = 8, 100  # a small fleet; each keeps one claim open, as the product's runner does


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to put the load on."""

    name: str
    batch: int = 1
    width: int = 64
    schedulers: int = 1
    runners: int = RUNNERS
    slots: int = SLOTS  # of each runner
    rest: bool = False
    real_proof_store: bool = False


def measure(family: Family, pg: Postgres, way: Way, *, tasks: int, runs: int) -> dict[str, Any]:
    """Median of `runs` on one deployment; the first, which warms it up, does not count."""
    hub = Hub(
        family,
        pg,
        f"tp_{way.name}",
        schedulers=way.schedulers,
        runners=way.runners,
        proof_store=way.real_proof_store,
        api=way.rest,
    )
    try:
        if way.real_proof_store:
            put_bundle(hub)
        warm = one(hub, way, max(tasks // 4, way.batch))
        results = [one(hub, way, tasks) for _ in range(runs)]
        check_all_succeeded(hub, warm["tasks"] + sum(r["tasks"] for r in results))
    finally:
        hub.close()
    rates = [r["tasks_per_s"] for r in results]
    cpu = {k: round(statistics.median(r["cpu"][k] for r in results), 2) for k in results[0]["cpu"]}
    return {
        "way": way.name,
        "tasks_per_s": round(statistics.median(rates), 1),
        "runs": [round(rate, 1) for rate in rates],
        "tasks": tasks,
        "cpu_cores": cpu,
    }


def one(hub: Hub, way: Way, tasks: int) -> dict[str, Any]:
    tasks -= tasks % way.batch
    far = start_far(hub, expect=tasks, slots=way.slots, real_proof_store=way.real_proof_store)
    told: dict[str, Any] = {"count": tasks, "width": way.width, "batch": way.batch}
    if way.rest:
        told |= {"rest_url": f"http://{ports.HOST}:{hub.api_port}", "token": hub.token}
    load = start_load(hub, **told)
    watched = {
        "scheduler": hub.schedulers,
        "postgres": [hub.pg.child],
        "nats": [hub.nats.child],
        "far_side": [far],
        "load": [load],
        "proof_store_and_api": hub.others,
    }
    before = {name: sum(c.cpu_s() for c in each) for name, each in watched.items()}
    submitted = go(load)
    done = finished(far)
    used = {name: sum(c.cpu_s() for c in each) - before[name] for name, each in watched.items()}
    for child in (load, far):
        hub.family.end(child)
    seconds = (done["last_success_ns"] - submitted["began_ns"]) / 1e9
    return {
        "tasks": tasks,
        "seconds": seconds,
        "tasks_per_s": tasks / seconds,
        "cpu": {name: s / seconds for name, s in used.items()},
    }


def start_far(
    hub: Hub,
    *,
    expect: int = 0,
    slots: int = SLOTS,
    real_proof_store: bool = False,
    name: str = "far",
    **told: Any,
) -> Child:
    spec = hub.far.to_json(
        **{
            "runner_ids": hub.runner_ids,
            "slots": slots,
            "expect": expect,
            "seal": not real_proof_store,
            "exchanges": real_proof_store,
            "store_receipts": real_proof_store,
            **told,
        }
    )
    far = hub.family.start(
        f"{hub.name}-{name}", module("far_side", spec), env=bench_env(), pipes=True
    )
    heard(far, "ready")
    return far


def start_load(hub: Hub, **told: Any) -> Child:
    name = f"{hub.name}-load"
    load = hub.family.start(
        name, module("load", hub.far.to_json(**told)), env=bench_env(), pipes=True
    )
    heard(load, "ready")
    return load


def go(load: Child) -> dict[str, Any]:
    tell(load)
    return dict(json.loads(line_of(load)))


def tell(load: Child) -> None:
    """It begins, and is not waited for."""
    assert load.popen.stdin is not None
    load.popen.stdin.write("go\n")
    load.popen.stdin.flush()


def finished(far: Child) -> dict[str, Any]:
    return dict(json.loads(line_of(far).removeprefix("done ")))


def heard(child: Child, word: str) -> None:
    if (line := line_of(child).strip()) != word:
        raise SystemExit(f"{child.name} said {line!r} instead of {word!r}:\n{child.tail()}")


def line_of(child: Child, timeout_s: float = RUN_S_MAX) -> str:
    import select

    assert child.popen.stdout is not None
    ready, _, _ = select.select([child.popen.stdout], [], [], timeout_s)
    line = child.popen.stdout.readline() if ready else ""
    if not line:
        child.popen.kill()
        raise SystemExit(f"{child.name} said nothing within {timeout_s:g} s:\n{child.tail()}")
    return str(line)


def put_bundle(hub: Hub) -> None:
    """Once for all attempts: blobs are content-addressed."""
    url = f"http://{ports.HOST}:{hub.proofs_port}"
    hexdigest = digests.hex_of(digests.parse(far_side.DIGEST))
    request = Request(
        f"{url}/blobs/sha256/{hexdigest}",
        data=far_side.BUNDLE,
        method="PUT",
        headers={"Authorization": f"Bearer {hub.service_token}"},
    )

    def put() -> bool:
        try:
            with urlopen(request, timeout=5) as answer:
                return bool(answer.status in (200, 201, 204))
        except OSError:
            return False

    until(put, "the proof-store takes a blob")


def check_all_succeeded(hub: Hub, expected: int) -> None:
    found = hub.pg.fetch("SELECT state, count(*) FROM sched.task GROUP BY 1", database=hub.name)
    states = {str(row[0]): int(row[1]) for row in found}
    if states != {"succeeded": expected}:
        raise SystemExit(f"{hub.name}: expected {expected} succeeded tasks, found {states}")
