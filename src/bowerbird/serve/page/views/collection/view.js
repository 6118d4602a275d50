// The collection: everything in it, or what a search finds; choose, add, remove.
import { html, useCallback, useEffect, useMemo, useRef, useState } from "../../lib/html.js";
import { kbPath, post } from "../../lib/api.js";
import { pin, pinnedItem } from "../../lib/draft.js";
import { count, plural, score } from "../../lib/format.js";
import { useKeys, useLoaded, useSettled } from "../../lib/hooks.js";
import { settingsBack } from "../../lib/images.js";
import { go } from "../../lib/router.js";
import { chosen, currentBase, refreshBases, server } from "../../lib/server.js";
import { createKeptStore, useStore } from "../../lib/store.js";
import { whereOf } from "../../lib/where.js";
import { useDropZones } from "../../parts/drop.js";
import { Segments } from "../../parts/fields.js";
import { Icon, IconButton } from "../../parts/icon.js";
import { Empty, ErrorNote } from "../../parts/notices.js";
import { Thumbnail } from "../../parts/thumbnail.js";
import { toast, toastError } from "../../parts/toast.js";
import { WindowGrid } from "../../parts/window-grid.js";
import { About } from "./about.js";
import { AddDialog } from "./add-dialog.js";
import { Detail } from "./detail.js";
import { Filters } from "./filters.js";
import { usePages } from "./items.js";
import { FIRST, MOST, clearQuery, query, searchBody } from "./query.js";
import { SearchBar, searchWithFile } from "./search-bar.js";

const look = createKeptStore("bowerbird.grid", { size: "m" });
const CELLS = { s: 84, m: 136, l: 220 };
const SIZES = [
  { value: "s", label: "S", title: "Small pictures" },
  { value: "m", label: "M", title: "Medium pictures" },
  { value: "l", label: "L", title: "Large pictures" },
];

