"""Whether a service works, for a container's health check: exit code 0 when it does.

`http PORT PATH`: it answers 200 there. `file PATH`: it has touched the file lately, which its event
loop does for as long as it runs. Standard library only: it is started every few seconds.
"""

import http.client
import os
import socket
import sys
import time

HOST = "127.0.0.1"
ANSWER_S_MAX = 4.0
BEAT_S_MAX = 30.0  # a service touches its file every 5 s (wfhub_common.service)


def answers(port: int, path: str) -> str:
    """Empty, or what is wrong."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_S_MAX)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(2000).decode(errors="replace")
    except (OSError, http.client.HTTPException) as e:
        return f"no answer at {port}{path}: {e}"
    finally:
        connection.close()
    return "" if answer.status == http.client.OK else f"{answer.status}: {body}"


def accepts(port: int) -> str:
    try:
        socket.create_connection((HOST, port), timeout=ANSWER_S_MAX).close()
    except OSError as e:
        return f"nothing accepts at {port}: {e}"
    return ""


def beats(path: str) -> str:
    try:
        age_s = time.time() - os.stat(path).st_mtime
    except OSError as e:
        return f"it was not ready yet: {path}: {e.strerror}"
    return "" if age_s < BEAT_S_MAX else f"its event loop stands still for {age_s:.0f} s"


def main() -> None:
    match sys.argv[1:]:
        case ["http", port, path]:
            wrong = answers(int(port), path)
        case ["tcp", port]:
            wrong = accepts(int(port))
        case ["file", path]:
            wrong = beats(path)
        case _:
            wrong = "usage: health http PORT PATH | tcp PORT | file PATH"
    sys.exit(wrong or 0)


if __name__ == "__main__":
    main()
