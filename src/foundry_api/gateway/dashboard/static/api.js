// Calls of the gateway. The cookie of the session goes along by itself.

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
