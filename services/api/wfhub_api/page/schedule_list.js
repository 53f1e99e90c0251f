// The list of schedules by name: when each fires next.

import { get, query as search } from "./api.js";
import { el, put, putList, shown } from "./dom.js";
import { repeat } from "./live.js";
import { code, failure, link, mark, note, pager, table, time } from "./parts.js";

const LOOK_MS = 5_000;

export function scheduleList(main, { query, signal }) {
  const cursor = query.get("cursor") ?? "";
  const [trouble, list, more, rows] = [el("div"), el("div", {}, note("Loading…")), el("div"), el("tbody")];
  put(main, el("h1", {}, "Schedules"), trouble, list, more);

  repeat(signal, LOOK_MS, async () => {
    const page = await get(`/v1/schedules${search({ cursor })}`, { signal });
    put(trouble);
    if (!page.schedules.length) {
      put(list, el("p", { class: "note" }, "There is no schedule. ", el("code", {}, "wfhub schedule put NAME"), " makes one."));
      return;
    }
    if (!rows.isConnected) put(list, table(["", "Schedule", "Project", "When", "Next"], rows));
    putList(rows, page.schedules, (s) => s.schedule_id, JSON.stringify, row);
    for (const found of page.schedules) touch(rows, found);
    const after = page.next_cursor && `#/schedules${search({ cursor: page.next_cursor })}`;
    put(more, pager(cursor && "#/schedules", after, ["First", "More →"]));
  }, (error) => {
    if (!rows.isConnected) put(list);
    put(trouble, failure(error));
  });
}

function row(found) {
  const { spec } = found;
  return el(
    "tr",
    {},
    el("td", {}, scheduleState(found)),
    el("td", { class: "what" }, link(`#/schedules/${found.schedule_id}`, shown(found.name)), el("small", {}, starts(spec))),
    el("td", {}, shown(found.project)),
    el("td", {}, code(spec.cron), " ", el("span", { class: "dim" }, shown(spec.time_zone))),
    el("td", { class: "dim at" }),
  );
}

// What changes by itself.
function touch(rows, found) {
  const cell = [...rows.children].find((child) => child.dataset.key === found.schedule_id).querySelector(".at");
  put(cell, found.next_fire_at && time(found.next_fire_at));
}

export function scheduleState({ paused, next_fire_at: next }) {
  if (paused) return mark("paused", "review");
  return next ? mark("active", "succeeded") : mark("ended", "");
}

export const starts = ({ task, workflow }) =>
  workflow ? ["the workflow ", shown(workflow.name)] : ["a task in ", shown(task?.repo ?? "")];
