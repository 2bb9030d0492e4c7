// The frame of the page: signing in, the views, and what every view shows.

import { call, get, signedOut } from "./api.js";
import { button, field, h, setText } from "./dom.js";
import { formatTime } from "./format.js";
import { History, Live } from "./live.js";

// Each view is loaded when it is first opened.
const VIEWS = [
  { id: "overview", title: "Overview", scopes: ["inference", "manage", "metrics"], load: () => import("./overview.js") },
  { id: "models", title: "Models", scopes: ["inference", "manage"], load: () => import("./models.js") },
  { id: "playground", title: "Playground", scopes: ["inference"], load: () => import("./playground.js") },
  { id: "queue", title: "Queue", scopes: ["inference", "manage"], load: () => import("./queue.js") },
  { id: "batches", title: "Batches", scopes: ["inference", "manage"], load: () => import("./batches.js") },
  { id: "keys", title: "Keys", scopes: ["manage"], load: () => import("./keys.js") },
  { id: "log", title: "Event log", scopes: ["manage"], load: () => import("./log.js") },
];

const root = document.getElementById("app");
const messages = h("div", { id: "messages", role: "status", "aria-live": "polite" });
document.body.append(messages);

let stop = () => {};
let starts = 0;

signedOut.addEventListener("signedout", () => start("Your session has ended. Sign in again."));

start();

async function start(reason = "") {
  stop();
  stop = () => {};
  const number = ++starts; // several requests may find at once that the session has ended
  try {
    const session = await get("/api/session");
    if (number !== starts) return;
    if (session.requires_key && !session.key) showSignIn(reason);
    else stop = showPage(session);
  } catch (error) {
    root.replaceChildren(h("main", { id: "main", class: "sign-in" },
      h("h1", {}, "foundry-api"),
      h("p.notice.bad", { role: "alert" }, error.message),
      button("Try again", () => start(), "primary")));
  }
}

function showSignIn(reason) {
  document.title = "Sign in · foundry-api";
  const input = h("input", { type: "password", autocomplete: "current-password", required: true,
    spellcheck: "false", autocapitalize: "off" });
  const problem = h("p.notice.bad", { role: "alert", hidden: !reason }, reason);
  const submit = h("button.primary", { type: "submit" }, "Sign in");
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      // Not through `call`, which would ask to sign in again.
      const response = await fetch("/api/session", {
        method: "POST", headers: { Authorization: `Bearer ${input.value.trim()}` } });
      if (response.ok) {
        input.value = "";
        await start();
        return;
      }
      setText(problem, response.status === 401 ? "The gateway does not know this key."
        : response.status === 429 ? "Too many wrong keys were tried. Wait a minute."
        : `The gateway answered ${response.status}.`);
    } catch {
      setText(problem, "The gateway cannot be reached, or this is no key.");
    }
    problem.hidden = false;
    submit.disabled = false;
    input.select();
  } }, field("Key", input, "It starts with fk_. It is sent once; a cookie stands for it for 12 hours."),
  submit);
  root.replaceChildren(h("main", { id: "main", class: "sign-in" },
    h("h1", {}, "foundry-api"),
    h("p", {}, "Sign in with a key of this gateway. What you see depends on its scopes."),
    problem, form,
    h("p.hint", {}, "No key yet? On the gateway's machine: ",
      h("code", {}, "foundry-api keys create --name admin --scope inference,manage,metrics"))));
  input.focus();
}

function showPage(session) {
  const can = (...scopes) => scopes.some((scope) => session.scopes.includes(scope));
  const views = VIEWS.filter((view) => can(...view.scopes));
  const state = h("span.state", {}, h("span.dot", { "aria-hidden": "true" }), h("span", {}, "Connecting…"));
  const links = new Map(views.map((view) => [view.id, h("a", { href: `#/${view.id}` }, view.title)]));
  const main = h("main", { id: "main", tabindex: "-1" });
  const stale = h("p.notice.warn", { role: "status", hidden: true });
  let view = null;

  const history = new History(() => view?.updatePlots?.(history));
  const live = new Live({
    onEvent(event) {
      history.add(event);
      showState(event);
      view?.update?.(event);
    },
    onState(kind) {
      const isStale = kind === "stale";
      if (isStale && stale.hidden) {
        setText(stale, live.last
          ? `No news since ${formatTime(live.last.time)}. Connecting again…`
          : "The gateway does not answer. Connecting again…");
        state.className = "state stale";
        setText(state.lastChild, "Not connected");
      }
      stale.hidden = !isStale;
    },
  });

  const app = { session, can, live, history, refresh: () => start() };

  function showState(event) {
    state.className = event.ready ? "state good" : "state bad";
    setText(state.lastChild, event.ready ? "Ready" : "Not ready");
  }

  async function showView() {
    const chosen = views.find(({ id }) => `#/${id}` === location.hash) ?? views[0];
    view?.close?.();
    view = null;
    for (const [id, link] of links) {
      if (id === chosen.id) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    // Not scrollIntoView, after which Tab would go on from there.
    const link = links.get(chosen.id);
    link.parentElement?.scrollTo({ left: link.offsetLeft - link.parentElement.offsetLeft - 16 });
    document.title = `${chosen.title} · foundry-api`;
    const heading = h("h1", {}, chosen.title);
    main.replaceChildren(heading);
    let create;
    try {
      ({ create } = await chosen.load());
    } catch {
      main.append(h("p.notice.bad", { role: "alert" }, "This view cannot be loaded. Is the gateway there?"));
      return;
    }
    if (!heading.isConnected) return; // another one was opened meanwhile
    view = create(app);
    main.append(view.element);
    if (live.last) view.update?.(live.last);
    view.updatePlots?.();
  }

  function changeView() {
    showView();
    main.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  const who = session.key ? h("div.who", {},
    h("span", { title: `Scopes: ${session.scopes.join(", ")}` }, session.key.name),
    button("Sign out", async () => {
      await call("DELETE", "/api/session");
      await start();
    }, "quiet")) : h("div.who", {}, h("span", {}, "No keys: this machine only"));

  root.replaceChildren(
    h("header.top", {}, h("a.brand", { href: `#/${views[0].id}` },
      h("img", { src: "/assets/icon.svg", alt: "", width: "22", height: "22" }), "foundry-api"), state, who),
    h("div.frame", {},
      h("nav", { "aria-label": "Views" }, [...links.values()],
        h("a.aside", { href: "/docs" }, "API reference"), h("span.version", {}, session.version)),
      h("div", {}, stale, main)));
  window.addEventListener("hashchange", changeView);
  showView();
  live.start();
  return () => {
    window.removeEventListener("hashchange", changeView);
    live.stop();
    view?.close?.();
  };
}

