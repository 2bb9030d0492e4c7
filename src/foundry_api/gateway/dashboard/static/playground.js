// A conversation with a model, streamed, and the same call for programs.

import { get, readEvents, send } from "./api.js";
import { button, copy, field, h, notify, setText } from "./dom.js";
import { formatNumber, formatSeconds } from "./format.js";
import { LANGUAGES, writeCode } from "./code.js";

const PLACEHOLDER = "Write a message; Ctrl+Enter sends it";

export function create() {
  let messages = [], pending = [], controller = null, language = LANGUAGES[0].id;
  const model = h("select", { required: true });
  const system = h("textarea", { rows: "2" });
  const temperature = h("input", { type: "number", min: "0", max: "2", step: "0.1", placeholder: "default" });
  const maxTokens = h("input", { type: "number", min: "1", step: "1", placeholder: "default" });
  const stops = h("input", { type: "text", placeholder: "none", autocomplete: "off" });
  const schema = h("textarea.mono", { rows: "4", spellcheck: "false", placeholder: "any text" });
  const tools = h("textarea.mono", { rows: "3", spellcheck: "false", placeholder: "none" });
  const prompt = h("textarea", { rows: "3", required: true, "aria-label": "Message", placeholder: PLACEHOLDER });
  const transcript = h("div.transcript", { role: "log", "aria-label": "Conversation", tabindex: "0" },
    h("p.empty", {}, "The conversation appears here. The gateway does not store it."));
  const submit = h("button.primary", { type: "submit" }, "Send");
  const halt = h("button", { type: "button", hidden: true, onclick: () => controller?.abort() }, "Stop");
  const clear = button("Clear", () => { messages = []; pending = []; prompt.placeholder = PLACEHOLDER; transcript.replaceChildren(); show(); }, "quiet");
  const code = h("pre", { tabindex: "0", role: "region", "aria-label": "The same call in code" }, h("code"));
  const tabs = h("fieldset.choice", {}, h("legend.hidden", {}, "Language"), LANGUAGES.map(({ id, title }) =>
    h("label", {}, h("input", { type: "radio", name: "language", value: id, checked: id === language,
      onchange: () => { language = id; show(); } }), h("span", {}, title))));
  const form = h("form.chat", { onsubmit: (event) => { event.preventDefault(); run(); }, oninput: show },
    h("div.talk", {}, transcript, prompt, h("div.actions", {}, clear, halt, submit)),
    h("div.panel.settings", {}, field("Model", model), field("System prompt", system),
      h("div.columns", {}, field("Temperature", temperature), field("Most tokens", maxTokens)),
      field("Stop at", stops, "Texts that end the answer, with commas."),
      field("JSON schema", schema, "The answer has this form."),
      field("Tools", tools, "Functions that the model may call: a JSON list in OpenAI's form. You write their results.")));
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  const element = h("div.stack", {}, form, h("section", {}, h("div.heading", {}, h("h2", {}, "The same call"), tabs),
    code, h("div.actions", {}, button("Copy", () => copy(code.textContent)))));
  loadModels();
  show();

  async function loadModels() {
    try {
      const { data } = await get("/v1/models");
      model.replaceChildren(...data.map(({ id }) => h("option", {}, id)));
      show();
    } catch (error) {
      notify(error.message, "bad");
    }
  }

  function makeRequest() {
    const body = { model: model.value, messages: [...messages] };
    if (system.value.trim()) body.messages.unshift({ role: "system", content: system.value });
    const content = prompt.value || (messages.length ? "…" : "Hello");
    body.messages.push(pending.length ? { role: "tool", tool_call_id: pending[0].id, content } : { role: "user", content });
    if (temperature.value) body.temperature = Number(temperature.value);
    if (maxTokens.value) body.max_tokens = Number(maxTokens.value);
    const ends = stops.value.split(",").map((text) => text.trim()).filter(Boolean);
    if (ends.length) body.stop = ends;
    const form = readJson(schema);
    if (form) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema: form, strict: true } };
    const functions = readJson(tools);
    if (functions) body.tools = functions;
    return body;
  }

  // Returns the value of a field; one that is no JSON keeps the form from being sent.
  function readJson(input) {
    try {
      input.setCustomValidity("");
      return input.value.trim() ? JSON.parse(input.value) : null;
    } catch (error) {
      input.setCustomValidity(`This is not JSON: ${error.message}`);
      return null;
    }
  }

  function show() {
    setText(code.firstChild, writeCode(language, makeRequest(), location.origin));
  }

  function addMessage(role, text) {
    if (!messages.length) transcript.replaceChildren();
    const content = h("p.content", {}, text), facts = h("small");
    transcript.append(h(`div.turn.${role}`, {}, h("h3", {}, { user: "You", tool: "Result of the tool" }[role] ?? model.value), content, facts));
    transcript.scrollTop = transcript.scrollHeight;
    return { content, facts };
  }

  async function run() {
    if (controller) return;
    const body = makeRequest(), question = body.messages.at(-1);
    addMessage(question.role, question.content);
    messages.push(question);
    const answered = pending.shift();
    prompt.value = "";
    askForResult();
    if (pending.length) return; // each call needs its result before the model goes on
    controller = new AbortController();
    const { content, facts } = addMessage("assistant", "");
    submit.disabled = true;
    halt.hidden = false;
    const startedAt = performance.now();
    let text = "", calls = [], firstAt = null, usage = null, reason = "";
    try {
      const response = await send("POST", "/v1/chat/completions",
        { json: { ...body, stream: true, stream_options: { include_usage: true } }, signal: controller.signal });
      for await (const data of readEvents(response)) {
        if (data === "[DONE]") break;
        const event = JSON.parse(data);
        if (event.error) throw new Error(event.error.message);
        usage = event.usage ?? usage;
        const [choice] = event.choices;
        reason = choice?.finish_reason ?? reason;
        const { content: part = "", reasoning_content: thought = "", tool_calls: more = [] } = choice?.delta ?? {};
        if (!part && !thought && !more.length) continue;
        firstAt ??= performance.now();
        text += part ?? "";
        const isAtEnd = transcript.scrollHeight - transcript.scrollTop - transcript.clientHeight < 40;
        content.append(part || "");
        calls = [...calls, ...more.map(({ id, type, function: called }) => ({ id, type, function: called }))];
        for (const { function: called } of more) content.append(h("code", {}, `${called.name}(${called.arguments})\n`));
        if (thought) setText(facts, "thinking…");
        if (isAtEnd) transcript.scrollTop = transcript.scrollHeight;
      }
      setText(facts, describe(startedAt, firstAt, usage, reason));
      transcript.scrollTop = transcript.scrollHeight;
      messages.push({ role: "assistant", content: text, ...(calls.length ? { tool_calls: calls } : {}) });
      pending = [...calls];
    } catch (error) {
      const isStopped = error.name === "AbortError";
      facts.className = isStopped ? "" : "bad";
      setText(facts, isStopped ? "Stopped." : error.message);
      if (text) messages.push({ role: "assistant", content: text });
      else {
        messages.pop();
        if (answered) pending = [answered];
      }
    } finally {
      controller = null;
      submit.disabled = false;
      halt.hidden = true;
      prompt.focus();
      askForResult();
    }
  }

  function askForResult() {
    prompt.placeholder = pending.length ? `The result of ${pending[0].function.name}` : PLACEHOLDER;
    show();
  }

  function describe(startedAt, firstAt, usage, reason) {
    const now = performance.now(), parts = [];
    if (firstAt) parts.push(`first token after ${formatSeconds((firstAt - startedAt) / 1000)}`);
    if (usage) {
      parts.push(`${formatNumber(usage.prompt_tokens)} + ${formatNumber(usage.completion_tokens)} tokens`);
      if (firstAt && usage.completion_tokens > 1 && now > firstAt) {
        parts.push(`${formatNumber(((usage.completion_tokens - 1) * 1000) / (now - firstAt))} tokens/s`);
      }
    }
    if (reason === "length") parts.push("cut at the most tokens");
    return parts.join(" · ");
  }

  return { element, close: () => controller?.abort() };
}
