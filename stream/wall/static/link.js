/** The connection to the wall: events as they come, and the certainty that they still come. */

const SILENT_MS = 7000;
const AGAIN_MS = 3000;

export class Link {
  /**
   * @param {(event: object) => void} told what an event says
   * @param {(sinceMs: number | null) => void} lost called when nothing comes any more, and with null when it does
   */
  constructor(told, lost) {
    this.told = told;
    this.lost = lost;
    this.lastId = "";
    this.heard = Date.now();
    this.isLost = false;
    this.open();
    setInterval(() => this.look(), 1000);
    // A page that slept (a phone, a closed lid) must not show what it knew before.
    document.addEventListener("visibilitychange", () => document.hidden || this.look());
  }

  open() {
    this.source?.close();
    this.opened = Date.now();
    const query = this.lastId ? `?last=${encodeURIComponent(this.lastId)}` : "";
    this.source = new EventSource(`events${query}`);
    this.source.addEventListener("wall", (event) => {
      this.lastId = event.lastEventId;
      this.heard = Date.now();
      if (this.isLost) {
        this.isLost = false;
        this.lost(null);
      }
      this.told(JSON.parse(event.data));
    });
  }

  look() {
    const now = Date.now();
    if (now - this.heard > SILENT_MS && !this.isLost) {
      this.isLost = true;
      this.lost(this.heard);
    }
    // The browser tries again by itself, except after an answer that was no stream, or a connection that hangs.
    const isStuck = now - this.heard > SILENT_MS && now - this.opened > 2 * SILENT_MS;
    if (isStuck || (this.source.readyState === EventSource.CLOSED && now - this.opened > AGAIN_MS)) this.open();
  }
}
