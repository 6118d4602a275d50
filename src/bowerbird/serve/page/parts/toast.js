// Short messages at the bottom, read out by screen readers; one with an action (undo) stays longer.
import { html } from "../lib/html.js";
import { createStore, useStore } from "../lib/store.js";
import { IconButton } from "./icon.js";

const toasts = createStore([]);
let next = 1;

/** action: { label, run }. Answers with a function that takes the message away. */
export function toast(text, { action = null, kind = "plain" } = {}) {
  const id = next++;
  toasts.set((list) => [...list.slice(-2), { id, text, action, kind }]);
  const close = () => toasts.set((list) => list.filter((other) => other.id !== id));
  setTimeout(close, action ? 20000 : kind === "error" ? 12000 : 5000);
  return close;
}

export const toastError = (error) => toast(error.message, { kind: "error" });

export function Toasts() {
  const list = useStore(toasts);
  const close = (id) => toasts.set((all) => all.filter((other) => other.id !== id));
  return html`<div class="toasts" role="status" aria-live="polite">
    ${list.map(
      ({ id, text, action, kind }) => html`<div key=${id} class=${`toast ${kind}`}>
        <span>${text}</span>
        ${action &&
        html`<button
          type="button"
          class="link"
          onClick=${() => {
            close(id);
            action.run();
          }}
        >
          ${action.label}
        </button>`}
        <${IconButton} name="close" label="Close the message" onClick=${() => close(id)} />
      </div>`,
    )}
  </div>`;
}
