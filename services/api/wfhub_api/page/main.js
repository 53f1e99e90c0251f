// Main: which view the address asks for, and what is around it. The address is the part behind `#`:
// #/tasks?state=review, #/tasks/tsk_…
//
// A view is a function (main, {id, query, signal}) that fills `main`; `signal` is aborted when the
// user goes elsewhere, and everything that it has open ends with it.

import { get, query, reachable } from "./api.js";
import { el, put } from "./dom.js";
import { repeat } from "./live.js";
import { forget, token } from "./session.js";
import { deadLetters } from "./dead_letters.js";
import { fleet } from "./fleet.js";
import { newTask } from "./new_task.js";
import { scheduleList } from "./schedule_list.js";
import { schedulePage } from "./schedule_page.js";
import { signIn } from "./sign_in.js";
import { taskList } from "./task_list.js";
import { taskPage } from "./task_page.js";
import { workflowList } from "./workflow_list.js";
import { workflowPage } from "./workflow_page.js";

const VIEWS = [
  [/^\/tasks$/, taskList, "Tasks"],
  [/^\/tasks\/(tsk_[a-z2-7]{24})$/, taskPage, "Task"],
  [/^\/new$/, newTask, "New task"],
  [/^\/workflows$/, workflowList, "Workflows"],
  [/^\/workflows\/(wfl_[a-z2-7]{24})$/, workflowPage, "Workflow"],
  [/^\/schedules$/, scheduleList, "Schedules"],
  [/^\/schedules\/(sch_[a-z2-7]{24})$/, schedulePage, "Schedule"],
  [/^\/fleet$/, fleet, "Projects and runners"],
  [/^\/dead-letters$/, deadLetters, "Dead letters"],
];
const NAV = [
  ["/tasks", "Tasks"],
  ["/workflows", "Workflows"],
  ["/schedules", "Schedules"],
  ["/fleet", "Projects & runners"],
  ["/dead-letters", "Dead letters"],
  ["/new", "New task"],
];
const GLANCE_MS = 30_000;
const GLANCE_MAX = 50;

const byId = (id) => document.getElementById(id);
let current = new AbortController();
let glancing = null;

function show() {
  current.abort();
  current = new AbortController();
  const [path, search] = (location.hash.slice(1) || "/tasks").split("?", 2);
  const main = byId("main");
  put(main);
  byId("top").hidden = !token();
  if (!token()) {
    glancing?.abort();
    glancing = null;
    document.title = "Sign in · Workflow Hub";
    signIn(main, show);
    return;
  }
  if (glancing === null) glance();
  for (const anchor of byId("nav").children) {
    const here = path === anchor.dataset.path || path.startsWith(`${anchor.dataset.path}/`);
    if (here) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  const found = VIEWS.find(([pattern]) => pattern.test(path));
  document.title = `${found?.[2] ?? "Not found"} · Workflow Hub`;
  if (!found) {
    put(main, el("h1", {}, "There is no such page"), el("p", {}, el("a", { href: "#/tasks" }, "To the tasks")));
    return;
  }
  const id = path.match(found[0])[1];
  found[1](main, { id, query: new URLSearchParams(search ?? ""), signal: current.signal });
}

// What somebody should know of wherever they are: results that wait for them, dead letters.
function glance() {
  glancing = new AbortController();
  const { signal } = glancing;
  repeat(signal, GLANCE_MS, async () => {
    const letters = await get(`/v1/dead-letters${query({ state: "open", limit: String(GLANCE_MAX) })}`, { signal });
    badge("/dead-letters", letters.dead_letters.length, letters.next_cursor);
  }, () => {});
}

export function badge(path, number, more = false) {
  const anchor = [...byId("nav").children].find((a) => a.dataset.path === path);
  const text = anchor.firstChild;
  put(anchor, text, number > 0 && el("span", { class: "badge" }, `${number}${more ? "+" : ""}`));
}

function said(event) {
  const line = byId("line");
  line.textContent = event.detail ? "" : "no answer: asking again";
  line.className = event.detail ? "" : "off";
}

function start() {
  const nav = NAV.map(([path, text]) => el("a", { href: `#${path}`, "data-path": path }, text));
  put(byId("nav"), nav);
  byId("sign-out").addEventListener("click", () => {
    forget();
    show();
  });
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // its address would be a view's
    byId("main").focus();
  });
  reachable.addEventListener("answer", said);
  addEventListener("offline", () => said({ detail: false }));
  addEventListener("wfhub-signed-out", show);
  addEventListener("hashchange", () => {
    show();
    scrollTo(0, 0);
    byId("main").focus({ preventScroll: true });
  });
  show();
}

start();
