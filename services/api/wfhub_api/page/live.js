// Live: what is repeated or held open while a page is looked at, and only then.
//
// Browsers give a host six connections for all tabs together, so a hidden tab holds none.

const WAIT_MS = [1_000, 15_000]; // first and longest pause after a failure

// Runs `work` at once and then each `everyMs`, or slower where it takes long itself: the hub is not
// asked more than a tenth of the time. `failed(error)` is told, and it goes on.
export async function repeat(signal, everyMs, work, failed) {
  let [wait, asked] = [WAIT_MS[0], false];
  // What happens while an answer is under way may not be in it.
  addEventListener("wfhub-again", () => (asked = true), { signal });
  while (!signal.aborted) {
    await visible(signal);
    const began = performance.now();
    asked = false;
    try {
      await work();
      const took = performance.now() - began;
      wait = Math.max(asked ? 0 : everyMs, 9 * took);
    } catch (error) {
      if (signal.aborted) return;
      failed(error);
      wait = Math.min(Math.max(2 * wait, everyMs), Math.max(WAIT_MS[1], everyMs));
    }
    await pause(signal, wait);
  }
}

// Holds `stream(signal)` open while the tab is visible, and opens it again when it broke. It ends
// for good when it returns true.
export async function held(signal, stream, failed) {
  let wait = WAIT_MS[0];
  while (!signal.aborted) {
    await visible(signal);
    const shown = whileVisible(signal);
    try {
      if (await stream(shown)) return;
      wait = WAIT_MS[0];
    } catch (error) {
      if (signal.aborted) return;
      if (!shown.aborted) {
        failed(error);
        if (error.status >= 400 && error.status < 500 && error.status !== 429) return;
        wait = Math.min(2 * wait, WAIT_MS[1]);
      }
    }
    await pause(signal, wait);
  }
}

export function pause(signal, ms) {
  return new Promise((done) => {
    const over = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", over);
      removeEventListener("wfhub-again", over);
      done();
    };
    const timer = setTimeout(over, ms);
    signal.addEventListener("abort", over);
    addEventListener("wfhub-again", over); // somebody did something: look at once
  });
}

export const again = () => dispatchEvent(new Event("wfhub-again"));

addEventListener("online", again);

function visible(signal) {
  if (!document.hidden || signal.aborted) return Promise.resolve();
  return new Promise((done) => {
    document.addEventListener("visibilitychange", done, { once: true });
    signal.addEventListener("abort", done, { once: true });
  });
}

function whileVisible(signal) {
  const hidden = new AbortController();
  const on = () => document.hidden && hidden.abort();
  document.addEventListener("visibilitychange", on, { signal });
  return AbortSignal.any([signal, hidden.signal]);
}
