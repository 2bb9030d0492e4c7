// A conversation with a model, streamed, and the same call for programs.

import { get, readEvents, send } from "./api.js";
import { Button, Choice, copy, Field, notify } from "./components.js";
import { formatNumber, formatSeconds } from "./format.js";
import { html, useEffect, useLayoutEffect, useReducer, useRef, useState } from "./preact-htm.js";

const LANGUAGES = [
  ["curl", "curl"],
  ["foundry_api", "Python, foundry-api"],
  ["openai", "Python, openai"],
];
const SPEAKERS = { user: "You", tool: "Result of the tool" };
const NEAR_END_PX = 40;

export function View() {
  const [models, setModels] = useState([]);
  const [fields, setFields] = useState({ model: "", system: "", temperature: "", maxTokens: "", stop: "", schema: "", tools: "", message: "" });
  const [language, setLanguage] = useState("curl");
  const talk = useConversation();

  useEffect(() => {
    get("/v1/models").then(({ data }) => {
      setModels(data.map(({ id }) => id));
      setFields((now) => ({ ...now, model: now.model || data[0]?.id || "" }));
    }, (error) => notify(error.message, "bad"));
  }, []);

  const set = (name) => (event) => setFields((now) => ({ ...now, [name]: event.target.value }));
  const schema = parse(fields.schema), tools = parse(fields.tools);
  const call = talk.pending[0]; // whose result the user writes
  const body = makeRequest(fields, talk.messages, call, schema.value, tools.value);
  const code = writeCode(language, body, location.origin);

  function submit(event) {
    event.preventDefault();
    if (talk.isRunning) return;
    setFields((now) => ({ ...now, message: "" }));
    talk.send(body);
  }

  function submitByKey(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form.requestSubmit();
  }

  const input = (label, name, attributes, hint) => html`<${Field} label=${label} hint=${hint}>${(common) =>
    html`<input value=${fields[name]} onInput=${set(name)} ...${attributes} ...${common} />`}<//>`;
  return html`<div class="stack">
    <form class="chat" onSubmit=${submit}>
      <div class="talk">
        <${Transcript} turns=${talk.turns} />
        <textarea rows="3" required aria-label="Message" value=${fields.message} onInput=${set("message")} onKeyDown=${submitByKey}
          placeholder=${call ? `The result of ${call.function.name}` : "Write a message; Ctrl+Enter sends it"}></textarea>
        <div class="actions">
          <button type="button" class="quiet" onClick=${talk.clear}>Clear</button>
          <button type="button" hidden=${!talk.isRunning} onClick=${talk.stop}>Stop</button>
          <button type="submit" class="primary" disabled=${talk.isRunning}>Send</button>
        </div>
      </div>
      <div class="panel settings">
        <${Field} label="Model">${(common) => html`<select required value=${fields.model} onChange=${set("model")} ...${common}>
          ${models.map((id) => html`<option key=${id} value=${id}>${id}</option>`)}</select>`}<//>
        <${Field} label="System prompt">${(common) => html`<textarea rows="2" value=${fields.system} onInput=${set("system")} ...${common}></textarea>`}<//>
        <div class="columns">
          ${input("Temperature", "temperature", { type: "number", min: 0, max: 2, step: 0.1, placeholder: "default" })}
          ${input("Most tokens", "maxTokens", { type: "number", min: 1, step: 1, placeholder: "default" })}
        </div>
        ${input("Stop at", "stop", { type: "text", placeholder: "none", autocomplete: "off" }, "Texts that end the answer, with commas.")}
        <${JsonField} label="JSON schema" hint="The answer has this form." rows="4" placeholder="any text"
          value=${fields.schema} problem=${schema.problem} onInput=${set("schema")} />
        <${JsonField} label="Tools" hint="Functions that the model may call: a JSON list in OpenAI's form. You write their results." rows="3"
          placeholder="none" value=${fields.tools} problem=${tools.problem} onInput=${set("tools")} />
      </div>
    </form>
    <section>
      <div class="heading"><h2>The same call</h2>
        <${Choice} legend="Language" name="language" options=${LANGUAGES} value=${language} onChoose=${setLanguage} /></div>
      <pre tabindex="0" role="region" aria-label="The same call in code"><code>${code}</code></pre>
      <div class="actions"><${Button} action=${() => copy(code)}>Copy<//></div>
    </section>
  </div>`;
}

