// The line to search by: words, pictures as chips with a weight, filters as chips.
import { html } from "../../lib/html.js";
import { uploadFile } from "../../lib/images.js";
import { chooseFiles } from "../../lib/files.js";
import { useStore } from "../../lib/store.js";
import { filterList, withoutFilter } from "../../lib/where.js";
import { Icon, IconButton } from "../../parts/icon.js";
import { Thumbnail } from "../../parts/thumbnail.js";
import { toastError } from "../../parts/toast.js";
import { addPicture, clearQuery, query } from "./query.js";

export async function searchWithFile(file) {
  const upload = await uploadFile(file);
  addPicture({ key: upload.id, label: file.name, url: upload.url, term: { upload: upload.id }, weight: 1 });
}

export function SearchBar({ children }) {
  const now = useStore(query);
  const filters = filterList(now.filters);
  const choose = async () => {
    const [file] = await chooseFiles({ accept: "image/*" });
    if (file) await searchWithFile(file).catch(toastError);
  };
  const onKeyDown = (event) => {
    if (event.key === "Escape") {
      if (now.text) query.patch({ text: "" });
      else event.target.blur();
    } else if (event.key === "ArrowDown" || event.key === "Enter") {
      document.querySelector(".grid-listbox")?.focus();
      event.preventDefault();
    }
  };
  const setPicture = (key, part) =>
    query.patch({ pictures: now.pictures.map((picture) => (picture.key === key ? { ...picture, ...part } : picture)) });
  return html`<div class="search-bar" role="search">
    <div class="search-line">
      <div class="search-box">
        <${Icon} name="search" />
        <input
          type="search"
          data-slash
          aria-label="Search the collection"
          placeholder="Search: red apple, or apple -green"
          value=${now.text}
          onInput=${(event) => query.patch({ text: event.target.value })}
          onKeyDown=${onKeyDown}
        />
        <${IconButton} name="upload" label="Search with a picture" onClick=${choose} />
      </div>
      ${children}
    </div>
    ${(now.pictures.length > 0 || filters.length > 0) &&
    html`<ul class="chips" aria-label="Searched for">
      ${now.pictures.map(
        (picture) => html`<li key=${picture.key} class="chip picture-chip">
          <${Thumbnail} src=${picture.url} alt=${picture.label} size=${64} />
          <input
            type="range"
            min="-1"
            max="2"
            step="0.1"
            value=${picture.weight}
            aria-label=${`Weight of ${picture.label}`}
            onInput=${(event) => setPicture(picture.key, { weight: Number(event.target.value) })}
          />
          <span class="small">${picture.weight.toFixed(1)}</span>
          <${IconButton} name="close" label=${`Search without ${picture.label}`} onClick=${() => query.patch({ pictures: now.pictures.filter((other) => other !== picture) })} />
        </li>`,
      )}
      ${filters.map(
        (filter) => html`<li key=${filter.label} class="chip">
          <span>${filter.label}</span>
          <${IconButton} name="close" label=${`Take off ${filter.label}`} onClick=${() => query.patch({ filters: withoutFilter(now.filters, filter) })} />
        </li>`,
      )}
      <li><button type="button" class="link" onClick=${clearQuery}>Clear all</button></li>
    </ul>`}
  </div>`;
}
