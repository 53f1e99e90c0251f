"""Paths to models, as the clients of each format spell them."""

import pytest
from wfhub_common.model_paths import ModelPath, forwarded, recognised


@pytest.mark.parametrize("versions", ["", "/v1", "/v1/v1", "/v1beta", "/v1/v1beta", "/v1alpha2"])
def test_any_versions_may_stand_before_a_path(versions):
    assert recognised(f"{versions}/chat/completions") == ModelPath("chat", "generate", "POST")
    assert recognised(f"{versions}/responses") == ModelPath("responses", "generate", "POST")
    assert recognised(f"{versions}/messages/count_tokens") == ModelPath("messages", "count", "POST")
    gemini = recognised(f"{versions}/models/ai/gemma3:1b:streamGenerateContent")
    assert gemini == ModelPath("gemini", "generate", "POST", "ai/gemma3:1b", True)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v1",
        "/v1/completions",
        "/v1/files",
        "/v1/models/../admin",
        "/v1/models/..:generateContent",
        "/v1/models/a//b:generateContent",
        "/v1/models/:generateContent",
        "/v1/models/m\n:generateContent",
        "/v1/models/" + "m" * 201 + ":generateContent",
        "/admin/v1/chat/completions",
        "/v1/chat/completions/",
    ],
)
def test_what_leads_to_no_model_is_not_recognised(path):
    assert recognised(path) is None


def test_of_a_query_only_what_means_something_to_a_model_server_is_passed():
    query = b"key=secret&alt=sse&beta=true&x=1"
    assert forwarded("/v1/messages", query) == "/v1/messages?alt=sse&beta=true"
    assert forwarded("/v1/models/a b", b"key=secret") == "/v1/models/a%20b"
