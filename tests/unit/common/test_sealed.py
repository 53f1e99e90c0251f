"""Secrets at rest: what opens, and what does not."""

import base64
import json

import pytest
from wfhub_common import sealed
from wfhub_common.sealed import Unopened

ROW = "api.webhook/whk_1"
SECRET = "whsec_canary"


def test_what_is_sealed_opens_with_its_key_for_its_row() -> None:
    keys = sealed.grown(sealed.Keys(), 1)
    stored = keys.seal(SECRET, 1, of=ROW)
    assert SECRET not in stored
    assert base64.b64encode(SECRET.encode()).decode() not in stored
    assert sealed.number_of(stored) == 1
    assert keys.opened(stored, of=ROW) == SECRET
    assert keys.seal(SECRET, 1, of=ROW) != stored, "a nonce is drawn for each"


def test_what_stands_in_clear_is_read_as_it_is() -> None:
    assert sealed.number_of(SECRET) is None
    assert sealed.Keys().opened(SECRET, of=ROW) == SECRET


def test_another_row_another_key_or_a_changed_byte_does_not_open() -> None:
    keys, others = (sealed.grown(sealed.Keys(), 2) for _ in range(2))
    stored = keys.seal(SECRET, 1, of=ROW)
    changed = stored[:-6] + ("A" if stored[-6] != "A" else "B") + stored[-5:]
    renumbered = stored.replace("sealed:1:", "sealed:2:")
    for opening, text, row in (
        (keys, stored, "api.webhook/whk_2"),
        (others, stored, ROW),
        (keys, changed, ROW),
        (keys, renumbered, ROW),
        (keys, "sealed:1:", ROW),
        (keys, "sealed:1:%%%", ROW),
        (keys, "sealed:1:A", ROW),
    ):
        with pytest.raises(Unopened, match="changed, or sealed under another installation's key"):
            opening.opened(text, of=row)
    with pytest.raises(Unopened, match="under key 1, and there are no keys"):
        sealed.Keys().opened(stored, of=ROW)


def test_keys_grow_and_none_is_taken_away() -> None:
    one = sealed.grown(sealed.Keys(), 1)
    three = sealed.grown(one, 3)
    assert (one.newest, three.newest, sealed.Keys().newest) == (1, 3, 0)
    assert three.opened(one.seal(SECRET, 1, of=ROW), of=ROW) == SECRET
    assert sealed.grown(three, 1) == three
    assert sealed.keys(three.to_json()) == three
    assert len({*three.by_number.values()}) == 3


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "{", '{"1": 2}', '{"one": "AAAA"}', '{"1": "AAAA"}', '{"1": "%"}', '{"0": "x"}'],
)
def test_what_is_no_keys_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no JSON object|has to be a number") as refused:
        sealed.keys(text)
    assert text not in str(refused.value)


def test_no_key_shows_in_a_repr() -> None:
    keys = sealed.grown(sealed.Keys(), 1)
    assert json.loads(keys.to_json())["1"] not in repr(keys)
    assert "bytes" not in repr(keys)
    assert str(keys.by_number[1]) not in repr(keys)
