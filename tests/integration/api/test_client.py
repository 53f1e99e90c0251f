"""The Python client: resumes event streams where they were cut, repeats what is safe."""

import asyncio
from typing import Any

import pytest
from wfhub_api import held_streams
from wfhub_client import rest
from wfhub_client.client import Client
from wfhub_client.errors import Refused, Unreachable
from wfhub_client.shapes import Event
from wfhub_common import subjects


class CuttingProxy:
    """Passes bytes on to the API; `cut` ends every connection there is, `gate` lets new ones."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, up_writer}
        await asyncio.gather(
            self._pass(reader, up_writer), self._pass(up_reader, writer), return_exceptions=True
        )

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def close(self) -> None:
        self.cut()
        self._server.close()


async def test_a_cut_event_stream_is_resumed_without_loss_or_repeat(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    proxy = CuttingProxy(int(hub.url.rpartition(":")[2]))
    url = await proxy.start()
    loop = asyncio.get_running_loop()
    seen: asyncio.Queue[Event | None] = asyncio.Queue()

    def read() -> None:
        with Client(url, hub.token) as client:
            for event in client.events(task_id):
                loop.call_soon_threadsafe(seen.put_nowait, event)
        loop.call_soon_threadsafe(seen.put_nowait, None)

    reading = loop.run_in_executor(None, read)
    positions = []
    async with asyncio.timeout(30):
        for _ in range(3):
            await hub.scheduler.event(task_id, "attempt.step")
            event = await seen.get()
            assert event is not None
            positions.append(event.position)
            proxy.cut()
        await hub.scheduler.finish(task_id, "succeeded")
        while (event := await seen.get()) is not None:
            positions.append(event.position)
        await reading
    assert positions == ["1-1", "1-2", "1-3", "1-4"]
    assert proxy.connections >= 4
    proxy.close()


async def test_a_cut_log_is_resumed_without_loss_or_repeat(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    attempt_id = await hub.scheduler.attempt(task_id)
    proxy = CuttingProxy(int(hub.url.rpartition(":")[2]))
    url = await proxy.start()
    loop = asyncio.get_running_loop()
    seen: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        with Client(url, hub.token) as client:
            for line in client.logs(task_id, follow=True):
                loop.call_soon_threadsafe(seen.put_nowait, line)
        loop.call_soon_threadsafe(seen.put_nowait, None)

    reading = loop.run_in_executor(None, read)
    to = subjects.log(subjects.AttemptSubject("rnr_x", "prj_x", task_id, attempt_id))
    lines = []
    async with asyncio.timeout(60):
        for n in range(4):
            data = b"%d\nbegun " % n
            headers = {subjects.LOG_AT_HEADER: str(n * len(data))}
            await hub.nats.jetstream().publish(to, data, headers=headers)
            while not lines or not (lines[-1] or "").endswith(str(n)):
                lines.append(await seen.get())
            proxy.cut()
        await hub.scheduler.update("api_attempt", attempt_id, state="won")
        await hub.scheduler.finish(task_id, "succeeded")
        while lines[-1] is not None:
            lines.append(await seen.get())
        await reading
    begun = [f"begun {n}" for n in (1, 2, 3)]
    assert lines == ["==> agent <==", "0", *begun, "begun ", None]
    assert proxy.connections >= 4
    proxy.close()


class Mute(CuttingProxy):
    """`hold_back`: nothing is passed on any more in the connections there are, which stay open."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.passed: asyncio.Queue[bytes] = asyncio.Queue()
        self._muted: set[asyncio.StreamWriter] = set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if writer not in self._muted:
                writer.write(data)
                self.passed.put_nowait(data)

    def hold_back(self) -> None:
        self._muted |= self._writers


@pytest.mark.parametrize("what", ["events", "logs"])
async def test_a_peer_that_is_gone_without_a_word_is_given_up_and_asked_again(
    hub: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a proxy that holds the connection open, so that TCP has nothing to complain of; and
    after a silence that was longer than the client's patience."""
    monkeypatch.setattr(held_streams, "KEEP_ALIVE_S", 0.5)
    monkeypatch.setattr(rest, "STREAM_QUIET_S", 5.0)
    task_id = await hub.scheduler.task(state="running")
    attempt_id = await hub.scheduler.attempt(task_id)
    proxy = Mute(int(hub.url.rpartition(":")[2]))
    url = await proxy.start()

    def read() -> int:
        with Client(url, hub.token, patience_s=1.0) as client:
            return sum(1 for _ in getattr(client, what)(task_id, follow=True))

    reading = asyncio.get_running_loop().run_in_executor(None, read)
    async with asyncio.timeout(60):
        keep_alives = 0
        while keep_alives < 5:
            keep_alives += (await proxy.passed.get()).count(held_streams.KEEP_ALIVE.strip())
        proxy.hold_back()
        to = subjects.log(subjects.AttemptSubject("rnr_x", "prj_x", task_id, attempt_id))
        await hub.nats.jetstream().publish(to, b"said\n", headers={subjects.LOG_AT_HEADER: "0"})
        await hub.scheduler.update("api_attempt", attempt_id, state="lost")
        await hub.scheduler.finish(task_id, "failed")
        assert await reading == (1 if what == "events" else 2)
    assert proxy.connections >= 2
    proxy.close()


async def test_a_service_that_knows_no_events_of_a_log_is_named_as_older() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nsaid\n"
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def read() -> None:
        with Client(url, "") as client:
            list(client.logs("tsk_x"))

    with pytest.raises(Unreachable, match=r"text/plain where events.*older than this client"):
        await asyncio.to_thread(read)
    server.close()


async def test_patience_ends_with_unreachable(hub: Any) -> None:
    with Client("http://127.0.0.1:9", "", patience_s=0.5) as client, pytest.raises(Unreachable):
        await asyncio.to_thread(client.get, "tsk_x")


async def test_a_submission_repeated_by_hand_is_the_same_task(hub: Any) -> None:
    def twice() -> tuple[Any, Any]:
        with Client(hub.url, hub.token) as client:
            spec = {"repo": "/r", "prompt": "p"}
            return client.submit(spec, idempotency_key="k"), client.submit(
                spec, idempotency_key="k"
            )

    first, second = await asyncio.to_thread(twice)
    assert first.task_id == second.task_id
    assert (first.created, second.created) == (True, False)


async def test_listing_goes_through_all_pages(hub: Any) -> None:
    made = [await hub.scheduler.task() for _ in range(3)]

    def listed(limit: int | None) -> list[str]:
        with Client(hub.url, hub.token) as client:
            return [task.task_id for task in client.list(limit=limit)]

    assert await asyncio.to_thread(listed, None) == made[::-1]
    assert await asyncio.to_thread(listed, 2) == made[:0:-1]


async def test_a_refusal_carries_code_and_fields(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="succeeded")

    def cancel() -> None:
        with Client(hub.url, hub.token) as client:
            client.cancel(task_id)

    with pytest.raises(Refused) as refused:
        await asyncio.to_thread(cancel)
    assert (refused.value.status, refused.value.code) == (409, "too-late")
    assert refused.value.fields["state"] == "succeeded"
