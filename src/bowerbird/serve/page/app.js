// The frame around the views: navigation, the knowledge base that all of them use, and what hangs over everything.
import { html, useEffect, useState } from "./lib/html.js";
import { signedIn } from "./lib/api.js";
import { slow } from "./lib/busy.js";
import { useKeys } from "./lib/hooks.js";
import { activeCount, jobs, loadJobs } from "./lib/jobs.js";
import { VIEWS, go, route } from "./lib/router.js";
import { chosen, loadServer, refreshStatus, server, watchStatus } from "./lib/server.js";
import { useStore } from "./lib/store.js";
import { isDark, switchTheme, theme } from "./lib/theme.js";
import { count } from "./lib/format.js";
import { DropScreen } from "./parts/drop.js";
import { Help } from "./parts/help.js";
import { Icon, IconButton } from "./parts/icon.js";
import { Lightbox } from "./parts/lightbox.js";
import { Empty, ErrorNote } from "./parts/notices.js";
import { SignIn, checkSession } from "./parts/sign-in.js";
import { Toasts, toastError } from "./parts/toast.js";
import { Collection } from "./views/collection/view.js";
import { Edit } from "./views/edit.js";
import { Generate } from "./views/generate/view.js";
import { History } from "./views/history.js";
import { Models } from "./views/models.js";

const PAGES = {
  collection: { title: "Collection", icon: "grid", View: Collection },
  generate: { title: "Generate", icon: "spark", View: Generate },
  edit: { title: "Edit", icon: "edit", View: Edit },
  history: { title: "History", icon: "clock", View: History },
  models: { title: "Models", icon: "cube", View: Models },
};

export function App() {
  const view = useStore(route);
  const { loaded, status, error } = useStore(server);
  const inside = useStore(signedIn);
  const [help, setHelp] = useState(false);
  const { title, View } = PAGES[view];

  useEffect(() => {
    checkSession().then(async () => {
      if (!signedIn.get()) return;
      await loadServer();
      if (!server.get().error) loadJobs().catch(toastError);
    });
    return watchStatus();
  }, []);
  useEffect(() => {
    document.title = `${title} · bowerbird`;
  }, [title]);
  const focusFirst = () => document.querySelector("[data-slash]")?.focus();
  useKeys({
    "/": focusFirst,
    "?": () => setHelp(true),
    ...Object.fromEntries(VIEWS.map((name, at) => [String(at + 1), () => go(name)])),
  });

  return html`<${Header} view=${view} onHelp=${() => setHelp(true)} />
    <main class=${`view ${view}`} aria-label=${title}>
      <h1 class="visually-hidden">${title}</h1>
      <${Banner} />
      ${status ? html`<${View} />` : loaded && error && inside ? html`<${Away} />` : html`<div class="loading" aria-busy="true"></div>`}
    </main>
    <${SignIn} />
    <${Lightbox} />
    ${help && html`<${Help} onClose=${() => setHelp(false)} />`}
    <${DropScreen} />
    <${Toasts} />`;
}

function Header({ view, onHelp }) {
  useStore(theme);
  const dark = isDark();
  return html`<header class="top">
    <${TopBar} />
    <a class="brand" href="#/collection" aria-label="bowerbird, to the collection"><img src="page/icon.svg" alt="" width="24" height="24" /><span>bowerbird</span></a>
    <nav class="tabs" aria-label="Views">
      ${VIEWS.map(
        (name) => html`<a key=${name} href=${`#/${name}`} aria-current=${name === view ? "page" : undefined}>
          <${Icon} name=${PAGES[name].icon} /><span>${PAGES[name].title}</span>
        </a>`,
      )}
    </nav>
    <div class="top-right">
      <${Queue} />
      <${BaseSwitch} />
      <${IconButton} class="help-button" name="keyboard" label="Keyboard" onClick=${onHelp} />
      <${IconButton} name=${dark ? "sun" : "moon"} label=${dark ? "Light colors" : "Dark colors"} onClick=${switchTheme} />
    </div>
  </header>`;
}

/** A thin line at the very top while a request takes longer than it should. */
function TopBar() {
  return useStore(slow) > 0 ? html`<div class="slow-bar" role="progressbar" aria-label="Loading"></div>` : null;
}

function Queue() {
  const active = useStore(jobs, activeCount);
  return active ? html`<a class="queue" href="#/generate" title="Jobs under way"><span class="dot"></span>${count(active)}<span class="visually-hidden"> under way</span></a>` : null;
}

function BaseSwitch() {
  const { bases } = useStore(server);
  const { kb } = useStore(chosen);
  if (!bases.length) return null;
  return html`<label class="base-switch">
    <span class="visually-hidden">Knowledge base</span>
    <select value=${kb} onChange=${(event) => chosen.set({ kb: event.target.value })}>
      ${bases.map((base) => html`<option key=${base.id} value=${base.id} selected=${base.id === kb}>${base.id} (${count(base.items)})</option>`)}
    </select>
  </label>`;
}

/** Says what stands in the way of generating, while it does. */
function Banner() {
  const { status, error } = useStore(server);
  const workers = status?.workers ?? [];
  if (error && status) return html`<div class="banner" role="alert"><${Icon} name="warning" />${error.message}</div>`;
  if (!workers.length || workers.some((worker) => worker.state === "ready" || worker.state === "busy")) return null;
  const down = workers.every((worker) => worker.state === "down");
  return html`<div class="banner" role="status">
    ${down ? "The worker is down; the server starts it again. Browsing works meanwhile." : "The worker is starting: searching by words and generating begin in a moment."}
  </div>`;
}

function Away() {
  const { error } = useStore(server);
  return html`<${Empty} icon="warning" title="The server does not answer">
    <${ErrorNote} error=${error} onRetry=${refreshStatus} />
  <//>`;
}
