// The parts that the views are made of.

import { html, render, useEffect, useLayoutEffect, useRef, useState } from "./preact-htm.js";

const MESSAGE_MS = 6000;
const MAX_MESSAGES = 4;

// `columns` are { title, class, cell(item) }. A row keeps its focus as long as its key stays.
export function Table({ label, columns, items, getKey, empty }) {
  if (!items.length) return html`<div class="table"><p class="empty">${empty}</p></div>`;
  return html`<div class="table">
    <div class="scroller" tabindex="0" role="region" aria-label=${label}>
      <table>
        <caption class="hidden">${label}</caption>
        <thead><tr>${columns.map(({ title, class: kind }) =>
          html`<th scope="col" class=${kind}>${title || html`<span class="hidden">Actions</span>`}</th>`)}</tr></thead>
        <tbody>${items.map((item) => html`<tr key=${getKey(item)}>${columns.map(({ title, class: kind, cell }, index) =>
          index ? html`<td class=${kind} data-title=${title}>${cell(item)}</td>`
            : html`<th class=${kind} data-title=${title} scope="row">${cell(item)}</th>`)}</tr>`)}</tbody>
      </table>
    </div>
  </div>`;
}

// A button that runs its action once at a time, and shows why it failed.
export function Button({ action, class: kind, label, hidden, children }) {
  const [isBusy, setBusy] = useState(false);
  const run = async () => {
    if (isBusy) return;
    setBusy(true);
    try {
      await action();
    } catch (error) {
      notify(error.message, "bad");
    } finally {
      setBusy(false);
    }
  };
  return html`<button type="button" class=${kind} aria-label=${label} hidden=${hidden}
    aria-disabled=${isBusy ? "true" : null} onClick=${run}>${children}</button>`;
}

let fields = 0;

// A labelled control. Its child is a function that gets the control's attributes.
export function Field({ label, hint, children: control }) {
  const [id] = useState(() => `field-${(fields += 1)}`);
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${control({ id, "aria-describedby": hint ? `${id}-hint` : null })}
    ${hint && html`<small id=${`${id}-hint`}>${hint}</small>`}
  </div>`;
}

// Buttons of which one is chosen; `options` are pairs of value and title.
export function Choice({ legend, name, options, value, onChoose }) {
  return html`<fieldset class="choice">
    <legend class="hidden">${legend}</legend>
    ${options.map(([option, title]) => html`<label key=${option}>
      <input type="radio" name=${name} value=${option} checked=${option === value} onChange=${() => onChoose(option)} />
      <span>${title}</span>
    </label>`)}
  </fieldset>`;
}

export function Problem({ text }) {
  return text ? html`<p class="notice bad" role="alert">${text}</p>` : null;
}

const notifications = new EventTarget();

// Shows a message at the edge of the page, which screen readers say.
export function notify(text, kind = "good") {
  notifications.dispatchEvent(new CustomEvent("message", { detail: { text, kind } }));
}

export function Messages() {
  const [messages, setMessages] = useState([]);
  const dismiss = (message) => setMessages((all) => all.filter((one) => one !== message));
  useEffect(() => {
    const add = ({ detail: message }) => {
      setMessages((all) => [...all, message].slice(-MAX_MESSAGES));
      if (message.kind === "good") setTimeout(() => dismiss(message), MESSAGE_MS);
    };
    notifications.addEventListener("message", add);
    return () => notifications.removeEventListener("message", add);
  }, []);
  return html`<div id="messages" role="status" aria-live="polite">${messages.map((message) =>
    html`<p class=${`message ${message.kind}`}><span>${message.text}</span>
      <button type="button" class="quiet" aria-label="Dismiss" onClick=${() => dismiss(message)}>×</button></p>`)}</div>`;
}

// Shows a dialog until it is closed, and returns what `close` was called with. `build(close)` returns
// the content. Escape does not close a dialog that cannot be shown again.
export function showDialog(title, build, { isUnique = false } = {}) {
  return new Promise((resolve) => {
    const host = document.body.appendChild(document.createElement("div"));
    let result;
    const end = () => {
      render(null, host);
      host.remove();
      resolve(result);
    };
    function Dialog() {
      const dialog = useRef();
      useLayoutEffect(() => dialog.current.showModal(), []);
      const close = (value) => {
        result = value;
        dialog.current.close();
      };
      return html`<dialog ref=${dialog} aria-labelledby="dialog-title" onClose=${end}
        onCancel=${(event) => isUnique && event.preventDefault()}>
        <h2 id="dialog-title">${title}</h2>${build(close)}</dialog>`;
    }
    render(html`<${Dialog} />`, host);
  });
}

export function confirm(title, text, action) {
  return showDialog(title, (close) => html`<p>${text}</p>
    <div class="actions">
      <button type="button" onClick=${() => close(false)}>Cancel</button>
      <button type="button" class="danger" onClick=${() => close(true)}>${action}</button>
    </div>`);
}

export async function copy(text) {
  if (!navigator.clipboard) throw new Error("Browsers copy only from pages with HTTPS. Select the text.");
  await navigator.clipboard.writeText(text);
  notify("Copied.");
}
