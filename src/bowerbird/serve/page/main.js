// Starts the page.
import { html, render } from "./lib/html.js";
import { App } from "./app.js";
import { applyTheme } from "./lib/theme.js";

applyTheme();
render(html`<${App} />`, document.getElementById("app"));
