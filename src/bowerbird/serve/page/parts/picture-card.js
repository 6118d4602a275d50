// A picture that was made here, in a run or in the history: opens large; star and save on it; a near copy says so.
import { classes, html } from "../lib/html.js";
import { altOf, saveImage } from "../lib/images.js";
import { IconButton } from "./icon.js";
import { openLightbox } from "./lightbox.js";
import { NearCopy, StarButton } from "./marks.js";
import { Thumbnail } from "./thumbnail.js";

export function PictureCard({ image, list, onLight = null }) {
  const light = onLight && { onMouseEnter: () => onLight(image), onMouseLeave: () => onLight(null), onFocusIn: () => onLight(image), onFocusOut: () => onLight(null) };
  return html`<figure class=${classes("picture-card", { near: image.near_copy })} ...${light}>
    <button type="button" class="picture-open" aria-label=${`Open: ${altOf(image)}`} onClick=${() => openLightbox(list, image.id)}>
      <${Thumbnail} src=${image.width <= 256 ? image.url : image.thumbnail} alt="" size=${512} />
    </button>
    ${image.near_copy && html`<${NearCopy} />`}
    <div class="picture-actions">
      <${StarButton} image=${image} />
      <${IconButton} name="download" label="Save as PNG" onClick=${() => saveImage(image)} />
    </div>
  </figure>`;
}
