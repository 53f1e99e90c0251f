"""What a receiver is given to check deliveries with."""

import time

import pytest
from wfhub_client.webhooks import NotVerified, verify
from wfhub_common import standard_webhooks

# Of the specification's own libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
HEADERS = {
    "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "Webhook-Timestamp": "1614265330",
    "Webhook-Signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def test_the_standards_vector_is_verified() -> None:
    assert verify(HEADERS, BODY, [SECRET], now_s=1614265330) == {"test": 2432232314}


def test_an_old_delivery_is_not_taken() -> None:
    with pytest.raises(NotVerified, match="replay"):
        verify(HEADERS, BODY, [SECRET])


def test_either_secret_is_good_while_one_replaces_the_other() -> None:
    new = standard_webhooks.new_secret()
    headers = standard_webhooks.headers("evt_x", int(time.time()), BODY, [new, SECRET])
    for secret in (new, SECRET):
        assert verify(headers, BODY, [secret], 60)
    with pytest.raises(NotVerified, match="no signature"):
        verify(headers, BODY, [standard_webhooks.new_secret()])


@pytest.mark.parametrize("body", [b"x", b"\xff", b"[]", b"1"])
def test_what_is_signed_and_no_event_is_not_taken(body: bytes) -> None:
    headers = standard_webhooks.headers("evt_x", int(time.time()), body, [SECRET])
    with pytest.raises(NotVerified, match="it is signed"):
        verify(headers, body, [SECRET])
