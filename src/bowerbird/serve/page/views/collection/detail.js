// One item of the collection: large, with its words and credit, and what can be done with it.
import { html, useState } from "../../lib/html.js";
import { draft, pin, pinnedItem } from "../../lib/draft.js";
import { editItem } from "../../lib/images.js";
import { plain, score } from "../../lib/format.js";
import { go } from "../../lib/router.js";
import { useStore } from "../../lib/store.js";
import { Icon, IconButton } from "../../parts/icon.js";
import { ownAddress } from "../../parts/thumbnail.js";
import { toast, toastError } from "../../parts/toast.js";
import { addPicture } from "./query.js";

/** Characters of a caption beyond which it scrolls, and so must take the focus. */
const LONG = 200;

export function Detail({ item, hit, writable, onClose, onStep, onRemove }) {
  const pinned = useStore(draft, (now) => now.pinned.some((entry) => entry.key === `item:${item.id}`));
  const [gone, setGone] = useState(null);
  const use = () => {
    pin(pinnedItem(item));
    toast("Pinned as a neighbor", { action: { label: "Generate", run: () => go("generate") } });
  };
  const pairs = Object.entries(item.metadata ?? {}).filter(([, value]) => value !== null && value !== "");
  const credit = Object.entries(item.credit ?? {}).filter(([, value]) => value);
  return html`<aside class="detail" aria-label="The open item">
    <div class="detail-head">
      <${IconButton} name="left" label="Item before" onClick=${() => onStep(-1)} />
      <${IconButton} name="right" label="Next item" onClick=${() => onStep(1)} />
      <${IconButton} class="push" name="close" label="Close" onClick=${onClose} />
    </div>
    ${gone === item.id
      ? html`<p class="note" role="status">This picture cannot be shown. Was the item removed meanwhile? Search again, or reload.</p>`
      : html`<img class="detail-picture" key=${item.id} src=${ownAddress(item.picture)} alt=${item.caption || item.name || "Item"} onError=${() => setGone(item.id)} />`}
    <h2 class="detail-title" dir="auto" tabindex=${(item.caption ?? "").length > LONG ? "0" : undefined}>${item.caption || item.name || "Without a caption"}</h2>
    ${hit && html`<p class="small">${scoreLine(hit)}</p>`}
    <div class="button-row">
      <button type="button" class="primary" disabled=${pinned} onClick=${use}><${Icon} name="pin" />${pinned ? "Pinned" : "Use as neighbor"}</button>
      <button type="button" onClick=${() => addPicture({ key: item.id, label: item.caption || item.name, url: item.thumbnail, term: { item: item.id }, weight: 1 })}><${Icon} name="search" />Similar</button>
      <button type="button" onClick=${() => editItem(item).catch(toastError)}><${Icon} name="edit" />Edit</button>
      ${writable && html`<${IconButton} name="trash" label="Remove from the collection" onClick=${onRemove} />`}
    </div>
    <dl class="pairs">
      ${item.name && html`<div><dt>File</dt><dd>${item.name}</dd></div>`}
      ${pairs.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${plain(value)}</dd></div>`)}
      ${credit.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${plain(value)}</dd></div>`)}
      <div><dt>Id</dt><dd class="mono">${item.id}</dd></div>
    </dl>
  </aside>`;
}

function scoreLine({ similarity, bm25, caption_similarity: caption }) {
  const parts = [];
  if (similarity !== null && similarity !== undefined) parts.push(`similarity ${score(similarity)}`);
  if (bm25 !== null && bm25 !== undefined) parts.push(`words ${bm25.toFixed(1)}`);
  if (caption !== null && caption !== undefined) parts.push(`caption ${score(caption)}`);
  return parts.join(" · ");
}
