// Words: states, reasons, sizes and times as people say them. Pure.

export const STATE_WORDS = {
  blocked: "waits for other tasks",
  ready: "waits for a runner",
  running: "an agent is at work",
  sealing: "its proof is being made",
  review: "waits for your decision",
  publishing: "its branch is being published",
  succeeded: "published",
  failed: "ended without a result",
  cancelled: "was cancelled",
  leased: "given to a runner",
  verifying: "the result is being verified",
  won: "its result was accepted",
  rejected: "its result did not pass",
  lost: "its runner was lost",
};

const REASON_WORDS = {
  "agent-cannot-start": "The agent's program could not be started.",
  "agent-failed": "The agent ended with an error.",
  "agent-needs-argv": "It names no program to run as its agent.",
  "agent-not-found": "The runner does not have this agent.",
  "agent-unknown": "The runner knows no agent of that name.",
  "agent-unfinished": "The agent stopped before it was done.",
  "artifact-refused": "A log or result was refused by the proof-store.",
  "artifact-too-large": "A log or result is larger than the proof-store takes.",
  "base-not-found": "The branch or commit to start from is not there.",
  "budget-exceeded": "Its budget of model use is spent.",
  "cancelled": "Somebody cancelled it.",
  "ci-files-changed": "It changes what CI runs.",
  "deadline": "Its deadline passed.",
  "disk-full": "The runner's disk is full.",
  "egress-forbidden": "It asks for a host that the operator does not allow.",
  "git-credentials": "The runner has no credentials that the host takes.",
  "image-forbidden": "Its project may not use that image.",
  "infrastructure": "Its runner was lost, again and again.",
  "lease-expired": "Its runner was not heard of for too long.",
  "model-refused": "The model's provider refused.",
  "model-unavailable": "The model could not be reached.",
  "no-changes": "The agent changed nothing.",
  "publish-conflict": "The branch is there already, with another commit. Nothing was changed.",
  "publish-unreachable": "The repository could not be reached to publish.",
  "queue-timeout": "No runner was free in time.",
  "rate-limited": "The model's provider asked for fewer requests.",
  "repo-empty": "The repository has no commit yet.",
  "repo-forbidden": "The runner may not use this repository.",
  "repo-not-found": "The runner finds no repository there.",
  "review-declined": "A reviewer declined the result.",
  "review-timeout": "Nobody decided in time.",
  "runner-error": "Something failed in the runner; its log says what.",
  "seal-refused": "The proof-store refused to sign for it.",
  "setup-cannot-start": "A set-up command could not be started.",
  "setup-failed": "A set-up command failed.",
  "unresolvable": "What it needs of another task is not there.",
  "verify-cannot-start": "A verification command could not be started.",
  "verification-failed": "A verification command did not pass.",
};

export function reasonWords(reason) {
  if (!reason) return "";
  if (Object.hasOwn(REASON_WORDS, reason)) return REASON_WORDS[reason];
  if (reason.startsWith("limit:")) return `It used more than its limit of ${limitWords(reason.slice(6))}.`;
  return "";
}

// Why something is as it is, in one line. A message begins with a small letter.
export function because({ reason, message }) {
  const words = reasonWords(reason) || reason;
  return message && words ? `${words.replace(/\.$/, "")}: ${message}` : message || words;
}

const LIMIT_WORDS = {
  idle: "time without a sign of life",
  run_s: "time",
  "run-time": "time",
  setup_s: "time for set-up",
  verify_s: "time for verification",
};

const limitWords = (name) => (Object.hasOwn(LIMIT_WORDS, name) ? LIMIT_WORDS[name] : name.replaceAll("_", " "));

export const FINAL = new Set(["succeeded", "failed", "cancelled"]);

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit += 1) bytes /= 1024;
  return `${unit && bytes < 10 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return seconds < 10 ? `${Math.max(0, seconds).toFixed(1)} s` : `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

export const between = (from, to) => duration((new Date(to) - new Date(from)) / 1000);

export function ago(at) {
  const seconds = (Date.now() - new Date(at)) / 1000;
  if (seconds < 0) return `in ${coarse(-seconds)}`;
  return seconds < 5 ? "now" : `${coarse(seconds)} ago`;
}

function coarse(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

export const moment = (at) =>
  new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const clock = (at) => new Date(at).toLocaleTimeString(undefined, { hour12: false });

export const count = (number) => Number(number).toLocaleString();

export const usd = (nusd) => `$${(nusd / 1e9).toFixed(nusd && nusd < 1e8 ? 4 : 2)}`;

export const taskName = (task) =>
  task.title || firstLine(task.spec?.prompt) || task.spec?.agent?.argv?.join(" ") || task.task_id;

export function firstLine(text, most = 140) {
  const line = (text ?? "").trimStart().split("\n", 1)[0];
  return line.length > most ? `${line.slice(0, most)}…` : line;
}
