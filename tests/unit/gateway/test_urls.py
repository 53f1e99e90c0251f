"""Base URLs in the spellings that people have them."""

import pytest
from wfhub_llm_gateway import urls
from wfhub_llm_gateway.settings import GatewaySettings


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        (" http://h:8000/ ", "http://h:8000/v1"),
        ("http://h:8000/v1", "http://h:8000/v1"),
        ("https://h/v1/", "https://h/v1"),
        ("http://h:12434/engines/llama.cpp", "http://h:12434/engines/llama.cpp/v1"),
        ("http://h:12434/engines/llama.cpp/v1", "http://h:12434/engines/llama.cpp/v1"),
        ("http://h:12434/engines/v1/", "http://h:12434/engines/v1"),
        ("https://h/api/v1", "https://h/api/v1"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai"),
        ("http://h/v1/chat/completions", "http://h/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ("http://h/version2", "http://h/version2/v1"),
    ],
)
def test_a_base_url_ends_where_chat_completions_is_appended(given, used):
    assert urls.base(given) == used
    assert urls.base(used) == used


@pytest.mark.parametrize("given", ["", "h:8000", "ftp://h", "http://", "http://h/v1?key=x"])
def test_what_is_no_url_is_refused(given):
    with pytest.raises(ValueError, match="http"):
        urls.base(given)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000/v1"),
        ("box", "http://box:11434/v1"),
        ("box:5000", "http://box:5000/v1"),
        ("https://box", "https://box/v1"),
        ("http://box:11434/", "http://box:11434/v1"),
        ("http://10.0.0.0.0", "http://10.0.0.0.0/v1"),
    ],
)
def test_ollama_host_may_lack_what_ollama_does_not_need(given, used):
    assert urls.ollama(given) == used


@pytest.mark.parametrize(
    ("env", "used"),
    [
        ({}, urls.OPENAI_BASE_URL),
        ({"LLM_PROVIDER": "dmr"}, "http://localhost:12434/engines/llama.cpp/v1"),
        ({"LLM_PROVIDER": "ollama"}, "http://127.0.0.1:11434/v1"),
        ({"LLM_PROVIDER": "ollama", "OLLAMA_HOST": "box"}, "http://box:11434/v1"),
        ({"LLM_PROVIDER": "ollama", "OLLAMA_HOST": "a", "LLM_BASE_URL": "http://b"}, "http://b/v1"),
        ({"OLLAMA_HOST": "a"}, urls.OPENAI_BASE_URL),
    ],
)
def test_the_provider_decides_the_base_url_that_is_not_set(env, used):
    assert GatewaySettings.from_env(env).base_url() == used


def test_a_url_is_shown_without_its_password():
    assert urls.shown("http://me:secret@h:1/v1") == "http://h:1/v1"
    with pytest.raises(ValueError, match="ftp://h") as caught:
        urls.base("ftp://me:secret@h")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://h:99999/v1", "http://h:0", "http://h o/v1", "http://h/a b"]
)
def test_a_url_that_no_request_could_be_sent_to_is_refused_at_the_start(url):
    with pytest.raises(SystemExit, match=r"^bad settings: LLM_BASE_URL: "):
        GatewaySettings.from_env({"LLM_BASE_URL": url}).base_url()


def test_a_key_may_have_the_line_end_of_its_file_and_nothing_else_that_no_header_takes():
    assert GatewaySettings.from_env({"OPENAI_API_KEY": "sk-1\n"}).api_key() == "sk-1"
    for key in ("sk\n1", "sk-\u00e9", "sk\x001"):
        env = {"LLM_PROVIDER": "gemini", "GOOGLE_API_KEY": key}
        with pytest.raises(SystemExit, match=r"^bad settings: GOOGLE_API_KEY: ") as caught:
            GatewaySettings.from_env(env).api_key()
        assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({}, "LLM_BASE_URL"),
        ({"OPENAI_BASE_URL": "http://a"}, "OPENAI_BASE_URL"),
        ({"OPENAI_BASE_URL": "http://a", "LLM_BASE_URL": "http://b"}, "LLM_BASE_URL"),
        ({"LLM_PROVIDER": "ollama"}, "OLLAMA_HOST"),
        ({"LLM_PROVIDER": "dmr"}, "LLM_BASE_URL"),
    ],
)
def test_an_error_names_the_variable_that_the_address_is_from(env, named):
    assert GatewaySettings.from_env(env).url_name == named
