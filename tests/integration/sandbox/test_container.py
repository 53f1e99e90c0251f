"""What only containers have: images, their environment, and an end that follows the runner's."""

import asyncio
import json
import os
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import image_lab
import pytest
import sandbox_backends
import sandbox_lab
import unprivileged
from sandbox_lab import Lab, Ran, processes_with
from wfhub_agent_runner.sandbox import choice
from wfhub_agent_runner.sandbox.choice import Choice
from wfhub_agent_runner.sandbox.container import ContainerSandbox
from wfhub_agent_runner.sandbox.images import Image, ImageStore, make_fit
from wfhub_agent_runner.sandbox.port import CannotStart, Exited
from wfhub_common.errors import Rejected

pytestmark = [
    pytest.mark.only_backend("container"),
    pytest.mark.only_backend("runsc"),
    pytest.mark.skipif(
        "container" in sandbox_backends.MISSING,
        reason=f"not run here: {sandbox_backends.MISSING.get('container')}",
    ),
]
GONE_S_MAX = 20.0


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + GONE_S_MAX
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.02)
    return False


def killed_runner(home: Path, token: str, *, stopped: bool = False) -> None:
    """It had a container with two processes of that token, the first of it stopped if so asked."""
    reading, writing = os.pipe()
    runner = os.fork()
    if runner == 0:

        async def work() -> None:
            os.write(writing, pickle.dumps(os.getpid()))
            script = f"(setsid sh -c 'trap \"\" TERM; sleep 600 #{token}' &); sleep 600"
            await Lab(home).shell(script, wall_s=600)

        try:
            unprivileged.run(home, work)
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb", buffering=0) as pipe:
        sandboxed = pickle.loads(pipe.read(4096))
    assert eventually(lambda: len(processes_with(token)) >= 2)
    if stopped:
        (noted,) = (home / "scratch").glob("container-*/state/wfhub/status")
        os.kill(json.loads(noted.read_text())["pid"], signal.SIGSTOP)
    os.kill(sandboxed, signal.SIGKILL)
    os.waitpid(runner, 0)


def after_a_start(home: Path) -> list[Path]:
    """What is left in the sandbox's folder when a runner has started there again."""

    async def again() -> list[Path]:
        (home / "scratch").rename(home / "sandbox")
        choice.opened(Choice(), home)
        return [*(home / "sandbox").iterdir()]

    return unprivileged.run(home, again)


@pytest.mark.hostile(10)
def test_when_the_runner_is_killed_its_containers_end(tmp_path: Path, backend: str) -> None:
    # The host sees gVisor's own processes alone.
    token = str(tmp_path) if backend == "runsc" else f"wfhub-orphan-{os.getpid()}"
    killed_runner(tmp_path, token)
    assert eventually(lambda: not processes_with(token))
    assert list((tmp_path / "scratch").glob("container-*"))
    assert after_a_start(tmp_path) == []


@pytest.mark.not_in_backend("runsc", "all of it ends with the first process of its namespace")
@pytest.mark.hostile(10)
def test_a_container_that_did_not_end_with_its_runner_is_ended_by_the_next(tmp_path: Path) -> None:
    token = f"wfhub-stopped-{os.getpid()}"
    killed_runner(tmp_path, token, stopped=True)
    assert len(processes_with(token)) >= 2
    assert after_a_start(tmp_path) == []
    assert eventually(lambda: not processes_with(token))


def test_the_images_environment_comes_below_the_specs(
    tmp_path: Path, container_image: Image
) -> None:
    env = {"PATH": "/opt/image/bin:/bin", "GIVEN": "image", "HOME": "/root", "OWN": "image"}
    sandbox_lab.image_in_use = replace(container_image, env=env)

    async def work() -> Ran:
        given = {"PATH": "/opt/tool/bin:/usr/local/bin:/usr/bin:/bin", "GIVEN": "spec"}
        return await Lab(tmp_path).shell('echo "$PATH $GIVEN $HOME $OWN"; said', env=given)

    ran = unprivileged.run(tmp_path, work)
    assert ran.output.splitlines() == [
        "/opt/tool/bin:/opt/image/bin:/bin:/usr/local/bin:/usr/bin spec /home/agent image",
        "image",
    ]


def test_an_image_without_anything_still_runs_a_program_that_is_bound_in(tmp_path: Path) -> None:
    root = tmp_path / "empty"
    root.mkdir()
    make_fit(root)
    for path in (root, *root.rglob("*")):
        unprivileged.own(path)
    sandbox_lab.image_in_use = Image("empty", "sha256:0", root, {})

    async def work() -> tuple[Ran, Ran]:
        lab = Lab(tmp_path)
        code = "import os, ssl, ctypes; print(os.path.exists('/usr'), os.path.exists('/bin'))"
        return await lab.inside(code), await lab.run("/bin/sh")

    python, shell = unprivileged.run(tmp_path, work)
    assert (python.outcome, python.output) == (Exited(0), "False False\n")
    assert isinstance(shell.outcome, CannotStart)


