// The keyboard, on one card.
import { html } from "../lib/html.js";
import { Dialog } from "./dialog.js";

const KEYS = [
  ["/", "to the search, or to the prompt"],
  ["1 – 5", "to a view"],
  ["Enter", "generate; open the picture"],
  ["Shift + Enter", "a new line in the prompt"],
  ["← → ↑ ↓", "from picture to picture"],
  ["Space", "select the picture"],
  ["S", "star the open picture"],
  ["Delete", "remove what is selected"],
  ["Esc", "close; clear the selection; stop generating"],
  ["?", "this card"],
];

export function Help({ onClose }) {
  return html`<${Dialog} title="Keyboard" onClose=${onClose}>
    <dl class="keys">${KEYS.map(([key, what]) => html`<div key=${key}><dt><kbd>${key}</kbd></dt><dd>${what}</dd></div>`)}</dl>
    <p class="small">Drop pictures anywhere, or paste one. A PNG made by bowerbird gives its settings back.</p>
  <//>`;
}
