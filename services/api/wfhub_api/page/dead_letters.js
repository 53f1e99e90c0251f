// Dead letters: what failed again and again and was put aside. Each can be done again, or closed.

import { get, post, query as search } from "./api.js";
import { ask } from "./dialog.js";
import { el, put, putList, shown } from "./dom.js";
import { again, repeat } from "./live.js";
import { button, code, facts, failure, mark, note, pager, time } from "./parts.js";
import { moment } from "./words.js";

const LOOK_MS = 5_000;
const STATES = ["open", "replayed", "discarded"];
const BODY_CHARS_MAX = 20_000;
const KINDS = { open: "failed", replayed: "succeeded", discarded: "cancelled" };

export function deadLetters(main, { query, signal }) {
  const state = STATES.includes(query.get("state")) ? query.get("state") : "open";
  const cursor = query.get("cursor") ?? "";
  const [trouble, list, word] = [el("div"), el("div"), el("div", {}, note("Loading…"))];
  const groups = STATES.map((name) => el("a", { href: `#/dead-letters?state=${name}`, "aria-current": name === state && "true" }, name));
  put(main, el("h1", {}, "Dead letters"), el("nav", { class: "groups", "aria-label": "By state" }, groups), trouble, list, word);

  repeat(signal, LOOK_MS, async () => {
    const page = await get(`/v1/dead-letters${search({ state, cursor })}`, { signal });
    put(trouble);
    putList(list, page.dead_letters, (l) => l.dead_letter_id, JSON.stringify, (l) => letter(l, signal));
    const older = page.next_cursor && `#/dead-letters${search({ state, cursor: page.next_cursor })}`;
    put(word, !page.dead_letters.length && note(state === "open" ? "None. Nothing is stuck." : "None."), pager(cursor && `#/dead-letters${search({ state })}`, older));
  }, (error) => {
    put(trouble, failure(error));
    put(word);
  });
}

function letter(found, signal) {
  const body = el("div");
  return el(
    "section",
    { class: "card" },
    el("div", { class: "title" }, el("h2", {}, shown(`${found.source}: ${found.code}`)), mark(found.state, KINDS[found.state])),
    shown(found.error, "p"),
    facts([
      ["Id", code(found.dead_letter_id)],
      ["Kept by", found.service],
      ["About", code(found.subject)],
      ["From", found.sender && shown(found.sender)],
      ["Failed", `${found.failures} times, first ${moment(found.first_at)}`],
      ["Last", time(found.last_at)],
      ["Decided", found.decided_at && [time(found.decided_at), " by ", shown(found.decided_by)]],
      ["Outcome", found.outcome && shown(found.outcome)],
    ]),
    !found.whole && note("Only its beginning is stored: it cannot be replayed."),
    el("details", { ontoggle: (event) => event.target.open && read(found, body, signal) }, el("summary", {}, "Body"), body),
    found.state === "open" && el("div", { class: "row actions" }, found.whole && replay(found), discard(found)),
  );
}

async function read(found, body, signal) {
  if (body.firstChild) return;
  try {
    const whole = await get(`/v1/dead-letters/${found.dead_letter_id}`, { signal });
    const cut = whole.body.length > BODY_CHARS_MAX;
    put(body, shown(whole.body.slice(0, BODY_CHARS_MAX), "pre"), cut && note("This is its beginning; wfhub dead-letter show has the rest."));
  } catch (error) {
    if (!signal.aborted) put(body, failure(error));
  }
}

const decides = (found, what) => async () => {
  await post(`/v1/dead-letters/${found.dead_letter_id}/${what}`);
  again();
};

const replay = (found) =>
  button("Replay…", () =>
    ask({
      title: "Do it again?",
      says: [el("p", {}, "Once. Of what was decided meanwhile nothing is done.")],
      confirm: "Replay",
      act: decides(found, "replay"),
    }));

const discard = (found) =>
  button("Discard…", () =>
    ask({
      title: "Discard this dead letter?",
      says: [el("p", {}, "It is closed and never done. This cannot be undone.")],
      confirm: "Discard",
      kind: "danger",
      act: decides(found, "discard"),
    }), { class: "danger" });
