/** How unusual a face was, second by second: a line from p = 1 at the bottom to 1e-5 at the top. */

const WIDTH = 60;
const HEIGHT = 20;
const DECADES = 5;

const y = (p) => HEIGHT - 1 - (Math.min(DECADES, -Math.log10(Math.max(p, 1e-12))) / DECADES) * (HEIGHT - 2);

/** The dotted line of strong evidence. */
export const level = (p) => `M0 ${y(p).toFixed(1)}H${WIDTH}`;

/**
 * The path of one evidence.
 * @param {Map<number, (number | null)[]>} points second -> p by evidence
 * @param {number} index which evidence
 * @param {number} to the newest second
 * @param {number} window seconds across
 */
export function line(points, index, to, window) {
  const parts = [];
  let before = null;
  for (const at of [...points.keys()].sort((a, b) => a - b)) {
    const p = points.get(at)[index];
    if (p === null || p === undefined) continue;
    const x = (WIDTH * (at - to + window)) / window;
    if (x < 0) continue;
    // Watched streams are scored every few seconds; beyond that nobody looked, and no line says otherwise.
    parts.push(`${before !== null && at - before <= 10 ? "L" : "M"}${x.toFixed(1)} ${y(p).toFixed(1)}`);
    if (before === null || at - before > 10) parts.push("h.01");
    before = at;
  }
  return parts.join("");
}
