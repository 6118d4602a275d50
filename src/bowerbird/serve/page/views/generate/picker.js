// A neighbor from the collection: search, and press what is to be pinned.
import { html, useMemo, useState } from "../../lib/html.js";
import { get, kbPath, post } from "../../lib/api.js";
import { draft, pin, pinnedItem, unpin } from "../../lib/draft.js";
import { useLoaded, useSettled } from "../../lib/hooks.js";
import { useStore } from "../../lib/store.js";
import { Dialog } from "../../parts/dialog.js";
import { TextField } from "../../parts/fields.js";
import { Bar, ErrorNote } from "../../parts/notices.js";
import { Thumbnail } from "../../parts/thumbnail.js";

const MANY = 48;

export function Picker({ kb, onClose }) {
  const [text, setText] = useState("");
  const settled = useSettled(text.trim(), 160);
  const { data, error, loading } = useLoaded(
    (signal) =>
      settled ? post(kbPath(kb, "/search"), { text: settled, k: MANY }, { signal }) : get(kbPath(kb, "/items"), { query: { limit: MANY }, signal }),
    `${kb} ${settled}`,
  );
  const items = useMemo(() => data?.items ?? data?.results?.map((hit) => hit.item) ?? [], [data]);
  const pinned = useStore(draft, (now) => now.pinned);
  const has = (item) => pinned.some((entry) => entry.key === `item:${item.id}`);
  return html`<${Dialog} title=${`From ${kb}`} wide onClose=${onClose}>
    <div class="stack">
      <${TextField} label="Search" type="search" value=${text} onValue=${setText} placeholder="red apple" autofocus />
      <${ErrorNote} error=${error} />
      ${loading && !data && html`<${Bar} value=${null} label="Searching" />`}
      ${data && !items.length && html`<p>Nothing like that in ${kb}.</p>`}
      <ul class="picker">
        ${items.map(
          (item) => html`<li key=${item.id}>
            <button
              type="button"
              class="picture-open"
              aria-pressed=${has(item) ? "true" : "false"}
              aria-label=${item.caption || item.name || "Item"}
              title=${item.caption || item.name}
              onClick=${() => (has(item) ? unpin(`item:${item.id}`) : pin(pinnedItem(item)))}
            >
              <${Thumbnail} src=${item.thumbnail} alt="" size=${128} />
            </button>
          </li>`,
        )}
      </ul>
      <div class="button-row end"><button type="button" class="primary" onClick=${onClose}>Done</button></div>
    </div>
  <//>`;
}
