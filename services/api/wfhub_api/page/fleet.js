// Projects, pools and runners at a glance: what runs, what waits, what is paused, drained or lost.

import { get } from "./api.js";
import { el, put, putIfChanged, shown } from "./dom.js";
import { repeat } from "./live.js";
import { code, failure, link, mark, note, section, table, time } from "./parts.js";
import { count } from "./words.js";

const LOOK_MS = 5_000;
const SHOWN_MAX = 200;
const BADGES = { active: "succeeded", draining: "review", lost: "failed" };

export function fleet(main, { signal }) {
  const [trouble, ...parts] = ["div", "div", "div", "div"].map((name) => el(name));
  put(parts[0], note("Loading…"));
  put(main, el("h1", {}, "Projects and runners"), trouble, ...parts);

  repeat(signal, LOOK_MS, async () => {
    const [projects, pools, runners] = await Promise.all([
      get(`/v1/projects?limit=${SHOWN_MAX}`, { signal }),
      get("/v1/pools", { signal }),
      get(`/v1/runners?limit=${SHOWN_MAX}`, { signal }),
    ]);
    put(trouble);
    putIfChanged(parts[0], JSON.stringify(projects), () => projectTable(projects));
    putIfChanged(parts[1], JSON.stringify(pools), () => poolTable(pools.pools));
    putIfChanged(parts[2], JSON.stringify(runners), () => runnerTable(runners));
  }, (error) => {
    if (!parts[0].dataset.key) put(parts[0]);
    put(trouble, failure(error));
  });
}

function projectTable({ projects, next_cursor: more }) {
  if (!projects.length) return section("Projects", note("There is none yet."));
  const rows = projects.map((p) =>
    el(
      "tr",
      {},
      el("td", { class: "what" }, link(`#/tasks?project=${encodeURIComponent(p.name)}`, shown(p.name)), allowed(p)),
      el("td", {}, p.paused ? mark("paused", "review") : mark("open", "succeeded")),
      number(p.running, p.running_limit),
      number(p.queued, p.queue_limit),
      el("td", { class: "dim" }, count(p.weight)),
      el("td", { class: "dim" }, budget(p.budget)),
    ));
  return section("Projects", table(["Project", "", "Running", "Waiting", "Weight", "Budget"], el("tbody", {}, rows)), more && only("wfhub project list"));
}

// What its setting gives way to; nothing is said of what is as it comes.
function allowed({ ci_files: ciFiles, debuggers }) {
  const words = [ciFiles === "allow" && "changed CI files are published unseen", debuggers === "allow" && "debuggers"];
  return words.some(Boolean) && el("small", {}, words.filter(Boolean).join("; "));
}

function poolTable(pools) {
  if (!pools.length) return null;
  const rows = pools.map((p) =>
    el("tr", {}, el("td", { class: "what" }, shown(p.pool)), el("td", {}, p.paused ? mark("paused", "review") : mark("open", "succeeded")), number(p.running, p.running_limit)));
  return section("Pools", table(["Pool", "", "Running"], el("tbody", {}, rows)));
}

function runnerTable({ runners, next_cursor: more }) {
  if (!runners.length) return section("Runners", note("No runner has registered. Nothing starts until one does."));
  const worst = { lost: 0, draining: 1, active: 2 };
  const rows = [...runners].sort((a, b) => worst[a.state] - worst[b.state]).map((r) =>
    el(
      "tr",
      {},
      el("td", { class: "what" }, shown(r.name || r.runner_id), el("small", {}, code(r.runner_id))),
      el("td", {}, mark(r.state, BADGES[r.state])),
      number(r.running, r.slots),
      el("td", { class: "dim" }, time(r.seen_at)),
      el("td", { class: "dim" }, shown(r.pool ?? "")),
      el("td", { class: "dim" }, shown(r.labels.join(", "))),
      el("td", { class: "dim" }, shown(`${r.backend} ${r.version}`)),
    ));
  return section("Runners", table(["Runner", "", "Running", "Heard of", "Pool", "Labels", "Sandbox, version"], el("tbody", {}, rows)), more && only("wfhub runner list"));
}

const only = (command) => note(`The first ${SHOWN_MAX}; ${command} lists all.`);

function number(used, most) {
  const meter = most ? el("meter", { min: 0, max: most, value: Math.min(used, most), "aria-hidden": "true" }) : null;
  return el("td", { class: "number" }, `${count(used)}`, most ? el("span", { class: "dim" }, ` / ${count(most)}`) : null, meter);
}

function budget(limits) {
  const given = Object.entries(limits ?? {}).filter(([, most]) => most !== null);
  return given.map(([what, most]) => `${what.replaceAll("_", " ")} ${most}`).join(", ");
}
