// The REST API: every request of the page goes through here.
//
// `get` and `post` give the answer's JSON; `open` gives the answer itself, for streams and files.
// Throws: Problem, with the problem document's detail as its message; `status` 0: no answer came.
// A token that is not (or no longer) valid sends the user to the sign-in, wherever that is noticed.

import { forget, token } from "./session.js";

const ANSWER_MS_MAX = 30_000;

export class Problem extends Error {
  constructor(status, detail, document = {}) {
    super(detail);
    this.status = status;
    this.code = document.code ?? "";
    this.fields = document.errors ?? document.faults ?? [];
  }
}

// Told of each answer: true, there was one; false, there was none.
export const reachable = new EventTarget();

export async function get(path, options = {}) {
  return (await open(path, { ...options, limitMs: ANSWER_MS_MAX })).json();
}

export async function post(path, body, headers = {}) {
  const sent = { method: "POST", body: JSON.stringify(body ?? {}), limitMs: ANSWER_MS_MAX };
  const answer = await open(path, { ...sent, headers: { "Content-Type": "application/json", ...headers } });
  return answer.json();
}

// An Idempotency-Key: what is asked again with the same one is done once. crypto.randomUUID is not
// there where the page came over plain HTTP from elsewhere.
export const newKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

// `as`: with another token than the one that is kept.
export async function open(path, { limitMs, signal, as, headers = {}, ...request } = {}) {
  const signals = [signal, limitMs ? AbortSignal.timeout(limitMs) : undefined].filter(Boolean);
  let answer;
  try {
    answer = await fetch(path, {
      ...request,
      headers: { ...headers, Authorization: `Bearer ${as ?? token()}` },
      signal: AbortSignal.any(signals),
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    said(false);
    throw new Problem(0, "Workflow Hub does not answer. What is shown may be old; asking again.");
  }
  said(true);
  if (answer.ok) return answer;
  if (answer.status === 401 && as === undefined && token()) {
    forget();
    dispatchEvent(new Event("wfhub-signed-out"));
  }
  throw await refused(answer);
}

async function refused(answer) {
  let document = {};
  try {
    document = await answer.json();
  } catch {
    // Not ours: a proxy in between, perhaps.
  }
  const detail = document.detail || `The answer was ${answer.status} ${answer.statusText}.`;
  return new Problem(answer.status, detail, document);
}

const said = (there) => reachable.dispatchEvent(new CustomEvent("answer", { detail: there }));

// `{state: ["a", "b"], project: ""}` → `?state=a&state=b`; what is empty is left out.
export function query(values) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of [value].flat()) if (one) search.append(name, one);
  }
  const text = search.toString();
  return text ? `?${text}` : "";
}
