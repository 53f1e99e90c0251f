// Event stream: server-sent events out of an answer that fetch gave, since EventSource cannot send
// the token. Yields {id, data}; comments and keep-alives are dropped.

const EVENT_CHARS_MAX = 1024 * 1024;

export async function* events(answer) {
  let rest = "";
  for await (const text of texts(answer)) {
    rest += text;
    if (rest.length > EVENT_CHARS_MAX) throw new Error("an event is larger than this page takes");
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event) yield event;
    }
  }
}

export async function* texts(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export function parsed(block) {
  const event = { id: "", data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const name = line.slice(0, colon);
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") event.data += value;
    else if (name === "id") event.id = value;
  }
  return event.data ? event : null;
}
