/* What the page has seen of the daemon: decisions, switches, batches. Asks nobody and draws nothing. */

const MAX_SAMPLES = 2400;
const MAX_BATCHES = 1200;
const MAX_SWITCHES = 64;
const THIN_AFTER_S = 150;
const THIN_TO_S = 4;

/** Of one decision's point, what it predicts; null for a point that it does not know. */
function predictedMs(decision, pointId) {
  return decision.candidates.find((each) => each.point_id === pointId)?.predicted_ms ?? null;
}

export class History {
  constructor() {
    this.samples = []; // {atS, pointId, predictedMs, budgetMs}, oldest first; pointId null: nothing is known from here
    this.switches = []; // {atS, fromId, toId, reason, mode}, newest first
    this.batches = []; // {atS, pointId, predictedMs, actualMs, isCanary}, oldest first
    this.clockOffsetMs = null; // this browser's clock less the daemon's
  }

  /** Time of the newest sample, by the daemon's clock. */
  get latestS() {
    return this.samples.at(-1)?.atS ?? null;
  }

  /** Note what was decided at last. */
  addDecision(decision) {
    const atS = decision.decided_monotonic_s;
    const offsetMs = Date.now() - atS * 1000;
    // The least delayed answer tells the clocks' difference best.
    this.clockOffsetMs = Math.min(this.clockOffsetMs ?? offsetMs, offsetMs);
    if (this.latestS !== null && atS <= this.latestS) return;
    this.samples.push(sampleOf(decision, decision.point_id, atS));
    this.#thin();
  }

  /** Note the changes in an excerpt of the why-log, oldest first; those known already are left as they are. */
  addChanges(decisions) {
    const known = new Set(this.switches.map((each) => each.atS));
    for (const decision of decisions) {
      const atS = decision.decided_monotonic_s;
      if (!decision.changed || known.has(atS)) continue;
      this.switches.unshift({
        atS,
        fromId: decision.active_id,
        toId: decision.point_id,
        reason: decision.reason,
        mode: decision.mode,
      });
      this.samples = this.samples.filter((sample) => sample.atS !== atS);
      this.samples.push(
        sampleOf(decision, decision.active_id, atS),
        sampleOf(decision, decision.point_id, atS),
      );
    }
    this.samples.sort((one, other) => one.atS - other.atS); // stable: before and after a change stay in order
    this.switches.sort((one, other) => other.atS - one.atS);
    this.switches.length = Math.min(this.switches.length, MAX_SWITCHES);
  }

  /** Note what batches took; those known already are left out. */
  addBatches(predictions) {
    const lastS = this.batches.at(-1)?.atS ?? -Infinity;
    for (const each of predictions) {
      if (each.monotonic_s <= lastS) continue;
      this.batches.push({
        atS: each.monotonic_s,
        pointId: each.point_id,
        predictedMs: each.predicted_ms,
        actualMs: each.actual_ms,
        isCanary: each.is_canary,
      });
    }
    if (this.batches.length > MAX_BATCHES) this.batches = this.batches.slice(-MAX_BATCHES);
  }

  /** From here on nothing is known, until the next sample. */
  addGap() {
    const last = this.samples.at(-1);
    if (last && last.pointId !== null) {
      this.samples.push({ atS: last.atS + 1e-3, pointId: null, predictedMs: null, budgetMs: last.budgetMs });
    }
  }

  /** A daemon whose clock began anew: nothing of before can be put beside it. */
  forget() {
    this.samples = [];
    this.switches = [];
    this.batches = [];
    this.clockOffsetMs = null;
  }

  /** When something happened, by this browser's clock. */
  epochMs(atS) {
    return atS * 1000 + (this.clockOffsetMs ?? 0);
  }

  /** Keep every sample of late, and of what is older enough to draw a line. */
  #thin() {
    if (this.samples.length <= MAX_SAMPLES) return;
    const recentS = this.latestS - THIN_AFTER_S;
    let keptS = -Infinity;
    let keptId;
    const kept = this.samples.filter((sample) => {
      const isKept = sample.atS > recentS || sample.pointId !== keptId || sample.atS - keptS >= THIN_TO_S;
      if (isKept) [keptS, keptId] = [sample.atS, sample.pointId];
      return isKept;
    });
    this.samples = kept.slice(-MAX_SAMPLES);
  }
}

function sampleOf(decision, pointId, atS) {
  return {
    atS,
    pointId,
    predictedMs: predictedMs(decision, pointId),
    budgetMs: decision.latency_budget_ms,
  };
}
