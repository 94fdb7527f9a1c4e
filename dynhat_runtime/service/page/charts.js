/* Draws the two charts, from what the history holds. Asks nobody; colours are the style sheet's. */

import { draw } from "./elements.js";
import { count, milliseconds } from "./figures.js";

const MARGIN = { left: 46, right: 10, top: 22, bottom: 22 };
const CHAR_PX = 7;
const MAX_BATCHES_DRAWN = 400;
const HEADROOM = 1.15;
/** Above so many budgets the point chart is cut off: the line then runs along its edge. */
const MAX_BUDGETS = 4;

/**
 * The active point's prediction as a step line, its names above, the budget across.
 *
 * @param {SVGElement} svg
 * @param {import("./history.js").History} history
 * @param {number} nowS by the daemon's clock
 * @param {number} spanS how much of the past is shown
 */
export function drawPoint(svg, history, nowS, spanS) {
  const fromS = nowS - spanS;
  const samples = within(history.samples, fromS);
  const budgetMs = samples.at(-1)?.budgetMs ?? null;
  const highestMs = Math.max(...samples.map((each) => each.predictedMs ?? 0), 0);
  const topMs = Math.min(Math.max(highestMs, (budgetMs ?? 0) * 1.2) * HEADROOM, (budgetMs ?? Infinity) * MAX_BUDGETS);
  const frame = frameOf(svg, fromS, nowS, topMs || 1);
  const parts = [...axes(frame)];
  if (budgetMs !== null) parts.push(...budgetLine(frame, budgetMs));
  parts.push(...gaps(frame, samples), ...steps(frame, samples), ...names(frame, samples));
  if (budgetMs !== null) parts.push(budgetName(frame, budgetMs));
  svg.replaceChildren(...parts);
  svg.setAttribute("aria-label", describePoint(history, samples, fromS, spanS));
}

/**
 * What batches took as dots, what was predicted of them as ticks.
 *
 * @param {SVGElement} svg
 * @param {import("./history.js").History} history
 * @param {number} nowS by the daemon's clock
 * @param {number} spanS how much of the past is shown
 */
export function drawBatches(svg, history, nowS, spanS) {
  const fromS = nowS - spanS;
  const batches = history.batches.filter((each) => each.atS >= fromS).slice(-MAX_BATCHES_DRAWN);
  const highestMs = Math.max(...batches.map((each) => Math.max(each.predictedMs, each.actualMs)), 0);
  const frame = frameOf(svg, fromS, nowS, highestMs * HEADROOM || 1);
  const paths = { stem: "", expected: "", actual: "", canary: "" };
  for (const { atS, predictedMs, actualMs, isCanary } of batches) {
    const [x, predictedY, actualY] = [frame.x(atS), frame.y(predictedMs), frame.y(actualMs)];
    paths.stem += `M${x} ${predictedY}V${actualY}`;
    paths.expected += `M${(x - 4).toFixed(1)} ${predictedY}h8`;
    paths[isCanary ? "canary" : "actual"] += `M${x} ${actualY}h0`; // a round cap makes it a dot
  }
  const parts = batches.length ? axes(frame) : axes(frame).slice(-frame.numTimes);
  for (const [name, d] of Object.entries(paths)) if (d) parts.push(draw("path", { class: name, d }));
  if (!batches.length) parts.push(middleText(frame, "nothing was translated in this time"));
  svg.replaceChildren(...parts);
  svg.setAttribute("aria-label", describeBatches(batches, spanS));
}

/** The samples from a time on, and the one before, which is valid until the first of them. */
function within(samples, fromS) {
  const first = samples.findIndex((each) => each.atS >= fromS);
  return first < 0 ? samples.slice(-1) : samples.slice(Math.max(first - 1, 0));
}

/** The drawing area: size in pixels, and where times and milliseconds lie in it. */
function frameOf(svg, fromS, nowS, topMs) {
  const width = Math.max(svg.clientWidth, 200);
  const height = Math.max(svg.clientHeight, 80);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
  const perS = (right - MARGIN.left) / (nowS - fromS);
  const perMs = (bottom - MARGIN.top) / topMs;
  return {
    left: MARGIN.left,
    right,
    top: MARGIN.top,
    bottom,
    nowS,
    fromS,
    topMs,
    numTimes: right - MARGIN.left > 420 ? 5 : 3,
    x: (atS) => Number((MARGIN.left + Math.min(Math.max(atS - fromS, 0), nowS - fromS) * perS).toFixed(1)),
    y: (ms) => Number((bottom - Math.min(Math.max(ms, 0), topMs) * perMs).toFixed(1)),
  };
}

/** Horizontal lines with milliseconds, then the times below. */
function axes(frame) {
  const parts = [];
  const step = niceStep(frame.topMs / 4);
  for (let ms = 0; ms <= frame.topMs; ms += step) {
    const y = frame.y(ms);
    parts.push(
      draw("line", { class: ms ? "grid" : "axis", x1: frame.left, x2: frame.right, y1: y, y2: y }),
      draw("text", { class: "tick", x: frame.left - 6, y: y + 4, "text-anchor": "end" }, `${Number(ms.toFixed(3))}`),
    );
  }
  parts.push(draw("text", { class: "tick", x: frame.left - 6, y: 13, "text-anchor": "end" }, "ms"));
  for (let number = 0; number < frame.numTimes; number += 1) {
    const share = number / (frame.numTimes - 1);
    const agoS = (1 - share) * (frame.nowS - frame.fromS);
    const anchor = number === 0 ? "start" : share === 1 ? "end" : "middle";
    const x = frame.left + share * (frame.right - frame.left);
    parts.push(draw("text", { class: "tick", x, y: frame.bottom + 16, "text-anchor": anchor }, ago(agoS)));
  }
  return parts;
}

