"""The scripted model server: `python upstream.py PORT`. Chat Completions, streamed.

The model's name is the script: `s-<chunks>-<gap in ms>-<text bytes>`, as in s-20-0-16. Each chunk
carries the moment it was sent (CLOCK_MONOTONIC, which all processes of a machine share, in ns), so
that the client knows how long it was under way. Written on asyncio's protocols, to cost little.
"""

import asyncio
import json
import sys
import time

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
MODELS = json.dumps({"object": "list", "data": [{"id": "s-1-0-1", "object": "model"}]}).encode()


def framed(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def chunk(text: str, finish: str | None = None) -> bytes:
    delta = {"content": text} if finish is None else {}
    value = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return json.dumps(value).encode()


STAMP = "@@@@@@@@@@@@@@@@@@@@"
LAST = (
    framed(chunk("", "stop"))
    + framed(
        b'{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1,"model":"scripted",'
        b'"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30}}'
    )
    + framed(b"[DONE]")
    + b"0\r\n\r\n"
)


class Server(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_lost(self, _error: Exception | None) -> None:
        for task in self.tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].decode()
            length = 0
            for line in head.split("\r\n")[1:]:
                name, _, value = line.partition(":")
                if name.lower() == "content-length":
                    length = int(value)
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = (
                self.buffer[end + 4 : end + 4 + length],
                self.buffer[end + 4 + length :],
            )
            self.answer(head, body)

    def answer(self, head: str, body: bytes) -> None:
        if head.startswith("GET"):
            answer = (
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            )
            self.transport.write(answer % len(MODELS) + MODELS)
            return
        _, chunks, gap_ms, size = json.loads(body)["model"].split("/")[-1].split("-")
        event = framed(chunk(STAMP + "x" * int(size)))
        task = asyncio.ensure_future(self.stream(event, int(chunks), float(gap_ms) / 1000))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def stream(self, event: bytes, chunks: int, gap_s: float) -> None:
        stamp = STAMP.encode()
        for n in range(chunks):
            if gap_s and n:
                await asyncio.sleep(gap_s)
            now = event.replace(stamp, b"%020d" % time.monotonic_ns())
            self.transport.write(HEAD + now if n == 0 else now)
        self.transport.write(LAST)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
