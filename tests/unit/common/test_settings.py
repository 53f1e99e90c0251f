"""A setting that cannot be is refused at the edge: its name, and what it should be."""

import pytest
from wfhub_common.settings import BrokerSettings


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
