"""What the broker itself refuses, on a real server with real connections.

Each refusal stands beside its positive control: the same act by who may do it.
"""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nats
import own_ports
import pytest
from nats.aio.client import Client
from nats.errors import Error, NoRespondersError
from nats.js.errors import NotFoundError
from wfhub_admin.subscribers import Subscriber
from wfhub_common import ids, streams, subjects
from wfhub_local import nats_server

WAIT_S = 30.0  # for what a busy machine does late
STREAMS = (subjects.EVENTS_STREAM, subjects.INGEST_STREAM, subjects.LOGS_STREAM)


@dataclass
class Server:
    port: int
    passwords: dict[str, str]
    runner: str
    other_runner: str
    project: str  # the one that `ci` hears of; `audit` hears of all

    @asynccontextmanager
    async def user(self, name: str) -> AsyncIterator["Speaker"]:
        speaker = Speaker()

        async def failed(error: Exception) -> None:
            speaker.refusals.put_nowait(str(error))

        speaker.client = await nats.connect(
            f"nats://127.0.0.1:{self.port}",
            user=name,
            password=self.passwords[name],
            inbox_prefix=f"_INBOX.{name}",
            error_cb=failed,
            allow_reconnect=False,
        )
        try:
            yield speaker
        finally:
            await speaker.client.close()


@dataclass
class Speaker:
    client: Client = field(init=False)
    refusals: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)

    async def refused(self) -> str:
        """What the server said against the last act."""
        return await asyncio.wait_for(self.refusals.get(), WAIT_S)

    async def publish(self, subject: str, *, reply: str = "") -> None:
        await self.client.publish(subject, b"{}", reply=reply)
        await self.client.flush()

    async def subscribe(self, subject: str) -> None:
        await self.client.subscribe(subject)
        await self.client.flush()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    runners = [str(ids.new_runner_id()) for _ in range(2)]
    users = ("api", "scheduler", "proof-store", "gateway", *runners)
    passwords = {user: f"password-of-{user}" for user in users}
    project = str(ids.new_project_id())
    heard = {
        Subscriber("ci", (project,)): "password-of-ci",
        Subscriber("audit"): "password-of-audit",
    }
    port = own_ports.free_port()
    config = tmp_path / "nats.conf"
    config.write_text(
        nats_server.configuration(
            port=port, store=tmp_path / "js", passwords=passwords, subscribers=heard
        )
    )
    passwords |= {each.name: password for each, password in heard.items()}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([nats_server.binary(), "-c", config], stderr=log)
    deadline = time.monotonic() + WAIT_S
    while not nats_server.is_up(port):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
    yield Server(port, passwords, *runners, project)
    process.terminate()
    process.wait(10)


@pytest.fixture
async def server(running: Server) -> Server:
    async with running.user("scheduler") as scheduler:
        await streams.provision(scheduler.client.jetstream())
    return running


@pytest.mark.hostile(20)
async def test_nobody_enters_without_a_password(server: Server) -> None:
    with pytest.raises(Error):
        await nats.connect(f"nats://127.0.0.1:{server.port}", allow_reconnect=False)
    server.passwords["api"] = "wrong"
    with pytest.raises(Error):
        async with server.user("api"):
            pass


async def test_a_runner_asks_and_the_scheduler_answers(server: Server) -> None:
    async with server.user("scheduler") as scheduler, server.user(server.runner) as runner:

        async def answer(message: nats.aio.msg.Msg) -> None:
            await message.respond(b"yes")

        await scheduler.client.subscribe(subjects.rpc_filter("claim"), cb=answer)
        await scheduler.client.flush()
        reply = await runner.client.request(subjects.rpc(server.runner, "claim"), b"{}", timeout=5)
        assert reply.data == b"yes"


@pytest.mark.hostile(20)
async def test_a_runner_cannot_speak_as_another_runner(server: Server) -> None:
    async with server.user(server.runner) as runner:
        await runner.publish(subjects.rpc(server.other_runner, "complete"))
        assert "permissions violation" in await runner.refused()


