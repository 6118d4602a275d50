// History: every picture made here. Search, star, choose several for a zip; open one for all that can be done with it.
import { html, useCallback, useEffect, useMemo, useRef, useState } from "../lib/html.js";
import { get, isAbort } from "../lib/api.js";
import { altOf, changes, deleteImages, saveZip, settingsBack } from "../lib/images.js";
import { plural } from "../lib/format.js";
import { useKeys, useSettled } from "../lib/hooks.js";
import { activeCount, jobs } from "../lib/jobs.js";
import { leaving } from "../lib/leaving.js";
import { go } from "../lib/router.js";
import { server } from "../lib/server.js";
import { useStore } from "../lib/store.js";
import { useDropZones } from "../parts/drop.js";
import { Icon, IconButton } from "../parts/icon.js";
import { openLightbox } from "../parts/lightbox.js";
import { NearCopy } from "../parts/marks.js";
import { Empty, ErrorNote } from "../parts/notices.js";
import { Thumbnail } from "../parts/thumbnail.js";
import { toastError } from "../parts/toast.js";
import { WindowGrid } from "../parts/window-grid.js";

const PAGE = 100;
const NOTHING = { q: "", starred: false, model: "", knowledge_base: "" };

export function History() {
  const { models, bases } = useStore(server);
  const [filter, setFilter] = useState(NOTHING);
  const [selected, setSelected] = useState(new Map());
  const [zipping, setZipping] = useState(false);
  const settled = useSettled(filter, 160);
  const version = useStore(changes);
  const active = useStore(jobs, activeCount); // a job that ends has made pictures
  const { images: kept, more, error, loaded, loadMore } = useHistory(settled, `${version} ${active}`);
  const gone = useStore(leaving);
  const images = useMemo(() => kept.filter((image) => !gone.has(image.id)), [kept, gone]);
  const filtered = JSON.stringify(filter) !== JSON.stringify(NOTHING);
  const set = (part) => setFilter({ ...filter, ...part });

  useDropZones([{ icon: "spark", label: "Get its settings back", hint: "A PNG made by bowerbird", onFiles: ([file]) => settingsBack(file) }]);
  useKeys({
    Escape: () => setSelected(new Map()),
    Delete: () => selected.size > 0 && removeSelected(),
  });
  const toggle = (index) => {
    const next = new Map(selected);
    const image = images[index];
    if (!image) return;
    if (!next.delete(image.id)) next.set(image.id, image);
    setSelected(next);
  };
  const removeSelected = () => {
    deleteImages([...selected.values()]);
    setSelected(new Map());
  };
  const zip = async () => {
    setZipping(true);
    await saveZip([...selected.values()]).catch(toastError);
    setZipping(false);
  };
  const onRange = useCallback((from, to) => to >= images.length - PAGE / 2 && loadMore(), [images.length, loadMore]);

  return html`<div class="collection-body">
    <div class="collection-main">
      <div class="search-bar" role="search">
        <div class="search-line">
          <div class="search-box">
            <${Icon} name="search" />
            <input type="search" data-slash aria-label="Search the history" placeholder="Search: words of the prompt" value=${filter.q} onInput=${(event) => set({ q: event.target.value })} onKeyDown=${(event) => event.key === "Escape" && set({ q: "" })} />
          </div>
          <button type="button" class="tool" aria-pressed=${filter.starred ? "true" : "false"} onClick=${() => set({ starred: !filter.starred })}><${Icon} name="star" /><span>Starred</span></button>
          <${Choice} label="Model" value=${filter.model} options=${models.map((model) => model.id)} onValue=${(model) => set({ model })} />
          <${Choice} label="Knowledge base" value=${filter.knowledge_base} options=${bases.map((base) => base.id)} onValue=${(kb) => set({ knowledge_base: kb })} />
        </div>
      </div>
      <div class="grid-head"><p class="small" role="status">${loaded ? `${plural(images.length, "picture")}${more ? " and more" : ""}` : "Loading…"}</p></div>
      <${ErrorNote} error=${error} />
      ${loaded && !images.length && !error
        ? html`<${NoPictures} filtered=${filtered} onClear=${() => setFilter(NOTHING)} />`
        : html`<${WindowGrid}
            total=${images.length}
            minCell=${136}
            label="Pictures made here"
            resetKey=${JSON.stringify(settled)}
            onRange=${onRange}
            onOpen=${(index) => openLightbox(images, images[index].id)}
            onToggle=${toggle}
            isSelected=${(index) => selected.has(images[index]?.id)}
            render=${(index, cell) => html`<${Cell} image=${images[index]} ...${cell} />`}
          />`}
    </div>
    ${selected.size > 0 &&
    html`<div class="selection" role="region" aria-label="Selection">
      <span>${plural(selected.size, "picture")} selected</span>
      <button type="button" class="primary" disabled=${zipping || selected.size > 1000} onClick=${zip}><${Icon} name="download" />${zipping ? "Packing…" : "Save as zip"}</button>
      <button type="button" onClick=${removeSelected}><${Icon} name="trash" />Delete</button>
      <${IconButton} name="close" label="Clear the selection" onClick=${() => setSelected(new Map())} />
    </div>`}
  </div>`;
}

