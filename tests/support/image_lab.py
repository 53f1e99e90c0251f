"""An image for tests, made of this machine's own programs: no registry is needed.

`archive(folder)` writes a docker-archive with a shell, coreutils and what else the sandbox's tests
run, with the libraries that they name.
"""

import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = (
    *("sh", "bash", "cat", "ls", "rm", "mkdir", "rmdir", "ln", "cp", "mv", "touch", "chmod", "id"),
    *("env", "cut", "sort", "tr", "head", "tail", "seq", "wc", "yes", "sleep", "true", "false"),
    *("hostname", "setsid", "grep", "sed", "find", "test", "echo", "printf", "pwd", "git"),
)
ENV = ("PATH=/opt/image/bin:/usr/bin:/bin",)
NAME = "wfhub-test"
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


def archive(
    folder: Path, *, extra: dict[str, bytes] | None = None, env: Sequence[str] = ENV
) -> Path:
    """`extra` maps a path in the image to a program's text."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _links_and_folders(tar)
        found = [path for name in PROGRAMS if (path := shutil.which(name, path="/usr/bin:/bin"))]
        for program in found:
            _add(tar, Path(program).resolve(), f"usr/bin/{Path(program).name}")
        listed = subprocess.run(["ldd", *found], capture_output=True, text=True).stdout
        for library in sorted(set(_LIBRARY.findall(listed))):
            # Where the loader looks for it: /lib is a link to /usr/lib.
            path = library if library.startswith("/usr") else f"/usr{library}"
            _add(tar, Path(library).resolve(), path.lstrip("/"))
        for path, text in {
            "opt/image/bin/said": b"#!/bin/sh\necho image\n",
            **(extra or {}),
        }.items():
            about = tarfile.TarInfo(path)
            about.size, about.mode = len(text), 0o755
            tar.addfile(about, io.BytesIO(text))
    return _docker_archive(folder / "image.tar", layer.getvalue(), env)


def _links_and_folders(tar: tarfile.TarFile) -> None:
    for name in ("usr", "usr/bin", "usr/lib", "usr/lib64", "etc", "etc/ssl", "tmp", "var", "opt"):
        about = tarfile.TarInfo(name)
        about.type, about.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(about)
    for name in ("bin", "lib", "lib64"):
        about = tarfile.TarInfo(name)
        about.type, about.linkname = tarfile.SYMTYPE, f"usr/{name}"
        tar.addfile(about)


def _add(tar: tarfile.TarFile, source: Path, name: str) -> None:
    about = tar.gettarinfo(str(source), arcname=name)
    about.uid = about.gid = 0
    with source.open("rb") as file:
        tar.addfile(about, file)


def _docker_archive(path: Path, layer: bytes, env: Sequence[str]) -> Path:
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
        "os": "linux",
        "config": {"Env": list(env)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    written = json.dumps(config).encode()
    name = f"{hashlib.sha256(written).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [f"localhost/{NAME}:1"], "Layers": ["layer.tar"]}]
    members = {name: written, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as tar:
        for member, content in members.items():
            about = tarfile.TarInfo(member)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    os.chmod(path, 0o644)
    return path
