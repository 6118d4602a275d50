// Marks on a picture that was made here.
import { html } from "../lib/html.js";
import { star } from "../lib/images.js";
import { Icon, IconButton } from "./icon.js";
import { toastError } from "./toast.js";

export function NearCopy() {
  return html`<span class="badge warn" title="It is nearly one of the pictures it was generated from"><${Icon} name="warning" />Near copy</span>`;
}

export function StarButton({ image, onStarred }) {
  return html`<${IconButton}
    name="star"
    class=${image.starred ? "starred" : ""}
    label=${image.starred ? "Take the star off" : "Star"}
    aria-pressed=${image.starred ? "true" : "false"}
    onClick=${() => star(image).then(onStarred, toastError)}
  />`;
}
