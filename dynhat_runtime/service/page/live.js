/* Shows where the daemon stands: the active point and why, the charts, the points, the device. Asks nobody. */

import { drawBatches, drawPoint } from "./charts.js";
import { byId, make, say, show } from "./elements.js";
import {
  celsius,
  count,
  cpuNumbers,
  factor,
  hertz,
  mebibytes,
  milliseconds,
  MISSING,
  percent,
  timeOfDay,
  watts,
} from "./figures.js";

const NUM_REASONS = 12;

/** Fill the tiles, the reason and the table. */
export function showState(status, decision) {
  const active = decision.candidates.find((each) => each.point_id === status.active.id);
  const isPinned = status.mode === "pinned";
  say(byId("active-point"), status.active.id);
  const how = isPinned ? "pinned by hand" : `chosen by the governor (${status.policy})`;
  say(byId("active-how"), `${how}, since ${timeOfDay(Date.parse(status.since))}`);
  showPrediction(active, decision);
  say(byId("slow-down"), factor(status.slow_down_factor));
  say(byId("slow-down-more"), slowDownWords(status));
  showLastBatch(status.latest_predictions.at(-1));
  say(byId("reason"), status.reason);
  show(byId("release"), isPinned);
  byId("choose").classList.toggle("is-pinned", isPinned);
  showPoints(decision, status.active.id);
}

function showPrediction(active, decision) {
  say(byId("predicted"), milliseconds(active?.predicted_ms));
  say(
    byId("predicted-of"),
    `of ${milliseconds(decision.latency_budget_ms)}, in time with a probability of ${percent(active?.probability_met)}`,
  );
  fillBar(byId("predicted-bar"), active?.predicted_ms, decision.latency_budget_ms);
}

function fillBar(bar, predictedMs, budgetMs) {
  const share = (predictedMs ?? 0) / budgetMs;
  bar.style.inlineSize = `${Math.min(share, 1) * 100}%`;
  bar.classList.toggle("is-over", share > 1);
}

function slowDownWords(status) {
  if (status.slow_down_factor === null) return "not known yet";
  const off = status.prediction_error_fraction;
  const judged = off === null ? "" : `; predictions off by ${percent(off)} (median)`;
  return `of the measured times, ± ${percent(status.slow_down_std)}${judged}`;
}

function showLastBatch(last) {
  say(byId("actual"), milliseconds(last?.actual_ms));
  if (!last) {
    say(byId("actual-more"), "nothing was translated yet");
    return;
  }
  const whose = last.is_canary ? ", a sentence of the daemon’s own" : "";
  say(
    byId("actual-more"),
    `predicted ${milliseconds(last.predicted_ms)}, ${count(last.num_sentences, "sentence")} on ${last.point_id}${whose}`,
  );
}

function showPoints(decision, activeId) {
  const body = byId("points");
  const before = new Map([...body.rows].map((row) => [row.dataset.point, row]));
  const rows = decision.candidates.map((candidate) => {
    const row = before.get(candidate.point_id) ?? pointRow(candidate.point_id);
    fillRow(row, candidate, decision, candidate.point_id === activeId);
    return row;
  });
  const isSame = rows.length === body.rows.length && rows.every((row, index) => body.rows[index] === row);
  if (!isSame) body.replaceChildren(...rows);
}

function pointRow(pointId) {
  const name = make("th", "", make("strong", "", pointId), " ", make("span", "active-mark"));
  name.scope = "row";
  const bar = make("span", "bar", make("span"));
  bar.setAttribute("aria-hidden", "true");
  const figures = [make("td", "number", make("span"), bar), make("td", "number"), make("td", "number")];
  const row = make("tr", "", name, ...figures, make("td", "why-not small"));
  row.dataset.point = pointId;
  // Said in so many words, since the narrow layout is none of a table.
  row.setAttribute("role", "row");
  for (const cell of row.cells) cell.setAttribute("role", cell === name ? "rowheader" : "cell");
  return row;
}

