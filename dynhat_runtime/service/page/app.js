/* Joins the parts: asks the daemon every now and then, hands on what it says, and waits for it where it is away. */

import { apiKey, ask, DaemonError, setApiKey } from "./daemon.js";
import { byId, fillSelect, say, show } from "./elements.js";
import { History } from "./history.js";
import { Playground } from "./playground.js";
import { showCharts, showReasons, showResources, showState } from "./live.js";

const POLL_MS = 750;
const RETRY_MS = 1500;
const NUM_CHANGES = 12;
const AFTER_EVERYTHING = 2 ** 53;
/** A decision older than the last by so much comes from a clock that began anew. */
const CLOCK_BACK_S = 1;

const STATES = {
  ok: "Ready",
  loading: "Loading the model …",
  draining: "Draining: no new translations",
  error: "The daemon could not load its model",
  away: "No answer. Trying again …",
  key: "An API key is wanted",
};

const history = new History();
const playground = new Playground(wantKey);
let wake = () => {}; // ends the present wait
let isKnown = false; // languages, points and device were asked for since the daemon was last away
let isKeyWanted = false;
let activeId = null;
let since = null;

/** Ask and show, again and again; a hidden page asks nothing. */
async function run() {
  for (;;) {
    let waitMs = POLL_MS;
    try {
      await poll();
      setState("ok");
    } catch (error) {
      isKnown = false;
      waitMs = Math.max(RETRY_MS, (error.retryAfterS ?? 0) * 1000);
      history.addGap();
      await explain(error);
    }
    redraw();
    await pause(waitMs);
    if (document.hidden) {
      history.addGap();
      await pause(null);
    }
  }
}

/** Wait so long, or until somebody wakes us; null: only that. A key that is wanted is waited for, too. */
function pause(waitMs) {
  return new Promise((resolve) => {
    wake = resolve;
    if (waitMs !== null && !isKeyWanted) setTimeout(resolve, waitMs);
  });
}

async function poll() {
  const [status, { decisions }] = await Promise.all([ask("v1/operating-point"), ask("v1/decisions?last=1")]);
  if (!isKnown) await introduce();
  const latest = decisions.at(-1);
  showResources(status.resources);
  if (!latest) return; // nothing decided yet
  if (latest.decided_monotonic_s < history.latestS - CLOCK_BACK_S) history.forget();
  history.addDecision(latest);
  history.addBatches(status.latest_predictions);
  if (status.since !== since || latest.changed) {
    history.addChanges((await ask(`v1/decisions?last=${NUM_CHANGES}`)).decisions);
  }
  announce(status);
  showState(status, latest);
  showReasons(history);
  since = status.since;
}

/** What stays as it is for as long as the daemon runs. */
async function introduce() {
  const [languages, { points }, { header }] = await Promise.all([
    ask("languages"),
    ask("v1/operating-points"),
    ask(`v1/trace?after=${AFTER_EVERYTHING}`),
  ]);
  const ids = points.map((point) => point.id);
  playground.setLanguages(languages);
  playground.setPoints(ids);
  fillSelect(byId("pin-point"), ids.map((id) => [id, id]));
  say(byId("device-name"), header.device ?? "");
  if (header.dynhat_version) say(byId("version"), `dynhat-runtime ${header.dynhat_version}`);
  isKnown = true;
}

/** Tell those who hear the page of a switch, once. */
function announce(status) {
  const { id } = status.active;
  if (activeId !== null && id !== activeId) {
    say(byId("announcement"), `Operating point ${id} is active: ${status.reason}`);
  }
  activeId = id;
}

/** Say why there is nothing to show. */
async function explain(error) {
  if (!(error instanceof DaemonError)) {
    console.error(error);
    setState("error", "The daemon answers what this page does not understand: reload it");
  } else if (error.wantsKey) {
    wantKey(error);
  } else if (error.status === 503) {
    setState(await phase());
  } else if (error.isAway) {
    setState("away");
  } else {
    setState("away", error.message);
  }
}

/** Where the daemon stands when it serves nobody. */
async function phase() {
  try {
    return (await ask("health")).status;
  } catch (error) {
    return error.answer?.status ?? "away";
  }
}

function setState(name, words = STATES[name] ?? name) {
  const state = byId("daemon-state");
  state.dataset.state = name;
  say(state, words);
  document.body.classList.toggle("is-stale", name !== "ok");
}

function redraw() {
  if (history.latestS === null) return;
  const nowS = Math.max((Date.now() - history.clockOffsetMs) / 1000, history.latestS);
  const spanS = Number(document.querySelector("#spans input:checked").value);
  showCharts(history, nowS, spanS);
}

// --- choosing the point -------------------------------------------------------------------------------------

async function choose(body) {
  say(byId("choose-error"), "");
  try {
    await ask("v1/operating-point", { method: "PUT", body });
  } catch (error) {
    if (!(error instanceof DaemonError)) throw error;
    say(byId("choose-error"), error.message);
    if (error.wantsKey) wantKey(error);
  }
  wake();
}

function connectChoice() {
  byId("choose").addEventListener("submit", (event) => {
    event.preventDefault();
    choose({ mode: "pinned", point: byId("pin-point").value });
  });
  byId("release").addEventListener("click", () => {
    byId("pin").focus(); // the button that was pressed goes away
    choose({ mode: "auto" });
  });
}

// --- the key ------------------------------------------------------------------------------------------------

/** Ask for a key, and ask the daemon nothing until there is one. */
function wantKey(error) {
  isKeyWanted = true;
  setState("key");
  say(byId("key-reason"), `${error.message} The key is kept until this tab is closed.`);
  openKeyDialog();
}

function openKeyDialog() {
  const dialog = byId("key-dialog");
  byId("key").value = apiKey();
  if (!dialog.open) dialog.showModal();
}

function connectKey() {
  const dialog = byId("key-dialog");
  byId("enter-key").addEventListener("click", openKeyDialog);
  byId("key-cancel").addEventListener("click", () => dialog.close());
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setApiKey(byId("key").value.trim());
    dialog.close();
    isKeyWanted = false;
    wake();
  });
}

connectChoice();
connectKey();
byId("spans").addEventListener("change", redraw);
document.addEventListener("visibilitychange", () => document.hidden || wake());
new ResizeObserver(redraw).observe(byId("point-chart"));
show(byId("release"), false);
run();
