"""CONTAINER_IMAGES and devcontainer.json: which image an attempt gets."""

import pytest
from wfhub_agent_runner import image_policy
from wfhub_agent_runner.gitwork import devcontainer
from wfhub_agent_runner.image_policy import Chosen
from wfhub_common.errors import Rejected

POLICY = image_policy.parse(
    "base:1", "python:3.12=web,mobile; ghcr.io/acme/go@sha256:0123=*;oci-archive:/srv/x.tar=web"
)


def test_the_operators_image_is_the_default() -> None:
    assert POLICY.chosen("web", task="", repository="") == Chosen(by="operator")
    assert POLICY.names() == (
        "base:1",
        "python:3.12",
        "ghcr.io/acme/go@sha256:0123",
        "oci-archive:/srv/x.tar",
    )


def test_a_task_gets_what_its_project_may_use_and_nothing_else() -> None:
    assert POLICY.chosen("web", task="python:3.12", repository="x") == Chosen("python:3.12", "task")
    assert POLICY.chosen("any", task="ghcr.io/acme/go@sha256:0123", repository="").by == "task"
    assert POLICY.chosen("any", task="base:1", repository="") == Chosen("", "task")
    for project, image in (("other", "python:3.12"), ("web", "python:3.13"), ("web", "python")):
        with pytest.raises(Rejected, match="CONTAINER_IMAGES") as refused:
            POLICY.chosen(project, task=image, repository="python:3.12")
        assert refused.value.code == "image-forbidden"


def test_a_repository_gets_what_it_asks_for_or_the_default_with_a_note() -> None:
    found = POLICY.chosen("mobile", task="", repository="python:3.12")
    assert found == Chosen("python:3.12", "devcontainer")
    assert found.described() == {"image_by": "devcontainer"}
    refused = POLICY.chosen("other", task="", repository="python:3.12")
    assert refused.image == ""
    assert refused.described() == {"image_by": "operator", "image_refused": "python:3.12"}


@pytest.mark.parametrize("rule", ["python:3.12", "=web", "a=", "a=web;a=*"])
def test_a_rule_that_cannot_be_read_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="rule"):
        image_policy.parse("base", rule)


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ('{"image": "a:1"}', "a:1"),
        ('// a comment\n{/* "image": "b" */ "name": "x", "image": "a//b:1", // so\n}', "a//b:1"),
        ('{"image": "a\\"/*b*/", "features": {"x": [1, 2,],},}', 'a"/*b*/'),
        ('\ufeff{"image": "a,}"}', "a,}"),
        ('{"build": {"dockerfile": "Dockerfile"}}', ""),
        ('{"image": 5}', ""),
        ('["image"]', ""),
        ('{"image": "a"', ""),
        ("[" * 100_000, ""),
        ('{"image": "a"}' + " " * devcontainer.FILE_BYTES_MAX, ""),
    ],
)
def test_a_devcontainer_file_is_json_with_comments(text: str, image: str) -> None:
    assert devcontainer.image_in(text.encode()) == image
