// What the server says of itself: status, knowledge bases, models. Asked at the start and now and then.
import { get } from "./api.js";
import { createKeptStore, createStore } from "./store.js";

export const server = createStore({ status: null, bases: [], models: [], error: null, loaded: false });

/** The knowledge base that all views use; kept, so that tomorrow opens with it. */
export const chosen = createKeptStore("bowerbird.kb", { kb: null });

const SILENT = { prompt: 4000, images: 16, edge: 2048, steps: 200, k: 64, files: 1000, upload_bytes: 5e8 };

export const limits = (state) => state.status?.limits ?? SILENT;
export const currentBase = (state, kb) => state.bases.find((base) => base.id === kb) ?? null;
export const modelOf = (state, id) => state.models.find((model) => model.id === id) ?? null;

export async function loadServer() {
  try {
    const [status, { knowledge_bases: bases }, { models }] = await Promise.all([
      get("/api/status"),
      get("/api/knowledge-bases"),
      get("/api/models"),
    ]);
    server.set({ status, bases, models, error: null, loaded: true });
    if (!bases.some((base) => base.id === chosen.get().kb)) chosen.set({ kb: bases[0]?.id ?? null });
  } catch (error) {
    server.patch({ error, loaded: true });
  }
}

export async function refreshBases() {
  const { knowledge_bases: bases } = await get("/api/knowledge-bases");
  server.patch({ bases });
}

export async function refreshModels() {
  server.patch({ models: (await get("/api/models")).models });
}

/** Asks for the status again; what fails shows as a banner until the server answers. */
export async function refreshStatus() {
  const wasAway = server.get().error;
  try {
    server.patch({ status: await get("/api/status"), error: null });
    if (wasAway) await loadServer();
  } catch (error) {
    server.patch({ error });
  }
}

export function watchStatus() {
  let timer;
  const tick = async () => {
    if (!document.hidden) await refreshStatus();
    const { status, error } = server.get();
    const calm = !error && !status?.queue?.running && status?.workers?.every((worker) => worker.state === "ready");
    timer = setTimeout(tick, calm ? 15000 : 3000);
  };
  timer = setTimeout(tick, 3000);
  return () => clearTimeout(timer);
}
