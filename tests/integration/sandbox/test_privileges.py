"""Dropping privileges: real processes, from root down, or as whoever runs the tests."""

import json
import os
import pwd
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import unprivileged
from wfhub_common import privileges
from wfhub_common.privileges import CannotDrop

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
TELL = """
import grp, json, os, pwd, sys
status = dict(l.split(":", 1) for l in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(),
    "caps": status["CapPrm"].strip(), "no_new_privs": status["NoNewPrivs"].strip(),
    "name": pwd.getpwuid(os.getuid()).pw_name if os.getuid() > 60000 else "",
    "seen": {p: os.path.exists(p) for p in sys.argv[1:]}, "umask": os.umask(0),
}))
"""


def told(command: list[str]) -> dict[str, object]:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


@root_only
def test_a_launched_program_is_the_service_uid_and_nothing_more(tmp_path: Path) -> None:
    uid = privileges.SERVICE_UIDS["postgres"]
    keep, hidden = tmp_path / "keep", tmp_path / "hidden"
    keep.mkdir(mode=0o755)
    hidden.mkdir(mode=0o755)
    found = told(
        privileges.launcher(
            uid,
            [sys.executable, "-I", "-c", TELL, str(keep), str(hidden)],
            keep_visible=(*privileges.code_paths(), keep),
        )
    )
    assert found["uids"] == [uid] * 3
    assert found["gids"] == [uid] * 3
    assert found["groups"] == []
    assert int(str(found["caps"]), 16) == 0
    assert found["no_new_privs"] == "1"
    assert found["name"] == "wfhub-postgres"
    assert found["umask"] == 0o077
    # Both lie below a folder that is closed to that uid; only the kept one is there.
    assert found["seen"] == {str(keep): True, str(hidden): False}
    assert hidden.is_dir()


@root_only
def test_a_kept_folder_is_read_only_and_a_writable_one_is_not(tmp_path: Path) -> None:
    code, data = tmp_path / "code", tmp_path / "code" / "data"
    data.mkdir(parents=True)
    for folder in (code, data):
        unprivileged.own(folder)
    script = f"touch {code}/x; touch {data}/y"
    ran = subprocess.run(
        privileges.launcher(
            unprivileged.RUNNER_UID,
            ["/bin/sh", "-c", script],
            keep_visible=(*privileges.code_paths(), code),
            keep_writable=(data,),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Read-only file system" in ran.stderr
    assert (data / "y").exists()
    assert not (code / "x").exists()


@root_only
def test_links_on_the_way_to_a_kept_path_are_kept_too(tmp_path: Path) -> None:
    (tmp_path / "versions" / "1.2.3").mkdir(parents=True)
    (tmp_path / "versions" / "1.2.3" / "file").write_text("found")
    (tmp_path / "versions" / "1.2").symlink_to("1.2.3")
    (tmp_path / "current").symlink_to(tmp_path / "versions" / "1.2")
    for folder in (tmp_path / "versions", tmp_path / "versions" / "1.2.3"):
        folder.chmod(0o755)
    path = tmp_path / "current"
    ran = subprocess.run(
        privileges.launcher(
            unprivileged.RUNNER_UID,
            ["/bin/cat", str(path / "file")],
            keep_visible=(*privileges.code_paths(), path),
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("found", "")


@root_only
def test_what_the_uid_may_not_read_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    ran = subprocess.run(
        privileges.launcher(unprivileged.RUNNER_UID, ["/bin/true"], keep_visible=(secret,)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == privileges.CANNOT_START
    assert f"may not read {secret}" in ran.stderr


@root_only
@pytest.mark.alone  # others mount meanwhile
def test_the_hosts_own_files_and_mounts_are_untouched(tmp_path: Path) -> None:
    before = Path("/etc/passwd").read_bytes(), Path("/proc/self/mounts").read_bytes()

    async def work() -> str:
        return pwd.getpwuid(unprivileged.RUNNER_UID).pw_name

    assert unprivileged.run(tmp_path, work) == "wfhub-runner"
    assert (Path("/etc/passwd").read_bytes(), Path("/proc/self/mounts").read_bytes()) == before


def test_a_dropped_process_cannot_go_back(tmp_path: Path) -> None:
    async def work() -> list[str]:
        refused = []
        for name, call in (("uid", os.setuid), ("gid", os.setgid)):
            try:
                call(0)
            except PermissionError:
                refused.append(name)
        return refused

    assert unprivileged.run(tmp_path, work) == ["uid", "gid"]


def test_root_is_no_uid_to_drop_to() -> None:
    with pytest.raises(CannotDrop, match="choose a service uid"):
        privileges.drop(0)


def test_a_process_with_threads_is_refused() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        with pytest.raises(CannotDrop, match="threads"):
            privileges.drop(unprivileged.uid())
    finally:
        done.set()
        thread.join()


def test_an_ordinary_user_cannot_become_another(tmp_path: Path) -> None:
    async def work() -> str:
        try:
            privileges.drop(os.getuid() + 1)
        except CannotDrop as e:
            return str(e)
        return ""

    assert "cannot become" in unprivileged.run(tmp_path, work)


def test_a_launched_program_dies_with_its_parent() -> None:
    gid = None if os.geteuid() == 0 else os.getegid()
    command = privileges.launcher(
        unprivileged.uid(),
        ["/bin/sh", "-c", "echo $$; exec sleep 600"],
        gid=gid,
        keep_visible=privileges.code_paths(),
        die_with_parent=signal.SIGKILL,
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    try:
        # The pipe ends when the child, who has its other end, is gone.
        assert parent.stdout.read() == b""
    finally:
        os.close(child)
        parent.stdout.close()


def test_bad_arguments_are_answered_with_the_usage() -> None:
    ran = subprocess.run(
        [sys.executable, privileges.__file__, "--uid", "x", "--", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == privileges.CANNOT_START
    assert "--uid N" in ran.stderr
