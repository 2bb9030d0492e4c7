// The last requests that failed, and what their codes mean.

import { get } from "./api.js";
import { h, makeTable, setText } from "./dom.js";
import { formatTime } from "./format.js";

const MEANINGS = {
  batch_cancelled: "The batch was cancelled.",
  call_stopped: "An operator stopped it.",
  call_timeout: "It took longer than call_timeout_s.",
  context_length_exceeded: "Prompt and answer do not fit into the model.",
  deadline_exceeded: "Its client does not wait that long.",
  first_token_timeout: "No token within first_token_timeout_s.",
  gap_timeout: "No further token within gap_timeout_s.",
  insufficient_quota: "The key has used its quota of a day or a month.",
  internal_error: "A defect; the gateway's log has the details.",
  invalid_model_output: "The answer did not have the form that was asked for.",
  invalid_tool_call: "The model called a tool wrongly.",
  model_load_failed: "The model could not be loaded.",
  model_not_allowed: "The key may not use this model.",
  model_not_found: "There is no such model on this machine.",
  payload_too_large: "The body is larger than the limit of the gateway.",
  queue_full: "Too many calls wait already.",
  queue_timeout: "It waited longer than queue_timeout_s.",
  rate_limit_exceeded: "The key has reached a limit: of requests, tokens or parallel calls.",
  shutting_down: "The gateway was shutting down.",
  upstream_overloaded: "The model service took no further call.",
  upstream_timeout: "The model service did not answer in time.",
  upstream_unavailable: "The model service could not be reached.",
};

const explain = (code) => MEANINGS[code]
  ?? (/^(invalid|missing|unsupported)_/.test(code) ? "The request was wrong; its answer says what." : "");

// A client that is refused repeats itself.
const groupName = ({ key, code, model, route }) => `${code} ${route} ${model} ${key}`;

export function makeFailures() {
  const table = makeTable("Requests that failed, by key and cause, the last ones first", [
    { title: "Last", create: () => h("div", {}, h("span"), h("small.mono")), update: showLast },
    { title: "Key", text: (failure) => failure.key },
    { title: "Cause", create: () => h("div", {}, h("span.tag.bad"), h("small")), update: showCause },
    { title: "Times", class: "number", text: (failure) => failure.count },
    { title: "Model", text: (failure) => failure.model },
    { title: "Route", class: "mono", text: (failure) => failure.route },
  ], groupName, "No request has failed.");
  let revision = null;

  function showLast(cell, { time, id }) {
    const [moment, request] = cell.firstChild.children;
    setText(moment, formatTime(time));
    setText(request, id);
  }

  function showCause(cell, { code }) {
    const [tag, text] = cell.firstChild.children;
    setText(tag, code);
    setText(text, explain(code));
  }

  return {
    element: table.element,
    async update(event) {
      const next = event.revisions?.failures;
      if (next === undefined || next === revision) return;
      revision = next;
      try {
        const groups = new Map();
        for (const failure of (await get("/api/failures")).failures) {
          const group = groups.get(groupName(failure)) ?? { ...failure, count: 0 };
          group.count += 1;
          groups.set(groupName(failure), group);
        }
        table.update([...groups.values()].slice(0, 20));
      } catch {
        revision = null; // the next event tries again
      }
    },
  };
}
