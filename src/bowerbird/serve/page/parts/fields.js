// Labeled inputs. An error of the server that names a field is shown at that field.
import { html, useState } from "../lib/html.js";

let next = 1;
const useId = () => useState(() => `field-${next++}`)[0];

function Field({ label, hint, error, children }) {
  const id = useId();
  return html`<div class=${error ? "field wrong" : "field"}>
    <label for=${id}>${label}</label>
    ${children({ id, "aria-invalid": error ? "true" : undefined, "aria-describedby": hint || error ? `${id}-hint` : undefined })}
    ${(error || hint) && html`<p class="hint" id=${`${id}-hint`}>${error || hint}</p>`}
  </div>`;
}

/** A number, or null where empty is allowed and means "as the model has it". */
export function NumberField({ label, value, onValue, min, max, step = 1, placeholder = "", hint, error }) {
  const change = (event) => onValue(event.target.value === "" ? null : Number(event.target.value));
  return html`<${Field} label=${label} hint=${hint} error=${error}>
    ${(field) => html`<input type="number" inputmode="decimal" ...${field} value=${value ?? ""} min=${min} max=${max} step=${step} placeholder=${placeholder} onInput=${change} />`}
  <//>`;
}

export function TextField({ label, value, onValue, placeholder = "", hint, error, type = "text", ...rest }) {
  return html`<${Field} label=${label} hint=${hint} error=${error}>
    ${(field) => html`<input type=${type} ...${field} value=${value} placeholder=${placeholder} autocomplete="off" onInput=${(event) => onValue(event.target.value)} ...${rest} />`}
  <//>`;
}

/** options: [{ value, label }] */
export function SelectField({ label, value, onValue, options, hint, error }) {
  return html`<${Field} label=${label} hint=${hint} error=${error}>
    ${(field) => html`<select ...${field} value=${value ?? ""} onChange=${(event) => onValue(event.target.value || null)}>
      ${options.map((option) => html`<option key=${option.value} value=${option.value ?? ""} selected=${(option.value ?? "") === (value ?? "")}>${option.label}</option>`)}
    </select>`}
  <//>`;
}

export function RangeField({ label, value, onValue, min, max, step, shown }) {
  return html`<${Field} label=${label}>
    ${(field) => html`<div class="range">
      <input type="range" ...${field} min=${min} max=${max} step=${step} value=${value} onInput=${(event) => onValue(Number(event.target.value))} />
      <output for=${field.id}>${shown ?? value}</output>
    </div>`}
  <//>`;
}

export function Check({ label, checked, onValue, hint }) {
  return html`<label class="check">
    <input type="checkbox" checked=${checked} onChange=${(event) => onValue(event.target.checked)} />
    <span>${label}${hint && html`<span class="hint">${hint}</span>`}</span>
  </label>`;
}

/** A choice of a few, side by side. */
export function Segments({ label, value, onValue, options }) {
  const name = useId();
  return html`<fieldset class="segments">
    <legend class="visually-hidden">${label}</legend>
    ${options.map(
      (option) => html`<label key=${option.value} title=${option.title}>
        <input type="radio" name=${name} checked=${option.value === value} onChange=${() => onValue(option.value)} />
        <span>${option.label}</span>
      </label>`,
    )}
  </fieldset>`;
}

const NARROW = "(max-width: 720px)";

/** Settings below a form's button: always open where there is room, folded on a phone, where pictures come first. */
export function Settings({ children }) {
  const [open, setOpen] = useState(!matchMedia(NARROW).matches);
  return html`<details class="settings" open=${open} onToggle=${(event) => setOpen(event.target.open)}>
    <summary>Settings</summary>
    <div class="settings-body">${children}</div>
  </details>`;
}
