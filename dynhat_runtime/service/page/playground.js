/* The form that translates: asks for one text, shows what came back, how fast, and what was refused. */

import { ask, DaemonError } from "./daemon.js";
import { byId, fillSelect, say, show } from "./elements.js";
import { count, milliseconds } from "./figures.js";

const PATIENCE_MS = 120_000;
const COPIED_MS = 1500;

export class Playground {
  /** @param {(error: DaemonError) => void} onKeyWanted called when the daemon wants another key */
  constructor(onKeyWanted) {
    this.onKeyWanted = onKeyWanted;
    this.languages = null;
    this.running = null; // what gives up waiting for the translation asked for last
    this.source = byId("source");
    this.translation = byId("translation");
    byId("translate").addEventListener("submit", (event) => {
      event.preventDefault();
      this.translate();
    });
    byId("translate").addEventListener("keydown", (event) => this.#onKey(event));
    this.source.addEventListener("input", () => this.#count());
    byId("copy").addEventListener("click", () => this.#copy());
    this.#count(); // a reloaded page may come with text in it
  }

  /** Name the languages, as GET /languages lists them. */
  setLanguages(listed) {
    const src = listed.find((each) => each.targets.some((code) => code !== each.code));
    const tgt = listed.find((each) => src?.targets.includes(each.code) && each.code !== src.code);
    if (!src || !tgt) return;
    this.languages = { src, tgt };
    say(byId("source-label"), src.name);
    say(byId("translation-label"), tgt.name);
    say(byId("languages"), `${src.name} to ${tgt.name}`);
    this.source.lang = src.code;
    this.translation.lang = tgt.code;
  }

  /** Offer these operating points. */
  setPoints(ids) {
    fillSelect(byId("wish-point"), [["", "as the governor chooses"], ...ids.map((id) => [id, id])]);
  }

  /** Translate what is typed; a translation still under way is given up. */
  async translate() {
    this.running?.abort();
    this.#clear();
    const problem = this.#problem();
    if (problem) {
      say(byId("translate-error"), problem);
      return;
    }
    const running = new AbortController();
    this.running = running;
    this.translation.setAttribute("aria-busy", "true");
    say(byId("verdict"), "Translating …");
    try {
      const answer = await ask("v1/translate", {
        method: "POST",
        body: this.#wish(),
        signal: running.signal,
        patienceMs: PATIENCE_MS,
      });
      if (this.running === running) this.#showTranslation(answer.translations[0]);
    } catch (error) {
      if (this.running === running) this.#showFailure(error, running.signal.aborted);
    } finally {
      if (this.running === running) {
        this.running = null;
        this.translation.removeAttribute("aria-busy");
      }
    }
  }

  #onKey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.translate();
    } else if (event.key === "Escape" && this.running) {
      this.running.abort();
    }
  }

  /** What keeps the text from being sent, in words; nothing if it can be. */
  #problem() {
    if (!this.source.value.trim()) return "There is nothing to translate: type a text first.";
    if (!this.languages) return "The daemon has not said yet which languages it translates: try again in a moment.";
    for (const [id, name] of [["wish-budget", "latency budget"], ["wish-quality", "lowest quality"]]) {
      if (byId(id).validity.badInput) return `The ${name} is no number: write one such as 50, or leave it empty.`;
    }
    return "";
  }

  #wish() {
    const { src, tgt } = this.languages;
    const wish = { text: this.source.value, source: src.code, target: tgt.code };
    if (byId("wish-budget").value) wish.latency_budget_ms = byId("wish-budget").valueAsNumber;
    if (byId("wish-quality").value) wish.min_quality = byId("wish-quality").valueAsNumber;
    if (byId("wish-point").value) wish.point = byId("wish-point").value;
    if (byId("wish-strict").checked) wish.strict = true;
    return wish;
  }

  #showTranslation({ text, operating_point: point, predicted_ms: predictedMs, elapsed_ms: elapsedMs, ...verdict }) {
    say(this.translation, text);
    show(byId("copy"), Boolean(text));
    const judged = verdict.budget_met ? "within the budget" : "over the budget";
    const line = byId("verdict");
    line.classList.toggle("is-missed", !verdict.budget_met);
    say(line, `${point}, ${milliseconds(elapsedMs)}, predicted ${milliseconds(predictedMs)}: ${judged}`);
  }

  #showFailure(error, isGivenUp) {
    say(byId("verdict"), isGivenUp ? "Given up." : "");
    if (isGivenUp) return;
    if (!(error instanceof DaemonError)) throw error;
    const again = error.isAway ? " Your text is kept: translate again once it is back." : "";
    say(byId("translate-error"), `${error.message}${again}`);
    if (error.wantsKey) this.onKeyWanted(error);
  }

  #clear() {
    say(byId("translate-error"), "");
    say(byId("verdict"), "");
    byId("verdict").classList.remove("is-missed");
  }

  #count() {
    say(byId("source-count"), count([...this.source.value].length, "character"));
  }

  async #copy() {
    const button = byId("copy");
    try {
      await navigator.clipboard.writeText(this.translation.textContent);
      say(button, "Copied");
    } catch {
      getSelection().selectAllChildren(this.translation); // without a secure origin: ready for Ctrl+C
      say(button, "Selected");
    }
    setTimeout(() => say(button, "Copy"), COPIED_MS);
  }
}
