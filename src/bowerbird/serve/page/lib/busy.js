// Counts what is under way, for the bar at the top that appears after half a second.
import { createStore } from "./store.js";

export const slow = createStore(0);

export async function countIfSlow(promise) {
  let counted = false;
  const timer = setTimeout(() => {
    counted = true;
    slow.set((n) => n + 1);
  }, 400);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    if (counted) slow.set((n) => n - 1);
  }
}
