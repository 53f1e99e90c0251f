"""The runner's edge: from root to nobody in particular, then wiring, then work.

Order matters. A cgroup of our own is made where there can be one. As root: the repository broker is
forked (it keeps root, to read and publish as a repository's owner, as does the process that removes
the cgroup at the end), then this process becomes `runner_uid` for good. Then the sandbox is probed
through its real backend; if a probe gets through, or no backend works, the runner ends here. Only
then does it register and ask for work.
"""

from wfhub_common import light as light  # isort: split

import asyncio
import os
import secrets
import shutil
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import httpx
from wfhub_common import broker as rpc
from wfhub_common import log as logs
from wfhub_common import (
    messages,
    metrics,
    privileges,
    service,
    service_token,
    starting,
    tracing,
)
from wfhub_common.broker import make_broker
from wfhub_common.errors import Rejected
from wfhub_common.messages import UnitKind

from wfhub_agent_runner import (
    escape_watch,
    publication,
    registration,
    start_checks,
    steering,
    toolchains,
)
from wfhub_agent_runner.agents.probing import Versions
from wfhub_agent_runner.attempt import AgentAttempt
from wfhub_agent_runner.claims import Claims
from wfhub_agent_runner.delivery import Delivery
from wfhub_agent_runner.finished import Finished, HandingIn, held_again
from wfhub_agent_runner.gitwork import access_broker
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.workspaces import Workspaces
from wfhub_agent_runner.leases import Leases
from wfhub_agent_runner.metrics import CountedSandbox, Metrics, traced_as
from wfhub_agent_runner.parts import Parts
from wfhub_agent_runner.sandbox import choice, delegation
from wfhub_agent_runner.sandbox.layers import LayerKind
from wfhub_agent_runner.sandbox.pods import sandbox as pods
from wfhub_agent_runner.sandbox.port import Sandbox
from wfhub_agent_runner.scheduler_link import SchedulerLink
from wfhub_agent_runner.set_up import SetUps
from wfhub_agent_runner.settings import OWN_CGROUP, PodsSettings, RunnerSettings
from wfhub_agent_runner.spool import Spool

HTTP_TIMEOUT_S = 30.0
CONNECT_RETRY_S = 0.3
TIDY_EVERY_S = 600.0

log = logs.get_logger(__name__)


def main() -> None:
    settings = RunnerSettings.from_env(os.environ)
    logs.configure("agent-runner", level=settings.log_level, format_=settings.log_format)
    cgroups = own_cgroups(settings)
    repositories, broker_socket = _become_unprivileged(settings)
    service.run(lambda stop: _serve(settings, cgroups, repositories, broker_socket, stop))


def own_cgroups(settings: RunnerSettings) -> Sequence[Path]:
    """Before this process has other threads or children: on v2 it moves to another cgroup.
    Raises: SystemExit without a folder that was named, or a cgroup that is required."""
    required = settings.cgroup_root == OWN_CGROUP
    if settings.cgroup_root and not required:
        for path in settings.cgroup_paths():
            start_checks.insist(path.is_dir(), "CGROUP_ROOT", f"{path} is not a folder")
        return settings.cgroup_paths()
    uid = settings.runner_uid if os.geteuid() == 0 else os.geteuid()
    made = delegation.delegate(delegation.name(settings.runner_id, settings.runner_home), uid)
    if made.why:
        start_checks.insist(
            not required, "CGROUP_ROOT", f"not every limit can be held by a cgroup: {made.why}"
        )
        log.info("not every limit is held by a cgroup", why=made.why)
    return made.folders


def _become_unprivileged(
    settings: RunnerSettings,
) -> tuple[RepoAccess, socket.socket | None]:
    """The way to repositories, and the broker's socket if there is a broker; afterwards this
    process is not root."""
    policy = start_checks.repository_policy(settings)
    home = starting.writable(settings.runner_home, "RUNNER_HOME")
    starting.insist_on_modes(home, "RUNNER_HOME")
    for setting, folder in settings.repository_folders():
        starting.warn_of_share(folder, setting)
    if os.geteuid() != 0:
        return RepoAccess.direct(policy), None
    broker_socket = access_broker.start(policy)
    _own(home, settings.runner_uid)
    _drop(settings, home)
    return RepoAccess.over_socket(broker_socket, policy), broker_socket


