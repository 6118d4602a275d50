// What the draft would be generated from, found again while someone types.
import { useEffect } from "../../lib/html.js";
import { post, kbPath } from "../../lib/api.js";
import { useLoaded, useSettled } from "../../lib/hooks.js";
import { refreshModels } from "../../lib/server.js";
import { readsPhrases, usualK } from "./request.js";

/** -> { neighbors: [{ key, item | upload, weight, score, pinned }], loading, error } */
export function useNeighbors({ kb, draft, model }) {
  const uploads = draft.pinned.filter((entry) => entry.upload);
  const items = draft.pinned.filter((entry) => entry.item);
  const prompt = draft.prompt.trim();
  const k = usualK(draft, model);
  // weights are left out: they change how much a neighbor counts, not which ones there are
  const body = JSON.stringify({
    prompt,
    model: draft.model,
    k: Math.max(1, k - uploads.length),
    search_mode: draft.searchMode,
    ...(draft.rerank ? { rerank: draft.rerank } : {}),
    where: draft.where.trim() || null,
    ...(readsPhrases(draft, model) ? { phrases: "rules", k: null } : {}),
    pinned: items.map((entry) => ({ item: entry.item.id })),
    removed: draft.removed.map((item) => item.id),
  });
  const settled = useSettled(body, 220);
  const asks = Boolean(prompt) && Boolean(kb) && uploads.length < k;
  const ready = asks && Boolean(JSON.parse(settled).prompt); // a prompt that has just begun is not settled yet
  const found = useLoaded((signal) => post(kbPath(kb, "/neighbors"), JSON.parse(settled), { signal }), ready ? `${kb} ${settled}` : null);

  // looking for neighbors opens the model, after which it is known what it can do
  useEffect(() => {
    if (found.data && !model?.capabilities) refreshModels().catch(() => {}); // the status says when the server is away
  }, [found.data]);

  const neighbors = draft.pinned.map((entry) => ({ ...entry, pinned: true, score: scoreOf(found.data, entry) }));
  if (asks && found.data) {
    const known = new Set([...neighbors.map((entry) => entry.key), ...draft.removed.map((item) => `item:${item.id}`)]);
    for (const { item, score, weight, phrase } of found.data.neighbors) {
      const key = `item:${item.id}`;
      if ((phrase || neighbors.length < k) && !known.has(key)) neighbors.push({ key, item, score, phrase, weight: weight ?? 1, pinned: false });
    }
  }
  return { neighbors, loading: asks && (found.loading || settled !== body), error: asks ? found.error : null };
}

const scoreOf = (data, entry) => data?.neighbors.find((neighbor) => entry.item && neighbor.item.id === entry.item.id)?.score ?? null;
