// The row of neighbors: take one away, pin one, weigh it, add one from the collection or from disk.
import { classes, html, useState } from "../../lib/html.js";
import { forgetChanges, pin, pinnedUpload, setWeight, takeAway, unpin } from "../../lib/draft.js";
import { chooseFiles } from "../../lib/files.js";
import { likeness, plural } from "../../lib/format.js";
import { uploadFile } from "../../lib/images.js";
import { Icon, IconButton } from "../../parts/icon.js";
import { ErrorNote } from "../../parts/notices.js";
import { Thumbnail } from "../../parts/thumbnail.js";
import { toastError } from "../../parts/toast.js";
import { Picker } from "./picker.js";

export async function pinFiles(files) {
  for (const file of files) {
    const upload = await uploadFile(file);
    pin(pinnedUpload(upload, file.name.replace(/\.[^.]*$/, "").replaceAll(/[-_]+/g, " ")));
  }
}

export function NeighborRow({ kb, found, now, lit, hint }) {
  const [picking, setPicking] = useState(false);
  const { neighbors, loading, error } = found;
  const choose = async () => pinFiles(await chooseFiles({ accept: "image/*", multiple: true })).catch(toastError);
  const shows = lit && neighbors.some((neighbor) => lit.has(neighbor.item?.id));
  const changed = now.pinned.length + now.removed.length;
  return html`<section class="neighbors" aria-label="Neighbors">
    <div class="neighbors-head">
      <h2>Neighbors</h2>
      <p class="small" role="status">${loading ? "Looking…" : neighbors.length ? hint : ""}</p>
      ${changed > 0 && html`<button type="button" class="link" onClick=${forgetChanges}>${now.removed.length ? `As found (${plural(now.removed.length, "one", "ones")} taken away)` : "As found"}</button>`}
    </div>
    <${ErrorNote} error=${error} />
    <ul class=${classes("neighbor-row", { stale: loading, dim: shows })}>
      ${neighbors.map((neighbor) => html`<${NeighborCard} key=${neighbor.key} neighbor=${neighbor} kb=${kb} lit=${lit?.get(neighbor.item?.id)} />`)}
      ${!neighbors.length && !loading && !error && html`<li class="neighbor-hint">What the collection has on your prompt appears here while you type. It is what the picture is generated from.</li>`}
      <li class="neighbor-add">
        <button type="button" onClick=${() => setPicking(true)}><${Icon} name="grid" />From ${kb}</button>
        <button type="button" onClick=${choose}><${Icon} name="upload" />From disk</button>
      </li>
    </ul>
    ${picking && html`<${Picker} kb=${kb} onClose=${() => setPicking(false)} />`}
  </section>`;
}

function NeighborCard({ neighbor, lit }) {
  const { key, item, upload, weight, pinned, score, phrase } = neighbor;
  const name = item ? item.caption || item.name : upload.caption || "Picture from disk";
  const togglePin = () => (pinned ? unpin(key) : pin({ key, weight, item, upload }));
  return html`<li class=${classes("neighbor", { pinned, lit: lit !== undefined, light: weight === 0 })}>
    <div class="neighbor-picture">
      <${Thumbnail} src=${item ? item.thumbnail : upload.url} alt=${name} size=${256} eager />
      ${likeness(lit ?? score) && html`<span class="cell-score">${likeness(lit ?? score)}</span>`}
      <div class="neighbor-buttons">
        <${IconButton} name="pin" label=${pinned ? `Unpin ${name}` : `Pin ${name}`} aria-pressed=${pinned ? "true" : "false"} onClick=${togglePin} />
        <${IconButton} name="close" label=${`Take ${name} away`} onClick=${() => takeAway(neighbor)} />
      </div>
    </div>
    <span class="neighbor-name" title=${name}>${name}</span>
    ${phrase && html`<span class="small phrase" title=${phrase}>for “${phrase}”</span>`}
    <div class="range">
      <input type="range" min="0" max="3" step="0.05" value=${weight} aria-label=${`Weight of ${name}`} onInput=${(event) => setWeight(neighbor, Number(event.target.value))} />
      <output>${weight.toFixed(2)}</output>
    </div>
  </li>`;
}
