/** What the page knows: streams and alerts, merged from what the wall tells. Bounded by the wall. */

export class Store {
  constructor() {
    this.streams = new Map();
    this.alerts = new Map();
    this.wall = null;
    /** The wall's clock minus ours, ms. */
    this.offset = 0;
  }

  /** Take in one event; returns what changed. */
  merge(event) {
    const changed = { streams: new Set(), alerts: new Set(), gone: [], goneAlerts: [] };
    this.wall = event.wall;
    this.offset = event.wall.now - Date.now();
    if (event.whole) {
      const kept = new Set(event.streams.map((tile) => tile.key));
      event.gone = [...this.streams.keys()].filter((key) => !kept.has(key));
      const keptAlerts = new Set(event.alerts.map((alert) => alert.id));
      event.gone_alerts = [...this.alerts.keys()].filter((id) => !keptAlerts.has(id));
      for (const tile of this.streams.values()) tile.points.clear();
    }
    for (const tile of event.streams) {
      const points = this.streams.get(tile.key)?.points ?? new Map();
      for (const at of points.keys()) if (at < tile.from || at > tile.to) points.delete(at);
      for (const [at, ...values] of tile.seconds) points.set(at, values);
      delete tile.seconds;
      tile.points = points;
      this.streams.set(tile.key, tile);
      changed.streams.add(tile.key);
    }
    for (const alert of event.alerts) {
      alert.isNew = alert.open && !this.alerts.has(alert.id);
      this.alerts.set(alert.id, alert);
      changed.alerts.add(alert.id);
    }
    for (const key of event.gone) if (this.streams.delete(key)) changed.gone.push(key);
    for (const id of event.gone_alerts) if (this.alerts.delete(id)) changed.goneAlerts.push(id);
    return changed;
  }

  /** The wall's clock, ms. */
  now() {
    return Date.now() + this.offset;
  }

  byName(id) {
    for (const tile of this.streams.values()) if (tile.id === id) return tile;
    return undefined;
  }
}
