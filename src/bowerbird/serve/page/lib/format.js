// Numbers and times as people read them.
const whole = new Intl.NumberFormat("en");

export const count = (n) => whole.format(n);
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
/** Scores of a search that fuses ranks stay below this, and say nothing to a reader. */
const FUSED = 0.04;
/** The score of a neighbor, where it is one of likeness. */
export const likeness = (value) => (Math.abs(value ?? 0) < FUSED ? "" : score(value));
/** Cosines have two digits; small scores have three. */
export const score = (value) => (value === null || value === undefined ? "" : value.toFixed(Math.abs(value) < 0.1 ? 3 : 2));


export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (n >= 1000 && at < units.length - 1) {
    n /= 1000;
    at += 1;
  }
  return `${n < 10 && at ? n.toFixed(1) : Math.round(n)} ${units[at]}`;
}

export function seconds(s) {
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
}

export function when(unix) {
  const date = new Date(unix * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false });
  return today ? time : `${date.toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" })}, ${time}`;
}

/** A value of a record's metadata in words. */
export function plain(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
