"""What an attempt takes while its agent runs, and when it stops."""

import asyncio
import json

import pytest
from wfhub_agent_runner import steering
from wfhub_agent_runner.agents import table
from wfhub_agent_runner.steering import Inbox
from wfhub_common.errors import Rejected

BUILTIN, COMMAND = table.ENTRIES["builtin"], table.ENTRIES["command"]
CODEX, MINI = table.ENTRIES["codex"], table.ENTRIES["mini-swe-agent"]


async def test_messages_are_shown_in_order_while_the_agent_runs() -> None:
    inbox = Inbox()
    async with inbox.open(BUILTIN, asyncio.Event()):
        inbox.take("one", hand_in=False)
        inbox.take("two", hand_in=False)
        shown = json.loads(inbox.shown())
    assert [message["text"] for message in shown["messages"]] == ["one", "two"]
    assert shown["hand_in"] is False


async def test_before_and_after_nobody_hears() -> None:
    inbox = Inbox()
    for _ in range(2):
        with pytest.raises(Rejected) as refused:
            inbox.take("one", hand_in=False)
        assert refused.value.code == "attempt-not-here"
        async with inbox.open(BUILTIN, asyncio.Event()):
            pass


async def test_who_does_not_listen_is_told_nothing_but_hands_in_at_once() -> None:
    inbox = Inbox()
    async with inbox.open(COMMAND, asyncio.Event()) as stop:
        with pytest.raises(Rejected) as refused:
            inbox.take("one", hand_in=False)
        assert refused.value.code == "agent-does-not-listen"
        inbox.take("", hand_in=True)
        await asyncio.wait_for(stop.wait(), 5)


async def test_who_listens_is_given_time_to_hand_in_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steering, "HAND_IN_GRACE_S", 0.05)
    inbox = Inbox()
    async with inbox.open(BUILTIN, asyncio.Event()) as stop:
        inbox.take("", hand_in=True)
        assert json.loads(inbox.shown())["hand_in"] is True
        assert not stop.is_set()
        await asyncio.wait_for(stop.wait(), 5)


async def test_who_does_not_listen_hears_of_it_as_the_next_answer_of_its_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steering, "HAND_IN_GRACE_S", 0.05)
    inbox = Inbox()
    async with inbox.open(MINI, asyncio.Event()) as stop:
        assert inbox.last_word() is None
        inbox.take("", hand_in=True)
        said = inbox.last_word()
        assert said is not None
        assert json.loads(said)["tool"] == "bash"
        assert not stop.is_set()
        await asyncio.wait_for(stop.wait(), 5)


async def test_who_goes_on_asking_after_its_last_words_is_ended() -> None:
    inbox = Inbox()
    async with inbox.open(CODEX, asyncio.Event()) as stop:
        inbox.take("", hand_in=True)
        for _ in range(steering.LAST_WORDS_MAX):
            assert inbox.last_word() == '{"tool": "", "arguments": {}}'
        assert not inbox.deaf.is_set()
        inbox.last_word()
        await asyncio.wait_for(stop.wait(), 5)


async def test_who_listens_and_who_asks_no_model_gets_no_last_word() -> None:
    for entry in (BUILTIN, COMMAND):
        inbox = Inbox()
        async with inbox.open(entry, asyncio.Event()):
            inbox.take("", hand_in=True)
            assert inbox.last_word() is None


async def test_a_cancel_does_not_wait() -> None:
    inbox, cancel = Inbox(), asyncio.Event()
    async with inbox.open(BUILTIN, cancel) as stop:
        inbox.take("", hand_in=True)
        cancel.set()
        await asyncio.wait_for(stop.wait(), 5)


async def test_an_inbox_has_an_end() -> None:
    inbox = Inbox()
    async with inbox.open(BUILTIN, asyncio.Event()):
        for _ in range(steering.MESSAGES_MAX):
            inbox.take("x", hand_in=False)
        with pytest.raises(Rejected) as refused:
            inbox.take("x", hand_in=False)
    assert refused.value.code == "inbox-full"
