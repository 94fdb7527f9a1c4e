"""Says a decision in sentences with numbers, for people. Decides nothing."""

from __future__ import annotations

from dynhat_runtime.governor.decision import ReasonCode
from dynhat_runtime.governor.forecast import clock_caps_hz
from dynhat_runtime.governor.situation import Situation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

LEAST_TOLD_MS = 0.05
"""What is less is written as 0.0."""


class Words:
    """The sentences of one decision."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._rules = situation.rules
        self._budget = f"the budget of {situation.rules.latency_budget_ms:.1f} ms"
        forecast = situation.forecast
        self._place = place(forecast.snapshot, situation.table)
        if not forecast.is_plan:
            self._place += f" at {forecast.slow_down.factor:.2f} times the table's time"
        if forecast.handling_ms >= LEAST_TOLD_MS:
            self._place += f" and {forecast.handling_ms:.1f} ms besides decoding"

    def reason(self, code: ReasonCode, chosen: str) -> str:
        """The sentence for the rule that decided."""
        situation, where, budget = self._situation, self._place, self._budget
        active = situation.active_id
        better = situation.best_of(situation.step_up or situation.better or [chosen])
        if code in ("pinned", "fixed", "energy"):
            tails = {
                "pinned": "it is pinned",
                "fixed": "it translates best, and policy fixed asks for no more",
                "energy": self._why_least_energy(),
            }
            return f"{self._needs(chosen)} {where}, {self._relation(chosen)} {budget}; {tails[code]}"
        if code == "over_budget":
            return f"{self._needs(active)} {where}, {self._relation(active)} {budget}; {self._needs(chosen)}"
        if code == "nothing_fits":
            return f"no operating point fits {budget} {where}; the fastest, {self._needs(chosen)}"
        if code == "headroom":
            going = "stays for the moment" if chosen == active else f"gives way to {chosen}"
            return f"{situation.headroom.over}: {active} {going}, {self._needs(chosen)} {where}"
        if code == "step_up":
            return f"{self._needs(chosen)} {where}, within {budget}, and translates better than {active}"
        if code == "dead_band":
            return (
                f"{self._needs(better)} {where}, too close to {budget}: a step up from {active} "
                f"asks for {situation.step_up_limit_ms:.1f} ms or less"
            )
        if code == "best_fits":
            return f"{self._needs(active)} {where}, and no better operating point fits {budget}"
        return f"{self._needs(better)} {where}, within {budget}, but {active} {self._waits(code)}"

    def why_not(self, point_id: str, code: ReasonCode, chosen: str) -> str | None:
        """What speaks against one point."""
        situation = self._situation
        predicted_ms = situation.predicted_ms[point_id]
        if predicted_ms > self._rules.latency_budget_ms:
            return f"{predicted_ms:.1f} ms is over {self._budget}"
        if not situation.fits(point_id):
            return (
                f"{predicted_ms:.1f} ms meets {self._budget} with a probability of "
                f"{situation.probability_met(point_id):.0%} only, {self._rules.confidence:.0%} is wanted"
            )
        if point_id == chosen:
            return None
        if code in ("pinned", "fixed", "energy"):
            tails = {
                "pinned": f"{chosen} is pinned",
                "fixed": f"policy fixed runs {chosen}",
                "energy": self._why_not_least_energy(point_id, chosen),
            }
            return tails[code]
        if situation.quality[point_id] <= situation.quality[chosen]:
            return f"translates no better than {chosen}"
        if code == "headroom":
            return f"{situation.headroom.over}"
        if not situation.is_outside_dead_band(point_id):
            return f"{predicted_ms:.1f} ms is too close to {self._budget} for a step up"
        # Held back as the one that waits is, and behind it if it was not the best of them.
        return self._waits_for(chosen, code)

    def _waits(self, code: ReasonCode) -> str:
        """How the active point goes on, and until when."""
        if code == "dwell":
            return f"stays until it has been active for {self._situation.stays_s:g} s"
        if code == "switching_rate":
            return (
                f"stays for {self._situation.rate_wait_s:.0f} s, as there were "
                f"{self._rules.max_step_ups_per_minute} steps up within a minute"
            )
        if code == "no_headroom":
            return f"stays: {self._situation.headroom.near}"
        return "stays until more translations agree"

    def _waits_for(self, chosen: str, code: ReasonCode) -> str:
        if code == "dwell":
            return f"waits until {chosen} has been active for {self._situation.stays_s:g} s"
        if code == "switching_rate":
            return f"waits {self._situation.rate_wait_s:.0f} s for the switching rate"
        if code == "no_headroom":
            return f"{self._situation.headroom.near}"
        return "waits until more translations agree"

    def _relation(self, point_id: str) -> str:
        """How a point stands to the budget."""
        if self._situation.predicted_ms[point_id] > self._rules.latency_budget_ms:
            return "over"
        return "within" if self._situation.fits(point_id) else "too close to"

    def _why_least_energy(self) -> str:
        wanted = self._rules.min_quality
        if wanted is None:
            return "the fastest takes the least energy"
        if self._situation.with_quality:
            return f"the fastest that has BLEU {wanted:g} takes the least energy"
        return f"no operating point has BLEU {wanted:g}, this one translates best"

    def _why_not_least_energy(self, point_id: str, chosen: str) -> str:
        if point_id in self._situation.with_quality:
            return f"takes longer than {chosen}, and so more energy"
        if not self._situation.with_quality:
            return f"translates no better than {chosen}"
        return f"has less than BLEU {self._rules.min_quality:g}"

    def _needs(self, point_id: str) -> str:
        num_layers = self._situation.table[point_id].config.num_decoder_layers
        layers = f"{num_layers} decoder layer{'' if num_layers == 1 else 's'}"
        return f"{point_id} ({layers}) needs {self._situation.predicted_ms[point_id]:.1f} ms"


def place(snapshot: ResourceSnapshot, table: OperatingPointTable) -> str:
    """The caps in words, such as `on 1 CPU capped at 0.74 of 1.48 GHz`."""
    words = "on the GPU" if table.device.gpu_max_frequency_hz is not None else _cpus(snapshot.effective_cpus)
    measured_hz, capped_hz = clock_caps_hz(snapshot, table)
    if measured_hz is not None and capped_hz and capped_hz < measured_hz:
        words += f" capped at {capped_hz / 1e9:.2f} of {measured_hz / 1e9:.2f} GHz"
    return words


def _cpus(num_cpus: float | None) -> str:
    return "on all CPUs" if num_cpus is None else f"on {num_cpus:.3g} CPU{'' if num_cpus == 1 else 's'}"
