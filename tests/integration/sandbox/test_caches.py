"""Shared caches in a real sandbox: there, writable for the run, and never changed."""

import os
from pathlib import Path

import unprivileged
from sandbox_lab import MIB, Lab, Ran
from wfhub_agent_runner.sandbox.port import Exited, LimitExceeded
from wfhub_common.messages import Limits

AT = "/home/agent/.cache/pip"


def cache_of(home: Path) -> Path:
    """As an operator would leave it: of the runner's own uid."""
    cache = home / "cache"
    (cache / "wheels").mkdir(parents=True)
    (cache / "wheels" / "a.whl").write_text("wheel\n")
    (cache / "foreign").write_text("foreign\n")
    for path in (cache, cache / "wheels", cache / "wheels" / "a.whl"):
        os.chown(path, unprivileged.RUNNER_UID, unprivileged.RUNNER_UID)
    return cache


def run(home: Path, cache: Path, script: str, **fields: object) -> Ran:
    async def work() -> Ran:
        lab = Lab(home)
        first = await lab.run("/bin/sh", "-c", script, caches={AT: cache}, **fields)
        assert not list((home / "scratch").iterdir()), "the layer over the cache was left"
        return first

    return unprivileged.run(home, work)


def test_it_can_be_written_and_is_never_changed(tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    script = (
        f"cd {AT} && cat wheels/a.whl foreign && echo evil > wheels/a.whl && rm foreign"
        " && echo new > new && mkdir d && cat wheels/a.whl && ls"
    )
    ran = run(tmp_path, cache, script)
    assert ran.outcome == Exited(0), ran.output
    assert ran.output.split() == ["wheel", "foreign", "evil", "d", "new", "wheels"]
    left = sorted(str(path.relative_to(cache)) for path in cache.rglob("*"))
    assert left == ["foreign", "wheels", "wheels/a.whl"]
    assert (cache / "wheels" / "a.whl").read_text() == "wheel\n"
    again = run(tmp_path, cache, f"cat {AT}/wheels/a.whl; ls {AT}")
    assert again.output.split() == ["wheel", "foreign", "wheels"]


def test_what_is_written_there_counts_as_disk(tmp_path: Path) -> None:
    limits = Limits(disk_bytes=16 * MIB, memory_bytes=256 * MIB, file_bytes=256 * MIB)
    script = f"head -c 64M /dev/zero > {AT}/big; sleep 30"
    ran = run(tmp_path, cache_of(tmp_path), script, limits=limits)
    assert isinstance(ran.outcome, LimitExceeded), ran
    assert ran.outcome.name == "disk"
