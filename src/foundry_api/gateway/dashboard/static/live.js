// The stream of events that keeps the page up to date, and the history behind the plots.

import { get, readEvents, send } from "./api.js";

const STALE_MS = 4000;
const MAX_DELAY_MS = 15000;

// Connects while the page is visible, and again after a failure.
export class Live {
  constructor({ onEvent, onState }) {
    this.onEvent = onEvent;
    this.onState = onState;
    this.last = null;
    this.lastAt = 0;
    this.controller = null;
    this.isRunning = false;
    this.watch = this.watch.bind(this);
  }

  start() {
    this.isRunning = true;
    document.addEventListener("visibilitychange", this.watch);
    this.timer = setInterval(() => this.report(), 1000);
    this.watch();
  }

  stop() {
    this.isRunning = false;
    document.removeEventListener("visibilitychange", this.watch);
    clearInterval(this.timer);
    this.controller?.abort();
  }

  // A hidden page does not connect: a browser has few connections for all pages of a host.
  watch() {
    if (document.hidden) this.controller?.abort();
    else if (!this.controller) this.connect();
  }

  report() {
    if (!document.hidden) this.onState(performance.now() - this.lastAt > STALE_MS ? "stale" : "live");
  }

  async connect() {
    const controller = (this.controller = new AbortController());
    let delay = 500;
    this.lastAt = performance.now();
    while (this.isRunning && !document.hidden) {
      try {
        const response = await send("GET", "/api/live", { signal: controller.signal });
        for await (const data of readEvents(response)) {
          const event = JSON.parse(data);
          if (event.error) break;
          this.last = event;
          this.lastAt = performance.now();
          delay = 500;
          this.report();
          this.onEvent(event);
        }
      } catch (error) {
        if (error.name === "AbortError" || error.status === 401) break;
      }
      if (this.isRunning && !document.hidden) await wait(delay, controller.signal);
      delay = Math.min(delay * 2, MAX_DELAY_MS);
    }
    if (this.controller === controller) this.controller = null;
    if (this.isRunning && !document.hidden && controller.signal.aborted) this.connect();
  }
}

function wait(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

// The points of the windows of time that were asked for. They are read once, and events add to them.
export class History {
  constructor(onChange) {
    this.onChange = onChange;
    this.windows = new Map();
    this.tick = null;
  }

  getPoints(name) {
    return this.windows.get(name) ?? [];
  }

  async load(name) {
    const { points } = await get(`/api/history?window=${name}`);
    this.windows.set(name, points);
    this.onChange();
  }

  add(event) {
    if (!event.points) return;
    // The number starts again with the gateway, and is the same in the first event of a stream.
    const hasMissed = this.tick !== null && ![this.tick, this.tick + 1].includes(event.tick);
    this.tick = event.tick;
    for (const [name, points] of this.windows) {
      const point = event.points[name];
      if (hasMissed) {
        this.load(name).catch(() => {}); // the stream reports what is wrong
      } else if (point && !(points.length && point[TIME] <= points.at(-1)[TIME])) {
        points.push(point);
        while (points[0][TIME] < point[TIME] - LENGTHS[name]) points.shift();
        this.onChange();
      }
    }
  }
}

export const LENGTHS = { "15m": 900, "6h": 21600, "7d": 604800 };
// The members of a point.
export const TIME = 0, REQUESTS = 1, ERRORS = 2, TOKENS = 3, FIRST_P50 = 4, FIRST_P95 = 5, RUNNING = 6,
  WAITING = 7, MEMORY = 8;
