// Filters from the columns there are: values to tick, or a least and a greatest number.
import { html } from "../../lib/html.js";
import { get, kbPath } from "../../lib/api.js";
import { count } from "../../lib/format.js";
import { useLoaded } from "../../lib/hooks.js";
import { useStore } from "../../lib/store.js";
import { Dialog } from "../../parts/dialog.js";
import { NumberField } from "../../parts/fields.js";
import { Bar, ErrorNote } from "../../parts/notices.js";
import { query } from "./query.js";

const NUMBER = /int|float|double|decimal|half/i;

export function Filters({ kb, version, onClose }) {
  const { data, error, loading } = useLoaded((signal) => get(kbPath(kb, "/columns"), { signal }), `${kb} ${version}`);
  const { filters } = useStore(query);
  // a text that every item has for itself, such as a file name, is nothing to filter by
  const divides = (column) => column.values.some((value) => value.count > 1) || NUMBER.test(column.type);
  const columns = (data?.columns ?? []).filter(divides);
  const set = (name, filter) => {
    const next = { ...filters, [name]: filter };
    if (!filter.values?.length && !Number.isFinite(filter.min) && !Number.isFinite(filter.max)) delete next[name];
    query.patch({ filters: next });
  };
  return html`<${Dialog} title="Filters" onClose=${onClose}>
    <div class="stack">
      <${ErrorNote} error=${error} />
      ${loading && !data && html`<${Bar} value=${null} label="Reading the columns" />`}
      ${data && !columns.length && html`<p>${kb} has no columns to filter by. Columns come with the pictures: from a table (parquet), or from the folders they lay in.</p>`}
      ${columns.map((column) =>
        column.values.length
          ? html`<${Values} key=${column.name} column=${column} filter=${filters[column.name] ?? {}} onFilter=${(filter) => set(column.name, filter)} />`
          : html`<${Bounds} key=${column.name} column=${column} filter=${filters[column.name] ?? {}} onFilter=${(filter) => set(column.name, filter)} />`,
      )}
      <div class="button-row end">
        <button type="button" onClick=${() => query.patch({ filters: {} })} disabled=${!Object.keys(filters).length}>Clear</button>
        <button type="button" class="primary" onClick=${onClose}>Done</button>
      </div>
    </div>
  <//>`;
}

function Values({ column, filter, onFilter }) {
  const chosen = filter.values ?? [];
  const toggle = (value) => onFilter({ values: chosen.includes(value) ? chosen.filter((other) => other !== value) : [...chosen, value] });
  return html`<fieldset class="values">
    <legend>${column.name}</legend>
    ${column.values.map(
      ({ value, count: n }) => html`<label key=${String(value)} class="value">
        <input type="checkbox" checked=${chosen.includes(value)} onChange=${() => toggle(value)} />
        <span>${String(value)}</span><span class="small">${count(n)}</span>
      </label>`,
    )}
    ${column.distinct > column.values.length && html`<p class="hint">The ${column.values.length} most frequent of ${count(column.distinct)}.</p>`}
  </fieldset>`;
}

function Bounds({ column, filter, onFilter }) {
  return html`<fieldset class="values">
    <legend>${column.name}</legend>
    <div class="field-row">
      <${NumberField} label="At least" value=${filter.min ?? null} step="any" placeholder=${String(column.min ?? "")} onValue=${(min) => onFilter({ ...filter, min: min ?? undefined })} />
      <${NumberField} label="At most" value=${filter.max ?? null} step="any" placeholder=${String(column.max ?? "")} onValue=${(max) => onFilter({ ...filter, max: max ?? undefined })} />
    </div>
  </fieldset>`;
}
