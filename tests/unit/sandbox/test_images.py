"""Unpacking an image: what would leave its root is refused, what is not needed is left out."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from wfhub_agent_runner.sandbox import images
from wfhub_agent_runner.sandbox.images import ImageStore, make_fit, unpack
from wfhub_common.errors import Rejected


def entry(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.mode = kind, 0o755
    for field, value in fields.items():
        setattr(about, field, value)
    return about


def archive(*entries: tarfile.TarInfo) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for about in entries:
            content = b"x" * about.size if about.isreg() else b""
            tar.addfile(about, io.BytesIO(content))
    packed.seek(0)
    return packed


HOSTILE = {
    "absolute": [entry("/tmp/wfhub-escaped", size=1)],
    "upwards": [entry("../escaped", size=1)],
    "through a link": [
        entry("out", tarfile.SYMTYPE, linkname="../"),
        entry("out/escaped", size=1),
    ],
    "through an absolute link": [
        entry("out", tarfile.SYMTYPE, linkname="/tmp"),
        entry("out/wfhub-escaped", size=1),
    ],
    "a hard link to outside": [entry("passwd", tarfile.LNKTYPE, linkname="../canary")],
    "a hard link through a link": [
        entry("out", tarfile.SYMTYPE, linkname=".."),
        entry("passwd", tarfile.LNKTYPE, linkname="out/canary"),
    ],
}


@pytest.mark.hostile(14)
@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_lands_outside_of_the_root(tmp_path: Path, what: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "canary").write_text("not for images")
    with pytest.raises(tarfile.TarError, match="outside"):
        unpack(archive(*HOSTILE[what]), root)
    assert {path.name for path in tmp_path.iterdir()} == {"root", "canary"}
    assert not Path("/tmp/wfhub-escaped").exists()
    assert (tmp_path / "canary").stat().st_nlink == 1


def test_links_stay_and_devices_and_setuid_bits_do_not(tmp_path: Path) -> None:
    unpack(
        archive(
            entry("usr", tarfile.DIRTYPE, mode=0o555),
            entry("usr/su", size=3, mode=0o4755),
            entry("bin", tarfile.SYMTYPE, linkname="/usr"),
            entry("closed", size=1, mode=0o000),
            entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
            entry("pipe", tarfile.FIFOTYPE),
        ),
        tmp_path,
    )
    assert stat.S_IMODE((tmp_path / "usr" / "su").stat().st_mode) == 0o755
    assert os.readlink(tmp_path / "bin") == "/usr"
    assert (tmp_path / "closed").read_bytes() == b"x"
    assert {path.name for path in tmp_path.iterdir()} == {"usr", "bin", "closed"}


def test_an_archive_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ROOT_BYTES_MAX", 1000)
    with pytest.raises(tarfile.TarError, match="more than 1000 bytes"):
        unpack(archive(entry("a", size=600), entry("b", size=600)), tmp_path)
    monkeypatch.setattr(images, "ROOT_FILES_MAX", 3)
    with pytest.raises(tarfile.TarError, match="3 files"):
        unpack(archive(*(entry(str(number)) for number in range(4))), tmp_path)


def test_a_root_gets_real_folders_where_its_links_would_lead_elsewhere(tmp_path: Path) -> None:
    root, host = tmp_path / "root", tmp_path / "host"
    root.mkdir()
    host.mkdir()
    (host / "passwd").write_text("the host's")
    (root / "etc").symlink_to(host)
    (root / "tmp").write_text("a file")
    make_fit(root)
    assert (host / "passwd").read_text() == "the host's"
    assert (root / "etc" / "passwd").read_text().startswith("agent:x:1000")
    for name in ("etc", "tmp", "run", "proc", "dev", "home/agent", "workspace"):
        assert (root / name).is_dir()
        assert not (root / name).is_symlink()


@pytest.mark.parametrize(
    "name", ["", "-x", "--root=/", "dir:/etc", "docker-daemon:x", "a b", "a;b"]
)
def test_a_name_that_is_an_option_or_another_transport_is_refused(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(Rejected) as refused:
        ImageStore(tmp_path, "true").prepared(name)
    assert refused.value.code == "image-name"


def test_a_daemon_of_roots_is_no_engine(tmp_path: Path) -> None:
    """Named as an operator would; one that is not there at all is another error."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\n")
    docker.chmod(0o755)
    with pytest.raises(Rejected, match=r"docker save -o FILE NAME.*docker-archive:FILE") as caught:
        ImageStore(tmp_path, str(docker))
    assert caught.value.code == "image-engine-docker"
