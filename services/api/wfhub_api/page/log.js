// A task's log as it is printed. The API has made it safe text; at most LINES_KEPT_MAX lines are
// kept here, the newest, and the whole of it is a download.

import { open } from "./api.js";
import { el, put, shown } from "./dom.js";
import { downloadButton } from "./download.js";
import { texts } from "./event_stream.js";
import { held } from "./live.js";
import { note } from "./parts.js";
import { FINAL } from "./words.js";

const LINES_KEPT_MAX = 3_000;
const LINE_CHARS_MAX = 2_000;
const HEADER = /^==> .* <==$/;

export function log(taskId, signal) {
  const lines = el("pre", { class: "log", tabindex: "0", "aria-label": "Log" });
  const [word, path] = [el("div"), `/v1/tasks/${taskId}/logs`];
  const follow = el("input", { type: "checkbox" });
  follow.checked = true;
  let [begun, final, shownAny] = [false, false, false];

  async function stream(shownSignal) {
    const wasFinal = final;
    const answer = await open(`${path}${wasFinal ? "" : "?follow=true"}`, { signal: shownSignal });
    const view = lineView(lines);
    for await (const text of texts(answer)) {
      const dropped = view.add(text);
      shownAny = true;
      put(word, dropped > 0 && note(`The newest ${LINES_KEPT_MAX} lines; ${dropped} older ones are in the download.`));
      if (follow.checked) lines.scrollTop = lines.scrollHeight;
    }
    if (!shownAny) put(word, note(final ? "It printed nothing." : "Nothing was printed yet."));
    return wasFinal || final;
  }

  return {
    element: el(
      "section",
      { class: "card" },
      el("div", { class: "row" }, el("h2", {}, "Log"), el("label", { class: "inline" }, follow, " follow"), downloadButton("Download all", path, `${taskId}.log`)),
      lines,
      word,
    ),
    told: (task) => {
      final = FINAL.has(task.state);
      if (begun) return;
      begun = true;
      held(signal, stream, (error) => put(word, note(error.message, "bad")));
    },
  };
}

// Adds texts, line by line, whatever they are cut into; says how many lines are gone.
export function lineView(parent) {
  put(parent);
  let [last, dropped] = [null, 0];
  return {
    add(text) {
      const parts = text.split("\n");
      const made = document.createDocumentFragment();
      for (const [n, part] of parts.entries()) {
        if (n > 0) last = null;
        if (n === parts.length - 1 && !part) break;
        const whole = ((last?.dataset.raw ?? "") + part).slice(0, LINE_CHARS_MAX);
        const cut = whole.length === LINE_CHARS_MAX ? `${whole}… (cut)` : whole;
        const line = shown(cut, "div");
        line.className = HEADER.test(whole) ? "log-header" : "";
        if (n === parts.length - 1) line.dataset.raw = whole;
        if (last) last.replaceWith(line);
        else made.append(line);
        last = line;
      }
      parent.append(made);
      for (; parent.childElementCount > LINES_KEPT_MAX; dropped += 1) parent.firstElementChild.remove();
      return dropped;
    },
  };
}
