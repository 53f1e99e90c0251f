"""When a request is the same as a recorded one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_llm_gateway import matching


def said(*contents, **fields):
    return matching.normalised(
        {"messages": [{"role": "user", "content": c} for c in contents], **fields}
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("=== 1 passed in 0.02s ===", "=== 1 passed in 0.31s ==="),
        ("===== 1 passed in 0.02s =====", "==== 1 passed in 10.31s ===="),
        ("cannot open /tmp/abc/x.txt.", "cannot open /var/tmp/pytest-3/y.txt."),
        ("<F object at 0x7f12ab34cd>", "<F object at 0x55aa12>"),
        ("at 2026-01-02T03:04:05.678Z", "at 2025-11-12T13:14:15+02:00"),
        ("today is 2026-01-02", "today is 2026-01-03"),
        ("task tsk_" + "a" * 24, "task tsk_" + "b" * 24),
        ("call_abcdef123", "call_987654zyx"),
        ("5f0c9d2e-1111-2222-3333-444455556666", "00000000-aaaa-bbbb-cccc-ddddeeeeffff"),
        ("commit " + "a1" * 20, "commit " + "b2" * 20),
        ("on 127.0.0.1:8080", "on 127.0.0.1:4321"),
        ([{"type": "text", "text": "hello"}], "hello"),
    ],
)
def test_what_changes_from_run_to_run_is_not_compared(one, other):
    assert matching.matches(said(one), said(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1 passed", "2 passed"),
        ("src/a.py", "src/b.py"),
        ("port 80", "port 81"),
        ("exit code 0", "exit code 1"),
        ("x = 0x1F", "x = 0x2F"),
    ],
)
def test_what_means_something_is_compared(one, other):
    assert not matching.matches(said(one), said(other))


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    once = said(text, text + " in 3s /tmp/" + text)
    assert matching.normalised(once) == once


def test_the_model_and_its_parameters_are_not_compared():
    assert said("a", model="m1", temperature=1, stream=True) == said("a", model="m2")


def test_nulls_are_not_compared():
    bare = {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}
    full = {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}
    assert matching.matches(matching.normalised(bare), matching.normalised(full))


def test_tools_are_compared_where_the_recording_has_them():
    tools = [{"type": "function", "function": {"name": "shell"}}]
    assert matching.matches(said("a"), said("a", tools=tools))
    assert matching.matches(said("a", tools=tools), said("a", tools=tools))
    assert not matching.matches(said("a", tools=tools), said("a"))
    assert matching.matches(said("a", tools=[]), said("a"))


def test_any_stands_for_any_value_in_its_place_and_for_nothing_else():
    call = {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"arguments": "{}"}}]}
    output = {"role": "tool", "tool_call_id": "c1", "content": "lots"}
    asked = matching.normalised({"messages": [{"role": "system", "content": "x"}, call, output]})

    def matched(*messages):
        return matching.matches(matching.normalised({"messages": list(messages)}), asked)

    any_ = {"role": "system", "content": "<any>"}
    assert matched(any_, call, {"role": "tool", "content": "<any>"})
    assert matched(any_, {"role": "assistant"}, {"role": "tool"})
    assert not matched(any_, call)
    assert not matched(any_, call, {"role": "user", "content": "<any>"})
    assert not matched(any_, call, {"role": "tool", "content": "<any> and more"})
    assert not matched(any_, {**call, "tool_calls": []}, {"role": "tool"})


def test_the_nearest_shares_most_from_the_start_then_is_most_alike():
    asked = said("a", "run tests", "all 3 passed")
    recorded = [said("a"), said("a", "run tests", "all 4 passed"), said("a", "run tests", "??")]
    assert matching.nearest(recorded, asked) == 1
    assert matching.nearest([], asked) is None


def test_the_difference_is_short_and_names_both_sides():
    shown = matching.difference(said("a", "one"), said("a", "two"))
    assert shown.startswith("--- recorded\n+++ asked")
    assert '-   "content": "one"' in shown
    assert '+   "content": "two"' in shown
    long = matching.difference(said(*("x" * n for n in range(100))), said("y" * 9999))
    assert len(long) < 12_000


def test_what_a_recording_leaves_open_is_no_difference():
    shown = matching.difference(said(matching.ANY, "a"), said("long", "b"))
    assert "long" not in shown
    assert '-   "content": "a"' in shown
    assert '+   "content": "b"' in shown
