/* Asks the daemon, and says in words what it refuses. Shows nothing; keeps the API key for this tab only. */

const KEY_NAME = "dynhat-api-key";
const PATIENCE_MS = 10_000;

/** An answer that is no success, in words; `status` is 0 where there was no answer at all. */
export class DaemonError extends Error {
  constructor(message, { status = 0, retryAfterS = null, answer = null } = {}) {
    super(message);
    this.name = "DaemonError";
    this.status = status;
    this.retryAfterS = retryAfterS;
    this.answer = answer;
  }

  /** Nothing answered. */
  get isAway() {
    return this.status === 0;
  }

  /** A key is missing, or another one is wanted. */
  get wantsKey() {
    return this.status === 401 || this.status === 403;
  }
}

let keyInMemory = "";

/** The API key of this tab; empty for none. */
export function apiKey() {
  try {
    return sessionStorage.getItem(KEY_NAME) ?? keyInMemory;
  } catch {
    return keyInMemory; // storage may be forbidden
  }
}

/** Use this key from now on; an empty one means none. */
export function setApiKey(key) {
  keyInMemory = key;
  try {
    if (key) sessionStorage.setItem(KEY_NAME, key);
    else sessionStorage.removeItem(KEY_NAME);
  } catch {
    /* kept in memory, then */
  }
}

/**
 * The JSON that a route answers.
 *
 * @param {string} path relative to the page, so that a prefix before it is kept
 * @param {{method?: string, body?: unknown, signal?: AbortSignal, patienceMs?: number}} options
 * @throws {DaemonError} in words; an AbortError when `signal` says so
 */
export async function ask(path, { method = "GET", body, signal, patienceMs = PATIENCE_MS } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  const patience = new AbortController();
  const timer = setTimeout(() => patience.abort(), patienceMs);
  const giveUp = () => patience.abort();
  signal?.addEventListener("abort", giveUp);
  try {
    const response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: patience.signal,
      cache: "no-store",
      credentials: "same-origin",
    });
    const answer = await response.json().catch(() => null);
    if (!response.ok) throw refusal(response, answer);
    return answer;
  } catch (error) {
    if (signal?.aborted || error instanceof DaemonError) throw error;
    if (patience.signal.aborted) throw new DaemonError(`The daemon did not answer within ${patienceMs / 1000} s.`);
    throw new DaemonError("The daemon does not answer.");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", giveUp);
  }
}

/** What an answer that is no success means, in words; the daemon's own where it has some. */
function refusal(response, answer) {
  const { status } = response;
  const said = sentence(answer?.error ?? answer?.message ?? `${status} ${response.statusText}`);
  const seconds = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const retryAfterS = Number.isNaN(seconds) ? null : seconds;
  const later = retryAfterS === null || /again in/.test(said) ? "" : ` Try again in ${retryAfterS} s.`;
  let words = said;
  if (status === 401 || status === 403) words = `The daemon wants an API key. ${said}`;
  else if (status === 413) words = `That is more than the daemon takes at once. ${said}`;
  else if (status === 429 || answer?.code === "queue_full") words = `The daemon has too much to do. ${said}${later}`;
  else if (status === 503) words = `The daemon takes no request now. ${said}${later}`;
  else if (status >= 500) words = `Something went wrong in the daemon. ${said}`;
  return new DaemonError(words, { status, retryAfterS, answer });
}

/** The daemon's message as a sentence. */
function sentence(message) {
  const text = String(message).trim();
  const isName = /^[a-z]+[_[]/.test(text); // of a field: left as it is spelt
  const begun = isName ? text : text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}
