"""A key is trusted on first use; another one later is refused until the user says otherwise."""

from pathlib import Path

import pytest
from wfhub_client import trust
from wfhub_client.errors import Usage
from wfhub_client.settings import ClientSettings


def test_a_key_is_new_once(tmp_path: Path) -> None:
    assert trust.remember(tmp_path, "local", "KEY1")
    assert not trust.remember(tmp_path, "local", "KEY1\n")
    assert trust.remembered(tmp_path) == {"local": "KEY1"}


def test_another_key_is_refused_until_replaced(tmp_path: Path) -> None:
    trust.remember(tmp_path, "local", "KEY1")
    with pytest.raises(Usage, match="another proof key"):
        trust.remember(tmp_path, "local", "KEY2")
    assert trust.remembered(tmp_path) == {"local": "KEY1"}
    assert trust.remember(tmp_path, "local", "KEY2", replace=True)
    assert trust.remembered(tmp_path) == {"local": "KEY2"}


def test_a_service_is_named_by_host_and_port_without_secrets() -> None:
    assert trust.name_of("https://me:pw@hub.example:8443/x") == "hub.example_8443"
    assert "/" not in trust.name_of("http://../../x")


def test_settings_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="WFHUB_TOKEN_FILE"):
        ClientSettings.from_env({"WFHUB_TOKEN_FILE": str(tmp_path / "no")})
    with pytest.raises(Usage, match="WFHUB_URL"):
        ClientSettings.from_env({"WFHUB_URL": "localhost:80"})
    (tmp_path / "t").write_text("wht_x\n")
    env = {"WFHUB_TOKEN_FILE": str(tmp_path / "t"), "XDG_CONFIG_HOME": str(tmp_path)}
    settings = ClientSettings.from_env(env)
    assert (settings.token, settings.config_dir) == ("wht_x", tmp_path / "wfhub")
