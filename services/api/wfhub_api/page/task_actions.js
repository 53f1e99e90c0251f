// What somebody can do to a task, each only where it applies. The API decides; this only asks.

import { newKey, post } from "./api.js";
import { ask } from "./dialog.js";
import { el, shown } from "./dom.js";
import { again } from "./live.js";
import { button, code } from "./parts.js";
import { FINAL } from "./words.js";

const CANCELLABLE = new Set(["blocked", "ready", "running", "sealing", "review"]);
const MESSAGE_CHARS_MAX = 16 * 1024;
const COMMENT_CHARS_MAX = 2000;

export function taskActions(task) {
  const does = (path, body) => async () => {
    await post(`/v1/tasks/${task.task_id}/${path}`, body);
    again();
  };
  const buttons = [];
  if (task.state === "review") buttons.push(review(task, "approved"), review(task, "declined"));
  if (task.state === "running" && !task.cancel_requested) buttons.push(tell(task), handIn(does("hand-in")));
  if (CANCELLABLE.has(task.state) && !task.cancel_requested) buttons.push(cancel(does("cancel")));
  if (FINAL.has(task.state)) {
    if (task.workflow_id === null) buttons.push(retry(task));
    buttons.push(el("a", { class: "button", href: `#/new?like=${task.task_id}` }, "Submit one like it"));
  }
  return el("div", { class: "row actions" }, buttons);
}

function review(task, decision) {
  const approves = decision === "approved";
  const says = approves
    ? [el("p", {}, "It is published as it was sealed: the branch ", code(task.branch ?? `wfhub/${task.task_id}`), " is made in ", shown(task.spec.repo), ". This cannot be undone."), task.reason === "ci-files-changed" && shown(task.message, "p")]
    : [el("p", {}, "Nothing is published and the task fails. Its result stays as an artifact. This cannot be undone.")];
  return button(approves ? "Approve" : "Decline", () =>
    ask({
      title: approves ? "Approve this result?" : "Decline this result?",
      says,
      text: { label: "Comment (it is kept with the task)", most: COMMENT_CHARS_MAX },
      confirm: approves ? "Approve and publish" : "Decline",
      kind: approves ? "good" : "danger",
      act: async (comment) => {
        await post(`/v1/tasks/${task.task_id}/review`, { decision, comment });
        again();
      },
    }), { class: approves ? "good" : "danger" });
}

function tell(task) {
  return button("Tell the agent…", () =>
    ask({
      title: "Tell the agent",
      says: [el("p", {}, "It reads this between two of its steps. Not every agent listens.")],
      text: { label: "Message", required: true, most: MESSAGE_CHARS_MAX },
      confirm: "Send",
      act: async (text) => {
        await post(`/v1/tasks/${task.task_id}/messages`, { text });
        again();
      },
    }));
}

const handIn = (act) =>
  button("Hand in…", () =>
    ask({
      title: "Have the agent stop and hand in?",
      says: [el("p", {}, "What it has is verified, and published like any result. The agent does not go on.")],
      confirm: "Hand in",
      act,
    }));

const retry = (task) =>
  button("Run again…", () => {
    const key = newKey(); // asked again, for want of an answer, it is one task
    ask({
      title: "Run it again?",
      says: [el("p", {}, "A new task is submitted, with all that was asked of this one. This one stays as it is.")],
      confirm: "Run again",
      act: async () => {
        const made = await post(`/v1/tasks/${task.task_id}/retry`, {}, { "Idempotency-Key": key });
        location.hash = `#/tasks/${made.task_id}`;
      },
    });
  });

const cancel = (act) =>
  button("Cancel…", () =>
    ask({
      title: "Cancel this task?",
      says: [el("p", {}, "Nothing of it is published. This cannot be undone; logs and what it changed stay as artifacts.")],
      confirm: "Cancel the task",
      kind: "danger",
      act,
    }), { class: "danger" });
