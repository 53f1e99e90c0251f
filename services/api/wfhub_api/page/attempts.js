// The attempts of a task, latest first: who ran it, how each verification command ended, artifacts.

import { get } from "./api.js";
import { el, put, shown } from "./dom.js";
import { downloadButton } from "./download.js";
import { button, code, facts, failure, note, pill, section, table, time } from "./parts.js";
import { FINAL, between, reasonWords, size } from "./words.js";

const LIVE = new Set(["leased", "running", "verifying"]);
const CHANGES_SHOWN_MAX = 200;
const ARTIFACTS_SHOWN_MAX = 500;

export function attempts(task, signal) {
  const latestFirst = [...task.attempts].reverse();
  if (!latestFirst.length) return section("Attempts", note(FINAL.has(task.state) ? "No runner took it." : "No runner has taken it yet."));
  // A publication says less than the attempt whose result it publishes.
  const telling = latestFirst.find((attempt) => attempt.kind === "agent") ?? latestFirst[0];
  return section("Attempts", latestFirst.map((attempt) => one(task, attempt, attempt === telling, signal)));
}

function one(task, attempt, isLatest, signal) {
  const name = attempt.kind === "agent" ? `Attempt ${attempt.number}` : `${attempt.kind} ${attempt.number}`;
  const took = attempt.started_at && between(attempt.started_at, attempt.finished_at ?? Date.now());
  return el(
    "details",
    { open: isLatest, class: "attempt" },
    el("summary", {}, el("b", {}, name), " ", pill(attempt.state), " ", el("small", {}, attempt.finished_at && took)),
    facts([
      ["Why", attempt.reason && [reasonWords(attempt.reason), " ", code(attempt.reason)]],
      ["Message", attempt.message && shown(attempt.message)],
      ["Runner", attempt.runner_id && code(attempt.runner_id)],
      ["Began", attempt.started_at && time(attempt.started_at)],
      ["Commit", attempt.commit && code(attempt.commit.slice(0, 12))],
      ["CI files", attempt.ci_files?.length ? el("ul", { class: "plain" }, attempt.ci_files.map((path) => el("li", {}, code(path)))) : null],
    ]),
    attempt.verdict && verdict("Verification", attempt.verdict),
    attempt.base_verdict && verdict("The same on the base commit", attempt.base_verdict),
    changed(attempt.changes),
    artifacts(task, attempt, signal),
  );
}

function verdict(title, { status, commands }) {
  const rows = commands.map((c) =>
    el(
      "tr",
      {},
      el("td", {}, pill(c.exit_code === 0 ? "passed" : "failed")),
      el("td", { class: "what" }, code(c.command)),
      el("td", { class: "dim" }, ended(c)),
      el("td", { class: "dim" }, between(0, c.duration_ms)),
    ));
  const none = note("No command was asked for.");
  return el("div", {}, el("h3", {}, title, " ", pill(status)), rows.length ? table(["", "Command", "Ended", "Took"], el("tbody", {}, rows)) : none);
}

function ended({ outcome, exit_code: exit, figure }) {
  if (outcome === "exited") return `exit code ${exit}`;
  return shown(figure === null || figure === undefined ? outcome : `${outcome} (${figure})`);
}

function changed(changes) {
  if (!Array.isArray(changes) || !changes.length) return null;
  const lines = changes.slice(0, CHANGES_SHOWN_MAX).map((c) => el("li", { class: c.change }, el("span", {}, shown(c.change)), " ", code(c.path)));
  const more = changes.length > CHANGES_SHOWN_MAX && note(`and ${changes.length - CHANGES_SHOWN_MAX} more: they are in result.patch`);
  return el("details", {}, el("summary", {}, `${changes.length} changed ${changes.length === 1 ? "file" : "files"}`), el("ul", { class: "plain" }, lines), more);
}

function artifacts(task, attempt, signal) {
  if (LIVE.has(attempt.state) && !attempt.artifacts.length) return note("Its artifacts are there when it has ended.");
  const list = el("ul", { class: "plain files" });
  const path = `/v1/artifacts/${task.task_id}/${attempt.attempt_id}`;
  const fill = (found) => put(list, found.slice(0, ARTIFACTS_SHOWN_MAX).map((a) => artifact(path, a)));
  fill(attempt.artifacts);
  const trouble = el("div");
  const all = button("With the exchanges with models", async () => {
    try {
      const found = await get(path, { signal });
      fill(found.artifacts);
      put(trouble, found.artifacts.length > ARTIFACTS_SHOWN_MAX && note(`The first ${ARTIFACTS_SHOWN_MAX} of ${found.artifacts.length}; wfhub artifacts lists all.`));
      if (!found.complete) put(trouble, note("The gateway did not answer: its exchanges are not in the list."));
      all.remove();
    } catch (error) {
      put(trouble, failure(error));
    }
  }, { class: "quiet small" });
  return el("details", {}, el("summary", {}, "Artifacts ", el("small", {}, attempt.artifacts.length)), list, trouble, all);
}

const artifact = (path, { name, size: bytes }) =>
  el(
    "li",
    {},
    code(name),
    el("small", {}, size(bytes)),
    downloadButton("Download", `${path}/${name.split("/").map(encodeURIComponent).join("/")}`, name.split("/").pop()),
  );
