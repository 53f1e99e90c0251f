// What the latest result changes: result.patch, coloured. Small ones at once, larger ones when asked
// for; of more than PATCH_BYTES_MAX or LINES_SHOWN_MAX the beginning is shown, and the rest is named.

import { open } from "./api.js";
import { el, put, shown } from "./dom.js";
import { downloadButton } from "./download.js";
import { parsed } from "./patch.js";
import { button, code, failure, note } from "./parts.js";
import { size } from "./words.js";

const NAME = "result.patch";
const AT_ONCE_BYTES_MAX = 256 * 1024;
const PATCH_BYTES_MAX = 2 * 1024 * 1024;
const LINES_SHOWN_MAX = 5_000;
const LINE_CHARS_MAX = 2_000;
const FILES_OPEN_MAX = 20;

export function changes(parent, task, signal) {
  const attempt = task.attempts.findLast((a) => a.artifacts.some((kept) => kept.name === NAME));
  if (!attempt || parent.dataset.key === attempt.attempt_id) return;
  parent.dataset.key = attempt.attempt_id;
  const { size: bytes } = attempt.artifacts.find((kept) => kept.name === NAME);
  const path = `/v1/artifacts/${task.task_id}/${attempt.attempt_id}/${NAME}`;
  const body = el("div");
  const save = downloadButton(`Download (${size(bytes)})`, path, `${task.task_id}.patch`);
  put(parent, el("section", { class: "card" }, el("div", { class: "row" }, el("h2", {}, "Changes"), save), body));

  async function load() {
    put(body, note("Loading…"));
    try {
      const { text, cut } = await beginning(path, signal);
      const { files, left } = parsed(text, LINES_SHOWN_MAX);
      const more = (left > 0 || cut) && el("p", { class: "note bad" }, "This is only the beginning: the patch is too large to be shown. Download it to see all.");
      put(body, more, files.length ? files.map((file, n) => fileDiff(file, n < FILES_OPEN_MAX)) : note("It changes nothing."));
    } catch (error) {
      if (!signal.aborted) put(body, failure(error), button("Try again", load));
    }
  }

  if (bytes <= AT_ONCE_BYTES_MAX) load();
  else put(body, button(`Show it (${size(bytes)})`, load));
}

async function beginning(path, signal) {
  const reader = (await open(path, { signal })).body.getReader();
  const decoder = new TextDecoder();
  let [text, bytes] = ["", 0];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { text: text + decoder.decode(), cut: false };
    text += decoder.decode(value, { stream: true });
    bytes += value.length;
    if (bytes > PATCH_BYTES_MAX) {
      reader.cancel().catch(() => {});
      return { text, cut: true };
    }
  }
}

function fileDiff({ name, added, removed, lines }, isOpen) {
  const content = lines.map(({ kind, text }) => {
    const line = shown(text.length > LINE_CHARS_MAX ? `${text.slice(0, LINE_CHARS_MAX)}… (cut)` : text, "span");
    line.className = kind;
    return line;
  });
  return el(
    "details",
    { open: isOpen, class: "diff" },
    el("summary", {}, code(name), el("span", { class: "plus" }, `+${added}`), el("span", { class: "minus" }, `−${removed}`)),
    el("pre", { tabindex: "0", "aria-label": "Diff" }, content),
  );
}
