/** One tile per stream; only what changed is written. */

import { EVIDENCES, STATES, STATE_WORDS, count, duration, p, percent } from "./format.js";
import { level, line } from "./spark.js";

const PICTURE_MS = 10000;
// So many letters of a long id's end are always seen.
const END_LETTERS = 12;
const text = (node, value) => {
  if (node.textContent !== value) node.textContent = value;
};

export class Tiles {
  /** @param {import("./store.js").Store} store @param {(key: number) => void} opened a tile was chosen */
  constructor(store, opened) {
    this.store = store;
    this.opened = opened;
    this.list = document.getElementById("tiles");
    this.template = document.getElementById("tile-template").content.firstElementChild;
    this.row = document.getElementById("evidence-template").content.firstElementChild;
    this.tiles = new Map();
    this.show = "all";
    this.order = "name";
    this.search = "";
    /** Words that stand on every tile while the wall itself cannot be trusted; else empty. */
    this.blind = "";
    this.visible = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const tile = this.tiles.get(Number(entry.target.dataset.key));
        if (tile) tile.isVisible = entry.isIntersecting;
        if (tile && entry.isIntersecting) this.picture(tile);
      }
    });
  }

  /** Bring the tiles of these streams up to date. */
  update(keys) {
    let moved = false;
    for (const key of keys) {
      const stream = this.store.streams.get(key);
      if (!stream) continue;
      const tile = this.tiles.get(key) ?? this.make(key);
      const state = this.blind ? "not-looking" : stream.state;
      moved ||= tile.state !== state || tile.name !== stream.name;
      this.fill(tile, stream, state);
    }
    if (moved) this.arrange();
  }

  remove(keys) {
    for (const key of keys) {
      const tile = this.tiles.get(key);
      if (!tile) continue;
      this.visible.unobserve(tile.node);
      tile.node.remove();
      this.tiles.delete(key);
    }
    if (keys.length) this.arrange();
  }

  all() {
    this.update(this.store.streams.keys());
  }

  make(key) {
    const node = this.template.cloneNode(true);
    const find = (selector) => node.querySelector(selector);
    const rows = EVIDENCES.map((name) => {
      const row = this.row.cloneNode(true);
      row.querySelector("dt").textContent = name;
      find(".evidence").append(row);
      return { line: row.querySelector(".line"), strong: row.querySelector(".strong"), p: row.querySelector(".p") };
    });
    const tile = {
      node, rows, state: null, name: null, isVisible: false, pictured: 0, address: "",
      article: find("article"), shape: find("use"), button: find(".name"), begin: find(".begin"), end: find(".end"), word: find(".state"),
      image: find("img"), nobody: find(".nobody"), reason: find(".reason"), meter: find("meter"),
      coverage: find(".coverage span"), people: find(".people"),
    };
    node.dataset.key = key;
    tile.article.addEventListener("click", () => this.opened(key));
    tile.image.addEventListener("error", () => {
      tile.image.hidden = true;
      tile.nobody.toggleAttribute("hidden", false);
    });
    tile.image.addEventListener("load", () => {
      tile.image.hidden = false;
      tile.nobody.toggleAttribute("hidden", true);
    });
    this.tiles.set(key, tile);
    this.list.append(node);
    this.visible.observe(node);
    return tile;
  }

  fill(tile, stream, state) {
    if (tile.state !== state) {
      tile.shape.setAttribute("href", `#shape-${state}`);
      tile.article.dataset.state = tile.state = state;
    }
    tile.name = stream.name;
    tile.article.dataset.at = stream.pts;
    tile.article.dataset.trouble = this.blind !== "" || stream.trouble;
    if (tile.button.title !== stream.name) {
      // Ids that are too long are cut in the middle: those of one site begin alike.
      const letters = Array.from(stream.name);
      const kept = letters.length > 2 * END_LETTERS ? END_LETTERS : 0;
      text(tile.begin, letters.slice(0, letters.length - kept).join(""));
      text(tile.end, letters.slice(letters.length - kept).join(""));
      tile.button.title = stream.name;
      tile.button.setAttribute("aria-label", stream.name);
    }
    text(tile.word, stream.muted && !this.blind ? `${STATE_WORDS[state]}, muted` : STATE_WORDS[state]);
    tile.stream = stream;
    this.reason(tile);
    EVIDENCES.forEach((name, index) => {
      const row = tile.rows[index];
      const found = stream.worst[name];
      text(row.p, found ? p(found.p) : "–");
      row.p.dataset.level = found?.level ?? 0;
      row.line.setAttribute("d", line(stream.points, index, stream.to, this.store.wall.window));
      if (!row.strong.getAttribute("d")) row.strong.setAttribute("d", level(this.store.wall.strong_p));
    });
    tile.meter.value = stream.coverage;
    text(tile.coverage, percent(stream.coverage));
    text(tile.people, stream.people.length ? stream.people.map((who) => who.label).join(", ") : "nobody");
    if (tile.isVisible) this.picture(tile);
  }

  /** Why nobody looks, and for how long; called every second, too. */
  reason(tile) {
    const { stream } = tile;
    const silent = (this.store.now() - stream.heard) / 1000;
    let reason = this.blind || stream.reason;
    if (!this.blind && stream.why === "behind" && stream.lag !== null) reason += ` by ${duration(stream.lag)}`;
    else if (reason && silent > 5 && tile.state !== "suspicious") reason += ` (${duration(silent)})`;
    text(tile.reason, reason);
    if (tile.reason.title !== reason) tile.reason.title = reason;
  }

  /** Fetch a newer picture, now and then, of tiles that are seen. */
  picture(tile) {
    const { stream } = tile;
    const now = Date.now();
    if (!this.store.wall.pictures || !stream?.picture || stream.picture === tile.address) return;
    if (now - tile.pictured < PICTURE_MS || document.hidden) return;
    tile.pictured = now;
    tile.address = stream.picture;
    tile.image.src = `pictures/${stream.key}?at=${encodeURIComponent(stream.picture)}`;
  }

  /** Filter, search and order; moves only what must be moved. */
  arrange() {
    const words = this.search.toLowerCase();
    const counts = { all: 0, alert: 0, suspicious: 0, "not-looking": 0, clean: 0 };
    const found = [];
    for (const tile of this.tiles.values()) {
      counts.all += 1;
      counts[tile.state] += 1;
      const isWanted = this.show === "all" || tile.state === this.show;
      const isFound = !words || [tile.name, ...tile.stream.people.map((who) => who.label)].join("\n").toLowerCase().includes(words);
      tile.node.hidden = !(isWanted && isFound);
      found.push(tile);
    }
    const compare = new Intl.Collator(undefined, { numeric: true }).compare;
    const rank = (tile) => (this.order === "worst" ? STATES.indexOf(tile.state) : 0);
    found.sort((a, b) => rank(a) - rank(b) || compare(a.name, b.name) || a.stream.key - b.stream.key);
    let at = this.list.firstElementChild;
    const focused = document.activeElement;
    for (const tile of found) {
      if (tile.node === at) at = at.nextElementSibling;
      else this.list.insertBefore(tile.node, at);
    }
    if (focused !== document.activeElement && this.list.contains(focused)) focused.focus();
    for (const [name, number] of Object.entries(counts)) {
      text(document.querySelector(`[data-count="${name}"]`), String(number));
    }
    const shown = found.filter((tile) => !tile.node.hidden).length;
    const nothing = document.getElementById("tiles-none");
    nothing.hidden = shown > 0;
    text(nothing, counts.all ? "No stream fits the filter. Esc clears it." : "Waiting for scores …");
    const { heard } = this.store.wall ?? { heard: 0 };
    const beyond = heard > counts.all ? `, of about ${heard}: the calm ones beyond are left out` : "";
    text(document.getElementById("streams-note"), `${shown} of ${count(counts.all, "stream")} shown${beyond}`);
    this.counts = counts;
  }

  /** The tiles that are shown, in order. */
  shown() {
    return [...this.list.children].filter((node) => !node.hidden).map((node) => this.tiles.get(Number(node.dataset.key)));
  }

  /** Once a second: times go on, also where nothing is heard. */
  tick() {
    for (const tile of this.tiles.values()) {
      this.reason(tile);
      if (tile.isVisible) this.picture(tile);
    }
  }
}
