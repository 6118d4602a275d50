// A value that views share and follow; it outlives the view, so that switching views loses nothing.
import { useLayoutEffect, useRef, useState } from "./html.js";
import { ROOT } from "./root.js";

export function createStore(value) {
  const listeners = new Set();
  const store = {
    get: () => value,
    set(next) {
      value = typeof next === "function" ? next(value) : next;
      for (const listener of [...listeners]) listener(value);
    },
    patch: (part) => store.set({ ...value, ...part }),
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  return store;
}

const whole = (value) => value;

/** The selected part of a store; the component is drawn again only when that part is another one. */
export function useStore(store, select = whole) {
  const selected = select(store.get());
  const latest = useRef();
  latest.current = { select, selected };
  const [, draw] = useState(0);
  useLayoutEffect(() => {
    const check = () => {
      if (!Object.is(latest.current.select(store.get()), latest.current.selected)) draw((n) => n + 1);
    };
    check();
    return store.subscribe(check);
  }, [store]);
  return selected;
}

/** A store kept in the browser under `name`; `keep` picks what is written. */
export function createKeptStore(name, initial, keep = whole) {
  const key = ROOT + name; // a site may have several of these pages
  const store = createStore({ ...initial, ...readKept(key) });
  store.subscribe((value) => {
    try {
      localStorage.setItem(key, JSON.stringify(keep(value)));
    } catch {
      // private windows and full disks: the page works without
    }
  });
  return store;
}

function readKept(key) {
  try {
    const value = JSON.parse(localStorage.getItem(key));
    return value && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}
