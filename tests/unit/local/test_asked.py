import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from wfhub_local import asked, services
from wfhub_local.layout import Layout
from wfhub_local.settings import Options

from .test_services import setting

PORT = 9000
ENV = {"OPENAI_API_KEY": "sk-canary", "LLM_PROVIDER": "openai", "EDITOR": "ed"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.make()
    return made


def differences(
    layout: Layout, now: Options, *given: str, env: Mapping[str, str] = ENV
) -> list[str]:
    return asked.differences(layout, now, env, given=given)


def test_the_same_again_differs_in_nothing(layout: Layout) -> None:
    options = Options(layout.data, port=0, slots=3, labels=("gpu", "big"))
    asked.keep(layout, options, ENV, port=PORT)
    again = replace(options, labels=("big", "gpu"))
    assert differences(layout, again, "--port", "--slots", "--label") == []


def test_what_is_given_and_another_is_named_with_both_values(layout: Layout) -> None:
    asked.keep(layout, Options(layout.data), ENV, port=PORT)
    now = Options(layout.data, port=9001, slots=4, toolchains=(Path("/opt/tools"),))
    assert differences(layout, now, "--port", "--slots", "--toolchain") == [
        "--port 9001 (9000 there)",
        "--slots 4 (2 there)",
        "--toolchain /opt/tools (none there)",
    ]


def test_defaults_ask_for_nothing(layout: Layout) -> None:
    asked.keep(layout, Options(layout.data, slots=4, runners=2), ENV, port=PORT)
    assert differences(layout, Options(layout.data)) == []
    assert differences(layout, Options(layout.data), env={}) == []


def test_secrets_are_compared_and_neither_kept_nor_told(layout: Layout) -> None:
    url = "postgresql://wfhub:pw-canary@127.0.0.1/wfhub"
    asked.keep(layout, Options(layout.data, database_url=url), ENV, port=PORT)
    assert "canary" not in layout.asked.read_text()
    assert stat.S_IMODE(layout.asked.stat().st_mode) == 0o600
    now = Options(layout.data, database_url=url.replace("pw-", "new-"))
    env = ENV | {"OPENAI_API_KEY": "sk-new", "LLM_MODEL": "m"}
    assert differences(layout, now, "--database-url", env=env) == [
        "--database-url (another there)",
        "LLM_MODEL (not set there)",
        "OPENAI_API_KEY (another there)",
    ]


def test_a_stack_that_does_not_say_is_not_guessed_about(layout: Layout) -> None:
    assert differences(layout, Options(layout.data, slots=4), "--slots") == []


class Recorded(Mapping[str, str]):
    """An environment with everything in it, which says what was asked for."""

    def __init__(self, **given: str) -> None:
        self._given = given
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def test_each_variable_that_a_service_is_given_is_compared(tmp_path: Path) -> None:
    config = tmp_path / "routes.yaml"
    config.write_text("providers: {mine: {kind: openai, api_key_env: MY_KEY}}\n")
    env = Recorded(LLM_CONFIG=str(config))
    services.all_of(replace(setting(tmp_path), user_env=env))
    assert "MY_KEY" in env.read
    assert env.read <= set(services.variables({"LLM_CONFIG": str(config)}))