export function Collection() {
  const { kb } = useStore(chosen);
  const base = useStore(server, (state) => currentBase(state, kb));
  const now = useStore(query);
  const { size } = useStore(look);
  const [dialog, setDialog] = useState(null); // { add: files } | { make: files } | { about } | { filters }
  const [selected, setSelected] = useState(new Map()); // id -> item
  const [open, setOpen] = useState(null); // index of the item in the side panel
  const [changes, setChanges] = useState(0);

  const settled = useSettled(now, 140);
  const body = useMemo(() => searchBody(settled), [settled]);
  const searchKey = body && kb ? `${kb} ${changes} ${JSON.stringify(body)}` : null;
  const [more, setMore] = useState({ key: null, k: FIRST });
  const k = more.key === searchKey ? more.k : FIRST;
  const found = useLoaded((signal) => post(kbPath(kb, "/search"), { ...body, k }, { signal }), searchKey && `${searchKey} ${k}`);
  const pages = usePages({ kb, where: whereOf(settled.filters), key: changes });
  const hits = body ? (found.data?.results ?? []) : null;
  const total = hits ? hits.length : (pages.total ?? 0);
  // more is asked for when the end comes into sight
  const onFound = useCallback((from, to) => to >= total && total === k && k < MOST && setMore({ key: searchKey, k: Math.min(MOST, k * 3) }), [searchKey, total, k]);
  const at = (index) => (hits ? hits[index]?.item : pages.at(index)) ?? null;
  const error = hits ? found.error : pages.error;
  const whole = hits ? !found.loading : pages.total !== null;

  const listKey = `${kb} ${searchKey ?? whereOf(settled.filters)}`;
  useEffect(() => setOpen(null), [listKey]);
  useEffect(() => setSelected(new Map()), [kb]);
  // who steps from item to item comes to those that the grid has not asked for
  const neededAt = open === null || hits ? null : open;
  useEffect(() => {
    if (neededAt === null) return;
    for (const index of [neededAt, neededAt + 1, neededAt - 1]) if (index >= 0 && index < total) pages.need(index);
  }, [neededAt, total]);

  const changed = useCallback(async () => {
    setSelected(new Map());
    setOpen(null);
    setChanges((n) => n + 1);
    await refreshBases();
  }, []);

  const lastToggled = useRef(null);
  const toggle = (index, event) => {
    const next = new Map(selected);
    const range = event?.shiftKey && lastToggled.current !== null ? rangeOf(lastToggled.current, index) : [index];
    const on = !next.has(at(index)?.id);
    for (const item of range.map(at).filter(Boolean)) {
      if (on) next.set(item.id, item);
      else next.delete(item.id);
    }
    lastToggled.current = index;
    setSelected(next);
  };

  const removeItems = async (items) => {
    try {
      const { removed, undo, version } = await post(kbPath(kb, "/remove"), { ids: items.map((item) => item.id) });
      await changed();
      const bringBack = () => post(kbPath(kb, "/restore"), { version: undo, expected_version: version }).then(changed).then(() => toast("Brought back"), toastError);
      toast(`${plural(removed, "item")} removed from ${kb}`, { action: { label: "Undo", run: bringBack } });
    } catch (failure) {
      toastError(failure);
    }
  };
  const usePinned = () => {
    for (const item of selected.values()) pin(pinnedItem(item));
    setSelected(new Map());
    go("generate");
  };

  useDropZones([
    { icon: "search", label: "Search with it", hint: "One picture", onFiles: ([file]) => searchWithFile(file) },
    ...(base?.writable ? [{ icon: "plus", label: `Add to ${kb}`, hint: "Pictures, a folder, a zip or a parquet file", onFiles: (files) => setDialog({ add: files }) }] : []),
    { icon: "spark", label: "Get its settings back", hint: "A PNG made by bowerbird", onFiles: ([file]) => settingsBack(file) },
  ]);
  useKeys({
    Escape: () => (open !== null ? setOpen(null) : setSelected(new Map())),
    Delete: () => base?.writable && selected.size > 0 && removeItems([...selected.values()]),
  });

  // at the same place with and without a knowledge base: a dialog that makes the first one goes on to its report
  const dialogs = html`<${Dialogs} dialog=${dialog} base=${base} onClose=${() => setDialog(null)} onChanged=${changed} />`;
  if (!base) return [html`<${NoBase} onMake=${() => setDialog({ make: [] })} />`, dialogs];
  const step = (by) => setOpen((index) => Math.max(0, Math.min(total - 1, index + by)));
  const openItem = open === null ? null : at(open);
  const filterCount = Object.keys(now.filters).length;

  const view = html`<div class=${openItem ? "collection-body with-detail" : "collection-body"}>
      <div class="collection-main">
        <${SearchBar}>
          <button type="button" class="tool" aria-pressed=${filterCount ? "true" : "false"} onClick=${() => setDialog({ filters: true })}><${Icon} name="filter" /><span>Filters</span>${filterCount > 0 && html`<span class="count">${filterCount}</span>`}</button>
          ${base.writable && html`<button type="button" class="tool primary" onClick=${() => setDialog({ add: [] })}><${Icon} name="plus" /><span>Add</span></button>`}
        <//>
        <div class="grid-head">
          <p class="small" role="status">${headline({ hits, total, whole, found, kb, error })}</p>
          <${Segments} label="Size of the pictures" value=${size} onValue=${(value) => look.set({ size: value })} options=${SIZES} />
          <${IconButton} name="folder" label="New knowledge base" onClick=${() => setDialog({ make: [] })} />
          <${IconButton} name="info" label=${`About ${kb}`} onClick=${() => setDialog({ about: true })} />
        </div>
        <${ErrorNote} error=${error} onRetry=${hits ? null : pages.retry} />
        ${whole && !total && !error
          ? html`<${Nothing} base=${base} searched=${Boolean(body)} filtered=${filterCount > 0} onAdd=${() => setDialog({ add: [] })} />`
          : html`<${WindowGrid}
              total=${total}
              minCell=${CELLS[size]}
              label=${hits ? "Found" : `Items of ${kb}`}
              openIndex=${open}
              resetKey=${listKey}
              onRange=${hits ? onFound : pages.onRange}
              onOpen=${setOpen}
              onToggle=${toggle}
              isSelected=${(index) => selected.has(at(index)?.id)}
              render=${(index, cell) => html`<${Cell} item=${at(index)} hit=${hits?.[index]} shown=${hits && shownScore(found.data, index)} size=${size} ...${cell} />`}
            />`}
      </div>
      ${openItem && html`<${Detail} item=${openItem} hit=${hits?.[open]} writable=${base.writable} onClose=${() => setOpen(null)} onStep=${step} onRemove=${() => removeItems([openItem])} />`}
      ${selected.size > 0 &&
      html`<div class="selection" role="region" aria-label="Selection">
        <span>${plural(selected.size, "item")} selected</span>
        <button type="button" class="primary" onClick=${usePinned}><${Icon} name="pin" />Use as neighbors</button>
        ${base.writable && html`<button type="button" onClick=${() => removeItems([...selected.values()])}><${Icon} name="trash" />Remove</button>`}
        <${IconButton} name="close" label="Clear the selection" onClick=${() => setSelected(new Map())} />
      </div>`}
    </div>`;
  return [view, dialogs];
}

