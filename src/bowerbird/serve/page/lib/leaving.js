// Pictures that a person deleted a moment ago: out of sight at once, and gone for good when an undo can no more come.
import { remove } from "./api.js";
import { at } from "./root.js";
import { jobs, updateImages } from "./jobs.js";
import { createStore } from "./store.js";

/** How long the message with its undo stays; see parts/toast.js. */
const UNDO_MS = 20000;

/** Ids that views leave out. */
export const leaving = createStore(new Set());
const pending = new Set(); // ids that the server still has

/** Takes pictures out of sight; deletes them later, or when the page is left. -> what brings them back */
export function leave(images, onError) {
  const ids = new Set(images.map((image) => image.id));
  const before = new Map(jobs.get().map((job) => [job.id, job.images ?? []]));
  leaving.set((all) => new Set([...all, ...ids]));
  updateImages((list) => list.filter((image) => !ids.has(image.id)));
  const back = () => {
    clearTimeout(timer);
    for (const id of ids) pending.delete(id);
    leaving.set((all) => new Set([...all].filter((id) => !ids.has(id))));
    updateImages((list, job) => {
      const now = new Map(list.map((image) => [image.id, image]));
      return (before.get(job.id) ?? list).filter(({ id }) => ids.has(id) || now.has(id)).map((image) => now.get(image.id) ?? image);
    });
  };
  const forget = async () => {
    for (const id of ids) {
      if (!pending.delete(id)) continue;
      await remove(`/api/images/${id}`).catch((error) => {
        if (error.status !== 404) onError(error); // another tab may have done it
      });
    }
  };
  for (const id of ids) pending.add(id);
  const timer = setTimeout(forget, UNDO_MS);
  return back;
}

// who closes the page meant it: these requests outlive it
window.addEventListener("pagehide", () => {
  for (const id of pending) fetch(at(`/api/images/${id}`), { method: "DELETE", credentials: "same-origin", keepalive: true });
  pending.clear();
});