function ago(seconds) {
  if (seconds < 1) return "now";
  if (seconds <= 120) return `−${Math.round(seconds)} s`;
  return `−${Number((seconds / 60).toFixed(1))} min`;
}

/** 1, 2 or 5 times a power of ten, at least `least`. */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= least) ?? 10 * power;
}

function budgetLine(frame, budgetMs) {
  const y = frame.y(budgetMs);
  return [
    draw("rect", {
      class: "allowed",
      x: frame.left,
      y,
      width: frame.right - frame.left,
      height: Math.max(frame.bottom - y, 0),
    }),
    draw("line", { class: "budget", x1: frame.left, x2: frame.right, y1: y, y2: y }),
  ];
}

function budgetName(frame, budgetMs) {
  const place = { class: "budget-text", x: frame.left + 6, y: frame.y(budgetMs) - 6 };
  return draw("text", place, `budget ${milliseconds(budgetMs)}`);
}

/** [sample, end of its validity in s] for each sample that something is known of. */
function stretches(samples, nowS) {
  return samples.map((sample, index) => [sample, samples[index + 1]?.atS ?? nowS]);
}

/** The line: within the budget, and over it in another colour. */
function steps(frame, samples) {
  const paths = { within: "", over: "" };
  for (const [index, [sample, untilS]] of stretches(samples, frame.nowS).entries()) {
    if (sample.pointId === null || sample.predictedMs === null) continue;
    const next = samples[index + 1];
    const isOver = sample.predictedMs > sample.budgetMs;
    let d = `M${frame.x(sample.atS)} ${frame.y(sample.predictedMs)}H${frame.x(untilS)}`;
    if (next?.predictedMs != null) d += `V${frame.y(next.predictedMs)}`;
    paths[isOver ? "over" : "within"] += d;
  }
  return Object.entries(paths)
    .filter(([, d]) => d)
    .map(([name, d]) => draw("path", { class: `step ${name}`, d }));
}

/** Where nothing was heard of the daemon. */
function gaps(frame, samples) {
  return stretches(samples, frame.nowS)
    .filter(([sample]) => sample.pointId === null)
    .map(([sample, untilS]) => {
      const x = frame.x(sample.atS);
      const size = { x, width: Math.max(frame.x(untilS) - x, 1), y: frame.top, height: frame.bottom - frame.top };
      return draw("rect", { class: "gap", ...size });
    });
}

/** The name of each point above the time in which it was active, where there is room for it; the last one always. */
function names(frame, samples) {
  const parts = [];
  let freeTo = frame.right;
  const runs = activeRuns(frame, samples);
  for (const [index, run] of [...runs.entries()].reverse()) {
    const from = frame.x(run.fromS);
    if (index > 0) parts.push(draw("line", { class: "switch", x1: from, x2: from, y1: 4, y2: frame.bottom }));
    const width = run.pointId.length * CHAR_PX;
    const isLast = index === runs.length - 1;
    const x = isLast ? Math.min(from + 4, frame.right - width) : from + 4;
    if (isLast || x + width < Math.min(frame.x(run.untilS), freeTo)) {
      parts.push(draw("text", { class: "name", x, y: 13 }, run.pointId));
      freeTo = x - 4;
    }
  }
  return parts.reverse();
}

/** From when to when which point was active. */
function activeRuns(frame, samples) {
  const runs = [];
  for (const [sample, untilS] of stretches(samples, frame.nowS)) {
    const last = runs.at(-1);
    if (last && last.pointId === sample.pointId) last.untilS = untilS;
    else if (untilS > sample.atS) runs.push({ pointId: sample.pointId, fromS: sample.atS, untilS });
  }
  return runs.filter((run) => run.pointId !== null);
}

function middleText(frame, text) {
  const [x, y] = [(frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2];
  return draw("text", { class: "empty", x, y, "text-anchor": "middle" }, text);
}

function describePoint(history, samples, fromS, spanS) {
  const latest = samples.at(-1);
  if (!latest || latest.pointId === null) return "Active operating point against the budget: nothing known now";
  const numSwitches = history.switches.filter((each) => each.atS >= fromS).length;
  return (
    `Active operating point ${latest.pointId}, predicted ${milliseconds(latest.predictedMs)}, ` +
    `budget ${milliseconds(latest.budgetMs)}; ${count(numSwitches, "switch", "switches")} in ${spanS / 60} minutes`
  );
}

function describeBatches(batches, spanS) {
  const latest = batches.at(-1);
  if (!latest) return `Predicted and actual latency: nothing was translated in ${spanS / 60} minutes`;
  return (
    `Predicted and actual latency of ${count(batches.length, "batch", "batches")}; the last took ` +
    `${milliseconds(latest.actualMs)}, predicted ${milliseconds(latest.predictedMs)}`
  );
}
