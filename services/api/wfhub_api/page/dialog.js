// Dialog: asks before something is done, takes a text where one belongs to it, and shows why it
// did not work. What was done cannot be half done here: the dialog closes only on success.

import { el, put } from "./dom.js";
import { button, failure } from "./parts.js";

// {title, says: [elements], text: {label, required, most}, confirm, kind: "danger" | "good", act}
export function ask({ title, says = [], text, confirm, kind = "", act }) {
  const opener = document.activeElement;
  const field = text && el("textarea", { rows: 4, maxlength: text.most ?? 2000, required: text.required });
  const trouble = el("div");
  const go = el("button", { class: kind || "primary" }, confirm);
  const back = button("Back", () => dialog.close(), { class: "quiet" });

  async function submitted(event) {
    event.preventDefault();
    go.disabled = true;
    put(trouble);
    try {
      await act(field?.value ?? "");
      dialog.close();
    } catch (error) {
      put(trouble, failure(error));
    } finally {
      go.disabled = false;
    }
  }

  const form = el(
    "form",
    { onsubmit: submitted },
    el("h2", { id: "dialog-title" }, title),
    ...says,
    field && el("label", {}, text.label, field),
    trouble,
    el("div", { class: "row end" }, back, go),
  );
  const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, form);
  dialog.addEventListener("close", () => {
    dialog.remove();
    opener?.focus?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  (field ?? back).focus(); // never the button that does it
}
