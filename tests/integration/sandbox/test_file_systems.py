"""Where overlays cannot be: found by the probe, told, and every run is on a copy of its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import file_systems
import pytest
import unprivileged
from sandbox_lab import Lab
from wfhub_agent_runner import doctor
from wfhub_agent_runner.sandbox import layers
from wfhub_agent_runner.sandbox.bwrap import find_bwrap
from wfhub_agent_runner.sandbox.layers import LayerKind
from wfhub_agent_runner.sandbox.port import Exited, LimitExceeded
from wfhub_agent_runner.sandbox.probes import probe
from wfhub_common.messages import Limits

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems"),
    pytest.mark.only_backend("bwrap"),  # a container needs an overlay, and says so
]

EXPECTED = {"overlay": LayerKind.PLAIN_COPY, "ramfs": LayerKind.COPY}
CHANGES = "echo new > new; rm old.txt; rm -r folder; mkdir folder; echo in > folder/in"


@pytest.fixture(params=file_systems.KINDS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with file_systems.mounted(request.param, tmp_path / "beside", tmp_path / "home") as at:
        yield request.param, at


def test_the_probe_says_what_can_be_there_and_where_it_is_told(
    home: tuple[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    kind, folder = home

    async def work() -> tuple[str, str, list[str]]:
        lab = Lab(folder)
        shown = await doctor.bwrap(folder / "doctor")
        escaped = [result.name for result in await probe(lab.sandbox) if not result.held]
        return lab.sandbox.describe()["layer"], str(shown.facts), escaped

    layer, facts, escaped = unprivileged.run(folder, work)
    assert layer == EXPECTED[kind]
    assert f"'layer': '{EXPECTED[kind].value}'" in facts
    assert escaped == []
    assert "no overlay on the file system of the runner's home" in capfd.readouterr().out


def test_a_folder_is_found_to_be_a_lower_layer(tmp_path: Path) -> None:
    """Of any file system that can be one; on shares: tests/deploy/storage."""
    lower, scratch = tmp_path / "lower", tmp_path / "scratch"

    async def work() -> bool:
        for folder in (lower, scratch):
            folder.mkdir()
        return layers.is_lower(find_bwrap()[0], lower, scratch)

    assert unprivileged.run(tmp_path, work)


def test_a_run_changes_its_copy_and_never_the_shared_tree(home: tuple[str, Path]) -> None:
    kind, folder = home

    async def work() -> tuple[object, list[str], list[str]]:
        lab = Lab(folder)
        (lab.lower / "folder").mkdir()
        (lab.lower / "folder" / "below").write_text("below\n")
        if EXPECTED[kind] is LayerKind.PLAIN_COPY:
            copy = folder / "copy"
            copy.mkdir()
            layers._apply(lab.lower, copy)
            ran = await lab.shell(CHANGES, copy=copy)
            left = copy
        else:
            made = lab.layers()
            ran = await lab.shell(CHANGES, **made)
            left = made["upper"]
        return ran.outcome, _listed(left), _listed(lab.lower)

    outcome, left, shared = unprivileged.run(folder, work)
    assert outcome == Exited(0)
    assert shared == ["folder", "folder/below", "old.txt"]
    assert {"new", "folder", "folder/in"} <= set(left)
    assert "folder/below" not in left or EXPECTED[kind] is LayerKind.COPY


def test_what_a_run_adds_to_a_copy_counts_as_its_disk(home: tuple[str, Path]) -> None:
    _, folder = home

    async def work() -> object:
        lab = Lab(folder)
        copy = folder / "copy"
        copy.mkdir()
        (copy / "there").write_bytes(b"x" * 8 * 1024 * 1024)
        limits = Limits(disk_bytes=16 * 1024 * 1024)
        fine = await lab.shell("head -c 1M /dev/zero > big", copy=copy, limits=limits)
        assert fine.outcome == Exited(0)
        script = "head -c 64M /dev/zero > huge; sleep 60"
        return (await lab.shell(script, copy=copy, limits=limits)).outcome

    outcome = unprivileged.run(folder, work)
    assert isinstance(outcome, LimitExceeded)
    assert outcome.name == "disk"


def test_through_a_hard_link_a_run_could_change_the_shared_tree(tmp_path: Path) -> None:
    """Why links are none of the ways (ADR 23): whoever checks out is who runs."""

    async def work() -> tuple[str, str]:
        lab = Lab(tmp_path)
        shared = lab.lower / "old.txt"
        shared.chmod(0o444)
        copy = tmp_path / "copy"
        copy.mkdir()
        os.link(shared, copy / "old.txt")
        await lab.shell("chmod u+w old.txt && echo changed > old.txt", copy=copy)
        linked = shared.read_text()
        shared.write_text("old\n")
        (copy / "old.txt").unlink()
        layers._apply(lab.lower, copy)
        await lab.shell("chmod u+w old.txt && echo changed > old.txt", copy=copy)
        return linked, shared.read_text()

    assert unprivileged.run(tmp_path, work) == ("changed\n", "old\n")


def _listed(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
