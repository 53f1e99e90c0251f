// Download: a file of the API under a name. A link cannot send the token, so it is fetched.
//
// The name is the caller's, never the answer's; the browser keeps what is large on disk.

import { open } from "./api.js";
import { el } from "./dom.js";
import { ask } from "./dialog.js";
import { button } from "./parts.js";

const LINK_MS = 60_000; // the browser has begun to save by then

export async function download(path, name) {
  const content = await (await open(path)).blob();
  const href = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  el("a", { href, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(href), LINK_MS);
}

export function downloadButton(text, path, name, attributes = {}) {
  const made = button(text, async () => {
    made.disabled = true;
    try {
      await download(path, name);
    } catch (error) {
      ask({ title: "It could not be downloaded", says: [el("p", {}, error.message)], confirm: "Try again", act: () => download(path, name) });
    } finally {
      made.disabled = false;
    }
  }, { class: "quiet small", ...attributes });
  return made;
}
