/* Numbers as people read them, with their unit. What is missing is said to be missing, never shown as zero. */

export const MISSING = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function rounded(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 || Number.isInteger(value) ? 0 : size >= 10 ? 1 : 2);
}

/** Milliseconds. */
export function milliseconds(value) {
  return isNumber(value) ? `${rounded(value)} ms` : MISSING;
}

/** A share from 0 to 1 in per cent. */
export function percent(value) {
  return isNumber(value) ? `${Math.round(value * 100)} %` : MISSING;
}

/** A factor, such as 1.25×. */
export function factor(value) {
  return isNumber(value) ? `${value.toFixed(2)}×` : MISSING;
}

/** A clock. */
export function hertz(value) {
  if (!isNumber(value)) return MISSING;
  return value >= 1e9 ? `${(value / 1e9).toFixed(2)} GHz` : `${Math.round(value / 1e6)} MHz`;
}

/** Memory. */
export function mebibytes(value) {
  if (!isNumber(value)) return MISSING;
  return value >= 1024 ? `${(value / 1024).toFixed(1)} GiB` : `${Math.round(value)} MiB`;
}

/** Power. */
export function watts(milliwatts) {
  return isNumber(milliwatts) ? `${(milliwatts / 1000).toFixed(1)} W` : MISSING;
}

/** A temperature. */
export function celsius(value) {
  return isNumber(value) ? `${value.toFixed(0)} °C` : MISSING;
}

/** How many there are, in words: "1 CPU", "2 CPUs". */
export function count(number, singular, plural = `${singular}s`) {
  return `${number} ${number === 1 ? singular : plural}`;
}

/** A time of day, here where the page is read. */
export function timeOfDay(epochMs) {
  return new Date(epochMs).toLocaleTimeString([], { hour12: false });
}

/** CPU numbers, consecutive ones joined: "0–3, 6". */
export function cpuNumbers(cpus) {
  const runs = [];
  for (const cpu of [...cpus].sort((one, other) => one - other)) {
    const last = runs.at(-1);
    if (last && cpu === last[1] + 1) last[1] = cpu;
    else runs.push([cpu, cpu]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}–${last}`)).join(", ");
}
