// Conditions in SQL from the filters that were chosen. A quote inside a text is doubled.
const text = (value) => `'${String(value).replaceAll("'", "''")}'`;
const name = (column) => (/^[a-z_][a-z0-9_]*$/.test(column) ? column : `\`${column.replaceAll("`", "")}\``);
const literal = (value) => (typeof value === "string" ? text(value) : String(value));

/** filters: { column: { values: [...] } | { min, max } } -> a condition, or null for none. */
export function whereOf(filters) {
  const parts = [];
  for (const [column, filter] of Object.entries(filters)) {
    if (filter.values?.length === 1) parts.push(`${name(column)} = ${literal(filter.values[0])}`);
    else if (filter.values?.length) parts.push(`${name(column)} IN (${filter.values.map(literal).join(", ")})`);
    if (Number.isFinite(filter.min)) parts.push(`${name(column)} >= ${filter.min}`);
    if (Number.isFinite(filter.max)) parts.push(`${name(column)} <= ${filter.max}`);
  }
  return parts.length ? parts.join(" AND ") : null;
}

/** The filters one by one, to show each as a chip that can be taken off. */
export function filterList(filters) {
  const list = [];
  for (const [column, filter] of Object.entries(filters)) {
    for (const value of filter.values ?? []) list.push({ column, value, label: `${column}: ${value}` });
    if (Number.isFinite(filter.min)) list.push({ column, bound: "min", label: `${column} ≥ ${filter.min}` });
    if (Number.isFinite(filter.max)) list.push({ column, bound: "max", label: `${column} ≤ ${filter.max}` });
  }
  return list;
}

export function withoutFilter(filters, { column, value, bound }) {
  const filter = { ...filters[column] };
  if (bound) delete filter[bound];
  else filter.values = filter.values.filter((other) => other !== value);
  const rest = { ...filters, [column]: filter };
  if (!filter.values?.length && !Number.isFinite(filter.min) && !Number.isFinite(filter.max)) delete rest[column];
  return rest;
}
