// One workflow: its graph with each task's state, and the same as a table.

import { get, post } from "./api.js";
import { ask } from "./dialog.js";
import { el, put, putIfChanged, shown } from "./dom.js";
import { graph } from "./graph.js";
import { again, repeat } from "./live.js";
import { button, failure, link, note, pill, section, table, time } from "./parts.js";
import { because } from "./words.js";
import { progress } from "./workflow_list.js";

const LOOK_MS = 3_000;
const ROWS_MAX = 500;

export function workflowPage(main, { id, signal }) {
  const [trouble, body] = [el("div"), el("div", {}, note("Loading…"))];
  put(main, trouble, body);
  let begun = false;
  repeat(signal, LOOK_MS, async () => {
    const flow = await get(`/v1/workflows/${id}`, { signal });
    begun = true;
    put(trouble);
    document.title = `${flow.state}: ${flow.name} · Workflow Hub`;
    putIfChanged(body, JSON.stringify(flow), () => [...head(flow), picture(flow), tasks(flow)]);
  }, (error) => {
    if (!begun) put(body);
    put(trouble, failure(error));
  });
}

function head(flow) {
  const cancel = () =>
    ask({
      title: "Cancel this workflow?",
      says: [el("p", {}, "All its tasks that have not ended are cancelled. This cannot be undone.")],
      confirm: "Cancel the workflow",
      kind: "danger",
      act: async () => {
        await post(`/v1/workflows/${flow.workflow_id}/cancel`);
        again();
      },
    });
  const open = flow.finished_at === null && !flow.cancel_requested;
  return [
    el("p", { class: "crumbs" }, link("#/workflows", "Workflows")),
    el("div", { class: "title" }, el("h1", {}, shown(flow.name)), pill(flow.state)),
    el("p", { class: "lead" }, flow.workflow_id, ": ", progress(flow), ". Submitted ", time(flow.created_at), " by ", shown(flow.submitted_by), ". ", flow.on_failure === "fail" ? "A failure cancels what has not started." : "What does not need a failed task goes on."),
    flow.cancel_requested && el("p", { class: "note" }, "Somebody asked to cancel it. ", shown(flow.cancel_reason)),
    el("div", { class: "row actions" }, open && button("Cancel…", cancel, { class: "danger" }), link(`#/tasks?workflow=${flow.workflow_id}`, "Its tasks as a list")),
  ].filter(Boolean);
}

function picture(flow) {
  return section("Graph", graph(flow.tasks) ?? note("It is too large to be drawn."));
}

function tasks(flow) {
  const rows = flow.tasks.slice(0, ROWS_MAX).map((t) =>
    el(
      "tr",
      {},
      el("td", {}, pill(t.state)),
      el("td", { class: "what" }, link(`#/tasks/${t.task_id}`, shown(t.name)), (t.reason || t.message) && el("small", {}, shown(because(t)))),
      el("td", { class: "dim" }, shown(t.needs.join(", "))),
      el("td", { class: "dim" }, t.finished_at && time(t.finished_at)),
    ));
  return section("Tasks", table(["State", "Task", "Needs", "Ended"], el("tbody", {}, rows)), flow.tasks.length > ROWS_MAX && note(`The first ${ROWS_MAX} of ${flow.tasks.length}.`));
}
