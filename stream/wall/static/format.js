/** How numbers and times are written. */

export const STATES = ["alert", "suspicious", "not-looking", "clean"];
export const STATE_WORDS = {
  alert: "alert",
  suspicious: "suspicious",
  "not-looking": "not looking",
  clean: "clean",
};
export const EVIDENCES = ["artifact", "anchor", "identity"];

/** A p-value in few characters. */
export function p(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 0.001) return `p=${value.toPrecision(2).replace(/\.?0+$/, "")}`;
  return value < 1e-9 ? "p<1e-9" : `p=${value.toExponential(0)}`;
}

export const percent = (share) => `${Math.floor(100 * share)} %`;

/** Seconds as people say them. */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 100) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${Math.round(s / 86400)} days`;
}

/** A presentation time: a time of day where it lies near the clock, else seconds. */
export function streamTime(seconds) {
  if (Math.abs(Date.now() / 1000 - seconds) < 7 * 86400) return clock(seconds * 1000);
  return `${seconds.toFixed(1)} s`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour12: false });

/** A shell word: what stands in a command that somebody will copy. */
export const quoted = (word) => (/^[\w.:/,@=+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
