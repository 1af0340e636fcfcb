// What an answer that is none says to people: one sentence, and what to do next.

export const UNREADABLE = "The response cannot be read: a proxy between this page and the platform may have answered instead.";
const BY_STATUS = {
  413: "The request is too large.",
  429: "Too many requests.",
  502: "The platform is not responding.",
  503: "The platform is busy.",
  504: "The platform took too long to answer.",
};

// Went wrong in a way that its message tells people.
export class Failure extends Error {}

export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Failure(UNREADABLE);
  }
}

// The sentence of an error's envelope, as it is; null where there is none.
export function told(body) {
  const message = body?.error?.message;
  return typeof message === "string" && message.trim() ? message : null;
}

// Why an answer with this status, and with this text for a body, is none. Who wrote an envelope said what to do next;
// elsewhere `advice` says it.
export function explained(status, text, advice = "") {
  let body = null;
  try { body = JSON.parse(text); } catch { /* not ours, such as a proxy's page */ }
  return told(body) ?? `${BY_STATUS[status] ?? `The platform answered ${status} without a reason.`} ${advice}`.trim();
}

// Seconds that a Retry-After asks to wait, given as such or as a date; 0 for none.
export function wait(retryAfter) {
  const seconds = retryAfter && !Number.isNaN(Number(retryAfter)) ? Number(retryAfter) : (Date.parse(retryAfter) - Date.now()) / 1000;
  return seconds > 0 ? Math.ceil(seconds) : 0;
}

// A time to wait, as people say it.
export function span(seconds) {
  const [count, unit] = seconds < 60 ? [seconds, "second"] : [Math.ceil(seconds / 60), "minute"];
  return `${count} ${unit}${count === 1 ? "" : "s"}`;
}

// What to show of whatever was thrown. What is no Failure is a mistake of ours, whose words help nobody.
export function reason(error) {
  return error instanceof Failure ? error.message : "Something went wrong in this page. Reload it and try again.";
}
