/** The wall: what is told goes into the store, and from there onto the page, once a frame. */

import { Alerts } from "./alerts.js";
import { Detail } from "./detail.js";
import { clock, count, duration } from "./format.js";
import { listen } from "./keys.js";
import { Link } from "./link.js";
import { Operator } from "./operate.js";
import { Store } from "./store.js";
import { Tiles } from "./tiles.js";

const LATE_MS = 5000;
const byId = (id) => document.getElementById(id);

const store = new Store();
const operator = new Operator(() => {
  alerts.refresh();
  detail.fill();
});
const detail = new Detail(store, operator);
const tiles = new Tiles(store, (key) => detail.open(key));
const alerts = new Alerts(store, operator, (stream) => {
  const tile = store.byName(stream);
  if (tile) detail.open(tile.key);
});
let lostSince = null;

const link = new Link(
  (event) => {
    const changed = store.merge(event);
    trust();
    alerts.update(changed.alerts, changed.goneAlerts);
    tiles.remove(changed.gone);
    tiles.update(changed.streams);
    if (event.whole) tiles.arrange();
    if (changed.streams.has(detail.key) || changed.gone.includes(detail.key)) detail.fill();
    foot();
  },
  (since) => {
    lostSince = since;
    trust();
  },
);

/** Say it in large letters when what the page shows cannot be believed, and let no tile say anything else. */
function trust() {
  document.body.dataset.pictures = Boolean(store.wall?.pictures);
  let banner = "";
  let blind = "";
  const { wall } = store;
  if (lostSince !== null) {
    banner = `Not connected to the wall since ${clock(lostSince)}. Nothing on this page is current.`;
    blind = "no connection to the wall";
  } else if (wall && !wall.connected) {
    banner = `Not connected to Kafka since ${clock(wall.since)}. ${wall.problem}`;
    blind = "not connected to Kafka";
  } else if (wall && wall.behind > LATE_MS) {
    banner = `The wall is ${duration(wall.behind / 1000)} behind the scores.`;
  }
  const node = byId("banner");
  if (node.textContent !== banner) node.textContent = banner;
  node.hidden = !banner;
  if (tiles.blind !== blind) {
    tiles.blind = blind;
    tiles.all();
  }
}

function foot() {
  const { wall } = store;
  const facts = [`updated ${clock(store.now())}`, `scores ${(wall.behind / 1000).toFixed(1)} s old when read`];
  if (wall.unread) facts.push(`${count(wall.unread, "record")} could not be read: ${wall.problem}`);
  if (wall.skipped) facts.push(`${count(wall.skipped, "score")} skipped to keep up`);
  if (wall.alerts_left_out) facts.push(`${count(wall.alerts_left_out, "open alert")} left out: too many at once`);
  const oldest = alerts.oldest();
  if (oldest) facts.push(`oldest open alert ${oldest}`);
  const line = facts.join(" · ");
  if (byId("foot").textContent !== line) byId("foot").textContent = line;
}

// -- choices, kept where the browser allows ----------------------------------------------------------------------------
function remembered(name, fallback) {
  try {
    return localStorage.getItem(name) ?? fallback;
  } catch {
    return fallback;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // a private window
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const choice = byId("theme").value;
  const isLight = choice === "light" || (choice === "auto" && !dark.matches);
  document.documentElement.dataset.theme = isLight ? "light" : "dark";
}

for (const [id, fallback, chosen] of [
  ["theme", "auto", paint],
  ["order", "name", () => ((tiles.order = byId("order").value), tiles.arrange())],
]) {
  const field = byId(id);
  field.value = remembered(`wall-${id}`, fallback);
  if (!field.value) field.value = fallback;
  field.addEventListener("change", () => {
    remember(`wall-${id}`, field.value);
    chosen();
  });
  chosen();
}
dark.addEventListener("change", paint);

const search = byId("search");
search.addEventListener("input", () => {
  tiles.search = search.value.trim();
  tiles.arrange();
});
byId("filter").addEventListener("change", (event) => {
  tiles.show = event.target.value;
  tiles.arrange();
});
byId("help-open").addEventListener("click", () => byId("help").showModal());
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
listen({
  tiles,
  search,
  help: byId("help"),
  clear() {
    search.value = tiles.search = "";
    tiles.show = "all";
    document.querySelector('[name="show"][value="all"]').checked = true;
    tiles.arrange();
  },
});
setInterval(() => {
  tiles.tick();
  if (detail.key !== null) detail.fill();
}, 1000);
window.addEventListener("pagehide", () => link.source.close());
