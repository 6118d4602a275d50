// What is searched for: words, pictures, filters. Kept while other views are open.
import { createStore } from "../../lib/store.js";
import { whereOf } from "../../lib/where.js";

/** pictures: [{ key, label, url, term: { upload } | { item }, weight }] */
export const query = createStore({ text: "", pictures: [], filters: {} });

export const addPicture = (picture) =>
  query.set((now) => ({ ...now, pictures: [...now.pictures.filter((other) => other.key !== picture.key), picture] }));

export const clearQuery = () => query.set({ text: "", pictures: [], filters: {} });

export const FIRST = 200;
export const MOST = 2000;

/** The body of a search, or null where nothing but filters (or nothing) was given. */
export function searchBody({ text, pictures, filters }) {
  const where = whereOf(filters);
  const { positive, negative } = splitWords(text);
  if (!positive && !negative.length && !pictures.length) return null;
  if (positive && !negative.length && !pictures.length) return { text: positive, where };
  if (!positive && !pictures.length) return null; // "-green" alone: nothing to look for yet
  const mix = pictures.map(({ term, weight }) => ({ ...term, weight }));
  if (positive) mix.unshift({ text: positive, weight: 1 });
  for (const word of negative) mix.push({ text: word, weight: -0.5 });
  return { mix, where };
}

/** "apple -green" -> looks for apple, away from green. */
function splitWords(text) {
  const words = text.trim().split(/\s+/).filter(Boolean);
  const negative = words.filter((word) => word.length > 1 && word.startsWith("-")).map((word) => word.slice(1));
  return { positive: words.filter((word) => !word.startsWith("-")).join(" "), negative };
}