@pytest.mark.hostile(20)
async def test_a_runner_cannot_ask_what_only_services_ask(server: Server) -> None:
    async with server.user(server.runner) as runner:
        for command in ("submit_task", "seal", "introspect", "exchanges"):
            await runner.publish(subjects.rpc(server.runner, command))
            assert "permissions violation" in await runner.refused()


@pytest.mark.hostile(20)
async def test_only_the_scheduler_publishes_events(server: Server) -> None:
    event = subjects.event("prj_x", "task", "tsk_x", "state_changed")
    for name in (server.runner, "api", "proof-store", "gateway"):
        async with server.user(name) as speaker:
            await speaker.publish(event)
            assert "permissions violation" in await speaker.refused()
    async with server.user("scheduler") as scheduler:
        await scheduler.client.jetstream().publish(event, b"{}", timeout=WAIT_S)


@pytest.mark.hostile(20)
async def test_a_runner_announces_its_own_artifacts_and_no_others(server: Server) -> None:
    async with server.user(server.runner) as runner:
        own = subjects.AttemptSubject(server.runner, "p", "t", "a", "artifact")
        await runner.client.jetstream().publish(subjects.ingest(own), b"{}", timeout=WAIT_S)
        foreign = subjects.AttemptSubject(server.other_runner, "p", "t", "a", "artifact")
        await runner.publish(subjects.ingest(foreign))
        assert "permissions violation" in await runner.refused()


@pytest.mark.hostile(20)
async def test_a_runner_creates_purges_and_reads_no_stream(server: Server) -> None:
    async with server.user(server.runner) as runner:
        for action in (
            "$JS.API.STREAM.CREATE.MINE",
            f"$JS.API.STREAM.PURGE.{subjects.EVENTS_STREAM}",
            f"$JS.API.STREAM.DELETE.{subjects.EVENTS_STREAM}",
            f"$JS.API.STREAM.MSG.GET.{subjects.EVENTS_STREAM}",
            f"$JS.API.CONSUMER.CREATE.{subjects.INGEST_STREAM}",
        ):
            await runner.publish(action, reply=f"_INBOX.{server.runner}.x")
            assert "permissions violation" in await runner.refused()
    async with server.user("scheduler") as scheduler:
        await scheduler.client.jetstream().purge_stream(subjects.EVENTS_STREAM)


@pytest.mark.hostile(20)
async def test_a_runner_hears_its_own_inbox_and_no_other(server: Server) -> None:
    async with server.user(server.runner) as runner:
        await runner.subscribe(f"_INBOX.{server.runner}.*")
        assert runner.refusals.empty()
        for subject in (
            f"_INBOX.{server.other_runner}.*",
            "_INBOX.>",
            "_INBOX.api.>",
            subjects.rpc(server.other_runner, "claim"),
            subjects.rpc_filter("claim"),
            subjects.EVENTS_FILTER,
            ">",
        ):
            await runner.subscribe(subject)
            assert "permissions violation" in await runner.refused()


async def test_a_service_answers_only_what_it_was_asked(server: Server) -> None:
    """`allow_responses` opens the reply subject of a request for one reply, and nothing else."""
    async with server.user("gateway") as gateway:
        await gateway.publish("_INBOX.api.made-up")
        assert "permissions violation" in await gateway.refused()


async def test_no_responders_is_told_at_once(server: Server) -> None:
    async with server.user("api") as api:
        with pytest.raises(NoRespondersError):
            await api.client.request(subjects.rpc("api", "submit_task"), b"{}", timeout=WAIT_S)


