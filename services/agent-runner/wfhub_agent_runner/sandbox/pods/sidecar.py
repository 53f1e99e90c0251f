"""The pod's end of the bridge: listens on the agent's sockets, passes each connection to the
runner.

`python -m …sidecar FILE`; FILE is JSON: {"host", "port", "secret", "sockets": {way: path}}. It
holds no token of the gateway's, and the agent cannot read the file: it is mounted here alone.
"""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from wfhub_agent_runner.sandbox.pods.bridge import passed

CONNECT_S_MAX = 10.0


async def main(told: dict[str, Any]) -> None:
    os.umask(0o077)  # the agent is the same uid

    def serving(way: str) -> Any:
        async def serve(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(OSError, TimeoutError):
                    connecting = asyncio.open_connection(told["host"], told["port"])
                    far, there = await asyncio.wait_for(connecting, CONNECT_S_MAX)
                    try:
                        there.write(f"{told['secret']} {way}\n".encode())
                        await asyncio.gather(passed(near, there), passed(far, back))
                    finally:
                        there.close()
            finally:
                back.close()

        return serve

    servers = [
        await asyncio.start_unix_server(serving(way), path) for way, path in told["sockets"].items()
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
