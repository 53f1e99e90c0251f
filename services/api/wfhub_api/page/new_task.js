// A form to submit a task. `#/new?like=tsk_…` begins with what another one was asked.
//
// One Idempotency-Key for as long as nothing is changed: sent twice, for want of an answer, it is
// one task.

import { get, newKey, post } from "./api.js";
import { el, put } from "./dom.js";
import { failure, note } from "./parts.js";

const AGENTS = ["builtin", "aider", "claude-code", "codex", "gemini-cli", "goose", "mini-swe-agent", "opencode", "qwen-code"];

export function newTask(main, { query, signal }) {
  const fields = {
    project: el("select", {}, el("option", { value: "default" }, "default")),
    repo: el("input", { required: true, spellcheck: "false", placeholder: "https://git.example.org/acme/app.git or /home/me/src/app" }),
    base: el("input", { spellcheck: "false", placeholder: "HEAD" }),
    title: el("input", { maxlength: 200 }),
    prompt: el("textarea", { rows: 8, required: true }),
    agent: el("input", { list: "agents", value: "builtin", spellcheck: "false" }),
    model: el("input", { spellcheck: "false", placeholder: "as the stack says" }),
    verify: el("textarea", { rows: 3, spellcheck: "false", placeholder: "pytest -q" }),
    review: el("input", { type: "checkbox" }),
    hours: el("input", { type: "number", min: 1, max: 720, value: 24 }),
    usd: el("input", { type: "number", min: 0, step: "any", placeholder: "no limit" }),
    tokens: el("input", { type: "number", min: 1, step: 1, placeholder: "no limit" }),
    tries: el("input", { type: "number", min: 1, max: 20, value: 1 }),
  };
  const go = el("button", { class: "primary" }, "Submit");
  const trouble = el("div");
  let key = newKey();

  async function submitted(event) {
    event.preventDefault();
    go.disabled = true;
    put(trouble);
    try {
      const made = await post("/v1/tasks", body(fields), { "Idempotency-Key": key });
      location.hash = `#/tasks/${made.task_id}`;
    } catch (error) {
      put(trouble, failure(error));
    } finally {
      go.disabled = false;
    }
  }

  const form = el(
    "form",
    { class: "card form", onsubmit: submitted, oninput: () => { key = newKey(); } },
    el("h1", {}, "New task"),
    labelled("Repository", fields.repo, "A path or URL as the runner sees it."),
    labelled("Start from", fields.base, "A branch or commit."),
    labelled("Project", fields.project),
    labelled("Title", fields.title),
    labelled("Prompt", fields.prompt),
    labelled("Agent", fields.agent),
    labelled("Model", fields.model),
    labelled("Verification", fields.verify, "One command a line; each has to end with 0 on a clean checkout of the result."),
    labelled("Budget, USD", fields.usd, "Of model use, all tries together."),
    labelled("Budget, tokens", fields.tokens),
    labelled("Tries", fields.tries),
    el("div", { class: "row field" }, el("label", { class: "inline" }, fields.review, " Publish only once approved, within"), el("label", { class: "inline" }, fields.hours, " hours")),
    el("datalist", { id: "agents" }, AGENTS.map((name) => el("option", { value: name }))),
    trouble,
    el("div", { class: "row" }, go),
  );
  put(main, form);
  fill(fields, query.get("like"), trouble, signal);
}

async function fill(fields, like, trouble, signal) {
  try {
    const [page, task] = await Promise.all([
      get("/v1/projects?limit=200", { signal }),
      like && get(`/v1/tasks/${encodeURIComponent(like)}`, { signal }),
    ]);
    const names = page.projects.map((p) => p.name);
    if (names.length) put(fields.project, names.map((name) => el("option", { value: name }, name)));
    fields.project.value = task ? task.project : names.includes("default") ? "default" : names[0];
    if (task) fillFrom(fields, task.spec, trouble);
  } catch (error) {
    if (!signal.aborted) put(trouble, failure(error));
  }
}

function fillFrom(fields, spec, trouble) {
  const { agent = {}, budget = {}, verify = [] } = spec;
  const values = { repo: spec.repo, base: spec.base, title: spec.title, prompt: spec.prompt, agent: agent.name, model: agent.model };
  for (const [name, value] of Object.entries(values)) fields[name].value = value ?? "";
  fields.verify.value = verify.join("\n");
  fields.usd.value = budget.usd ?? "";
  fields.tokens.value = budget.tokens ?? "";
  fields.tries.value = spec.retry?.attempts_max ?? 1;
  fields.review.checked = Boolean(spec.review_s);
  if (spec.review_s) fields.hours.value = Math.max(1, Math.round(spec.review_s / 3600));
  put(trouble, note("What this form does not have (limits, set-up, hosts, labels, a program of one's own) is not taken over; wfhub run has it all."));
}

function body(fields) {
  const value = (name) => fields[name].value.trim();
  const verify = fields.verify.value.split("\n").map((line) => line.trim()).filter(Boolean);
  const budget = { ...(value("usd") && { usd: value("usd") }), ...(value("tokens") && { tokens: Number(value("tokens")) }) };
  return {
    project: value("project"),
    repo: value("repo"),
    prompt: fields.prompt.value,
    title: value("title"),
    verify,
    budget,
    agent: { name: value("agent") || "builtin", ...(value("model") && { model: value("model") }) },
    retry: { attempts_max: Number(value("tries")) || 1 },
    ...(value("base") && { base: value("base") }),
    ...(fields.review.checked && { review_s: Math.round(Number(value("hours")) * 3600) }),
  };
}

const labelled = (text, field, help) =>
  el("label", { class: "field" }, el("span", {}, text), field, help && el("small", {}, help));
