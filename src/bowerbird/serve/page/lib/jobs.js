// Jobs: submitted, followed to their end, cancelled. One event stream at a time (browsers open six connections to a
// server, and each stream holds one); the other jobs, which only wait, are asked after every second.
import { get, post, remove } from "./api.js";
import { at } from "./root.js";
import { createStore } from "./store.js";

export const jobs = createStore([]); // newest first; each as the server sends it, with `previews` beside it

const ACTIVE = new Set(["queued", "running"]);
export const isActive = (job) => ACTIVE.has(job.state);
export const activeCount = (list) => list.filter(isActive).length;

const waiting = new Map(); // job id -> functions to call at its end
let stream = null; // { id, source }
let poll = null;

export async function loadJobs() {
  const { jobs: list } = await get("/api/jobs", { query: { limit: 50 } });
  for (const job of list.toReversed()) keep(job);
}

/** Posts a job and follows it; the answer is the job as queued. */
export async function submit(path, body) {
  const job = await post(path, body);
  keep(job);
  return job;
}

/** Resolves with the job when it has ended, however it ended. */
export function finished(job) {
  if (!isActive(job)) return Promise.resolve(job);
  keep(job);
  return new Promise((resolve) => waiting.set(job.id, [...(waiting.get(job.id) ?? []), resolve]));
}

export async function cancel(job) {
  keep(await remove(`/api/jobs/${job.id}`));
}

/** Takes a job off the list here; the server keeps it. */
export const hide = (job) => jobs.set((list) => list.filter((other) => other.id !== job.id));

/** Changes an image wherever a job shows it. */
export function updateImages(change) {
  jobs.set((list) => list.map((job) => (job.images ? { ...job, images: change(job.images, job) } : job)));
}

function keep(job) {
  jobs.set((list) => {
    const at = list.findIndex((other) => other.id === job.id);
    if (at < 0) return [{ previews: {}, ...job }, ...list];
    const before = list[at];
    if (!isActive(before) && isActive(job)) return list; // a late answer about a job that has ended
    const next = [...list];
    next[at] = { ...before, ...job };
    return next;
  });
  if (!isActive(job)) {
    for (const resolve of waiting.get(job.id) ?? []) resolve(job);
    waiting.delete(job.id);
  }
  follow();
}

const change = (id, part) => jobs.set((list) => list.map((job) => (job.id === id ? { ...job, ...part(job) } : job)));

function follow() {
  const active = jobs.get().filter(isActive);
  if (stream && !active.some((job) => job.id === stream.id)) {
    stream.source.close();
    stream = null;
  }
  const first = active.findLast((job) => job.state === "running") ?? active.at(-1);
  if (!stream && first) stream = { id: first.id, source: listen(first.id) };
  if (active.length && !poll) poll = setInterval(askAgain, 1000);
  if (!active.length && poll) {
    clearInterval(poll);
    poll = null;
  }
}

async function askAgain() {
  for (const job of jobs.get().filter(isActive)) {
    const lost = stream?.id === job.id && stream.source.readyState === EventSource.CLOSED;
    if (stream?.id === job.id && !lost) continue;
    if (lost) stream = null;
    try {
      keep(await get(`/api/jobs/${job.id}`));
    } catch (error) {
      if (error.status === 404) keep({ ...job, state: "interrupted", error: { message: "The server no longer knows this job." } });
    }
  }
}

function listen(id) {
  const source = new EventSource(at(`/api/jobs/${encodeURIComponent(id)}/events`));
  const on = (name, act) => source.addEventListener(name, (event) => act(JSON.parse(event.data)));
  on("queued", ({ position }) => change(id, () => ({ state: "queued", position })));
  on("started", () => change(id, () => ({ state: "running", position: null })));
  on("progress", (progress) => change(id, () => ({ state: "running", progress })));
  on("step", ({ step, steps, batch = 1, batches = 1 }) =>
    change(id, () => ({
      state: "running",
      progress: { done: (batch - 1) * steps + step, total: batches * steps, stage: "steps" },
    })),
  );
  on("preview", ({ index, image }) => {
    if (!String(image).startsWith("data:image/")) return;
    change(id, (job) => ({ previews: { ...job.previews, [index]: image } }));
  });
  for (const end of ["done", "failed", "cancelled", "interrupted"]) on(end, keep);
  return source;
}
