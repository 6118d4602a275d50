// The items of a knowledge base in pages of 100, asked for as they come into sight; the oldest pages are let go.
import { useCallback, useEffect, useMemo, useRef, useState } from "../../lib/html.js";
import { get, isAbort, kbPath } from "../../lib/api.js";

const PAGE = 100;
const KEPT_PAGES = 80;

/** key: what the pages depend on beside kb and where (a count of changes). */
export function usePages({ kb, where, key }) {
  const [state, setState] = useState({ total: null, error: null, drawn: 0 });
  const pages = useMemo(() => ({ held: new Map(), loading: new Map() }), [kb, where, key]);
  const now = useRef(pages);
  now.current = pages;

  const load = useCallback(
    async (number) => {
      if (pages.held.has(number) || pages.loading.has(number)) return;
      const stop = new AbortController();
      pages.loading.set(number, stop);
      try {
        const query = { offset: number * PAGE, limit: PAGE, where };
        const { total, items } = await get(kbPath(kb, "/items"), { query, signal: stop.signal });
        pages.held.set(number, items);
        if (pages.held.size > KEPT_PAGES) pages.held.delete(pages.held.keys().next().value);
        if (now.current === pages) setState((before) => ({ total, error: null, drawn: before.drawn + 1 }));
      } catch (error) {
        if (!isAbort(error) && now.current === pages) setState((before) => ({ ...before, error }));
      } finally {
        pages.loading.delete(number);
      }
    },
    [pages],
  );

  useEffect(() => {
    if (!kb) return undefined;
    setState({ total: null, error: null, drawn: 0 });
    load(0);
    return () => {
      for (const stop of pages.loading.values()) stop.abort();
    };
  }, [pages]);

  const onRange = useCallback(
    (from, to) => {
      const first = Math.floor(from / PAGE);
      const last = Math.floor(Math.max(from, to - 1) / PAGE);
      for (const [number, stop] of pages.loading) if (number < first - 1 || number > last + 1) stop.abort();
      for (let number = first; number <= last; number++) load(number);
    },
    [load],
  );
  const at = (index) => pages.held.get(Math.floor(index / PAGE))?.[index % PAGE] ?? null;
  const need = useCallback((index) => load(Math.floor(index / PAGE)), [load]);
  return { ...state, at, need, onRange, retry: () => load(0) };
}
