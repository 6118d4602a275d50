// The one place that knows the vendored libraries. Texts become text nodes; nothing here writes HTML.
import { h, render, Fragment } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export { render, Fragment };
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
export const html = htm.bind(h);

/** Joins the class names that hold: classes("cell", { lit: true }). */
export function classes(...parts) {
  const names = [];
  for (const part of parts) {
    if (typeof part === "string") names.push(part);
    else if (part) for (const [name, on] of Object.entries(part)) if (on) names.push(name);
  }
  return names.join(" ");
}
