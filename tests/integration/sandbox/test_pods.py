"""The kubernetes backend against a simulated cluster whose pods run for real (cluster_double).

It shows that spec becomes pod and pod becomes outcome; not that a cluster confines. No test here is
a proof that the backend works on a real one.
"""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import unprivileged
from cluster_double import ClusterDouble
from wfhub_agent_runner.sandbox import seccomp
from wfhub_agent_runner.sandbox.pods.api import Cluster
from wfhub_agent_runner.sandbox.pods.bridge import Bridge
from wfhub_agent_runner.sandbox.pods.manifest import RUNNER, Pods
from wfhub_agent_runner.sandbox.pods.outcome import ended
from wfhub_agent_runner.sandbox.pods.sandbox import KubernetesSandbox, end_leftovers
from wfhub_agent_runner.sandbox.port import (
    FILES,
    GATEWAY_URL,
    HOME,
    Cancelled,
    CannotStart,
    Exited,
    LimitExceeded,
    SandboxResult,
    SandboxSpec,
    Signalled,
    TakenAway,
    TimedOut,
    refuse_taken_away,
)
from wfhub_common.errors import LeaseLost
from wfhub_common.messages import Limits

Work = Callable[["Lab"], Awaitable[Any]]


@dataclass
class Lab:
    home: Path
    cluster: ClusterDouble
    sandbox: KubernetesSandbox
    output: list[bytes] = field(default_factory=list)
    first_output: asyncio.Event = field(default_factory=asyncio.Event)
    cancel: asyncio.Event = field(default_factory=asyncio.Event)

    async def shell(self, script: str, **fields: Any) -> SandboxResult:
        async def keep(chunk: bytes) -> None:
            self.output.append(chunk)
            self.first_output.set()

        asked: dict[str, Any] = {
            "argv": ("/bin/sh", "-c", script),
            "lower": self.home / "lower",
            "upper": self.home / "upper",
            "work": self.home / "work",
            "limits": Limits(),
            "wall_s": 60.0,
            **fields,
        }
        return await self.sandbox.run(SandboxSpec(**asked), on_output=keep, cancel=self.cancel)

    @property
    def text(self) -> str:
        return b"".join(self.output).decode()


def within(home: Path, work: Work, **faults: Any) -> Any:
    """`work` as the runner's uid; afterwards no pod and no Job is left."""

    async def inside() -> Any:
        async with _lab(home, faults) as lab:
            result = await work(lab)
            assert not lab.cluster.jobs
            assert not lab.cluster.pods
            assert not list(lab.sandbox.scratch.glob("sandbox-*"))
            return result

    return unprivileged.run(home, inside)


@contextlib.asynccontextmanager
async def _lab(home: Path, faults: dict[str, Any]) -> AsyncIterator[Lab]:
    for name in ("lower", "upper", "work", "scratch"):
        (home / name).mkdir()
    (home / "lower" / "old.txt").write_text("old\n")
    (home / "token").write_text("service-account\n")
    double = ClusterDouble(home, **faults)
    client = httpx.AsyncClient(transport=double, base_url="https://10.0.0.1")
    pods = Pods(
        "agents", "agents/python:1.0.0", "hub/runner:1.0.0", "work", home, os.getuid(), "rnr_1"
    )
    bridge = Bridge("127.0.0.1")
    await bridge.start()
    cluster = Cluster(client, "agents", home / "token")
    try:
        yield Lab(
            home,
            double,
            KubernetesSandbox(cluster, pods, bridge, home / "scratch", "v1.37.0", poll_s=0.05),
        )
    finally:
        bridge.close()
        double.close_all()


@pytest.mark.parametrize("code", [0, 1, 42])
def test_an_exit_code_is_the_commands_own(tmp_path: Path, code: int) -> None:
    async def work(lab: Lab) -> tuple[object, str]:
        return (await lab.shell(f"exit {code}")).outcome, lab.text

    assert within(tmp_path, work) == (Exited(code), "")


def test_a_signal_is_told_and_so_is_what_cannot_start(tmp_path: Path) -> None:
    async def work(lab: Lab) -> tuple[object, object]:
        died = await lab.shell("kill -SEGV $$")
        absent = await lab.shell("", argv=("no-such-agent",))
        return died.outcome, absent.outcome

    died, absent = within(tmp_path, work)
    assert died == Signalled(11)
    assert isinstance(absent, CannotStart)
    assert "no-such-agent" in absent.message


