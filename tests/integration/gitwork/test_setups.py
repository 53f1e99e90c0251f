"""Set-up layers and what is evicted, through real overlays."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from gitrepos import git
from wfhub_agent_runner.gitwork import limits
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.eviction import Budget
from wfhub_agent_runner.gitwork.workspaces import Layers, Lease, Workspaces
from wfhub_agent_runner.set_up import SetUps
from wfhub_common.errors import RetryLater
from wfhub_common.messages import CommandResult

from .conftest import POLICY
from .edits import in_overlay
from .leasing import about, leased, made, reachable

KEY = "k" * 32
DONE = CommandResult(command="x", exit_code=0, outcome="exited", duration_ms=1, log="setup.log")
FAILED = DONE.model_copy(update={"exit_code": 3})


async def set_up(spaces: Workspaces, lease: Lease, script: str, key: str = KEY) -> Lease:
    layers = await spaces.clean(lease, "setup", None)
    in_overlay(layers, "/bin/sh", "-ec", script)
    return await spaces.keep_set_up(lease, key, layers)


async def test_what_was_set_up_lies_below_agent_and_verification(
    spaces: Workspaces, repo: Path
) -> None:
    first = await leased(spaces, repo)
    assert await spaces.set_up(first, KEY) is None
    await set_up(spaces, first, "mkdir -p build/deps; cd build/deps; echo one > x; chmod 400 x")
    await spaces.release(first)

    lease = await spaces.set_up(await leased(spaces, repo), KEY)
    assert lease is not None
    assert await spaces.set_up(lease, "l" * 32) is None
    found = await made(
        spaces,
        lease,
        'test -z "$(git status --porcelain)"; cat build/deps/x > src/new; rm -r src/deep',
    )
    assert [(c.path, c.change) for c in found.changes] == [
        ("src/deep/b.py", "deleted"),
        ("src/new", "added"),
    ]
    clean = await spaces.clean(lease, "verify", found)
    seen = in_overlay(
        clean,
        "/bin/sh",
        "-ec",
        "cat src/new build/deps/x; test ! -e src/deep; git status --porcelain; git write-tree",
    )
    assert seen == f"one\none\n{found.tree}\n"
    base = await spaces.clean(lease, "base", None)
    assert in_overlay(base, "/bin/cat", "build/deps/x") == "one\n"


async def test_the_files_of_the_commit_stay_what_they_are(spaces: Workspaces, repo: Path) -> None:
    (repo / "link").symlink_to("README")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "link")
    lease = await set_up(
        spaces,
        await leased(spaces, repo),
        "echo changed > README; rm run.sh link; mkdir link; echo in > link/in; rm -r src/deep;"
        " mkdir src/deep; echo u > src/deep/untracked; rm src/a.py; ln -s /etc/passwd src/a.py;"
        " echo x > .git/evil; git config core.hooksPath /tmp; chmod 000 src; mkfifo build-fifo",
    )
    assert lease.set_up is not None
    assert set(lease.set_up.left) == {"README", "run.sh", "link", "src/a.py"}
    layer = lease.set_up.layer
    assert sorted(str(path.relative_to(layer)) for path in layer.rglob("*")) == [
        "build-fifo",
        "src",
        "src/deep",
        "src/deep/untracked",
    ]
    seen = in_overlay(
        lease.layers,
        "/bin/sh",
        "-ec",
        "git diff --stat; git status --porcelain; cat README src/a.py src/deep/b.py;"
        " readlink link; test ! -e .git/evil; ! git config core.hooksPath",
    )
    assert seen == "?? src/deep/untracked\nhello\nprint(1)\nprint(2)\nREADME\n"
    assert stat.S_IMODE((layer / "src").stat().st_mode) == 0o755
    assert await spaces.snapshot(lease, about(lease.attempt_id)) is None


async def test_the_digest_is_of_names_modes_and_content(spaces: Workspaces, repo: Path) -> None:
    digests = []
    scripts = ["echo a > x", "echo a > x", "echo b > x", "echo a > x; chmod 700 x", "echo a > y"]
    for number, script in enumerate(scripts):
        lease = await set_up(spaces, await leased(spaces, repo), script, f"{number}" * 32)
        assert lease.set_up is not None
        digests.append(lease.set_up.digest)
        await spaces.release(lease)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


async def test_one_attempt_makes_it_while_the_others_wait(spaces: Workspaces, repo: Path) -> None:
    set_ups, calls = SetUps(spaces), 0

    async def run(layers: Layers) -> tuple[CommandResult, ...]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        (layers.upper / "dep").write_text("dep")
        return (DONE,)

    leases = [await leased(spaces, repo) for _ in range(5)]
    never = asyncio.Event()
    done = await asyncio.gather(*(set_ups.on(lease, KEY, run, never) for lease in leases))
    assert calls == 1
    assert len({one.described()["digest"] for one in done}) == 1
    assert sorted(one.described()["reused"] for one in done) == [False, True, True, True, True]
    for one in done:
        await spaces.release(one.lease)


async def test_a_failed_one_is_not_kept_and_a_cancelled_wait_ends(
    spaces: Workspaces, repo: Path
) -> None:
    set_ups, never = SetUps(spaces), asyncio.Event()
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def run(layers: Layers) -> tuple[CommandResult, ...]:
        inside.set()
        await go_on.wait()
        return (FAILED,)

    first, second = await leased(spaces, repo), await leased(spaces, repo)
    making = asyncio.create_task(set_ups.on(first, KEY, run, never))
    await inside.wait()
    cancel = asyncio.Event()
    waiting = asyncio.create_task(set_ups.on(second, KEY, run, cancel))
    await asyncio.sleep(0)
    cancel.set()
    assert (await waiting).cancelled
    go_on.set()
    assert (await making).lease.set_up is None
    assert await spaces.set_up(first, KEY) is None

    async def mended(layers: Layers) -> tuple[CommandResult, ...]:
        return (DONE,)

    assert (await set_ups.on(second, KEY, mended, never)).lease.set_up is not None


async def test_what_is_used_is_never_evicted_and_the_rest_is_made_anew(
    shared: Path, repo: Path
) -> None:
    home = shared / "home"
    home.mkdir()
    spaces = Workspaces(home, RepoAccess.direct(POLICY), budget=Budget(0, 0.0, 0))
    await spaces.reap()
    lease = await set_up(spaces, await leased(spaces, repo), "echo dep > dep")
    await spaces.tidy()
    assert in_overlay(lease.layers, "/bin/cat", "dep", "README") == "dep\nhello\n"
    await spaces.release(lease)
    assert list(home.glob("trees/*/*")) == list(home.glob("setups/*/*")) == []
    [mirror] = home.glob("mirrors/*")  # an attempt may be on its way from it
    os.utime(mirror, (0, 0))
    await spaces.tidy()
    assert list(home.glob("mirrors/*")) == []
    again = await leased(spaces, repo)
    assert in_overlay(again.layers, "/bin/cat", "README") == "hello\n"
    assert await spaces.set_up(again, KEY) is None


async def test_a_layer_that_was_left_half_made_is_removed(
    shared: Path, repo: Path, spaces: Workspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DEPTH_MAX", 3)
    lease = reachable(await leased(spaces, repo))
    with pytest.raises(Exception, match="deeper than 3"):
        await set_up(spaces, lease, "mkdir -p a/b/c/d/e; echo x > a/b/c/d/e/f")
    assert list((shared / "home").glob("setups/*/*")) == []
    (shared / "home" / "setups" / "m" / ".fresh-1" / "layer").mkdir(parents=True)
    spaces._home_lock.close()
    await Workspaces(shared / "home", RepoAccess.direct(POLICY)).reap()
    assert list((shared / "home").glob("setups/m/.fresh-*")) == []


def _content(layer: Path) -> None:
    file = layer / "deps" / "x"
    before = file.stat()
    file.write_text("eno\n")  # of the same size, with the same time
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced(layer: Path) -> None:
    (layer / "deps" / "x").unlink()
    (layer / "deps" / "x").symlink_to("/etc/hostname")


TOUCHES = {
    "content": _content,
    "mode": lambda layer: (layer / "deps" / "x").chmod(0o777),
    "added": lambda layer: (layer / "conftest.py").write_text("evil"),
    "removed": lambda layer: (layer / "deps" / "x").unlink(),
    "replaced": _replaced,
    "moved": lambda layer: (layer / "deps" / "x").rename(layer / "deps" / "y"),
    "gone": lambda layer: layer.rename(layer.with_name("elsewhere")),
}


@pytest.mark.hostile(18)
@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
async def test_a_layer_that_was_touched_is_below_nobodys_work(
    spaces: Workspaces, repo: Path, touch: Callable[[Path], object]
) -> None:
    lease = await set_up(spaces, await leased(spaces, repo), "mkdir deps; echo one > deps/x")
    await spaces.release(lease)
    again = await spaces.set_up(await leased(spaces, repo), KEY)  # the control: it is used
    assert again is not None
    assert again.set_up is not None
    touch(again.set_up.layer)
    with pytest.raises(RetryLater) as e:
        await spaces.clean(again, "verify", None)
    assert e.value.code == "setup-changed"
    other = reachable(await spaces.lease(again.base, "att_" + "b" * 24))
    with pytest.raises(RetryLater):  # while one stands on it
        await spaces.set_up(other, KEY)
    await spaces.release(again)
    assert await spaces.set_up(other, KEY) is None
    assert not again.set_up.folder.exists()
    made_anew = await set_up(spaces, other, "mkdir deps; echo one > deps/x")
    clean = await spaces.clean(made_anew, "verify", None)
    assert in_overlay(clean, "/bin/cat", "deps/x") == "one\n"
    await spaces.release(made_anew)
    assert spaces._used.counts[again.set_up.folder] == 0


async def test_to_be_used_changes_nothing_of_a_layer(spaces: Workspaces, repo: Path) -> None:
    lease = await set_up(
        spaces,
        await leased(spaces, repo),
        "mkdir -p deps/in; echo one > deps/x; ln -s x deps/l; chmod 500 deps/in; mkfifo f",
    )
    assert lease.set_up is not None
    for name in ("first", "second"):
        layers = await spaces.clean(lease, name, None)
        in_overlay(layers, "/bin/sh", "-ec", "cat deps/x; echo two >> deps/x; rm deps/l; mv f g")
    assert lease.set_up.is_untouched()
