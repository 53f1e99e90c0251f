// One schedule: when it fires next, what became of its latest instants, and what it starts.

import { get, newKey, post } from "./api.js";
import { ask } from "./dialog.js";
import { el, put, putIfChanged, shown } from "./dom.js";
import { again, repeat } from "./live.js";
import { button, code, facts, failure, link, mark, note, pill, section, table, time } from "./parts.js";
import { scheduleState, starts } from "./schedule_list.js";
import { because, moment } from "./words.js";

const LOOK_MS = 5_000;
const NEXT_SHOWN = 5;
const OUTCOMES = { fired: "succeeded", waiting: "review", missed: "failed", skipped: "" };
const OVERLAPS = {
  skip: "while one is at work, none is started",
  queue: "while one is at work, the next one waits",
  replace: "one that is at work is cancelled for the next",
};

export function schedulePage(main, { id, signal }) {
  const names = ["trouble", "head", "next", "firings", "asked"];
  const parts = Object.fromEntries(names.map((name) => [name, el("div")]));
  put(parts.head, note("Loading…"));
  put(main, parts.trouble, parts.head);
  let begun = false;

  repeat(signal, LOOK_MS, async () => {
    const path = `/v1/schedules/${id}`;
    const [found, preview] = await Promise.all([
      get(path, { signal }),
      get(`${path}/next?count=${NEXT_SHOWN}`, { signal }),
    ]);
    if (!begun) main.append(el("div", { class: "columns" }, el("div", {}, parts.firings, parts.asked), el("div", { class: "aside" }, parts.next)));
    begun = true;
    put(parts.trouble);
    document.title = `${found.name} · Workflow Hub`;
    putIfChanged(parts.head, JSON.stringify([found.paused, found.next_fire_at, found.version]), () => head(found));
    put(parts.next, next(found, preview.firings));
    put(parts.firings, firings(found.firings));
    putIfChanged(parts.asked, String(found.version), () => asked(found.spec));
  }, (error) => {
    if (!begun) put(parts.head);
    put(parts.trouble, failure(error), error.status === 404 ? el("p", {}, link("#/schedules", "To the schedules")) : null);
  });
}

function head(found) {
  return [
    el("p", { class: "crumbs" }, link("#/schedules", "Schedules"), " / ", shown(found.project)),
    el("div", { class: "title" }, el("h1", {}, shown(found.name)), scheduleState(found)),
    el("p", { class: "lead" }, `${found.schedule_id}: starts `, starts(found.spec), ". Version ", String(found.version), ", last changed ", time(found.updated_at), " by ", shown(found.changed_by), "."),
    el("div", { class: "row actions" }, fire(found), found.paused ? resume(found) : pause(found)),
  ];
}

const does = (found, what, headers) => async () => {
  await post(`/v1/schedules/${found.schedule_id}/${what}`, {}, headers);
  again();
};

function fire(found) {
  return button("Fire now…", () => {
    const key = newKey(); // asked again, for want of an answer, it is one firing
    ask({
      title: "Fire it now?",
      says: [el("p", {}, "It starts ", starts(found.spec), ", besides its instants. What it says of overlaps holds for this one too.")],
      confirm: "Fire",
      act: does(found, "fire", { "Idempotency-Key": key }),
    });
  });
}

const pause = (found) =>
  button("Pause…", () =>
    ask({
      title: "Pause this schedule?",
      says: [el("p", {}, "Nothing is fired until somebody resumes it. What it started goes on.")],
      confirm: "Pause",
      act: does(found, "pause"),
    }));

const resume = (found) =>
  button("Resume…", () =>
    ask({
      title: "Resume this schedule?",
      says: [el("p", {}, "It fires again, from its next instant on. What went by meanwhile is not made up for.")],
      confirm: "Resume",
      act: does(found, "resume"),
    }));

function next({ spec, paused, next_fire_at: at }, instants) {
  const list = el("ol", { class: "plain" }, instants.map((one) => el("li", {}, shown(moment(one.fire_at)), el("small", {}, " ", time(one.fire_at)))));
  return section(
    "Next",
    paused && note("It is paused: these instants go by."),
    !paused && !at && note("It has ended."),
    instants.length > 0 && list,
    facts([
      ["When", [code(spec.cron), " ", shown(spec.time_zone)]],
      ["Jitter", spec.jitter_s > 0 && `up to ${spec.jitter_s} s later`],
      ["Overlap", OVERLAPS[spec.overlap] ?? shown(spec.overlap)],
      ["Outages", `of missed instants, ${spec.backfill_max} at most are made up for`],
      ["From", spec.starts_at && moment(spec.starts_at)],
      ["Until", spec.ends_at && moment(spec.ends_at)],
    ].filter(([, value]) => value)),
  );
}

function firings(latest) {
  const rows = latest.map((one) =>
    el(
      "tr",
      {},
      el("td", {}, mark(one.outcome, OUTCOMES[one.outcome] ?? "")),
      el("td", { class: "what" }, shown(moment(one.fire_at)), one.until_at !== one.fire_at && [" to ", shown(moment(one.until_at))], (one.reason || one.message) && el("small", {}, shown(because(one)))),
      el("td", {}, started(one)),
      el("td", { class: "dim" }, one.fired_by && ["by ", shown(one.fired_by)]),
    ));
  return section("Latest firings", rows.length ? table(["", "Instant", "Started", "By hand"], el("tbody", {}, rows)) : note("None yet."));
}

function started({ task_id: task, task_state: taskState, workflow_id: flow, workflow_state: flowState }) {
  if (task) return [link(`#/tasks/${task}`, "task"), " ", taskState && pill(taskState)];
  return flow && [link(`#/workflows/${flow}`, "workflow"), " ", flowState && pill(flowState)];
}

const asked = (spec) =>
  section("What it starts", spec.task?.prompt && shown(spec.task.prompt, "pre"), el("details", {}, el("summary", {}, "As put"), shown(JSON.stringify(spec, null, 2), "pre")));