def test_what_changed_is_in_the_upper_layer_alone(tmp_path: Path) -> None:
    script = "rm old.txt; mkdir d; echo new > d/new.txt; echo out; echo err >&2; pwd"

    async def work(lab: Lab) -> tuple[SandboxResult, str]:
        return await lab.shell(script), lab.text

    result, text = within(tmp_path, work)
    assert result.outcome == Exited(0)
    assert text == "out\nerr\n/workspace\n"
    assert result.output_bytes == len(text)
    upper = tmp_path / "upper"
    assert sorted(path.name for path in upper.iterdir()) == ["d", "old.txt"]
    assert (upper / "d" / "new.txt").read_text() == "new\n"
    assert stat.S_ISCHR((upper / "old.txt").lstat().st_mode)
    assert (tmp_path / "lower" / "old.txt").read_text() == "old\n"


def test_files_and_environment_are_there_and_the_task_is_not_told_to_the_api_server(
    tmp_path: Path,
) -> None:
    async def work(lab: Lab) -> tuple[str, list[str]]:
        await lab.shell(
            f'cat {FILES}/prompt.md {HOME}/.config/a; echo "$KEY"; echo x > {FILES}/prompt.md',
            env={"KEY": "canary-3"},
            files={f"{FILES}/prompt.md": b"canary-1\n", f"{HOME}/.config/a": b"canary-2\n"},
        )
        return lab.text, lab.cluster.posted

    text, posted = within(tmp_path, work)
    assert text.startswith("canary-1\ncanary-2\ncanary-3\n")
    assert "Read-only file system" in text
    assert posted
    assert not [each for each in posted if "canary" in each or "/bin/sh" in each]


def test_time_cancel_silence_and_too_much_output_end_the_pod(tmp_path: Path) -> None:
    async def work(lab: Lab) -> list[object]:
        late = await lab.shell("sleep 600", wall_s=1.0)
        idle = await lab.shell("sleep 600", idle_s=1.0)
        much = await lab.shell("yes", limits=Limits(output_bytes=100_000))
        running = asyncio.create_task(lab.shell("echo up; sleep 600"))
        lab.first_output.clear()
        await lab.first_output.wait()
        lab.cancel.set()
        return [late.outcome, idle.outcome, much.outcome, much.truncated, (await running).outcome]

    late, idle, much, truncated, cancelled = within(tmp_path, work)
    assert late == TimedOut(1.0)
    assert idle in [LimitExceeded("idle", n) for n in range(1, 15)]  # seconds
    assert (much, truncated) == (LimitExceeded("output", 100_000), True)
    assert cancelled == Cancelled()


def test_a_pod_that_is_stopped_writes_what_it_has_and_its_last_words_are_heard(
    tmp_path: Path,
) -> None:
    script = (
        "exec 2>/dev/null; trap 'echo all of it >> told; echo last words; exit 3' TERM;"
        " echo begun; while :; do sleep 600 & wait $!; done"  # its child may hear of it first
    )

    async def work(lab: Lab) -> tuple[object, str, str, int]:
        running = asyncio.create_task(lab.shell(script, grace_s=lambda: 20.0))
        await lab.first_output.wait()
        lab.cancel.set()
        ran = await running
        told = (lab.home / "upper" / "told").read_text()
        return ran.outcome, lab.text, told, ran.duration_ms

    outcome, text, told, duration_ms = within(tmp_path, work)
    assert (outcome, text, told) == (Cancelled(), "begun\nlast words\n", "all of it\n")
    assert duration_ms < 15_000


def test_a_pod_that_does_not_listen_is_killed_after_its_grace(tmp_path: Path) -> None:
    async def work(lab: Lab) -> SandboxResult:
        script = "trap '' TERM; echo begun; while :; do sleep 600; done"
        return await lab.shell(script, wall_s=1.0, grace_s=lambda: 1.0)

    assert within(tmp_path, work).outcome == TimedOut(1.0)


def test_a_log_that_breaks_off_is_followed_on_and_nothing_comes_twice(tmp_path: Path) -> None:
    async def work(lab: Lab) -> tuple[SandboxResult, str]:
        return await lab.shell("seq 1 5000"), lab.text

    result, text = within(tmp_path, work, cut_log_at=1000)
    assert result.outcome == Exited(0)
    assert text == "".join(f"{n}\n" for n in range(1, 5001))


