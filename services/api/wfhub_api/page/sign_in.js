// Sign-in: takes an API token, asks the API whether it is one, and keeps it for this tab.

import { get } from "./api.js";
import { el, put } from "./dom.js";
import { failure, note } from "./parts.js";
import { keep } from "./session.js";

export function signIn(main, done) {
  // No name: a form that was sent by itself would hold nothing.
  const field = el("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true });
  const go = el("button", { class: "primary" }, "Sign in");
  const trouble = el("div");

  async function submitted(event) {
    event.preventDefault();
    go.disabled = true;
    put(trouble);
    const given = field.value.trim();
    try {
      await get("/v1/projects?limit=1", { as: given });
      keep(given);
      field.value = "";
      done();
    } catch (error) {
      put(trouble, failure(error.status === 401 ? new Error("This is no valid token, or it was revoked.") : error));
      field.select();
    } finally {
      go.disabled = false;
    }
  }

  put(
    main,
    el(
      "form",
      { class: "card sign-in", onsubmit: submitted },
      el("h1", {}, "Workflow Hub"),
      el("label", { for: "token" }, "API token"),
      field,
      trouble,
      go,
      note("wfhub up says in which file its token is; wfhub token new NAME makes others. It is kept until this tab is closed."),
    ),
  );
  field.focus();
}
