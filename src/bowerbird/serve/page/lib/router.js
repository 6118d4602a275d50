// The view is in the address's fragment: #/generate. Back and forward work, and a view can be bookmarked.
import { createStore } from "./store.js";

export const VIEWS = ["collection", "generate", "edit", "history", "models"];
export const route = createStore(read());

function read() {
  const name = location.hash.replace(/^#\/?/, "");
  return VIEWS.includes(name) ? name : "collection";
}

export const go = (view) => {
  location.hash = `#/${view}`;
};

window.addEventListener("hashchange", () => route.set(read()));
