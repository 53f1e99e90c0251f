"""A setting that cannot be is refused at the edge: its name, and what it should be."""

from pathlib import Path

import pytest
from wfhub_common.settings import BrokerSettings, Settings


class Of(BrokerSettings):
    """A service's, with every form that there is."""

    database_url: str = ""
    proofs_url: str = ""
    http_listen: str = "127.0.0.1:8080"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("DATABASE_URL", "mysql://h/d", "must begin with postgresql://"),
        ("DATABASE_URL", "postgresql://u:secret@h:port/d", "its port is no number"),
        ("NATS_URL", "http://h", "must begin with nats://"),
        ("NATS_URL", "nats://u:secret@h:99999", "its port is no number"),
        ("NATS_URL", "h:4222", "must begin with nats://"),
        ("PROOFS_URL", "proof-store:8081", "must begin with http://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "must begin with http://"),
        ("NATS_URL", "tls://", "names no host"),
        ("PROOFS_URL", "http://", "names no host"),
        ("DATABASE_URL", "postgresql://h/d?secret=1", "only these are known: host, port, sslmode"),
        ("HTTP_LISTEN", "8080", "no host:port, such as"),
        ("HTTP_LISTEN", "0.0.0.0:99999", "no host:port, such as"),
        ("METRICS_LISTEN", "127.0.0.1:http", "no host:port, such as"),
        ("LOG_LEVEL", "LOUD", "choose DEBUG, INFO"),
        ("LOG_FORMAT", "xml", "should be 'json' or 'console'"),
        ("START_WAIT_S", "soon", "valid number"),
    ],
)
def test_a_wrong_one_is_named_and_no_password_repeated(
    variable: str, value: str, says: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        Of.from_env({variable: value})
    assert str(refused.value).startswith(f"bad settings: {variable}: ")
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "Value error" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "postgres://u:p%40@[::1]:5432/d?host=/run/postgresql"),
        ("DATABASE_URL", "postgresql:///d"),
        ("DATABASE_URL", "postgresql://h/d?sslmode=verify-full"),
        ("NATS_URL", "tls://h"),
        ("PROOFS_URL", "https://h/path"),
        ("HTTP_LISTEN", "fd:5"),
        ("HTTP_LISTEN", "[::]:8080"),
        ("HTTP_LISTEN", "127.0.0.1:0"),
        ("METRICS_LISTEN", ""),
        ("LOG_LEVEL", "debug"),
    ],
)
def test_every_form_that_can_be_is_taken(variable: str, value: str) -> None:
    assert getattr(Of.from_env({variable: value}), variable.lower()) in {value, ""}


class Secret(Settings):
    service_token: str = ""


def test_a_secret_that_is_given_twice_is_refused_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wst_secret\n")
    file = {"SERVICE_TOKEN_FILE": str(tmp_path / "token")}
    assert Secret.from_env(file | {"SERVICE_TOKEN": ""}).service_token == "wst_secret"
    with pytest.raises(SystemExit) as refused:
        Secret.from_env(file | {"SERVICE_TOKEN": "wst_secret"})
    told = str(refused.value)
    assert told.startswith("bad settings: SERVICE_TOKEN and SERVICE_TOKEN_FILE: set one of them")
    assert "secret" not in told.replace("secrets", "")


@pytest.mark.parametrize("value", ["wst_ä", "a\nb", "\x7f"])
def test_a_token_that_no_header_can_hold_is_refused(value: str) -> None:
    with pytest.raises(SystemExit, match="bad settings: SERVICE_TOKEN: it is no token that"):
        Secret.from_env({"SERVICE_TOKEN": value})