def test_an_api_server_that_is_away_for_a_moment_costs_no_run(tmp_path: Path) -> None:
    async def work(lab: Lab) -> SandboxResult:
        return await lab.shell("echo new > new.txt")

    assert within(tmp_path, work, outage=5).outcome == Exited(0)


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ({"refusal": "exceeded quota: agents"}, "403: exceeded quota: agents"),
        ({"waiting": "ImagePullBackOff"}, "agent: ImagePullBackOff: Back-off pulling image"),
    ],
)
def test_what_the_cluster_refuses_is_told_in_its_words(
    tmp_path: Path, faults: dict[str, str], says: str
) -> None:
    async def work(lab: Lab) -> SandboxResult:
        return await lab.shell("true")

    outcome = within(tmp_path, work, **faults).outcome
    assert isinstance(outcome, CannotStart)
    assert says in outcome.message


def test_a_pod_that_is_out_of_memory_exceeded_its_limit(tmp_path: Path) -> None:
    async def work(lab: Lab) -> SandboxResult:
        return await lab.shell("exit 137", limits=Limits(memory_bytes=64 * 1024**2))

    outcome = within(tmp_path, work, killed_for="OOMKilled").outcome
    assert outcome == LimitExceeded("memory", 64 * 1024**2)


def test_a_pod_that_goes_with_its_node_is_lost_and_no_end_of_the_commands(tmp_path: Path) -> None:
    """The kubelet of such a node says nothing any more: its pod runs, for all that is known."""

    async def work(lab: Lab) -> SandboxResult:
        return await lab.shell("sleep 60")

    outcome = within(tmp_path, work, taken_for="DeletionByTaintManager").outcome
    assert outcome == TakenAway("the pod was taken away: DeletionByTaintManager: ")
    with pytest.raises(LeaseLost):
        refuse_taken_away(outcome)


def test_a_pod_that_goes_while_its_log_is_read_is_lost(tmp_path: Path) -> None:
    """The log of a node without power neither goes on nor ends."""

    async def work(lab: Lab) -> SandboxResult:
        run = asyncio.create_task(lab.shell("echo begun; sleep 60"))
        await asyncio.wait_for(lab.first_output.wait(), 60)
        lab.cluster.taken_for = "DeletionByTaintManager"
        return await run

    outcome = within(tmp_path, work).outcome
    assert outcome == TakenAway("the pod was taken away: DeletionByTaintManager: ")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("The node was low on resource: ephemeral-storage.", TakenAway),
        ('Usage of EmptyDir volume "tmp" exceeds the limit "32Mi".', LimitExceeded),
    ],
)
def test_what_a_node_lacks_is_not_a_limit_of_the_commands(message: str, expected: type) -> None:
    pod = {"status": {"phase": "Failed", "reason": "Evicted", "message": message}}
    assert isinstance(ended(pod, Limits()), expected)


def test_a_folder_of_the_runners_machine_is_refused_by_name(tmp_path: Path) -> None:
    async def work(lab: Lab) -> SandboxResult:
        return await lab.shell("true", binds={"/opt/tools": Path("/opt/tools")})

    outcome = within(tmp_path, work).outcome
    assert isinstance(outcome, CannotStart)
    assert "/opt/tools" in outcome.message


ASK = f"""
import urllib.request
print(urllib.request.urlopen("{GATEWAY_URL}/v1/models").read().decode())
"""


def test_the_agent_reaches_the_runners_socket_through_sidecar_and_bridge(tmp_path: Path) -> None:
    async def work(lab: Lab) -> tuple[SandboxResult, str, bytes, bytes]:
        asked: list[bytes] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            await writer.drain()
            writer.close()

        socket = lab.home / "relay.sock"
        server = await asyncio.start_unix_server(answer, socket)
        script = f"for i in 1 2 3 4 5 6 7 8 9; do python3 -c '{ASK}' && break; sleep 0.5; done"
        async with server:
            result = await lab.shell(script, gateway_socket=socket)
            reader, writer = await asyncio.open_connection("127.0.0.1", lab.sandbox.bridge.port)
            writer.write(b"a-guess 8090\nGET / HTTP/1.0\r\n\r\n")
            uninvited = await reader.read()
            writer.close()
        return result, lab.text, asked[0], uninvited

    result, text, asked, uninvited = within(tmp_path, work)
    assert result.outcome == Exited(0)
    assert text.endswith("hello\n")
    assert asked.startswith(b"GET /v1/models ")
    assert uninvited == b""


