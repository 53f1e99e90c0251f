"""One test body over every sandbox backend that this machine can run.

A folder's conftest imports `backend`, `container_image`, `container_python` and
`pytest_generate_tests`. A test that opens a sandbox by `sandbox_lab` runs once for each of
AVAILABLE, but for a test with the marker `only_backend(name)` or `not_in_backend(name, why)`.
MISSING says of each other backend why it is not run here. `runsc` is the container backend with
gVisor: of the program that TEST_RUNSC names, or of the machine's. `kubernetes` is one with a real
cluster, which TEST_KUBERNETES describes (real_cluster).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import image_lab
import pytest
import real_cluster
import sandbox_lab
import unprivileged
from wfhub_agent_runner.sandbox import bundle, runtimes
from wfhub_agent_runner.sandbox.bwrap import own_python
from wfhub_agent_runner.sandbox.images import Image, ImageStore
from wfhub_agent_runner.sandbox.interpreter import gathered
from wfhub_common.errors import Rejected

RUNSC = os.environ.get("TEST_RUNSC", "runsc")
PROGRAMS = {"podman": "fetches and unpacks images", "crun": "starts containers"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> dict[str, str]:
    cluster = {"kubernetes": real_cluster.MISSING} if real_cluster.MISSING else {}
    return {**cluster, **_missing_of_containers()}


def _missing_of_containers() -> dict[str, str]:
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    why = "; ".join(f"{name}, which {PROGRAMS[name]}, is not installed" for name in absent)
    if absent:
        return {"container": why, "runsc": why}
    try:
        runtimes.find(RUNSC)
    except Rejected as e:
        return {"runsc": e.message}
    return {}


MISSING = missing()
BACKENDS = ("bwrap", "container", "runsc", "kubernetes")
AVAILABLE = tuple(name for name in BACKENDS if name not in MISSING)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = {"backend", "tmp_path"}  # no sandbox is opened anywhere else
    if wanted <= set(metafunc.fixturenames) and "sandbox_lab" in _modules_of(metafunc):
        definition = metafunc.definition
        only = [mark.args[0] for mark in definition.iter_markers("only_backend")]
        differs = [mark.args[0] for mark in definition.iter_markers("not_in_backend")]
        wanted = [name for name in only or AVAILABLE if name not in differs]
        chosen = [n for n in wanted if n not in {"runsc", "kubernetes"} or n in AVAILABLE]
        metafunc.parametrize("backend", chosen, indirect=True)


def _modules_of(metafunc: pytest.Metafunc) -> set[str]:
    names = {getattr(each, "__module__", "") for each in vars(metafunc.module).values()}
    return {name for name in names if name}


@pytest.fixture(autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Its name."""
    name = getattr(request, "param", "bwrap")
    if name == "kubernetes":
        sandbox_lab.cluster_in_use = real_cluster.opened()
    elif name != "bwrap":
        sandbox_lab.runtime_in_use = RUNSC if name == "runsc" else runtimes.DEFAULT
        sandbox_lab.image_in_use = request.getfixturevalue("container_image")
        sandbox_lab.python_in_use = request.getfixturevalue("container_python")
    yield name
    sandbox_lab.image_in_use = sandbox_lab.python_in_use = sandbox_lab.cluster_in_use = None


@pytest.fixture(scope="session")
def container_image() -> Iterator[Image]:
    """The tests' image, or the archive of another with the same programs that TEST_IMAGE names,
    unpacked by the real engine as the runner's uid."""
    folder = Path(tempfile.mkdtemp(prefix="wfhub-test-images-"))
    folder.chmod(0o755)  # every test's own uid reads the root below it
    archive = os.environ.get("TEST_IMAGE") or image_lab.archive(folder)

    async def work() -> Image:
        return ImageStore(folder).prepared(f"docker-archive:{archive}")

    try:
        yield unprivileged.run(folder, work)
    finally:
        shutil.rmtree(folder, ignore_errors=os.geteuid() != 0)


@pytest.fixture(scope="session")
def container_python() -> Iterator[Path]:
    """The runner's Python as a container gets it. Its libraries are asked for by half a second of
    `ldd`: a runner does that once, and so do the tests."""
    folder = Path(tempfile.mkdtemp(prefix="wfhub-test-python-"))
    folder.chmod(0o755)
    gathered(own_python(), folder / "python", bundle.PYTHON)
    yield folder / "python"
    shutil.rmtree(folder)
