// The frame of the page: signing in, the views, and what every view shows.

import { call, get, History, Live, signedOut } from "./api.js";
import { Button, Field, Messages, Problem } from "./components.js";
import { formatTime } from "./format.js";
import { html, render, useEffect, useLayoutEffect, useRef, useState } from "./preact-htm.js";

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

function App() {
  const [state, setState] = useState({});
  const starts = useRef(0);

  async function start(reason = "") {
    const number = (starts.current += 1); // several requests may find at once that the session has ended
    let next;
    try {
      next = { session: await get("/api/session"), reason };
    } catch (error) {
      next = { problem: error.message };
    }
    // The number makes the page start anew, with nothing that an earlier session saw.
    if (number === starts.current) setState({ ...next, number });
  }

  useEffect(() => {
    const ask = () => start("Your session has ended. Sign in again.");
    signedOut.addEventListener("signedout", ask);
    start();
    return () => signedOut.removeEventListener("signedout", ask);
  }, []);

  const { session, problem, reason, number } = state;
  let content = null;
  if (problem) {
    content = html`<main id="main" class="sign-in"><h1>foundry-api</h1><${Problem} text=${problem} />
      <${Button} class="primary" action=${() => start()}>Try again<//></main>`;
  } else if (session?.requires_key && !session.key) {
    content = html`<${SignIn} key=${number} reason=${reason} onSignedIn=${() => start()} />`;
  } else if (session) {
    content = html`<${Page} key=${number} session=${session} refresh=${() => start()} />`;
  }
  return html`${content}<${Messages} />`;
}

function SignIn({ reason, onSignedIn }) {
  const [problem, setProblem] = useState(reason);
  const [isBusy, setBusy] = useState(false);
  const input = useRef();
  useLayoutEffect(() => {
    document.title = "Sign in · foundry-api";
    input.current.focus();
  }, []);

  async function submit(event) {
    event.preventDefault();
    setBusy(true);
    try {
      // Not through `call`, which would ask to sign in again.
      const response = await fetch("/api/session", {
        method: "POST", headers: { Authorization: `Bearer ${input.current.value.trim()}` } });
      if (response.ok) {
        input.current.value = "";
        await onSignedIn();
        return;
      }
      setProblem(response.status === 401 ? "The gateway does not know this key."
        : response.status === 429 ? "Too many wrong keys were tried. Wait a minute."
        : `The gateway answered ${response.status}.`);
    } catch {
      setProblem("The gateway cannot be reached, or this is no key.");
    }
    setBusy(false);
    input.current.select();
  }

  return html`<main id="main" class="sign-in">
    <h1>foundry-api</h1>
    <p>Sign in with a key of this gateway. What you see depends on its scopes.</p>
    <${Problem} text=${problem} />
    <form onSubmit=${submit}>
      <${Field} label="Key" hint="It starts with fk_. It is sent once; a cookie stands for it for 12 hours.">${(attributes) =>
        html`<input ...${attributes} ref=${input} type="password" autocomplete="current-password" required
          spellcheck="false" autocapitalize="off" />`}<//>
      <button type="submit" class="primary" disabled=${isBusy}>Sign in</button>
    </form>
    <p class="hint">No key yet? On the gateway's machine:${" "}
      <code>foundry-api keys create --name admin --scope inference,manage,metrics</code></p>
  </main>`;
}

function Page({ session, refresh }) {
  const can = (...scopes) => scopes.some((scope) => session.scopes.includes(scope));
  const views = VIEWS.filter((view) => can(...view.scopes));
  const { event, isStale, history } = useLive();
  const { chosen, View, isMissing } = useView(views);
  const state = isStale ? ["stale", "Not connected"] : !event ? ["", "Connecting…"]
    : event.ready ? ["good", "Ready"] : ["bad", "Not ready"];

  async function signOut() {
    await call("DELETE", "/api/session");
    await refresh();
  }

  return html`
    <header class="top">
      <a class="brand" href=${`#/${views[0].id}`}><img src="/assets/icon.svg" alt="" width="22" height="22" />foundry-api</a>
      <span class=${`state ${state[0]}`}><span class="dot" aria-hidden="true"></span><span>${state[1]}</span></span>
      <div class="who">${session.key
        ? html`<span title=${`Scopes: ${session.scopes.join(", ")}`}>${session.key.name}</span>
          <${Button} class="quiet" action=${signOut}>Sign out<//>`
        : html`<span>No keys: this machine only</span>`}</div>
    </header>
    <div class="frame">
      <nav aria-label="Views">
        ${views.map(({ id, title }) => html`<a href=${`#/${id}`} aria-current=${id === chosen.id ? "page" : null}>${title}</a>`)}
        <a class="aside" href="/docs">API reference</a><span class="version">${session.version}</span>
      </nav>
      <div>
        ${isStale && html`<p class="notice warn" role="status">${event
          ? `No news since ${formatTime(event.time)}. Connecting again…`
          : "The gateway does not answer. Connecting again…"}</p>`}
        <main id="main" tabindex="-1">
          <h1>${chosen.title}</h1>
          <${Problem} text=${isMissing && "This view cannot be loaded. Is the gateway there?"} />
          ${View && html`<${View} key=${chosen.id} app=${{ session, can }} event=${event} history=${history} />`}
        </main>
      </div>
    </div>`;
}

// Returns the last event of the stream, whether it is stale, and the history behind the plots.
function useLive() {
  const [event, setEvent] = useState(null);
  const [isStale, setStale] = useState(false);
  const [, setChanges] = useState(0);
  const [history] = useState(() => new History(() => setChanges((count) => count + 1)));
  useEffect(() => {
    const live = new Live({
      onEvent(next) {
        history.add(next);
        setEvent(next);
      },
      onState: (kind) => setStale(kind === "stale"),
    });
    live.start();
    return () => live.stop();
  }, []);
  return { event, isStale, history };
}

// Returns the view that the address names, and its component once it is loaded.
function useView(views) {
  const find = () => views.find(({ id }) => `#/${id}` === location.hash) ?? views[0];
  const [state, setState] = useState(() => ({ chosen: find() }));
  const { chosen } = state;
  useEffect(() => {
    const change = () => {
      setState((now) => (now.chosen === find() ? now : { chosen: find() }));
      document.getElementById("main").focus({ preventScroll: true });
      window.scrollTo(0, 0);
    };
    window.addEventListener("hashchange", change);
    return () => window.removeEventListener("hashchange", change);
  }, []);
  useEffect(() => {
    // Another one may be opened meanwhile.
    const update = (next) => setState((now) => (now.chosen === chosen ? { chosen, ...next } : now));
    chosen.load().then(({ View }) => update({ View }), () => update({ isMissing: true }));
    document.title = `${chosen.title} · foundry-api`;
    // Not scrollIntoView, after which Tab would go on from there.
    const link = document.querySelector("nav [aria-current]");
    link.parentElement.scrollTo({ left: link.offsetLeft - link.parentElement.offsetLeft - 16 });
  }, [chosen]);
  return state;
}

render(html`<${App} />`, document.getElementById("app"));
