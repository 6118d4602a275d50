// What a view says instead of pictures: an error where it happened, an empty state with the next step, progress.
import { html } from "../lib/html.js";
import { seconds } from "../lib/format.js";
import { Icon } from "./icon.js";

export function ErrorNote({ error, onRetry = null }) {
  if (!error) return null;
  return html`<div class="note error" role="alert">
    <${Icon} name="warning" />
    <div>
      <p>${error.message}</p>
      ${error.requestId && html`<p class="small">Request ${error.requestId}</p>`}
    </div>
    ${onRetry && html`<button type="button" onClick=${onRetry}>Try again</button>`}
  </div>`;
}

export function Empty({ icon, title, children }) {
  return html`<div class="empty">
    <span class="empty-icon"><${Icon} name=${icon} /></span>
    <h2>${title}</h2>
    ${children}
  </div>`;
}

const STAGES = { steps: "Step", load: "Loading the model", preview: "Step" };

export function stageText(job) {
  if (job.state === "queued") return job.position > 1 ? `Waiting, ${job.position - 1} before it` : "Waiting for its turn";
  const { done = 0, total = 0, stage } = job.progress ?? {};
  if (!done || !total) return stage && stage !== "steps" ? `${STAGES[stage] ?? stage}…` : "Starting…";
  const word = STAGES[stage] ?? (stage ? stage[0].toUpperCase() + stage.slice(1) : "Done");
  return `${word} ${done} of ${total}`;
}

/** Brings the run that has just begun into sight: with open settings on a phone, or a list that was scrolled, it is not. */
export const showNewest = () => requestAnimationFrame(() => document.querySelector(".runs .run")?.scrollIntoView({ block: "nearest" }));

/** A bar for a job under way, with what it does now and a way to stop it. */
export function JobProgress({ job, onCancel }) {
  const { done = 0, total = 0 } = job.progress ?? {};
  const known = job.state === "running" && total > 0 && done > 0;
  return html`<div class="job-progress">
    <${Bar} value=${known ? done / total : null} label=${stageText(job)} />
    <span class="small">${stageText(job)}</span>
    ${onCancel && html`<button type="button" class="small-button" onClick=${onCancel}>Cancel</button>`}
  </div>`;
}

/** value: 0 to 1, or null while nobody knows. */
export function Bar({ value, label }) {
  return value === null
    ? html`<progress aria-label=${label}></progress>`
    : html`<progress aria-label=${label} max="1" value=${value}></progress>`;
}

const ENDS = {
  cancelled: "Cancelled.",
  interrupted: "Interrupted: the server ended before it was done.",
};

/** How a job ended, where that was not well, and what it noted. */
export function JobEnd({ job, onRetry }) {
  if (job.state === "failed") return html`<${ErrorNote} error=${job.error ?? { message: "The job failed." }} onRetry=${onRetry} />`;
  if (ENDS[job.state]) {
    return html`<div class="note">
      <p>${ENDS[job.state]}</p>
      ${onRetry && html`<button type="button" onClick=${onRetry}>Try again</button>`}
    </div>`;
  }
  return null;
}

export const jobSeconds = (job) => (job.finished && job.started ? seconds(Math.max(0, job.finished - job.started)) : "");
