// One task: what became of it and why, what can be done, and what it left.
//
// Its events come by a held stream; each one has the task looked at again, so that what is shown is
// always the API's word and never put together here.

import { get } from "./api.js";
import { attempts } from "./attempts.js";
import { changes } from "./changes.js";
import { el, put, putIfChanged, shown } from "./dom.js";
import { again, held, repeat } from "./live.js";
import { log } from "./log.js";
import { code, copied, facts, failure, link, note, pill, section, time } from "./parts.js";
import { downloadButton } from "./download.js";
import { taskActions } from "./task_actions.js";
import { timeline } from "./timeline.js";
import { FINAL, STATE_WORDS, count, duration, reasonWords, taskName, usd } from "./words.js";

const LOOK_MS = 10_000; // events say when; this is for what has none: usage, time

export function taskPage(main, { id, signal }) {
  const parts = Object.fromEntries(
    ["trouble", "head", "facts", "changes", "attempts", "asked", "proof"].map((name) => [name, el("div")]),
  );
  const [events, logs] = [timeline(id, signal, held, again), log(id, signal)];
  put(parts.head, note("Loading…"));
  put(main, parts.trouble, parts.head);
  let begun = false;

  async function look() {
    const task = await get(`/v1/tasks/${id}`, { signal });
    put(parts.trouble);
    document.title = `${task.state}: ${taskName(task)} · Workflow Hub`;
    putIfChanged(parts.head, versionOf(task), () => head(task));
    putIfChanged(parts.facts, JSON.stringify([task.usage, task.duration_s]), () => section("Facts", taskFacts(task)));
    putIfChanged(parts.attempts, JSON.stringify([task.attempts, task.state]), () => attempts(task, signal));
    putIfChanged(parts.proof, task.proof_id ?? "", () => proof(task));
    changes(parts.changes, task, signal);
    if (!begun) {
      begun = true;
      put(parts.asked, asked(task));
      const aside = el("div", { class: "aside" }, parts.facts, parts.proof, events.element, parts.asked);
      main.append(el("div", { class: "columns" }, el("div", {}, parts.attempts, parts.changes, logs.element), aside));
    }
    logs.told(task);
    events.told(FINAL.has(task.state));
  }

  repeat(signal, LOOK_MS, look, (error) => {
    if (!begun) put(parts.head);
    put(parts.trouble, failure(error), error.status === 404 ? el("p", {}, link("#/tasks", "To the tasks")) : null);
  });
}

const versionOf = (task) =>
  JSON.stringify([task.state, task.reason, task.message, task.cancel_requested, task.branch, task.commit, task.review, task.current_attempt, task.review_until, task.waits_because]);

function head(task) {
  const words = [STATE_WORDS[task.state], task.cancel_requested && !FINAL.has(task.state) && "somebody asked to cancel it"];
  return [
    el("p", { class: "crumbs" }, link("#/tasks", "Tasks"), " / ", link(`#/tasks?project=${encodeURIComponent(task.project)}`, task.project), task.workflow_id && [" / ", link(`#/workflows/${task.workflow_id}`, "its workflow")]),
    el("div", { class: "title" }, el("h1", {}, shown(taskName(task))), pill(task.state)),
    el("p", { class: "lead" }, `${task.task_id}: ${words.filter(Boolean).join("; ")}.`, task.state === "review" && task.review_until && [" It ends without one ", time(task.review_until), "."]),
    task.waits_because?.length > 0 && el("p", { class: "note" }, "It has not begun: ", shown(task.waits_because.join("; ")), "."),
    reason(task),
    taskActions(task),
  ];
}

function reason(task) {
  if (!task.reason && !task.message) return null;
  const kind = task.state === "failed" ? "bad" : "";
  return el("div", { class: `note ${kind}` }, task.reason && el("p", {}, reasonWords(task.reason), " ", code(task.reason)), task.message && shown(task.message, "p"));
}

function taskFacts(task) {
  const { spec, usage } = task;
  const agent = spec.agent ?? {};
  return facts([
    ["Repository", shown(spec.repo)],
    ["Base", spec.base && code(spec.base)],
    ["Branch", task.branch && code(task.branch)],
    ["Commit", task.commit && code(task.commit.slice(0, 12))],
    ["Verdict", task.verdict && pill(task.verdict)],
    ["Agent", shown(agent.argv ? agent.argv.join(" ") : agent.name)],
    ["Model", agent.model && shown(agent.model)],
    ["Submitted", time(task.created_at)],
    [FINAL.has(task.state) ? "Took" : "Age", duration(task.duration_s)],
    ["Tries", `${task.attempts_used} of ${spec.retry?.attempts_max ?? 1}`],
    ["Tokens", usage ? `${count(usage.prompt_tokens)} in, ${count(usage.completion_tokens)} out` : "the gateway does not say"],
    ["Requests", usage && count(usage.requests)],
    ["Cost", usage && usd(usage.nusd)],
    ["Budget", budget(spec.budget)],
    ["Each try", budget(spec.attempt_budget)],
    ["Reviewed", task.review && [task.review, " by ", shown(task.reviewed_by)]],
    ["Trace", task.trace_id && code(task.trace_id)],
  ]);
}

function budget(limits) {
  const given = Object.entries(limits ?? {}).filter(([, most]) => most !== null);
  return given.map(([what, most]) => (what === "usd" ? `$${most}` : `${count(most)} ${what.replace("wall_s", "s of requests")}`)).join(", ");
}

function asked(task) {
  const { prompt, verify, setup } = task.spec;
  return section(
    "What was asked",
    prompt ? shown(prompt, "pre") : note("It has no prompt."),
    setup?.length > 0 && [el("h3", {}, "Set-up"), setup.map((command) => shown(command, "pre"))],
    el("h3", {}, "Verification"),
    verify?.length ? verify.map((command) => shown(command, "pre")) : note("None was asked for."),
    el("details", {}, el("summary", {}, "As submitted"), shown(JSON.stringify(task.spec, null, 2), "pre")),
  );
}

function proof(task) {
  if (!task.proof_id) return [];
  const file = `${task.proof_id}.json`;
  return section(
    "Proof",
    el("p", {}, code(task.proof_id)),
    el("p", {}, "Signed by the proof-store. It verifies offline:"),
    downloadButton("Download the proof", `/v1/proofs/${task.proof_id}`, file),
    copied(`wfhub proof verify ${file}`),
  );
}

