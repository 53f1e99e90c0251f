"""The main job with SANDBOX_BACKEND=container: every sandbox of it is a container of an image."""

import base64
import json
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import image_lab
import pytest
import sandbox_backends

from .conftest import Stack, commit, git, start

pytestmark = pytest.mark.skipif(
    "container" in sandbox_backends.MISSING,
    reason=f"not run here: {sandbox_backends.MISSING.get('container')}",
)
READY_S_MAX = 240.0  # two images are fetched and unpacked first


@dataclass
class Here:
    stack: Stack
    other: str  # an image that projects may ask for; the default one is another

    def proof_of(self, result: dict[str, Any], folder: Path) -> dict[str, Any]:
        file = folder / "proof.json"
        done = self.stack.wfhub("proof", "export", result["proof_id"], "-o", str(file))
        assert done.returncode == 0, done.stderr
        assert self.stack.wfhub("proof", "verify", str(file)).returncode == 0
        payload = json.loads(file.read_text())["envelope"]["payload"]
        statement = json.loads(base64.b64decode(payload))
        return dict(statement["predicate"]["observed"]["runner"])


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with tempfile.TemporaryDirectory(prefix="wfhub-test-images-") as name:
        yield from _started(Path(name), tmp_path_factory.mktemp("container-stack") / "data")


def _started(folder: Path, data: Path) -> Iterator[Here]:
    folder.chmod(0o755)
    names = []
    for word in ("default", "other"):
        (folder / word).mkdir(mode=0o755)
        said = {"opt/image/bin/said": f"#!/bin/sh\necho {word}\n".encode()}
        names.append(f"docker-archive:{image_lab.archive(folder / word, extra=said)}")
    running = start(
        data,
        ready_s=READY_S_MAX,
        LLM_PROVIDER="openai",
        LLM_BASE_URL="http://127.0.0.1:9",
        SANDBOX_BACKEND="container",
        CONTAINER_IMAGE=names[0],
        CONTAINER_IMAGES=f"{names[1]}=default",
    )
    yield Here(running, names[1])
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(60) == 0


def test_a_task_is_worked_on_and_verified_in_the_default_image(
    here: Here, repository: Path, tmp_path: Path
) -> None:
    code, result, progress = here.stack.run(
        "--repo", str(repository),
        "--agent-cmd", "sh -c 'sed -i s/colour/color/ README.md; said > by; rm tool.sh; id -u'",
        "--setup", "said > set-up",
        "--verify", "grep -qx color README.md && grep -qx default by set-up && git status",
    )  # fmt: skip
    assert code == 0, (result, progress)
    assert (result["state"], result["verdict"]) == ("succeeded", "passed")
    changed = git("diff", "--name-status", "main", result["branch"], cwd=repository).split()
    assert changed == ["M", "README.md", "A", "by", "D", "tool.sh"]
    git("fsck", "--strict", cwd=repository)
    observed = here.proof_of(result, tmp_path)
    sandbox = observed["sandbox"]
    assert (sandbox["backend"], sandbox["image_by"]) == ("container", "operator")
    assert sandbox["image"].endswith("/default/image.tar")
    assert sandbox["image_digest"].startswith("sha256:")


def test_a_repositorys_devcontainer_image_is_used_if_the_operator_allows_it(
    here: Here, repository: Path, tmp_path: Path
) -> None:
    asks = repository / ".devcontainer" / "devcontainer.json"
    asks.parent.mkdir()
    asks.write_text(f'// for everybody\n{{"image": "{here.other}",}}\n')
    commit(repository, "A devcontainer")
    arguments = ["--repo", str(repository), "--agent-cmd", "sh -c 'said > by'"]
    code, result, progress = here.stack.run(*arguments, "--verify", "grep -qx other by")
    assert code == 0, (result, progress)
    sandbox = here.proof_of(result, tmp_path)["sandbox"]
    assert (sandbox["image"], sandbox["image_by"]) == (here.other, "devcontainer")

    asks.write_text('{"image": "evil.example/x:1"}')
    commit(repository, "Another")
    code, result, progress = here.stack.run(*arguments, "--verify", "grep -qx default by")
    assert code == 0, (result, progress)
    sandbox = here.proof_of(result, tmp_path)["sandbox"]
    assert (sandbox["image_by"], sandbox["image_refused"]) == ("operator", "evil.example/x:1")


def test_a_tasks_image_is_used_or_the_task_refused(here: Here, repository: Path) -> None:
    arguments = ["--repo", str(repository), "--agent-cmd", "sh -c 'said > by'"]
    code, result, progress = here.stack.run(
        *arguments, "--image", here.other, "--verify", "grep -qx other by"
    )
    assert code == 0, (result, progress)
    code, result, _ = here.stack.run(*arguments, "--image", "evil.example/x:1")
    assert code == 1
    assert (result["state"], result["reason"]) == ("failed", "image-forbidden")
    assert git("for-each-ref", "--format=%(refname)", cwd=repository).count("wfhub/tsk") == 1