// A field with JSON; a text that is none keeps the form from being sent.
function JsonField({ label, hint, problem, ...attributes }) {
  const area = useRef();
  useLayoutEffect(() => area.current.setCustomValidity(problem), [problem]);
  return html`<${Field} label=${label} hint=${hint}>${(common) =>
    html`<textarea class="mono" spellcheck="false" ref=${area} ...${attributes} ...${common}></textarea>`}<//>`;
}

function parse(text) {
  try {
    return { value: text.trim() ? JSON.parse(text) : null, problem: "" };
  } catch (error) {
    return { value: null, problem: `This is not JSON: ${error.message}` };
  }
}

function makeRequest({ model, system, temperature, maxTokens, stop, message }, earlier, call, schema, tools) {
  const messages = [...earlier];
  if (system.trim()) messages.unshift({ role: "system", content: system });
  const content = message || (earlier.length ? "…" : "Hello");
  messages.push(call ? { role: "tool", tool_call_id: call.id, content } : { role: "user", content });
  const body = { model, messages };
  if (temperature) body.temperature = Number(temperature);
  if (maxTokens) body.max_tokens = Number(maxTokens);
  const stops = stop.split(",").map((text) => text.trim()).filter(Boolean);
  if (stops.length) body.stop = stops;
  if (schema) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  if (tools) body.tools = tools;
  return body;
}

function Transcript({ turns }) {
  const list = useRef();
  const isAtEnd = useRef(true);
  const watch = ({ target }) => {
    isAtEnd.current = target.scrollHeight - target.scrollTop - target.clientHeight < NEAR_END_PX;
  };
  useLayoutEffect(() => {
    if (isAtEnd.current) list.current.scrollTop = list.current.scrollHeight;
  });
  return html`<div class="transcript" ref=${list} role="log" aria-label="Conversation" tabindex="0" onScroll=${watch}>
    ${turns.length ? turns.map(({ role, speaker, text, calls, note, isFailed }) => html`<div class=${`turn ${role}`}>
      <h3>${speaker}</h3>
      <p class="content">${text}${calls.map((called) => html`<code>${`${called.function.name}(${called.function.arguments})\n`}</code>`)}</p>
      <small class=${isFailed ? "bad" : ""}>${note}</small>
    </div>`) : html`<p class="empty">The conversation appears here. The gateway does not store it.</p>`}
  </div>`;
}

// The turns as they are shown, the messages as they are sent, and calls of tools whose results are missing.
function useConversation() {
  const [, draw] = useReducer((count) => count + 1, 0);
  const state = useRef();
  const reset = () => ({ turns: [], messages: [], pending: [], controller: null });
  state.current ??= reset();
  const talk = state.current;
  useEffect(() => () => state.current.controller?.abort(), []);

  function addTurn(role, speaker, text) {
    const turn = { role, speaker, text, calls: [], note: "", isFailed: false };
    talk.turns.push(turn);
    draw();
    return turn;
  }

  async function sendMessage(body) {
    const question = body.messages.at(-1);
    addTurn(question.role, SPEAKERS[question.role], question.content);
    talk.messages.push(question);
    const answered = talk.pending.shift();
    if (talk.pending.length) return; // each call needs its result before the model goes on
    const turn = addTurn("assistant", body.model, "");
    talk.controller = new AbortController();
    draw();
    try {
      turn.note = await readAnswer(body, turn, talk.controller.signal, draw);
      talk.messages.push({ role: "assistant", content: turn.text, ...(turn.calls.length ? { tool_calls: turn.calls } : {}) });
      talk.pending = [...turn.calls];
    } catch (error) {
      turn.isFailed = error.name !== "AbortError";
      turn.note = turn.isFailed ? error.message : "Stopped.";
      if (turn.text) talk.messages.push({ role: "assistant", content: turn.text });
      else {
        talk.messages.pop();
        if (answered) talk.pending = [answered];
      }
    } finally {
      talk.controller = null;
      draw();
    }
  }

  return {
    ...talk,
    isRunning: talk.controller !== null,
    send: sendMessage,
    stop: () => talk.controller?.abort(),
    clear: () => {
      talk.controller?.abort();
      state.current = reset();
      draw();
    },
  };
}

