"""SANDBOX_BACKEND and CONTAINER_*: what the runner opens, and what it must still see as its uid."""

from pathlib import Path

import pytest
from wfhub_agent_runner.sandbox import choice
from wfhub_agent_runner.sandbox.choice import Choice
from wfhub_agent_runner.settings import RunnerSettings

NEEDED = {
    "RUNNER_ID": "rnr_1",
    "RUNNER_HOME": "/srv/runner",
    "NATS_URL": "nats://127.0.0.1:1",
    "PROOFS_URL": "http://127.0.0.1:1",
    "GATEWAY_URL": "http://127.0.0.1:1",
}


def settings(**env: str) -> RunnerSettings:
    return RunnerSettings.from_env({**NEEDED, **env})


def test_bwrap_is_the_default_and_has_no_images() -> None:
    plain = settings(CONTAINER_IMAGE="base:1")
    assert plain.sandbox() == Choice()
    assert plain.image_policy() is None


def test_a_container_has_its_images_the_default_one_first() -> None:
    asked = settings(
        SANDBOX_BACKEND="container",
        CONTAINER_IMAGE="base:1",
        CONTAINER_IMAGES="oci-archive:/srv/a.tar=web;base:1=*;node:22=*",
        CONTAINER_ENGINE="/opt/podman",
        CONTAINER_AUTH_FILE="/run/secrets/auth.json",
        HTTPS_PROXY="http://proxy:3128",
    )
    found = asked.sandbox()
    assert found.images == ("base:1", "oci-archive:/srv/a.tar", "node:22")
    assert found.engine == "/opt/podman"
    assert found.files() == (Path("/srv/a.tar"), Path("/run/secrets/auth.json"))
    assert found.engine_env == {
        "REGISTRY_AUTH_FILE": "/run/secrets/auth.json",
        "HTTPS_PROXY": "http://proxy:3128",
    }


@pytest.mark.parametrize("env", [{"SANDBOX_BACKEND": "none"}, {"CONTAINER_IMAGES": "node:22"}])
def test_what_says_nothing_usable_stops_the_runner(env: dict[str, str]) -> None:
    with pytest.raises((SystemExit, ValueError)):
        settings(**env)


def test_a_container_without_an_image_is_refused(tmp_path: Path) -> None:
    nothing = settings(SANDBOX_BACKEND="container").sandbox()
    with pytest.raises(ValueError, match="CONTAINER_IMAGE"):
        choice.opened(nothing, tmp_path)
