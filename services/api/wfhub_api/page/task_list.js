// The list of tasks: newest first, chosen by state, project and workflow, live while it is looked at.

import { get, query as search } from "./api.js";
import { el, put, putList, shown } from "./dom.js";
import { repeat } from "./live.js";
import { failure, link, note, pager, pill, table, time } from "./parts.js";
import { FINAL, ago, because, between, count, taskName } from "./words.js";

const LOOK_MS = 3_000;
const COUNT_MS = 10_000;
const PAGE_TASKS = 50;

// As somebody asks at 3 a.m.: what needs me, what went wrong, what is going on.
const GROUPS = [
  ["All", []],
  ["To review", ["review"]],
  ["At work", ["running", "sealing", "publishing"]],
  ["Waiting", ["ready", "blocked"]],
  ["Failed", ["failed"]],
  ["Succeeded", ["succeeded"]],
  ["Cancelled", ["cancelled"]],
];

export function taskList(main, { query, signal }) {
  const chosen = {
    state: query.getAll("state"),
    project: query.get("project") ?? "",
    workflow: query.get("workflow") ?? "",
  };
  const cursor = query.get("cursor") ?? "";
  const [groups, trouble, more] = [el("nav", { class: "groups", "aria-label": "By state" }), el("div"), el("div")];
  const rows = el("tbody");
  const list = el("div", { class: "tasks" }, note("Loading…"));
  putGroups(groups, chosen, null);
  put(main, el("h1", { class: "unseen" }, "Tasks"), el("div", { class: "bar" }, groups, filters(chosen, signal)), trouble, list, more);

  async function look() {
    const page = await get(`/v1/tasks${search({ ...chosen, cursor, limit: String(PAGE_TASKS) })}`, { signal });
    put(trouble);
    if (page.tasks.length) {
      if (!rows.isConnected) put(list, table(["State", "Task", "Project", "Agent", "Submitted", "Took", ""], rows));
      putList(rows, page.tasks, (t) => t.task_id, version, row);
      for (const task of page.tasks) touch(rows, task);
    } else put(list, empty(chosen, cursor));
    const older = page.next_cursor && address({ ...chosen, cursor: page.next_cursor });
    put(more, pager(cursor && address(chosen), older));
  }

  repeat(signal, LOOK_MS, look, (error) => {
    if (!rows.isConnected) put(list);
    put(trouble, failure(error));
  });
  repeat(signal, COUNT_MS, async () => {
    const { project, workflow } = chosen;
    putGroups(groups, chosen, (await get(`/v1/tasks:counts${search({ project, workflow })}`, { signal })).counts);
  }, () => {});
}

const address = (chosen) => `#/tasks${search(chosen)}`;

function putGroups(parent, chosen, counts) {
  const version = (group) => JSON.stringify(counts && group[1].map((state) => counts[state]));
  putList(parent, GROUPS, (group) => group[0], version, ([name, states]) => {
    const here = String(states) === String(chosen.state);
    const number = counts && states.reduce((sum, state) => sum + counts[state], 0);
    return el(
      "a",
      { href: address({ ...chosen, state: states }), class: states[0] ?? "", "aria-current": here && "true" },
      name,
      number > 0 && el("span", { class: "number" }, count(number)),
    );
  });
}

function filters(chosen, signal) {
  const projects = el("select", { onchange: () => go({ project: projects.value }) }, el("option", { value: "" }, "every project"));
  const workflow = el("input", { type: "search", placeholder: "wfl_…", size: 14, value: chosen.workflow, onchange: () => go({ workflow: workflow.value.trim() }) });
  const go = (changed) => {
    location.hash = address({ ...chosen, ...changed });
  };
  const named = (name) => el("option", { value: name, selected: name === chosen.project }, name);
  if (chosen.project) projects.append(named(chosen.project));
  get("/v1/projects?limit=200", { signal }).then(
    (page) => projects.append(...page.projects.filter((p) => p.name !== chosen.project).map((p) => named(p.name))),
    () => {},
  );
  return el(
    "div",
    { class: "filters" },
    el("label", {}, el("span", {}, "Project"), projects),
    el("label", {}, el("span", {}, "Workflow"), workflow),
  );
}

const version = (task) =>
  [task.state, task.reason, task.message, task.attempts_used, task.cancel_requested, task.verdict, task.branch, task.review_until && ago(task.review_until)].join("\n");

function row(task) {
  const { agent = {} } = task.spec;
  return el(
    "tr",
    {},
    el("td", {}, pill(task.state), task.cancel_requested && !FINAL.has(task.state) && el("small", {}, "cancel asked")),
    el("td", { class: "what" }, el("a", { href: `#/tasks/${task.task_id}` }, shown(taskName(task))), why(task)),
    el("td", {}, shown(task.project)),
    el("td", { class: "dim" }, shown(agent.argv ? agent.argv[0] : (agent.name ?? "")), agent.model && [" · ", shown(agent.model)]),
    el("td", { class: "dim at" }, time(task.created_at)),
    el("td", { class: "dim took" }),
    el("td", { class: "dim" }, task.attempts_used > 1 && `${task.attempts_used} tries`),
  );
}

function why(task) {
  if (task.state === "succeeded") return el("small", {}, shown(task.branch));
  if (task.state === "review") return el("small", {}, "waits for your decision", task.review_until && ["; ends ", time(task.review_until)]);
  return (task.reason || task.message) && el("small", {}, shown(because(task)));
}

// What changes by itself.
function touch(rows, task) {
  const found = [...rows.children].find((child) => child.dataset.key === task.task_id);
  put(found.querySelector(".at"), time(task.created_at));
  put(found.querySelector(".took"), between(task.created_at, task.finished_at ?? Date.now()));
}

function empty(chosen, cursor) {
  if (cursor) return note("There are no older ones.");
  if (chosen.state.length || chosen.project || chosen.workflow) {
    return el("p", { class: "note" }, "No task is like that. ", link("#/tasks", "Show all"));
  }
  return el("p", { class: "note" }, "There is no task yet. ", link("#/new", "Submit the first one"), ", or say ", el("code", {}, "wfhub run"), ".");
}
