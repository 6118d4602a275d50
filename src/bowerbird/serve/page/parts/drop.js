// Files dragged over the page: each view says what can be done with them, and the screen shows these as zones.
import { html, useEffect, useState } from "../lib/html.js";
import { createStore, useStore } from "../lib/store.js";
import { droppedFiles } from "../lib/files.js";
import { Icon } from "./icon.js";
import { toastError } from "./toast.js";

const zones = createStore([]);

/** list: [{ icon, label, hint, onFiles }]; the first also takes what is pasted. */
export function useDropZones(list) {
  useEffect(() => {
    zones.set(list);
    return () => zones.set((now) => (now === list ? [] : now));
  });
}

const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

export function DropScreen() {
  const [shown, setShown] = useState(false);
  const [over, setOver] = useState(-1);
  const list = useStore(zones);
  useEffect(() => {
    let depth = 0; // dragenter and dragleave come for every element on the way
    const enter = (event) => {
      if (!hasFiles(event) || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      depth += 1;
      setShown(true);
    };
    const leave = (event) => {
      if (!hasFiles(event)) return;
      depth = Math.max(0, depth - 1);
      if (!depth) setShown(false);
    };
    const stay = (event) => hasFiles(event) && event.preventDefault();
    const end = (event) => {
      depth = 0;
      if (hasFiles(event)) event.preventDefault(); // else the browser would leave the page for the file
      setShown(false);
    };
    const paste = (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length || !zones.get().length) return;
      event.preventDefault();
      act(zones.get()[0], files);
    };
    const on = { dragenter: enter, dragleave: leave, dragover: stay, drop: end, paste };
    for (const [name, handler] of Object.entries(on)) window.addEventListener(name, handler);
    return () => {
      for (const [name, handler] of Object.entries(on)) window.removeEventListener(name, handler);
    };
  }, []);
  if (!shown || !list.length) return null;
  return html`<div class="drop-screen">
    ${list.map(
      (zone, at) => html`<div
        key=${zone.label}
        class=${at === over ? "drop-zone over" : "drop-zone"}
        onDragEnter=${() => setOver(at)}
        onDrop=${async (event) => {
          event.preventDefault();
          act(zone, await droppedFiles(event.dataTransfer));
        }}
      >
        <${Icon} name=${zone.icon} />
        <strong>${zone.label}</strong>
        <span>${zone.hint}</span>
      </div>`,
    )}
  </div>`;
}

async function act(zone, files) {
  try {
    if (files.length) await zone.onFiles(files);
  } catch (error) {
    toastError(error);
  }
}
