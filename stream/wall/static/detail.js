/** The details of one stream, and what an operator may do to it. */

import { EVIDENCES, STATE_WORDS, count, duration, p, percent, quoted, streamTime } from "./format.js";
import { command } from "./command.js";

const ALL = "everybody";
const SURE_MS = 5000;

export class Detail {
  /** @param {import("./store.js").Store} store @param {import("./operate.js").Operator} operator */
  constructor(store, operator) {
    this.store = store;
    this.operator = operator;
    this.dialog = document.getElementById("detail");
    this.answer = document.getElementById("detail-answer");
    this.person = document.getElementById("act-person");
    this.budget = document.getElementById("act-budget");
    this.key = null;
    this.armed = null;
    this.dialog.addEventListener("close", () => {
      this.key = null;
      this.disarm();
    });
    this.person.addEventListener("change", () => this.disarm());
    for (const button of this.dialog.querySelectorAll("[data-act]")) {
      button.addEventListener("click", () => this.act(button));
    }
  }

  open(key) {
    this.key = key;
    this.disarm();
    this.answer.textContent = "";
    this.replay = null;
    this.labels = null;
    this.person.replaceChildren();
    this.fill();
    if (!this.dialog.open) this.dialog.showModal();
  }

  fill() {
    const stream = this.store.streams.get(this.key);
    if (!stream) {
      if (this.key !== null) this.dialog.close();
      return;
    }
    document.querySelector("#detail-title bdi").textContent = stream.name;
    document.getElementById("detail-state").textContent = [STATE_WORDS[stream.state], stream.reason].filter(Boolean).join(": ");
    const facts = [
      ["last frame", `${stream.status} at ${streamTime(stream.pts)}, written ${duration((this.store.now() - stream.heard) / 1000)} ago`],
      ["delay", stream.lag === null ? "not known: its times are no times of day" : `${stream.lag.toFixed(1)} s`],
      ["looked at", `${percent(stream.coverage)} of the last minute of the stream, ${count(stream.frames, "frame")}`],
      ...EVIDENCES.map((name) => [name, stream.worst[name] ? p(stream.worst[name].p) : "nothing said lately"]),
      ...stream.people.map((who, index) => [who.label, stream.anchors[index]]),
      ["model", stream.model],
    ];
    if (stream.muted) facts.push(["muted", stream.muted]);
    document.getElementById("detail-facts").replaceChildren(...facts.flatMap(([name, value]) => [node("dt", name), node("dd", value)]));
    if (this.replay !== stream.replay && !this.dialog.querySelector("#detail-replay :focus")) {
      this.replay = stream.replay;
      command(document.getElementById("detail-replay"), stream.replay ? `${this.store.wall.replay} --from-score ${quoted(stream.replay)}` : "");
    }
    this.people(stream);
    document.getElementById("detail-locked").hidden = Boolean(this.operator.name);
    document.getElementById("detail-buttons").hidden = !this.operator.name;
  }

  people(stream) {
    const labels = [ALL, ...stream.people.map((who) => who.label)].join("\n");
    if (labels === this.labels) return;
    this.labels = labels;
    const chosen = this.person.selectedOptions[0];
    const options = [node("option", ALL), ...stream.people.map((who) => node("option", who.label))];
    options.forEach((option, index) => (option.value = index === 0 ? "" : JSON.stringify(stream.people[index - 1].person)));
    if (chosen?.value && !options.some((option) => option.value === chosen.value)) {
      // Whoever was chosen stays chosen: what is done next is not for everybody.
      chosen.textContent = `${chosen.dataset.label ?? chosen.textContent}, not seen lately`;
      options.push(chosen);
    }
    for (const option of options) option.dataset.label ??= option.textContent;
    this.person.replaceChildren(...options);
    this.person.value = chosen?.value ?? "";
  }

  /** What was asked for is no longer asked for. */
  disarm() {
    clearTimeout(this.timer);
    this.armed = null;
  }

  async act(button) {
    const stream = this.store.streams.get(this.key);
    if (!stream) return;
    const isSure = this.armed === button;
    this.disarm();
    if (button.dataset.sure && !isSure) {
      // Asked in place: a dialog of the browser would stop the page, and with it the alerts.
      this.armed = button;
      this.answer.textContent = `${button.dataset.sure} Press again.`;
      this.timer = setTimeout(() => this.disarm(), SURE_MS);
      return;
    }
    if (button.dataset.act === "budget" && !this.budget.checkValidity()) {
      this.answer.textContent = `${this.budget.validationMessage} Empty: as by default. Nothing was sent.`;
      return;
    }
    const action = { act: button.dataset.act, stream: stream.id };
    if (action.act === "gear") action.act = document.getElementById("act-gear").value;
    else if (action.act === "budget") action.per_day = Number(this.budget.value) || null;
    else action.person = this.person.value ? JSON.parse(this.person.value) : null;
    if (action.act === "mute") action.seconds = Number(document.getElementById("act-seconds").value) || null;
    this.answer.textContent = "sending …";
    this.answer.textContent = `${button.textContent}: ${await this.operator.act(action)}`;
  }
}

function node(name, value) {
  return Object.assign(document.createElement(name), { textContent: value });
}
