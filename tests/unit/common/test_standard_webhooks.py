"""Signatures of webhooks: the standard's vector, and what is not believed."""

import base64

import pytest
from wfhub_common import standard_webhooks as sw

# Of the specification's own libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, SENT_AT_S, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = sw.new_secret()


def fault(*secrets: str, body: bytes = BODY, now_s: float = SENT_AT_S, **headers: str) -> str:
    given = {
        "Webhook-Id": ID,
        "Webhook-Timestamp": str(SENT_AT_S),
        "Webhook-Signature": SIGNATURE,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return sw.fault(given, body, secrets or (SECRET,), now_s=now_s, tolerance_s=300) or ""


def test_the_standards_vector_is_signed_as_it_says() -> None:
    assert sw.signature(SECRET, ID, SENT_AT_S, BODY) == SIGNATURE
    assert fault() == ""


def test_two_secrets_give_two_signatures_and_either_is_enough() -> None:
    headers = sw.headers(ID, SENT_AT_S, BODY, [OTHER, SECRET])
    assert headers["webhook-signature"].split()[1] == SIGNATURE
    for secret in (OTHER, SECRET):
        assert sw.fault(headers, BODY, [secret], now_s=SENT_AT_S, tolerance_s=1) is None
    assert fault(OTHER, SECRET) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"body": BODY + b" "},
        {"now_s": SENT_AT_S + 301},
        {"now_s": SENT_AT_S - 301},
        {"Webhook_Id": "msg_other"},
        {"Webhook_Id": f"{ID}.1"},
        {"Webhook_Id": ""},
        {"Webhook_Timestamp": str(SENT_AT_S + 1)},
        {"Webhook_Timestamp": "٣"},
        {"Webhook_Timestamp": "9" * 5000},
        {"Webhook_Timestamp": "-1"},
        {"Webhook_Signature": ""},
        {"Webhook_Signature": SIGNATURE.removeprefix("v1,")},
        {"Webhook_Signature": SIGNATURE.replace("v1,", "v1a,")},
        {"Webhook_Signature": "v1,\u00e9"},
        {"Webhook_Signature": "v1,x " * 40 + SIGNATURE},
    ],
)
def test_what_was_changed_or_is_old_is_not_believed(wrong: dict[str, str]) -> None:
    assert fault(**wrong) != ""  # type: ignore[arg-type]


def test_another_secret_is_not_believed() -> None:
    assert "no signature" in fault(OTHER)


def test_a_new_secret_is_random_and_long_enough() -> None:
    assert len({sw.new_secret() for _ in range(100)}) == 100
    assert len(base64.b64decode(OTHER.removeprefix("whsec_"))) == 32


@pytest.mark.parametrize("bad", ["whsec_", "whsec_AAAA", "whsec_é", "whsec_" + "A" * 400])
def test_a_secret_that_is_none_is_an_error_not_a_weak_signature(bad: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        sw.signature(bad, ID, SENT_AT_S, BODY)


def test_an_id_with_a_full_stop_is_not_signed() -> None:
    with pytest.raises(ValueError, match="full stop"):
        sw.signature(SECRET, "a.b", SENT_AT_S, BODY)
