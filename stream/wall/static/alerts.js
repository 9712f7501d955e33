/** Alerts: open ones on top of the page, with what to do about them; and told to screen readers. */

import { clock, count, duration, p, quoted, streamTime } from "./format.js";
import { command } from "./command.js";

const MAX_TOLD = 3;

export class Alerts {
  /**
   * @param {import("./store.js").Store} store
   * @param {import("./operate.js").Operator} operator
   * @param {(stream: string) => void} opened a stream was chosen
   */
  constructor(store, operator, opened) {
    this.store = store;
    this.operator = operator;
    this.opened = opened;
    this.items = new Map();
    this.template = document.getElementById("alert-template").content.firstElementChild;
    this.lists = { true: document.getElementById("alerts-open"), false: document.getElementById("alerts-closed") };
    this.live = document.getElementById("live");
    this.isFirst = true;
  }

  update(ids, gone) {
    const told = [];
    for (const id of ids) {
      const alert = this.store.alerts.get(id);
      if (!alert) continue;
      const item = this.items.get(id) ?? this.make(id);
      if (alert.isNew && !this.isFirst) {
        told.push(alert);
        item.node.classList.add("new");
      }
      this.fill(item, alert);
    }
    for (const id of gone) {
      this.items.get(id)?.node.remove();
      this.items.delete(id);
    }
    if (ids.size || gone.length || this.isFirst) this.arrange();
    if (told.length) this.tell(told);
    this.isFirst = false;
  }

  make(id) {
    const node = this.template.cloneNode(true);
    const find = (selector) => node.querySelector(selector);
    const item = {
      node, image: find("img"), kind: find(".kind"), stream: find(".stream"), sentence: find(".sentence"),
      facts: find(".facts"), command: find(".command"), acknowledge: find(".acknowledge"), answer: find(".answer"),
    };
    find(".open-stream").addEventListener("click", () => this.opened(this.store.alerts.get(id).stream));
    item.acknowledge.addEventListener("click", async () => {
      const alert = this.store.alerts.get(id);
      item.answer.textContent = "sending …";
      item.answer.textContent = await this.operator.act({ act: "acknowledge", stream: alert.stream, alert: id });
    });
    item.image.addEventListener("error", () => (item.image.hidden = true));
    this.items.set(id, item);
    return item;
  }

  fill(item, alert) {
    item.kind.textContent = `${alert.kind.replaceAll("-", " ")} (${alert.evidence})`;
    item.stream.textContent = alert.name;
    item.sentence.textContent = alert.sentence;
    const span = alert.end === null ? `since ${streamTime(alert.start)}` : `${streamTime(alert.start)} to ${streamTime(alert.end)}`;
    const facts = [
      alert.who, p(alert.p), span, `frames ${alert.first} to ${alert.last}`, `opened ${clock(alert.opened)}`,
      `told ${clock(alert.told)}`, `budget ${alert.budget} false alerts a day`,
    ];
    if (alert.acknowledged) facts.push(`acknowledged by ${alert.acknowledged}`);
    if (!alert.open) facts.push(`closed: ${alert.end_reason.replaceAll("-", " ")}`);
    item.facts.replaceChildren(...facts.map((fact) => Object.assign(document.createElement("span"), { textContent: fact })));
    item.node.classList.toggle("closed", !alert.open);
    item.acknowledge.hidden = !alert.open || Boolean(alert.acknowledged) || !this.operator.name;
    if (alert.thumbnail && !item.image.alt) {
      item.image.src = `alerts/${encodeURIComponent(alert.id)}/thumbnail`;
      item.image.alt = `the face of ${alert.who} on ${alert.name}`;
      item.image.hidden = false;
    }
    if (item.replay !== alert.replay) {
      item.replay = alert.replay;
      command(item.command, alert.replay ? this.replay(alert.replay) : "");
      if (!alert.replay) item.command.textContent = "Replay: the score of its first frame is not at hand.";
    }
  }

  replay(address) {
    return `${this.store.wall.replay} --from-score ${quoted(address)}`;
  }

  arrange() {
    const sorted = [...this.store.alerts.values()].sort((a, b) => b.opened - a.opened);
    const counts = { true: 0, false: 0 };
    for (const alert of sorted) {
      const list = this.lists[alert.open];
      const node = this.items.get(alert.id).node;
      if (list.children[counts[alert.open]] !== node) list.insertBefore(node, list.children[counts[alert.open]] ?? null);
      counts[alert.open] += 1;
    }
    document.getElementById("alerts-count").textContent = String(counts.true);
    document.getElementById("closed-count").textContent = String(counts.false);
    document.getElementById("alerts-none").hidden = counts.true > 0;
    document.getElementById("alerts-past").hidden = counts.false === 0;
    document.title = counts.true ? `(${counts.true}) DiffFake wall` : "DiffFake wall";
  }

  /** Polite, and few at once: a storm must not talk for minutes. */
  tell(alerts) {
    const words = alerts.slice(0, MAX_TOLD).map((alert) => `Alert on ${alert.name}: ${alert.sentence}.`);
    if (alerts.length > MAX_TOLD) words.push(`And ${count(alerts.length - MAX_TOLD, "more alert")}.`);
    this.live.textContent = words.join(" ");
  }

  refresh() {
    for (const [id, item] of this.items) this.fill(item, this.store.alerts.get(id));
  }

  /** How long the oldest open one has been open, in words. */
  oldest() {
    const open = [...this.store.alerts.values()].filter((alert) => alert.open);
    return open.length ? duration((this.store.now() - Math.min(...open.map((alert) => alert.opened))) / 1000) : "";
  }
}
