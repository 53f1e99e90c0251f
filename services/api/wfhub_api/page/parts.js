// Parts: small things that several views show the same way.

import { Problem } from "./api.js";
import { el, shown } from "./dom.js";
import { STATE_WORDS, ago, moment } from "./words.js";

export const pill = (state) =>
  el("span", { class: `pill ${state}`, title: STATE_WORDS[state] ?? "" }, shown(state));

// What is no task's or attempt's state, in the colours of one.
export const mark = (text, kind) => el("span", { class: `pill ${kind}` }, shown(text));

export const time = (at) => el("time", { datetime: at, title: moment(at) }, ago(at));

export const code = (text) => el("code", {}, shown(text));

export const link = (href, ...children) => el("a", { href }, ...children);

export const button = (text, onclick, attributes = {}) =>
  el("button", { type: "button", onclick, ...attributes }, text);

export const note = (text, kind = "") => el("p", { class: `note ${kind}` }, text);

export const section = (title, ...children) =>
  el("section", { class: "card" }, el("h2", {}, title), ...children);

// A view that could not be shown: the problem document's sentence, and the fields it names.
export function failure(error) {
  const fields = error instanceof Problem ? error.fields : [];
  return el(
    "div",
    { class: "note bad", role: "alert" },
    shown(error.message, "p"),
    fields.length > 1 &&
      el("ul", {}, fields.map((f) => el("li", {}, code(f.field ?? f.path), " ", shown(f.message)))),
  );
}

export function facts(rows) {
  const kept = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", { class: "facts" }, kept.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

export function copied(text) {
  const done = button("Copy", async () => {
    await navigator.clipboard.writeText(text);
    done.textContent = "Copied";
  }, { class: "quiet small" });
  // A page that came over plain HTTP from elsewhere has no clipboard.
  return el("div", { class: "command" }, el("pre", {}, text), navigator.clipboard ? done : null);
}

export function table(names, body) {
  const head = el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)));
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), body));
}

export const pager = (first, next, [back, on] = ["Newest", "Older →"]) =>
  el("nav", { class: "pager", "aria-label": "Pages" }, first && link(first, back), next && link(next, on));