function fillRow(row, candidate, decision, isActive) {
  const [name, predicted, inTime, bleu, whyNot] = row.cells;
  row.classList.toggle("is-active", isActive);
  row.classList.toggle("is-out", !candidate.fits);
  say(name.querySelector(".active-mark"), isActive ? "active" : "");
  say(predicted.firstElementChild, milliseconds(candidate.predicted_ms));
  fillBar(predicted.querySelector(".bar > span"), candidate.predicted_ms, decision.latency_budget_ms);
  say(inTime, percent(candidate.probability_met));
  say(bleu, candidate.bleu === null ? MISSING : candidate.bleu.toFixed(1));
  say(whyNot, candidate.why_not ?? "");
}

/** List the latest switches with their reasons, newest first. */
export function showReasons(history) {
  const shown = history.switches.slice(0, NUM_REASONS);
  const list = byId("reasons");
  show(byId("no-reasons"), shown.length === 0);
  const newest = shown[0] ? `${shown[0].atS} ${shown.length}` : "";
  if (list.dataset.newest === newest) return;
  list.dataset.newest = newest;
  list.replaceChildren(...shown.map((each) => reasonItem(each, history)));
}

function reasonItem(change, history) {
  const epochMs = history.epochMs(change.atS);
  const time = make("time", "quiet small", timeOfDay(epochMs));
  time.dateTime = new Date(epochMs).toISOString();
  const hand = change.mode === "pinned" ? [make("span", "badge", "by hand")] : [];
  const head = make("p", "change", make("strong", "", `${change.fromId} → ${change.toId}`), ...hand, time);
  return make("li", "", head, make("p", "small", change.reason));
}

/** Draw both charts. */
export function showCharts(history, nowS, spanS) {
  drawPoint(byId("point-chart"), history, nowS, spanS);
  drawBatches(byId("batch-chart"), history, nowS, spanS);
}

/** List what is known of the device; what operators look for is named even where no sensor tells. */
export function showResources(resources) {
  const entries = resources === null ? [["Resources", "not read yet"]] : describe(resources);
  const list = byId("resources");
  const key = entries.map(([label]) => label).join();
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(
      ...entries.map(([label]) => make("div", "", make("dt", "", label), make("dd"))),
    );
  }
  for (const [index, [, text]] of entries.entries()) say(list.children[index].lastElementChild, text);
  const down = (resources?.sensors ?? []).filter((sensor) => !sensor.is_up);
  byId("sensors-down").replaceChildren(
    ...down.map((sensor) => make("li", "small", `Sensor ${sensor.name} is down: ${sensor.error ?? "no reason given"}`)),
  );
}

function describe(resources) {
  const always = [
    ["Cores", cores(resources)],
    ["CPU clock", clock(resources.cpu_current_frequency_hz, resources.cpu_max_frequency_hz)],
    ["GPU clock", clock(resources.gpu_current_frequency_hz, resources.gpu_max_frequency_hz)],
    ["Power mode", resources.power_mode ?? "not sensed"],
    ["Temperature", resources.temperature_celsius === null ? "not sensed" : celsius(resources.temperature_celsius)],
  ];
  const whereKnown = [
    ["CPU load", resources.cpu_load_fraction, percent],
    ["Waiting for a CPU", resources.cpu_pressure_fraction, percent],
    ["GPU load", resources.gpu_load_fraction, percent],
    ["Power", resources.power_mw, watts],
    ["Cooling", resources.cooling_state_fraction, percent],
    ["Battery", resources.battery_fraction, percent],
    ["Memory free", resources.memory_available_mib, mebibytes],
    ["Daemon’s memory", resources.process_memory_mib, mebibytes],
  ];
  const known = whereKnown.filter(([, value]) => value !== null && value !== undefined);
  return [...always, ...known.map(([label, value, words]) => [label, words(value)])];
}

function cores(resources) {
  const { usable_cpus: usable, online_cpus: online, cpu_quota_cpus: quota } = resources;
  if (!usable && !online) return "not sensed";
  const used = usable ?? online;
  const of = online && online.length !== used.length ? ` of ${online.length} online` : "";
  const limit = quota === null ? "" : `, quota ${count(Number(quota.toFixed(2)), "CPU")}`;
  return `${used.length}${of} (${cpuNumbers(used)})${limit}`;
}

function clock(nowHz, capHz) {
  if (nowHz === null && capHz === null) return "not sensed";
  if (capHz === null) return hertz(nowHz);
  return nowHz === null ? `cap ${hertz(capHz)}` : `${hertz(nowHz)}, cap ${hertz(capHz)}`;
}
