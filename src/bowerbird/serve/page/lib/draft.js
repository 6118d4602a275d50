// What is being prepared in Generate: kept in the browser, so that a closed tab loses nothing.
import { createKeptStore } from "./store.js";
import { go } from "./router.js";

const INITIAL = {
  prompt: "",
  model: null, // null: the server's own
  n: 4,
  seed: null, // null: another one each time
  k: null,
  steps: null,
  guidance: null,
  textRatio: null,
  sampler: null,
  size: null, // "128x64", width first
  searchMode: null,
  rerank: null,
  where: "",
  scale: null, // of a base model of diffusers: how strongly it attends to its references
  negative: "",
  byPhrase: false, // a reference for each phrase of the prompt
  pinned: [], // { key, weight, item } or { key, weight, upload: { id, url, caption } }
  removed: [], // items taken away
  how: "plain", // or "sides" (with and without retrieval), or "grid" (X/Y)
  gridK: "1, 2, 4",
  gridBy: "guidance_scale",
  gridValues: "1, 3, 5",
};

export const draft = createKeptStore("bowerbird.draft", INITIAL);

export const pinnedItem = (item, weight = 1) => ({ key: `item:${item.id}`, weight, item });
export const pinnedUpload = (upload, caption, weight = 1) => ({ key: `upload:${upload.id}`, weight, upload: { ...upload, caption } });

export function pin(entry) {
  draft.set((now) => ({
    ...now,
    pinned: [...now.pinned.filter((other) => other.key !== entry.key), entry],
    removed: now.removed.filter((item) => `item:${item.id}` !== entry.key),
  }));
}

export const unpin = (key) => draft.set((now) => ({ ...now, pinned: now.pinned.filter((entry) => entry.key !== key) }));

export function setWeight(neighbor, weight) {
  draft.set((now) => {
    const entry = { key: neighbor.key, weight, item: neighbor.item, upload: neighbor.upload };
    const known = now.pinned.some((other) => other.key === entry.key);
    // a weight is the user's word, so what gets one stays
    return { ...now, pinned: known ? now.pinned.map((other) => (other.key === entry.key ? entry : other)) : [...now.pinned, entry] };
  });
}

export function takeAway(neighbor) {
  draft.set((now) => ({
    ...now,
    pinned: now.pinned.filter((entry) => entry.key !== neighbor.key),
    removed: neighbor.item ? [...now.removed.filter((item) => item.id !== neighbor.item.id), neighbor.item] : now.removed,
  }));
}

export const forgetChanges = () => draft.patch({ pinned: [], removed: [] });

/** Puts a request of the API into the draft; `neighbors` are entries of `pinned`. */
export function fillDraft(request, neighbors) {
  draft.patch({
    prompt: request.prompt ?? "",
    model: request.model ?? null,
    n: request.n ?? 1,
    seed: request.seed ?? null,
    k: request.k ?? (neighbors.length || null),
    steps: request.steps ?? null,
    guidance: request.guidance_scale ?? null,
    textRatio: request.text_ratio ?? null,
    sampler: request.sampler ?? null,
    size: request.width && request.height ? `${request.width}x${request.height}` : null,
    searchMode: request.search_mode ?? null,
    rerank: request.rerank && request.rerank !== "auto" ? request.rerank : null,
    where: request.where ?? "",
    scale: request.scale ?? null,
    negative: request.negative_prompt ?? "",
    byPhrase: Boolean(request.phrases),
    pinned: neighbors,
    removed: [],
    how: "plain",
  });
  go("generate");
}