def _drop(settings: RunnerSettings, home: Path) -> None:
    try:
        privileges.drop(
            settings.runner_uid,
            settings.runner_uid,
            keep_visible=(
                *privileges.code_paths(),
                *settings.toolchain_paths(),
                *(rule.folder for rule in start_checks.caches(settings)),
                *settings.sandbox().files(),
            ),
            keep_writable=(home,),
        )
    except privileges.CannotDrop as e:
        raise SystemExit(f"bad settings: RUNNER_UID: {e}") from e


def _own(folder: Path, uid: int) -> None:
    if folder.stat().st_uid != uid:
        os.chown(folder, uid, uid)


async def _serve(
    settings: RunnerSettings,
    cgroups: Sequence[Path],
    repositories: RepoAccess,
    broker_socket: socket.socket | None,
    stop: service.Stop,
) -> None:
    if broker_socket is not None:
        # It says nothing unasked: readable means gone, and only a start as root brings another.
        asyncio.get_running_loop().add_reader(
            broker_socket, stop, "the repository broker has ended"
        )
    incarnation = secrets.token_hex(8)
    tools = toolchains.of(settings.toolchain_paths())
    home_lock = start_checks.taken_home(settings)  # before anything in it is removed
    if settings.ready_file is not None:
        starting.writable(settings.ready_file.parent, "READY_FILE")
    try:
        sandbox = await _sandbox(settings, cgroups)
    except ValueError as e:
        raise SystemExit(f"bad settings: {e}") from e
    except Rejected as e:
        raise SystemExit(f"no sandbox works here, so no task is taken: {e.message}") from e
    await escape_watch.refuse_if_escapable(sandbox)

    scratch = settings.runner_home / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    empty = scratch / "empty"
    empty.mkdir()
    workspaces = Workspaces(
        settings.runner_home,
        repositories,
        copies=sandbox.describe()["layer"] == LayerKind.PLAIN_COPY,
        budget=settings.cache_budget(),
        home_lock=home_lock,
    )
    await workspaces.reap()
    spool = Spool(settings.runner_home / "spool")
    finished = Finished(settings.runner_home / "finished")
    records = finished.waiting()

    traced = tracing.set_up("agent-runner", settings.otel_exporter_otlp_endpoint)
    counts = Metrics()
    broker = make_broker(settings, name=settings.runner_id, on_closed=stop)
    leases = Leases(broker=broker, runner_id=settings.runner_id, incarnation=incarnation)
    steering.serve(broker, settings.runner_id, leases.inbox_of)
    async with starting.entering(None):
        await _connected(broker.start, stop)
    proving = partial(
        service_token.insist,
        *(settings.proofs_url, settings.service_token, stop),
        sender=settings.runner_id,
        start_wait_s=settings.start_wait_s,
    )
    await proving(wait_for_it=False)  # before a task is taken that could leave nothing behind
    headers = {"Authorization": f"Bearer {settings.service_token}"}
    async with httpx.AsyncClient(
        base_url=settings.proofs_url, headers=headers, timeout=HTTP_TIMEOUT_S
    ) as http:
        delivery = Delivery(runner_id=settings.runner_id, spool=spool, broker=broker, http=http)
        link = SchedulerLink(broker, settings.runner_id)
        handing_in = HandingIn(finished, delivery, link)
        parts = Parts(
            runner_id=settings.runner_id,
            broker=broker,
            link=link,
            workspaces=workspaces,
            sandbox=CountedSandbox(sandbox, counts),
            spool=spool,
            delivery=delivery,
            handing_in=handing_in,
            toolchains=tools,
            python=sandbox.interpreter,
            gateway_url=settings.gateway_url,
            set_ups=SetUps(workspaces),
            versions=Versions(empty),
            secrets=(settings.service_token, settings.nats_password),
            scratch=scratch,
            egress=settings.egress_rules(),
            caches=start_checks.caches(settings),
            images=settings.image_policy(),
            metrics=counts,
        )

        async def run(assignment: messages.Assignment) -> None:
            held = leases.hold(assignment)
            try:
                with traced_as(assignment), counts.at_work(assignment):
                    match assignment.kind:
                        case UnitKind.AGENT:
                            await AgentAttempt(parts, assignment, held).run()
                        case UnitKind.PUBLISH:
                            await publication.publish(parts, assignment, held)
                        case UnitKind.VERIFY:
                            log.error("a verify unit was not asked for", unit=assignment.attempt_id)
            finally:
                leases.release(assignment.attempt_id)

        claims = Claims(
            broker=broker,
            leases=leases,
            runner_id=settings.runner_id,
            incarnation=incarnation,
            slots=settings.runner_slots,
            pool=settings.runner_pool,
            run=run,
        )
        counts.observe(
            settings.runner_home, spool, slots=settings.runner_slots, paused=claims.paused.is_set
        )
        watched = asyncio.create_task(metrics.serve(counts, settings.metrics_listen, stop))
        registered = await registration.register(
            settings, broker, incarnation, stop, holds=tuple(records)
        )
        if registered is None:
            await rpc.stop(broker)
            return
        if why := starting.apart(registered.time, settings.clock_skew_s_max, "the scheduler's"):
            raise SystemExit(why)
        leases.takes_token_keys = registered.takes_token_keys
        for attempt_id in records.keys() - set(registered.kept):
            finished.remove(attempt_id)

        async def hand_in_again(attempt_id: str) -> None:
            held = held_again(attempt_id)
            leases.take_up(held)
            try:
                await handing_in.again(held, records[attempt_id])
            finally:
                leases.release(attempt_id)

        again = [asyncio.create_task(hand_in_again(one)) for one in registered.kept]
        if again:
            await asyncio.sleep(0)  # they are held
            await leases.beat()
        if settings.ready_file is not None:
            settings.ready_file.write_text(incarnation)
        log.info(
            "ready",
            runner_id=settings.runner_id,
            slots=settings.runner_slots,
            sandbox=sandbox.describe(),
        )
        background = [
            asyncio.create_task(claims.loop()),
            asyncio.create_task(leases.keep(every_s=registered.heartbeat_s)),
            asyncio.create_task(delivery.deliver_leftovers(but_of=set(registered.kept))),
            asyncio.create_task(service.beat(settings.ready_file)),
            asyncio.create_task(_tidy_again(workspaces)),
            asyncio.create_task(escape_watch.probe_again(settings.probe_every_s, sandbox, claims)),
            asyncio.create_task(registration.again(settings, broker, incarnation, leases, stop)),
            asyncio.create_task(stop.wait()),
        ]
        asking = asyncio.create_task(proving())
        done, _ = await asyncio.wait(background[:2] + background[3:], return_when="FIRST_COMPLETED")
        for task in (*background, asking):
            task.cancel()
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("a loop ended by an error", exc_info=error)
        # What still runs is killed, not handed in: its lease ends and another attempt follows.
        leases.cancel_all()
        await asyncio.gather(*again, return_exceptions=True)
        await claims.drain()
        stop("the runner ended by itself")  # nothing, where it was asked to
        await watched
    await rpc.stop(broker)
    if traced is not None:
        await asyncio.to_thread(traced.close)


