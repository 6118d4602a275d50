// Line icons, 20 by 20. They say nothing to a screen reader: the button around them has the name.
import { html } from "../lib/html.js";

const PATHS = {
  search: "M9 3.5a5.5 5.5 0 1 1 0 11 5.5 5.5 0 0 1 0-11M13 13l4 4",
  plus: "M10 4v12M4 10h12",
  close: "M5 5l10 10M15 5L5 15",
  pin: "M7 3h6l-1 6 3 3H5l3-3zM10 12v5",
  star: "M10 2.8l2.2 4.7 5.1.6-3.8 3.5 1 5.1-4.5-2.6-4.5 2.6 1-5.1L2.7 8.1l5.1-.6z",
  download: "M10 3v9M6 8.5l4 4 4-4M4 16.5h12",
  trash: "M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6M8.5 9v4.5M11.5 9v4.5",
  sun: "M10 6.5a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7M10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M4.3 15.7l1.1-1.1M14.6 5.4l1.1-1.1",
  moon: "M16 12.2A6.7 6.7 0 0 1 7.8 4 6.7 6.7 0 1 0 16 12.2z",
  grid: "M3.5 3.5h5v5h-5zM11.5 3.5h5v5h-5zM3.5 11.5h5v5h-5zM11.5 11.5h5v5h-5z",
  spark: "M10 2.5l1.7 5.8 5.8 1.7-5.8 1.7L10 17.5l-1.7-5.8L2.5 10l5.8-1.7z",
  edit: "M4 16l.8-3.5L13.5 3.8l2.7 2.7-8.7 8.7zM11.8 5.5l2.7 2.7",
  clock: "M10 3a7 7 0 1 1 0 14 7 7 0 0 1 0-14M10 6v4l2.7 2",
  cube: "M10 2.5l6.5 3.7v7.6L10 17.5l-6.5-3.7V6.2zM3.5 6.2L10 10l6.5-3.8M10 10v7.5",
  left: "M12.5 4l-6 6 6 6",
  right: "M7.5 4l6 6-6 6",
  dice: "M4 4h12v12H4zM7.3 7.3h.01M12.7 7.3h.01M10 10h.01M7.3 12.7h.01M12.7 12.7h.01",
  again: "M15.5 8A6 6 0 1 0 16 11M16 4v4h-4",
  filter: "M3 5h14M6 10h8M8.5 15h3",
  info: "M10 3a7 7 0 1 1 0 14 7 7 0 0 1 0-14M10 9v4.5M10 6.5h.01",
  warning: "M10 3l7.5 13.5h-15zM10 8v4M10 14.2h.01",
  check: "M4 10.5l4 4 8-9",
  upload: "M10 13V4M6 7.5l4-4 4 4M4 16.5h12",
  folder: "M3 5.5h5l1.5 2H17v8H3z",
  keyboard: "M2.5 5.5h15v9h-15zM5.5 8.5h.01M8.5 8.5h.01M11.5 8.5h.01M14.5 8.5h.01M6.5 11.5h7",
};

export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false"><path d=${PATHS[name]} /></svg>`;
}

/** A button that is only an icon: its name is read out and shown as a tip. */
export function IconButton({ name, label, class: extra = "", ...rest }) {
  return html`<button type="button" class=${`icon-button ${extra}`} aria-label=${label} title=${label} ...${rest}>
    <${Icon} name=${name} />
  </button>`;
}