// Streams an answer into a turn; returns what is to be said of it.
async function readAnswer(body, turn, signal, draw) {
  const startedAt = performance.now();
  let firstAt = null, usage = null, reason = "";
  const response = await send("POST", "/v1/chat/completions",
    { json: { ...body, stream: true, stream_options: { include_usage: true } }, signal });
  for await (const data of readEvents(response)) {
    if (data === "[DONE]") break;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    usage = event.usage ?? usage;
    const [choice] = event.choices;
    reason = choice?.finish_reason ?? reason;
    const { content, reasoning_content: thought, tool_calls: calls = [] } = choice?.delta ?? {};
    if (!content && !thought && !calls.length) continue;
    firstAt ??= performance.now();
    turn.text += content ?? "";
    turn.calls.push(...calls.map(({ id, type, function: called }) => ({ id, type, function: called })));
    if (thought) turn.note = "thinking…";
    draw();
  }
  const parts = [];
  if (firstAt) parts.push(`first token after ${formatSeconds((firstAt - startedAt) / 1000)}`);
  if (usage) {
    parts.push(`${formatNumber(usage.prompt_tokens)} + ${formatNumber(usage.completion_tokens)} tokens`);
    const seconds = (performance.now() - firstAt) / 1000;
    if (firstAt && usage.completion_tokens > 1 && seconds > 0) parts.push(`${formatNumber((usage.completion_tokens - 1) / seconds)} tokens/s`);
  }
  if (reason === "length") parts.push("cut at the most tokens");
  return parts.join(" · ");
}

// A request as code. The key is a placeholder: the page does not know it.
function writeCode(language, body, origin) {
  return { curl: writeCurl, foundry_api: writeFoundryApi, openai: writeOpenai }[language](body, origin);
}

function writeCurl(body, origin) {
  const data = JSON.stringify({ ...body, stream: true }, null, 2).replaceAll("'", "'\\''");
  return `curl -N ${origin}/v1/chat/completions \\\n  -H "Authorization: Bearer $FOUNDRY_API_KEY" \\\n` +
    `  -H "Content-Type: application/json" \\\n  -d '${data}'\n`;
}

function writeFoundryApi({ model, messages, response_format: format, ...options }, origin) {
  const lines = [`model=${toPython(model)}`, ...listArguments(options)];
  if (format) {
    return `import os\n\nfrom foundry_api import FoundryClient\n\nmessages = ${toPython(messages)}\n` +
      `schema = ${toPython(format.json_schema.schema)}\n\n` +
      `with FoundryClient(${toPython(origin)}, api_key=os.environ["FOUNDRY_API_KEY"]) as client:\n` +
      `    answer = client.chat(messages, response_model=schema, ${lines.join(", ")})\n    print(answer.parsed)\n`;
  }
  return `import os\n\nfrom foundry_api import FoundryClient\n\nmessages = ${toPython(messages)}\n\n` +
    `with FoundryClient(${toPython(origin)}, api_key=os.environ["FOUNDRY_API_KEY"]) as client:\n` +
    `    for chunk in client.stream_chat(messages, ${lines.join(", ")}):\n        print(chunk.content, end="", flush=True)\n`;
}

function writeOpenai({ model, messages, response_format: format, ...options }, origin) {
  const lines = [`model=${toPython(model)}`, `messages=${toPython(messages, 1)}`, ...listArguments(options)];
  if (format) lines.push(`response_format=${toPython(format, 1)}`);
  lines.push("stream=True");
  return `import os\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=${toPython(`${origin}/v1`)}, ` +
    `api_key=os.environ["FOUNDRY_API_KEY"])\nstream = client.chat.completions.create(\n` +
    `${lines.map((line) => `    ${line},\n`).join("")})\nfor chunk in stream:\n` +
    "    if chunk.choices:\n        print(chunk.choices[0].delta.content or \"\", end=\"\", flush=True)\n";
}

const listArguments = (options) => Object.entries(options).map(([name, value]) => `${name}=${toPython(value)}`);

// A value of JSON as a Python literal.
function toPython(value, depth = 0) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const items = isList ? value.map((item) => toPython(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${toPython(item, depth + 1)}`);
  const [open, close] = isList ? "[]" : "{}";
  const line = open + items.join(", ") + close;
  if (line.length + depth * 4 < 90 && !line.includes("\n")) return line;
  const indent = "    ".repeat(depth + 1);
  return `${open}\n${items.map((item) => `${indent}${item},\n`).join("")}${"    ".repeat(depth)}${close}`;
}
