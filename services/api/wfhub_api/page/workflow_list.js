// The list of workflows, newest first.

import { get, query as search } from "./api.js";
import { el, put, putList, shown } from "./dom.js";
import { repeat } from "./live.js";
import { failure, note, pager, pill, table, time } from "./parts.js";
import { count } from "./words.js";

const LOOK_MS = 5_000;

export function workflowList(main, { query, signal }) {
  const cursor = query.get("cursor") ?? "";
  const [trouble, list, more, rows] = [el("div"), el("div", {}, note("Loading…")), el("div"), el("tbody")];
  put(main, el("h1", {}, "Workflows"), trouble, list, more);

  repeat(signal, LOOK_MS, async () => {
    const page = await get(`/v1/workflows${search({ cursor })}`, { signal });
    put(trouble);
    if (!page.workflows.length) {
      put(list, el("p", { class: "note" }, "There is no workflow. ", el("code", {}, "wfhub workflow submit FILE"), " makes one."));
      return;
    }
    if (!rows.isConnected) put(list, table(["State", "Workflow", "Project", "Tasks", "Submitted"], rows));
    putList(rows, page.workflows, (w) => w.workflow_id, JSON.stringify, row);
    const older = page.next_cursor && `#/workflows${search({ cursor: page.next_cursor })}`;
    put(more, pager(cursor && "#/workflows", older));
  }, (error) => {
    if (!rows.isConnected) put(list);
    put(trouble, failure(error));
  });
}

function row(flow) {
  return el(
    "tr",
    {},
    el("td", {}, pill(flow.state)),
    el("td", { class: "what" }, el("a", { href: `#/workflows/${flow.workflow_id}` }, shown(flow.name))),
    el("td", {}, shown(flow.project)),
    el("td", {}, progress(flow)),
    el("td", { class: "dim" }, time(flow.created_at)),
  );
}

export function progress({ task_count: all, open_count: open, unsuccessful_count: bad }) {
  return [`${count(all - open)} of ${count(all)} ended`, bad > 0 && el("span", { class: "minus" }, `, ${count(bad)} without success`)];
}
