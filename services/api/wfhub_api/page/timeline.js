// A task's timeline: its events in the log's order, as they come. Reads on behind the last one seen
// after a break, so that none is missing and none is twice.

import { open, query } from "./api.js";
import { el, put, shown } from "./dom.js";
import { events } from "./event_stream.js";
import { note, section } from "./parts.js";
import { clock, moment } from "./words.js";

const EVENTS_KEPT_MAX = 500;

// `held` and `again` are live.js's.
export function timeline(taskId, signal, held, again) {
  const list = el("ol", { class: "timeline" });
  const word = el("div");
  let [after, over, dropped] = ["", false, 0];

  held(signal, async (shownSignal) => {
    const answer = await open(`/v1/tasks/${taskId}/events${query({ after })}`, { signal: shownSignal });
    for await (const { id, data } of events(answer)) {
      list.prepend(item(JSON.parse(data)));
      if (list.children.length > EVENTS_KEPT_MAX) {
        list.lastElementChild.remove();
        dropped += 1;
      }
      after = id;
      put(word, dropped > 0 && note(`${dropped} older ones are not shown; wfhub events has them.`));
      again();
    }
    return over;
  }, (error) => put(word, note(error.message, "bad")));

  return {
    element: section("Timeline", list, word),
    told: (isFinal) => {
      over = isFinal;
    },
  };
}

function item(event) {
  return el(
    "li",
    {},
    el("time", { datetime: event.time, title: moment(event.time) }, clock(event.time)),
    el("span", { class: event.data.to ? `dot ${event.data.to}` : "dot" }),
    shown(sentence(event), "span"),
  );
}

function sentence({ type, data }) {
  const why = [data.reason, data.message].filter(Boolean).join(": ");
  const moved = [data.from, data.to].filter(Boolean).join(" → ") + (why ? ` (${why})` : "");
  switch (type) {
    case "task.submitted":
      return "submitted";
    case "task.state_changed":
      return `task ${moved}`;
    case "task.reviewed":
      return `${data.decision} by ${data.reviewer || "somebody"}${data.comment ? `: ${data.comment}` : ""}`;
    case "attempt.state_changed":
      return `${data.kind === "agent" || !data.kind ? "attempt" : data.kind} ${data.number ?? ""} ${moved}`;
    case "attempt.step":
      return `${data.step ?? "step"} ${rest(data, ["step"])}`;
    case "proof.sealed":
      return `proof sealed ${data.proof_id ?? ""}`;
    default:
      return `${type} ${rest(data, [])}`;
  }
}

function rest(data, without) {
  const known = new Set(["task_id", "attempt_id", ...without]);
  return Object.entries(data)
    .filter(([name, value]) => !known.has(name) && value !== null && value !== "")
    .map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(" ");
}
