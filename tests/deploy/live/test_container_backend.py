"""Docker's images in the container backend: built and saved by a real daemon, which is gone when a
task runs. All that holds of containers holds of them: the sandbox's whole contract and its hostile
actions. (The runner speaks to no daemon of root's: ADR 21.)
"""

import os
import subprocess
import sys
from pathlib import Path

import image_lab
import pytest
import unprivileged
from docker_lab import ROOT, daemon
from wfhub_agent_runner.sandbox.images import ImageStore

DOCKERFILE = f"""\
FROM localhost/{image_lab.NAME}:1
ENV BUILT_BY=docker
RUN echo built > /opt/built && rm /usr/bin/test
"""
CONTRACT = ("tests/integration/sandbox", "tests/security/test_sandbox_hostile.py")
CONTRACT_S_MAX = 900

pytestmark = pytest.mark.timeout(CONTRACT_S_MAX + 300)


@pytest.fixture(scope="module")
def saved(folder: Path) -> Path:
    """An image with layers of Docker's own making, over the tests'."""
    made = folder / "container-backend"
    made.mkdir()
    (made / "Dockerfile").write_text(DOCKERFILE)
    base = image_lab.archive(made)
    archive = made / "saved.tar"
    with daemon(folder / "docker", own_network=False) as docker:
        docker.docker("load", "-i", str(base))
        docker.docker("build", "--network", "none", "-t", "wfhub-built:1", str(made))
        docker.docker("save", "-o", str(archive), "wfhub-built:1")
    archive.chmod(0o644)
    return archive


def test_an_image_that_docker_built_is_unpacked_with_what_it_sets(
    saved: Path, tmp_path: Path
) -> None:
    async def work() -> tuple[str | None, str, bool]:
        image = ImageStore(tmp_path).prepared(f"docker-archive:{saved}")
        built = (image.root / "opt/built").read_text()
        return image.env.get("BUILT_BY"), built, (image.root / "usr/bin/test").exists()

    assert unprivileged.run(tmp_path, work) == ("docker", "built\n", False)


def test_the_sandboxs_contract_holds_in_it(saved: Path) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "container"]
    done = subprocess.run(
        [*argv, *CONTRACT],
        cwd=ROOT,
        env={**os.environ, "TEST_IMAGE": str(saved)},
        capture_output=True,
        text=True,
        timeout=CONTRACT_S_MAX,
    )
    print(done.stdout[-300:], file=sys.stderr)
    assert done.returncode == 0, done.stdout[-6000:]