_TRACE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
print(libc.ptrace(0, 0, None, None), ctypes.get_errno())
"""


@pytest.mark.parametrize(("debuggers", "said"), [(False, "-1 1"), (True, "0 0")])
def test_a_pods_own_filter_refuses_debuggers_unless_the_project_allows_them(
    tmp_path: Path, debuggers: bool, said: str
) -> None:
    """RuntimeDefault, which the double does not have, lets them through on any recent kernel."""

    async def work(lab: Lab) -> tuple[object, str]:
        argv = ("python3", "-I", "-S", "-c", _TRACE)
        ran = await lab.shell("", argv=argv, debuggers=debuggers)
        return ran.outcome, lab.text.strip()

    assert within(tmp_path, work) == (Exited(0), said)


def test_a_pod_of_a_machine_without_a_filter_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seccomp, "machines", lambda: ())

    async def work(lab: Lab) -> object:
        return (await lab.shell("echo hi")).outcome

    outcome = within(tmp_path, work)
    assert isinstance(outcome, CannotStart)
    assert "no seccomp program" in outcome.message


_OPEN = """
import os, sys
parent = os.getppid()
for path in (f"/proc/{parent}/mem", f"/proc/{parent}/environ"):
    try:
        os.close(os.open(path, os.O_RDONLY))
        print("GOT", path)
    except OSError as e:
        print("no", e.strerror)
print("its own:", os.open("/proc/self/mem", os.O_RDWR) > 0)
"""


def test_the_agent_cannot_open_the_process_that_started_it(tmp_path: Path) -> None:
    """Of its own uid. What is started is open to itself."""

    async def work(lab: Lab) -> str:
        await lab.shell("", argv=("python3", "-I", "-S", "-c", _OPEN))
        return lab.text

    assert within(tmp_path, work) == "no Permission denied\nno Permission denied\nits own: True\n"


@pytest.mark.parametrize("said", ["exited 0", "signalled 9", "cannot-start a lie", "starting"])
def test_how_a_pod_ended_is_not_what_the_agent_wrote(tmp_path: Path, said: str) -> None:
    async def work(lab: Lab) -> SandboxResult:
        return await lab.shell(f"echo '{said}' >> /dev/termination-log; exit 7")

    assert within(tmp_path, work).outcome == Exited(7)


def test_what_a_killed_runner_left_is_ended_and_no_other_runners_pod(tmp_path: Path) -> None:
    async def work(lab: Lab) -> tuple[list[str], list[str]]:
        for name, runner in (("ours", "rnr_1"), ("theirs", "rnr_2")):
            labels = {RUNNER: runner}
            lab.cluster.jobs[name] = {"metadata": {"name": name, "labels": labels}}
        before = list(lab.cluster.jobs)
        await end_leftovers(lab.sandbox.cluster, "rnr_1", poll_s=0.01)
        after = list(lab.cluster.jobs)
        del lab.cluster.jobs["theirs"]
        return before, after

    assert within(tmp_path, work) == (["ours", "theirs"], ["theirs"])


def test_an_error_of_who_hears_the_output_ends_the_pod_and_rises(tmp_path: Path) -> None:
    async def work(lab: Lab) -> None:
        async def fails(_: bytes) -> None:
            raise ConnectionError("the log is gone")

        spec = SandboxSpec(
            argv=("/bin/sh", "-c", "echo up; sleep 600"),
            lower=lab.home / "lower",
            limits=Limits(),
            wall_s=60,
        )
        with pytest.raises(ConnectionError):
            await lab.sandbox.run(spec, on_output=fails, cancel=asyncio.Event())

    within(tmp_path, work)


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    async def work(lab: Lab) -> SandboxResult:
        return await lab.shell("true", cwd="/workspace/nowhere")

    outcome = within(tmp_path, work).outcome
    assert isinstance(outcome, CannotStart)
    assert "nowhere" in outcome.message