def test_a_run_leaves_the_image_as_it_was(tmp_path: Path, container_image: Image) -> None:
    def listing() -> list[str]:
        return sorted(str(path) for path in container_image.root.rglob("*"))

    before = listing()
    tool = tmp_path / "tool"
    (tool / "bin").mkdir(parents=True)

    async def work() -> Ran:
        binds = {"/opt/new/tool": tool, str(tool): tool}
        script = "touch /usr/bin/x /etc/x /x; rm /usr/bin/cat; ls -d /opt/new/tool/bin; ls /proc/1"
        return await Lab(tmp_path).shell(script, binds=binds)

    ran = unprivileged.run(tmp_path, work)
    assert ran.output.count("Read-only file system") == 4, ran.output
    assert "/opt/new/tool/bin" in ran.output
    assert listing() == before


def test_a_link_of_the_images_is_not_followed_when_something_is_bound(tmp_path: Path) -> None:
    target, root = tmp_path / "target", tmp_path / "root"
    target.mkdir()
    root.mkdir()
    for name in ("etc", "tmp", "run", "workspace", "home", "opt"):
        (root / name).symlink_to(target)
    make_fit(root)
    for path in (root, target, *root.rglob("*")):
        unprivileged.own(path)
    sandbox_lab.image_in_use = Image("links", "sha256:0", root, {})

    async def work() -> tuple[Ran, Ran]:
        lab = Lab(tmp_path)
        code = "import os; print(os.listdir('/workspace'), open('/etc/passwd').read(5))"
        return await lab.inside(code), await lab.inside(code, binds={"/opt/tool": lab.lower})

    fine, refused = unprivileged.run(tmp_path, work)
    assert (fine.outcome, fine.output) == (Exited(0), "['old.txt'] agent\n")
    assert isinstance(refused.outcome, CannotStart)
    assert "something else than a folder at 'opt'" in refused.outcome.message
    assert list(target.iterdir()) == []


def test_an_image_that_is_not_one_of_the_runners_is_refused(tmp_path: Path) -> None:
    async def work() -> tuple[Ran, str]:
        lab = Lab(tmp_path)
        with pytest.raises(Rejected) as refused:
            lab.sandbox.describe("other:1")
        return await lab.shell("true", image="other:1"), refused.value.code

    ran, code = unprivileged.run(tmp_path, work)
    assert isinstance(ran.outcome, CannotStart)
    assert "CONTAINER_IMAGES" in ran.outcome.message
    assert code == "image-unknown"


def test_two_images_run_beside_each_other_and_are_told_apart(tmp_path: Path) -> None:
    archives = []
    for word in ("one", "two"):
        (tmp_path / word).mkdir()
        said = {"opt/image/bin/said": f"#!/bin/sh\necho {word}\n".encode()}
        archives.append(image_lab.archive(tmp_path / word, extra=said))
    names = tuple(f"docker-archive:{path}" for path in archives)

    async def work() -> tuple[list[str], set[str], list[str]]:
        sandbox = choice.opened(Choice("container", names), tmp_path)
        assert isinstance(sandbox, ContainerSandbox)
        lab = Lab(tmp_path)
        lab.sandbox = sandbox
        runs = [lab.shell("said", image=name) for name in ("", *names)]
        said = [ran.output.strip() for ran in await asyncio.gather(*runs)]
        digests = {sandbox.describe(name)["image_digest"] for name in names}
        choice.opened(Choice("container", names[:1]), tmp_path)
        kept = [path.name for path in (tmp_path / "images").iterdir() if path.is_dir()]
        return said, digests, kept

    said, digests, kept = unprivileged.run(tmp_path, work)
    assert said == ["one", "one", "two"]
    assert len(digests) == 2
    assert len(kept) == 1, "an image that is no longer named was kept"


def test_what_cannot_be_had_now_is_used_as_it_was_and_never_invented(tmp_path: Path) -> None:
    archive = image_lab.archive(tmp_path)

    async def work() -> tuple[bool, str]:
        store, name = ImageStore(tmp_path), f"docker-archive:{archive}"
        first = store.prepared(name)
        archive.rename(tmp_path / "gone.tar")
        again = store.prepared(name)
        with pytest.raises(Rejected) as refused:
            store.prepared("docker-archive:/no/such.tar")
        return first == again, refused.value.message

    same, message = unprivileged.run(tmp_path, work)
    assert same
    assert "/no/such.tar" in message


def test_the_engine_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = image_lab.archive(tmp_path)

    async def work() -> list[str]:
        ImageStore(tmp_path).prepared(f"docker-archive:{archive}")
        return [path.name for path in (tmp_path / "images").iterdir()]

    left = unprivileged.run(tmp_path, work)
    assert len(left) == 2, left  # the image, and the note of its name
    assert not processes_with(str(tmp_path / "images"))
