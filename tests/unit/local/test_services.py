import os
import re
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from wfhub_admin.files import private_folder
from wfhub_agent_runner.settings import RunnerSettings
from wfhub_api.settings import ApiSettings
from wfhub_common.settings import BrokerSettings
from wfhub_llm_gateway.settings import GatewaySettings
from wfhub_local import services
from wfhub_local.credentials import load_or_create
from wfhub_local.layout import Layout
from wfhub_local.processes import Process
from wfhub_local.services import Setting, Where
from wfhub_local.settings import Options
from wfhub_proof_store.settings import ProofStoreSettings
from wfhub_scheduler.settings import SchedulerSettings

USER_ENV = {
    "OPENAI_API_KEY": "sk-canary",
    "HTTPS_PROXY": "http://proxy:3128",
    "AWS_SECRET_ACCESS_KEY": "aws-canary",
    "PYTHONPATH": "/somewhere",
}


READS: dict[str, type[BrokerSettings]] = {
    "scheduler": SchedulerSettings,
    "proof-store": ProofStoreSettings,
    "gateway": GatewaySettings,
    "api": ApiSettings,
    "runner-1": RunnerSettings,
}


def setting(tmp_path: Path, *, nats_users: bool = True, **options: object) -> Setting:
    layout = Layout(tmp_path / "data")
    layout.make()
    asked = Options(data=layout.data, **options)  # type: ignore[arg-type] - by name
    names = ("scheduler", "proof-store", "gateway", "api")
    return Setting(
        options=asked,
        layout=layout,
        credentials=load_or_create(layout, asked.runners),
        where=Where(
            nats_url="nats://127.0.0.1:20000",
            nats_users=nats_users,
            database_urls={name: f"postgresql://{name}:pw@127.0.0.1/wfhub" for name in names},
            listeners={"proof-store": 5, "gateway": 6, "api": 7},
            http_ports={"proof-store": 1005, "gateway": 1006, "api": 1007},
        ),
        user_env=USER_ENV,
    )


def by_name(made: list[Process]) -> dict[str, Process]:
    return {process.name: process for process in made}


def test_the_five_services_and_each_runner_are_there(tmp_path: Path) -> None:
    made = services.all_of(setting(tmp_path, runners=2))
    names = ["scheduler", "proof-store", "gateway", "api", "runner-1", "runner-2"]
    assert [process.name for process in made] == names


def test_keys_reach_the_gateway_alone_and_the_rest_of_the_environment_nobody(
    tmp_path: Path,
) -> None:
    made = services.all_of(setting(tmp_path))
    assert [p.name for p in made if "sk-canary" in p.env.values()] == ["gateway"]
    assert not [p for p in made if {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH"} & p.env.keys()]
    assert {p.name for p in made if "HTTPS_PROXY" in p.env} == {"gateway", "runner-1"}


def test_what_the_readme_says_to_set_reaches_each_service_that_reads_it(tmp_path: Path) -> None:
    readme = Path(__file__).parents[3] / "README.md"
    named = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", readme.read_text()))
    given = replace(setting(tmp_path), user_env=dict.fromkeys(named, "20000"))
    missing = {
        process.name: read
        for process in services.all_of(given)
        if (read := _variables(READS[process.name]) & named - _given(process))
    }
    assert missing == {}


def _variables(settings: type[BrokerSettings]) -> set[str]:
    return {field.upper() for field in settings.model_fields}


def _given(process: Process) -> set[str]:
    return {name.removesuffix("_FILE") for name in process.env} | process.env.keys()


def test_secrets_are_named_by_file_never_by_value(tmp_path: Path) -> None:
    at = setting(tmp_path)
    secrets = [*at.credentials.nats.values(), *at.credentials.tokens.values()]
    for process in services.all_of(at):
        shown = " ".join([*process.argv, *process.env.values()])
        assert not [secret for secret in secrets if secret in shown]
        assert ":pw@" not in shown
        file = Path(process.env["SERVICE_TOKEN_FILE"])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_runner_has_no_database_and_speaks_as_itself(tmp_path: Path) -> None:
    at = setting(tmp_path)
    runner = by_name(services.all_of(at))["runner-1"]
    assert not [name for name in runner.env if name.startswith("DATABASE")]
    assert runner.env["NATS_USER"] == runner.env["RUNNER_ID"] == at.credentials.runner_ids[0]
    assert runner.env["FILE_REPOS"] == "1"


def test_without_file_repositories_the_runner_is_told_so(tmp_path: Path) -> None:
    runner = by_name(services.all_of(setting(tmp_path, file_repos=False)))["runner-1"]
    assert runner.env["FILE_REPOS"] == "0"


def test_an_external_broker_is_not_given_our_users(tmp_path: Path) -> None:
    for process in services.all_of(setting(tmp_path, nats_users=False)):
        assert not [name for name in process.env if name.startswith(("NATS_USER", "NATS_PASS"))]


def test_a_recording_is_made_for_the_gateway_and_a_cassette_is_shown_to_it(tmp_path: Path) -> None:
    at = setting(tmp_path)
    record, cassette = tmp_path / "new.jsonl", tmp_path / "old.jsonl"
    cassette.touch()
    env = {"LLM_RECORD": str(record), "LLM_CASSETTE": str(cassette)}
    gateway = services.gateway(Setting(at.options, at.layout, at.credentials, at.where, env))
    assert (gateway.visible, gateway.writable) == ((cassette,), (record,))
    assert stat.S_IMODE(record.stat().st_mode) == 0o600


def test_the_gateway_gets_the_keys_that_its_routes_name_and_no_others(tmp_path: Path) -> None:
    at = setting(tmp_path)
    routes = tmp_path / "routes.yaml"
    env = {"LLM_CONFIG": str(routes), "TEAM_KEY": "k1", "OTHER_KEY": "k2"}
    asked = Setting(at.options, at.layout, at.credentials, at.where, env)
    for text in ("providers: {a: {api_key_env: TEAM_KEY}, b: {}, c: 3}", "providers: [", "[]"):
        routes.write_text(text)
        gateway = services.gateway(asked)
        assert (gateway.env.get("TEAM_KEY") == "k1") == ("TEAM_KEY" in text)
        assert "OTHER_KEY" not in gateway.env
        assert gateway.visible == (routes,)


def test_the_sandbox_gets_a_python_and_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/opt/python")
    assert services.toolchains((Path("/x"),)) == [Path("/opt/python"), Path("/x")]
    monkeypatch.setattr(sys, "base_prefix", "/usr")  # always in the sandbox
    assert services.toolchains(()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_that_is_its_services_already_is_not_looked_into(tmp_path: Path) -> None:
    """A service might have linked something of root's there."""
    folder = private_folder(tmp_path / "home", 64001)
    foreign = folder / "linked"
    foreign.touch()
    private_folder(folder, 64001)
    assert foreign.stat().st_uid == 0
    private_folder(folder, 64002)
    assert foreign.stat().st_uid == 64002