function Cell({ image, selected, toggle }) {
  if (!image) return html`<span class="thumb waiting"></span>`;
  return html`<${Thumbnail} src=${image.thumbnail} alt=${altOf(image)} size=${256} eager />
    <span class="cell-caption">${image.prompt || "from pictures"} · ${image.seed}</span>
    ${image.near_copy && html`<${NearCopy} />`}
    ${image.starred && html`<span class="cell-star"><${Icon} name="star" /></span>`}
    <span class=${selected ? "cell-check on" : "cell-check"} aria-hidden="true" onClick=${toggle}><${Icon} name="check" /></span>`;
}

function Choice({ label, value, options, onValue }) {
  return html`<select class="tool" aria-label=${label} value=${value} onChange=${(event) => onValue(event.target.value)}>
    <option value="">${`Any ${label.toLowerCase()}`}</option>
    ${options.map((option) => html`<option key=${option} value=${option}>${option}</option>`)}
  </select>`;
}

function NoPictures({ filtered, onClear }) {
  if (filtered) {
    return html`<${Empty} icon="search" title="No picture like that">
      <p>Try other words of the prompt, or fewer filters.</p>
      <button type="button" onClick=${onClear}>Show every picture</button>
    <//>`;
  }
  return html`<${Empty} icon="clock" title="No pictures yet">
    <p>Every picture made here is kept with its settings. A PNG made by bowerbird elsewhere gives its settings back: drop it on the page.</p>
    <button type="button" class="primary" onClick=${() => go("generate")}><${Icon} name="spark" />Generate one</button>
  <//>`;
}

/** Pages of the history, newest first; `loadMore` asks for the next one. */
function useHistory(filter, version) {
  const key = `${JSON.stringify(filter)} ${version}`;
  const [state, setState] = useState({ images: [], next: null, error: null, loaded: false });
  const held = useMemo(() => ({ busy: false, stop: new AbortController() }), [key]);
  const latest = useRef(state);
  latest.current = state;
  const load = useCallback(
    async (cursor) => {
      if (held.busy) return;
      held.busy = true;
      try {
        const { images, next } = await get("/api/history", { query: { ...filter, cursor, limit: PAGE }, signal: held.stop.signal });
        setState((before) => ({ images: cursor ? [...before.images, ...images] : images, next, error: null, loaded: true }));
      } catch (error) {
        if (!isAbort(error)) setState((before) => ({ ...before, error, loaded: true }));
      } finally {
        held.busy = false;
      }
    },
    [held],
  );
  useEffect(() => {
    load(null);
    return () => held.stop.abort();
  }, [held]);
  const loadMore = useCallback(() => latest.current.next && load(latest.current.next), [load]);
  return { ...state, more: Boolean(state.next), loadMore };
}
