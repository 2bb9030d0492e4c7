// Elements from names, attributes and texts. Texts become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

// h("button.primary", { type: "button", onclick: stop }, "Stop")
export function h(selector, attributes = {}, ...children) {
  const [name, ...classes] = selector.split(".");
  return fill(document.createElement(name), classes, attributes, children);
}

export function svg(selector, attributes = {}, ...children) {
  const [name, ...classes] = selector.split(".");
  return fill(document.createElementNS(SVG, name), classes, attributes, children);
}

function fill(element, classes, attributes, children) {
  if (classes.length) element.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value !== "string" && name in element && element instanceof HTMLElement) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Sets a text only if it differs, so that selections and screen readers are left alone.
export function setText(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

// Makes the children of an element those of `items`. Rows that stay keep their focus.
export function reconcile(parent, items, getKey, create, update = () => {}) {
  const rows = (parent.rowsByKey ??= new Map());
  const seen = new Set();
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = getKey(item);
    seen.add(key);
    let row = rows.get(key);
    if (!row) rows.set(key, (row = create(item)));
    if (row === next) next = next.nextElementSibling;
    else parent.insertBefore(row, next);
    update(row, item);
  }
  for (const [key, row] of rows) {
    if (seen.has(key)) continue;
    row.remove();
    rows.delete(key);
  }
}

// A table whose rows are kept by key; `columns` are { title, class, cell(item), update(cell, item) }.
export function makeTable(label, columns, getKey, empty) {
  const body = h("tbody");
  const note = h("p.empty", { hidden: true }, empty);
  const head = columns.map(({ title, class: kind }) =>
    h("th", { scope: "col", class: kind }, title || h("span.hidden", {}, "Actions")));
  const table = h("table", {}, h("caption.hidden", {}, label), h("thead", {}, h("tr", {}, head)), body);
  const scroller = h("div.scroller", { tabindex: "0", role: "region", "aria-label": label }, table);
  const element = h("div.table", {}, scroller, note);
  return {
    element,
    update(items) {
      scroller.hidden = !items.length;
      note.hidden = items.length > 0;
      reconcile(body, items, getKey,
        (item) => {
          const row = h("tr");
          row.cells_ = columns.map((column, index) => {
            const cell = h(index ? "td" : "th", {
              class: column.class, scope: index ? null : "row", "data-title": column.title });
            row.append(cell);
            return cell;
          });
          columns.forEach((column, index) => {
            if (column.create) row.cells_[index].append(column.create(item, row));
          });
          return row;
        },
        (row, item) => columns.forEach((column, index) => {
          const cell = row.cells_[index];
          if (column.update) column.update(cell, item, row);
          else if (column.text) setText(cell, column.text(item));
        }));
    },
  };
}

// A button that does its work once at a time, and shows a failure.
export function button(label, action, kind = "") {
  const element = h("button", { type: "button", class: kind || null }, label);
  element.addEventListener("click", async () => {
    if (element.getAttribute("aria-disabled") === "true") return;
    element.setAttribute("aria-disabled", "true");
    try {
      await action(element);
    } catch (error) {
      notify(error.message, "bad");
    } finally {
      element.removeAttribute("aria-disabled");
    }
  });
  return element;
}

// A message at the edge of the page, which screen readers say.
export function notify(text, kind = "good") {
  const list = document.getElementById("messages");
  const dismiss = () => message.remove();
  const message = h(`p.message.${kind}`, {}, h("span", {}, text),
    h("button.quiet", { type: "button", onclick: dismiss, "aria-label": "Dismiss" }, "×"));
  list.append(message);
  while (list.children.length > 4) list.firstElementChild.remove();
  if (kind === "good") setTimeout(dismiss, 6000);
}

// Shows a dialog until it is closed; `build(close)` returns its content. Escape does not close one
// whose content cannot be shown again.
export function showDialog(title, build, { isUnique = false } = {}) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" });
    let result;
    const close = (value) => { result = value; dialog.close(); };
    dialog.append(h("h2", { id: "dialog-title" }, title), ...[build(close)].flat());
    if (isUnique) dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => { dialog.remove(); resolve(result); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function confirm(title, text, action, kind = "danger") {
  return showDialog(title, (close) => [
    h("p", {}, text),
    h("div.actions", {},
      h("button", { type: "button", onclick: () => close(false) }, "Cancel"),
      h("button", { type: "button", class: kind, onclick: () => close(true) }, action)),
  ]);
}

export function field(label, control, hint) {
  const id = `field-${(field.count = (field.count ?? 0) + 1)}`;
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
  return h("div.field", {}, h("label", { for: id }, label), control,
    hint ? h("small", { id: `${id}-hint` }, hint) : null);
}

export async function copy(text) {
  if (!navigator.clipboard) throw new Error("Browsers copy only from pages with HTTPS. Select the text.");
  await navigator.clipboard.writeText(text);
  notify("Copied.");
}
