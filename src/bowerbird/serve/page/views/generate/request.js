// From the draft to what is sent to the server.
const numbers = (text) =>
  text
    .split(/[,;\s]+/)
    .filter(Boolean)
    .map(Number)
    .filter(Number.isFinite);

export const MOST_VARIANTS = 25;

export function gridAxes(draft) {
  return { ks: [...new Set(numbers(draft.gridK))], values: [...new Set(numbers(draft.gridValues))] };
}

/** How many neighbors are looked for: a grid needs as many as its largest k. */
export function usualK(draft, model) {
  if (draft.how === "grid") return Math.max(1, ...gridAxes(draft).ks);
  return draft.k ?? model?.defaults?.k ?? 4;
}

export const isChanged = (draft) => draft.pinned.length > 0 || draft.removed.length > 0;
export const usesChosen = isChanged;
export const canGenerate = (draft) => Boolean(draft.prompt.trim()) || draft.pinned.length > 0;

/** Whether a model balances text and neighbors; one that was not opened yet may. */
export const readsText = (model) => model?.capabilities?.reads_text ?? true;
/** Whether the model draws tokens one by one, a token a step: there are no steps to choose, and no sampler. */
export const drawsTokens = (model) => Boolean(model?.capabilities?.samples_tokens);
/** Whether the model is somebody else's base, which reads neighbors as references. */
export const takesReferences = (model) => Boolean(model?.capabilities?.takes_references);
/** Chosen neighbors are what is used, whatever phrases there are. */
export const readsPhrases = (draft, model) => takesReferences(model) && draft.byPhrase && !usesChosen(draft);

function edgesOf({ size }) {
  const [width, height] = (size ?? "").split("x").map(Number);
  return size ? { width, height } : {};
}

const referencesOf = (draft, model) =>
  takesReferences(model)
    ? { scale: draft.scale, negative_prompt: draft.negative.trim() || null, phrases: readsPhrases(draft, model) ? "rules" : null }
    : { text_ratio: readsText(model) ? draft.textRatio : null };

/** neighbors: as shown in the row. -> { path, body } */
export function requestOf(draft, { kb, model, neighbors }) {
  const chosen = usesChosen(draft) ? neighbors.map(neighborTerm) : null;
  const body = withoutNulls({
    prompt: draft.prompt.trim() || null,
    model: draft.model,
    knowledge_base: kb,
    n: draft.n,
    k: draft.k,
    steps: drawsTokens(model) ? null : draft.steps,
    guidance_scale: draft.guidance,
    ...referencesOf(draft, model),
    sampler: drawsTokens(model) ? null : draft.sampler,
    ...edgesOf(draft),
    search_mode: draft.searchMode,
    rerank: draft.rerank,
    where: draft.where.trim() || null,
    neighbors: chosen,
  });
  body.seed = draft.seed; // null: the server draws one
  if (draft.how === "sides") return compare(body, [{ label: "With neighbors" }, { label: "Without", retrieval: false }]);
  if (draft.how === "grid") return compare({ ...body, n: 1 }, gridVariants(draft, chosen));
  return { path: "/api/generate", body };
}

const compare = (request, variants) => ({ path: "/api/compare", body: { request, variants } });

/** chosen: where the row was changed, each picture gets the first k of it. */
function gridVariants(draft, chosen) {
  const { ks, values } = gridAxes(draft);
  const variants = [];
  for (const value of values) {
    for (const k of ks) {
      variants.push({ label: `k ${k}, ${NAMES[draft.gridBy]} ${value}`, k, [draft.gridBy]: value, ...(chosen ? { neighbors: chosen.slice(0, k) } : {}) });
    }
  }
  return variants;
}

export const NAMES = { guidance_scale: "guidance", text_ratio: "text ratio" };

function neighborTerm({ item, upload, weight }) {
  return item ? { item: item.id, weight } : withoutNulls({ upload: upload.id, weight, caption: upload.caption || null });
}

const withoutNulls = (object) => Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null && value !== undefined));

/** The axes of a comparison as they can be read from its variants: a table where both vary, else a row each. */
export function axesOf(variants) {
  const by = Object.keys(NAMES).find((key) => variants.every((variant) => Number.isFinite(variant[key])));
  if (!by || !variants.every((variant) => Number.isFinite(variant.k))) return null;
  const ks = [...new Set(variants.map((variant) => variant.k))];
  const values = [...new Set(variants.map((variant) => variant[by]))];
  const at = (k, value) => variants.findIndex((variant) => variant.k === k && variant[by] === value);
  return { by, ks, values, at };
}
