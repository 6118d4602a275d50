// Before, after and their difference under one slider: 0 is before, 1 after (a line wipes across), 2 the difference.
import { html, useRef, useState } from "../lib/html.js";

const STOPS = [
  { value: 0, label: "Before" },
  { value: 1, label: "After" },
  { value: 2, label: "Difference" },
];

export function CompareSlider({ before, after, alt }) {
  const [at, setAt] = useState(0.5);
  const stage = useRef();
  const wipe = Math.min(1, at);
  const difference = Math.max(0, at - 1);
  const drag = (event) => {
    if (event.buttons !== 1 || at > 1) return;
    const box = stage.current.getBoundingClientRect();
    setAt(Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)));
  };
  return html`<div class="compare">
    <div class="compare-stage" ref=${stage} onPointerDown=${drag} onPointerMove=${drag}>
      <img src=${before} alt=${`Before: ${alt}`} draggable="false" />
      <img src=${after} alt=${`After: ${alt}`} draggable="false" style=${{ clipPath: `inset(0 ${(1 - wipe) * 100}% 0 0)` }} />
      ${at > 0 && at < 1 && html`<span class="compare-line" style=${{ left: `${wipe * 100}%` }}></span>`}
      ${difference > 0 &&
      html`<div class="compare-difference" style=${{ opacity: String(difference) }}>
        <img src=${before} alt="" draggable="false" />
        <img class="over" src=${after} alt="" draggable="false" />
      </div>`}
    </div>
    <input type="range" min="0" max="2" step="0.01" value=${at} aria-label="Before, after, difference" aria-valuetext=${textOf(at)} onInput=${(event) => setAt(Number(event.target.value))} />
    <div class="compare-stops">
      ${STOPS.map(({ value, label }) => html`<button key=${value} type="button" aria-pressed=${at === value ? "true" : "false"} onClick=${() => setAt(value)}>${label}</button>`)}
    </div>
  </div>`;
}

function textOf(at) {
  if (at <= 1) return at === 0 ? "before" : at === 1 ? "after" : `after, from the left, ${Math.round(at * 100)} %`;
  return `difference, ${Math.round((at - 1) * 100)} %`;
}
