// Small hooks that several views use.
import { useEffect, useRef, useState } from "./html.js";
import { isAbort } from "./api.js";

/** The value, once it has stayed the same for `ms`. */
export function useSettled(value, ms) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    if (Object.is(settled, value)) return undefined;
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

/** Loads whenever `key` changes; an earlier request is given up. While loading, the last data stays. */
export function useLoaded(load, key) {
  const [state, setState] = useState({ data: null, error: null, of: null });
  useEffect(() => {
    if (key === null) {
      setState({ data: null, error: null, of: null });
      return undefined;
    }
    const stop = new AbortController();
    load(stop.signal).then(
      (data) => stop.signal.aborted || setState({ data, error: null, of: key }),
      (error) => stop.signal.aborted || isAbort(error) || setState({ data: null, error, of: key }),
    );
    return () => stop.abort();
  }, [key]);
  // by the key, not by a flag: between a new key and its effect there is a moment with the old answer
  return { data: state.data, error: state.error, loading: state.of !== key };
}

/** Keys while this view is shown, but not while someone types. */
export function useKeys(handlers) {
  const latest = useRef(handlers);
  latest.current = handlers;
  useEffect(() => {
    const onKey = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      if (document.querySelector("dialog[open]")) return;
      const typing = /^(input|textarea|select)$/i.test(event.target.tagName ?? "") && event.target.type !== "range";
      const handler = latest.current[event.key];
      if (!handler || (typing && event.key !== "Escape")) return;
      if (handler(event) !== false) event.preventDefault();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
}
