// Calls of the gateway, and its stream of events. The cookie of the session goes along by itself.

const STALE_MS = 4000;
const MAX_DELAY_MS = 15000;

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// Told of every answer that says that there is no session.
export const signedOut = new EventTarget();

export async function send(method, path, { json, form, headers = {}, signal } = {}) {
  const options = { method, headers: { ...headers }, signal, credentials: "same-origin", cache: "no-store" };
  if (form) options.body = form;
  else if (json !== undefined || method === "POST") {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(json ?? {});
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The gateway cannot be reached.");
  }
  if (response.ok) return response;
  throw await readError(response);
}

export async function call(method, path, options) {
  return (await send(method, path, options)).json();
}

export const get = (path, options) => call("GET", path, options);
export const post = (path, json) => call("POST", path, { json });

async function readError(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // A proxy answered with something else.
  }
  if (response.status === 401) signedOut.dispatchEvent(new Event("signedout"));
  return new ApiError(response.status, error.code ?? "", error.message ?? `The gateway answered ${response.status}.`);
}

// Yields the data of the events of a stream.
export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      let end;
      while ((end = buffer.indexOf("\n\n")) >= 0) {
        const block = buffer.slice(0, end);
        buffer = buffer.slice(end + 2);
        for (const line of block.split("\n")) {
          if (line.startsWith("data: ")) yield line.slice(6);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

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