function Dialogs({ dialog, base, onClose, onChanged }) {
  if (dialog?.add) return html`<${AddDialog} kb=${base.id} files=${dialog.add} onClose=${onClose} onChanged=${onChanged} />`;
  if (dialog?.make) return html`<${AddDialog} kb=${null} files=${dialog.make} onClose=${onClose} onChanged=${onChanged} />`;
  if (dialog?.about) return html`<${About} base=${base} onClose=${onClose} onChanged=${onChanged} />`;
  if (dialog?.filters) return html`<${Filters} kb=${base.id} version=${base.version} onClose=${onClose} />`;
  return null;
}

function Cell({ item, hit, shown, size, selected, toggle }) {
  if (!item) return html`<span class="thumb waiting"></span>`;
  const name = item.caption || item.name || "Item";
  return html`<${Thumbnail} src=${item.thumbnail} alt=${name} size=${size === "l" ? 256 : 128} eager />
    <span class="cell-caption">${name}</span>
    ${hit && html`<span class="cell-score">${shown}</span>`}
    <span class=${selected ? "cell-check on" : "cell-check"} aria-hidden="true" onClick=${toggle}><${Icon} name="check" /></span>`;
}

/** What the order is by: the similarity, or where words and similarity are fused, the place. */
function shownScore({ mode, results }, index) {
  const { similarity, score: own } = results[index] ?? {};
  return mode === "hybrid" ? `${index + 1}` : score(similarity ?? own);
}

function headline({ hits, total, whole, found, kb, error }) {
  if (error) return "";
  if (hits) return found.data ? `${total === MOST ? `the best ${count(total)}` : `${count(total)}, best first`}, ${Math.round(found.data.ms)} ms` : "Searching…";
  return whole ? `${plural(total, "item")} in ${kb}` : "Loading…";
}

function Nothing({ base, searched, filtered, onAdd }) {
  if (searched || filtered) {
    return html`<${Empty} icon="search" title="Nothing like that here">
      <p>${filtered ? "Take a filter off, or search for something else." : "Try other words, or search with a picture."}</p>
      <button type="button" onClick=${clearQuery}>Show everything</button>
    <//>`;
  }
  return html`<${Empty} icon="grid" title=${`${base.id} is empty`}>
    <p>Drop pictures, a folder or a zip anywhere on this page. What you add is what gets found, and what gets generated from.</p>
    ${base.writable && html`<button type="button" class="primary" onClick=${onAdd}><${Icon} name="plus" />Add pictures</button>`}
  <//>`;
}

function NoBase({ onMake }) {
  return html`<${Empty} icon="grid" title="No knowledge base yet">
    <p>Make one of your pictures. It stays on this machine.</p>
    <button type="button" class="primary" onClick=${onMake}><${Icon} name="plus" />Make one</button>
  <//>`;
}

function rangeOf(a, b) {
  const [from, to] = a < b ? [a, b] : [b, a];
  return Array.from({ length: to - from + 1 }, (_, at) => from + at);
}
