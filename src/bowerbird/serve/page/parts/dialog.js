// A modal dialog: the browser's own, so Esc closes it, focus stays inside and returns to where it was.
import { html, useEffect, useRef } from "../lib/html.js";
import { IconButton } from "./icon.js";

export function Dialog({ title, onClose, wide = false, fixed = false, children }) {
  const ref = useRef();
  useEffect(() => {
    const before = document.activeElement;
    ref.current.showModal();
    return () => before?.focus?.();
  }, []);
  const onBackdrop = (event) => !fixed && event.target === ref.current && onClose();
  const onCancel = (event) => {
    event.preventDefault(); // the state decides whether it is open
    if (!fixed) onClose();
  };
  return html`<dialog ref=${ref} class=${wide ? "dialog wide" : "dialog"} aria-label=${title} onMouseDown=${onBackdrop} onCancel=${onCancel}>
    <div class="dialog-inner">
      <header class="dialog-head">
        <h2>${title}</h2>
        ${!fixed && html`<${IconButton} name="close" label="Close" onClick=${onClose} />`}
      </header>
      ${children}
    </div>
  </dialog>`;
}
