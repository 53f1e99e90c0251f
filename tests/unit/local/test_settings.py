from pathlib import Path

import pytest
from wfhub_local import ports
from wfhub_local.settings import GATEWAY_VARIABLES, default_data, picked


def test_the_data_directory_is_the_systems_for_root_and_the_users_else() -> None:
    assert default_data({}, root=True) == Path("/var/lib/wfhub")
    assert default_data({"XDG_DATA_HOME": "/x"}, root=False) == Path("/x/wfhub")
    assert default_data({"WFHUB_DATA": "/y"}, root=True) == Path("/y")


def test_only_named_variables_pass() -> None:
    env = {"OPENAI_API_KEY": "k", "AWS_SECRET_ACCESS_KEY": "s", "LLM_MODEL": ""}
    assert picked(env, GATEWAY_VARIABLES) == {"OPENAI_API_KEY": "k"}


def test_a_port_in_use_is_named_with_the_option_that_changes_it() -> None:
    with ports.listening() as taken:
        port = ports.port_of(taken)
        with pytest.raises(SystemExit, match=rf"port {port} is in use.*--port"):
            ports.listening(port)


def test_server_ports_are_no_ports_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert ports.free_port() < lowest


def test_an_external_server_that_is_not_there_is_named() -> None:
    with pytest.raises(SystemExit, match=r"--nats-url: nothing answers at 127\.0\.0\.1:9"):
        ports.check_reachable("nats://127.0.0.1:9", default_port=4222, option="--nats-url")
