"""The body of a submission as a JSON object, from JSON and from YAML."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wfhub_api.workflow_documents import DEPTH_MAX, JSON_TYPE, YAML_TYPE, parsed
from wfhub_common.errors import Rejected
from wfhub_scheduler.workflows import documents

README = Path(__file__).parents[3] / "README.md"
YAML = """
name: release
defaults:
  repo: /srv/app
  deadline_at: 2030-01-01T00:00:00Z
  verify: [make test, "true"]
tasks:
  a:
    prompt: |
      Two lines,
      the second: ${{ here }}
    priority: -5
    verify_base: true
    budget_tokens:
    title: yes
  b: {needs: [a], base: "null", budget_tokens: null, model: 0x10, agent: {model: 1.5}}
"""

texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xD7FF, exclude_categories=["C"]))
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


def refused(text: str | bytes, type_: str = YAML_TYPE) -> str:
    with pytest.raises(Rejected) as caught:
        parsed(text.encode() if isinstance(text, str) else text, type_)
    assert caught.value.code in ("document-malformed", "document-type")
    return caught.value.message


def test_yaml_is_read_as_the_json_it_could_have_been() -> None:
    assert parsed(YAML.encode(), "application/yaml; charset=utf-8") == {
        "name": "release",
        "defaults": {
            "repo": "/srv/app",
            "deadline_at": "2030-01-01T00:00:00Z",
            "verify": ["make test", "true"],
        },
        "tasks": {
            "a": {
                "prompt": "Two lines,\nthe second: ${{ here }}\n",
                "priority": -5,
                "verify_base": True,
                "budget_tokens": None,
                "title": "yes",
            },
            "b": {
                "needs": ["a"],
                "base": "null",
                "budget_tokens": None,
                "model": "0x10",
                "agent": {"model": 1.5},
            },
        },
    }


@example({"a\u2028b": "\u2029"})
@given(st.dictionaries(texts, plain, max_size=3))
def test_json_is_yaml(value: dict[str, Any]) -> None:
    body = json.dumps(value, ensure_ascii=False).encode()
    assert parsed(body, JSON_TYPE) == parsed(body, YAML_TYPE) == value


@given(st.text(alphabet="ab:-[]{}&*!'\"#|>?,%@`\n\t 1.~", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(Rejected):
        json.dumps(parsed(text.encode(), YAML_TYPE))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x [1]\nb: *x", "line 1: anchors"),
        ("a: 1\nb: *x", "line 2: anchors"),
        ("a: !!python/object:os.system x", "line 1: tags"),
        ("a: !x {}", "line 1: tags"),
        ("tasks:\n  a: 1\n  a: 2", "line 3: the key 'a' is there twice"),
        ("[a]: 1", "a key has to be a text"),
        ("a: [", "line 2: did not find expected node content"),
        ("a:\n\t- b", "line 2"),
        ("--- {}\n--- {}", "several documents"),
        ("", "a mapping"),
        ("- a", "a mapping"),
        ("a: 1e999", "JSON"),
        ("x: " + "[" * 500 + "]" * 500, f"deeper than {DEPTH_MAX}"),
        ('a: "\\x00\x01"', "control characters"),
    ],
)
def test_what_yaml_could_mean_otherwise_is_refused(text: str, says: str) -> None:
    assert says in refused(text)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"a": NaN}', "JSON"),
        (b'{"a": "\\ud800"}', "surrogates"),
        (b"[1]", "a mapping"),
        (b"{", "Expecting"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "deeper than"),
    ],
)
def test_what_is_no_plain_json_is_refused(body: bytes, says: str) -> None:
    assert says in refused(body, JSON_TYPE)


def test_another_type_is_refused() -> None:
    for type_ in ("", "text/plain", "application/xml"):
        assert "application/yaml" in refused(b"{}", type_)


def test_a_hostile_document_costs_no_more_than_its_size() -> None:
    began = time.thread_time()
    refused("[" * 1_000_000)
    refused("a: &a [x,x]\nb: [" + "*a," * 300_000 + "]")
    refused("{a: " * 200_000)
    refused("? " * 500_000)
    refused("a: [" + "x, " * 300_000)
    refused("a: [" + "{x: y}, " * 100_000)
    refused("a: " + "x " * 400_000 + ": y")
    refused("a: " + '"' + "x\n" * 300_000)
    refused("#" * 900_000 + "\n[")
    assert time.thread_time() - began < 20


def test_the_example_of_the_readme_is_a_workflow() -> None:
    example = README.read_text().partition("```yaml\n")[2].partition("```")[0]
    plan = documents.read(parsed(example.encode(), YAML_TYPE))
    assert [node.name for node in plan.nodes] == ["bump", "types", "docs", "report"]