@pytest.mark.hostile(20)
async def test_an_answer_never_goes_where_the_asker_may_not_speak(server: Server) -> None:
    """A question names the subject of its answer, and who answers may speak there: so may
    JetStream, which acknowledges. Runners have an account of their own, where it stays."""
    foreign = subjects.AttemptSubject(server.other_runner, "p", "t", "a", "artifact")
    own = subjects.AttemptSubject(server.runner, "p", "t", "a", "artifact")
    targets = (
        subjects.event("prj_x", "task", "tsk_x", "state_changed"),
        subjects.rpc(server.other_runner, "complete"),
        subjects.rpc(subjects.API, "cancel_task"),
        subjects.ingest(foreign),
        subjects.log(foreign),
        subjects.CTL_ATTEMPT_ENDED,
        subjects.WAKE,
        f"$JS.API.STREAM.PURGE.{subjects.EVENTS_STREAM}",
    )
    async with server.user("scheduler") as scheduler, server.user(server.runner) as runner:
        js = scheduler.client.jetstream()
        heard: list[str] = []
        asked = asyncio.Event()

        async def answer(message: nats.aio.msg.Msg) -> None:
            await message.respond(b"{}")
            asked.set()

        async def hear(message: nats.aio.msg.Msg) -> None:
            heard.append(message.subject)

        await scheduler.client.subscribe(subjects.rpc_filter("heartbeat"), cb=answer)
        for command in ("complete", "cancel_task"):
            await scheduler.client.subscribe(subjects.rpc_filter(command), cb=hear)
        await scheduler.client.subscribe(subjects.WAKE, cb=hear)
        await scheduler.client.publish(  # the one event there is: not purged
            subjects.event("prj_y", "task", "tsk_y", "state_changed"), b"{}"
        )
        await scheduler.client.flush()
        for target in targets:
            asked.clear()
            await runner.publish(subjects.ingest(own), reply=target)
            await runner.publish(subjects.log(own), reply=target)
            await runner.publish(subjects.rpc(server.runner, "heartbeat"), reply=target)
            await asyncio.wait_for(asked.wait(), WAIT_S)
        await scheduler.client.flush()
        held = {name: (await js.stream_info(name)).state.messages for name in STREAMS}
        assert heard == []
        assert held == {
            subjects.EVENTS_STREAM: 1,
            subjects.INGEST_STREAM: len(targets),
            subjects.LOGS_STREAM: len(targets),
        }
        assert await js.get_last_msg(subjects.INGEST_STREAM, subjects.ingest(own))  # the control
        with pytest.raises(NotFoundError):
            await js.get_last_msg(subjects.INGEST_STREAM, subjects.ingest(foreign))


@pytest.mark.hostile(20)
async def test_a_subscriber_hears_the_events_of_its_projects_and_says_nothing(
    server: Server,
) -> None:
    ours = subjects.event(server.project, "task", "tsk_x", "state_changed")
    others = subjects.event("prj_other", "task", "tsk_y", "state_changed")
    async with (
        server.user("scheduler") as scheduler,
        server.user("ci") as ci,
        server.user("audit") as audit,
    ):
        mine = subjects.event(server.project, "*", "*", "*")
        hears_one = await ci.client.subscribe(mine)
        hears_all = await audit.client.subscribe(subjects.EVENTS_FILTER)
        await ci.client.flush()
        await audit.client.flush()
        for subject in (others, ours):
            await scheduler.publish(subject)
        assert (await hears_one.next_msg(WAIT_S)).subject == ours
        assert [(await hears_all.next_msg(WAIT_S)).subject for _ in range(2)] == [others, ours]

        for subject in (subjects.EVENTS_FILTER, subjects.LOGS_FILTER, subjects.rpc_filter("claim")):
            await ci.subscribe(subject)
            assert "permissions violation" in await ci.refused()
        for subject in (
            ours,
            subjects.WAKE,
            subjects.rpc("ci", "submit_task"),
            f"$JS.API.STREAM.INFO.{subjects.EVENTS_STREAM}",
            f"$JS.API.CONSUMER.CREATE.{subjects.EVENTS_STREAM}.mine",
        ):
            await ci.publish(subject)
            assert "permissions violation" in await ci.refused()
