// One picture of the server, loaded when it comes near; until then, and if it fails, its place stays.
import { html, useState } from "../lib/html.js";

/** Only addresses of our own server are shown, whatever an answer holds. */
export const ownAddress = (url) => (typeof url === "string" && /^\/(?!\/)/.test(url) ? url : null);

export function Thumbnail({ src, alt, size = 256, eager = false }) {
  const [failed, setFailed] = useState(null);
  const own = ownAddress(src);
  if (!own || failed === src) return html`<span class="thumb missing" role="img" aria-label=${`${alt || "Picture"}: not available`}></span>`;
  const address = own.includes("/thumbnail") ? `${own}?size=${size}` : own;
  return html`<img
    class="thumb"
    src=${address}
    alt=${alt}
    loading=${eager ? "eager" : "lazy"}
    decoding="async"
    draggable="false"
    onError=${() => setFailed(src)}
  />`;
}