async def _sandbox(settings: RunnerSettings, cgroups: Sequence[Path]) -> Sandbox:
    """Raises: Rejected, ValueError, SystemExit."""
    if settings.sandbox_backend != "kubernetes":
        return await asyncio.to_thread(
            choice.opened, settings.sandbox(), settings.runner_home, cgroups
        )
    told = PodsSettings.from_env(os.environ)
    here = pods.Here(
        told.kubernetes_service_host,
        told.kubernetes_service_port,
        told.pod_ip,
        told.sandbox_bridge_port,
    )
    scratch = settings.runner_home / "sandbox"
    return await pods.opened(told.pods(os.getuid(), settings.runner_id), here, scratch=scratch)


async def _tidy_again(workspaces: Workspaces) -> None:
    """By age, while nothing runs; each release does so too."""
    while True:
        try:
            await workspaces.tidy()
        except OSError as e:
            log.warning("cannot remove what is kept no longer", error=str(e))
        await asyncio.sleep(TIDY_EVERY_S)


async def _connected(start: Callable[[], Awaitable[None]], stop: service.Stop) -> None:
    waited = False
    while not stop.event.is_set():
        try:
            await start()
        except OSError as e:
            if not waited:
                log.warning("waiting for the broker", error=repr(e))
            waited = True
            await asyncio.sleep(CONNECT_RETRY_S)
        else:
            return


if __name__ == "__main__":
    main()
