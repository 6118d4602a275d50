// Adding files: in batches the server takes, each an upload and then a job, with one report at the end.
import { kbPath, uploadForm } from "../../lib/api.js";
import { sortFiles, stemOf } from "../../lib/files.js";
import { finished } from "../../lib/jobs.js";

const BATCH_BYTES = 200e6;

/** The batches that `files` are sent in: archives alone, pictures as many as the server takes at once. */
export function batchesOf(files, limits) {
  const { pictures, archives, captions, others } = sortFiles(files);
  const room = Math.min(BATCH_BYTES, limits.upload_bytes);
  const batches = archives.map((file) => [file]);
  let batch = [];
  let size = 0;
  for (const file of pictures) {
    if (batch.length >= limits.files || (batch.length && size + file.size > room)) {
      batches.push(batch);
      batch = [];
      size = 0;
    }
    batch.push(file);
    size += file.size;
  }
  if (batch.length) batches.push(batch);
  return { batches, captions, others, pictures, archives };
}

/**
 * Sends everything; onProgress({ share, text, job }) as it goes. A batch that fails ends the adding: what was added
 * before it stays and is in the report, whose `error` says the rest.
 */
export async function addFiles(kb, files, { limits, dedup, captionColumn, signal, onProgress }) {
  const { batches, captions, others } = batchesOf(files, limits);
  const report = emptyReport(others);
  for (const [at, batch] of batches.entries()) {
    const part = batches.length > 1 ? `, part ${at + 1} of ${batches.length}` : "";
    const onSent = (share) => onProgress({ share: share < 1 ? share : null, text: share < 1 ? `Sending${part}` : `Reading${part}` });
    try {
      const form = await formOf(batch, { captions, dedup, captionColumn });
      const job = await uploadForm(kbPath(kb, "/items"), form, { onSent, signal });
      onProgress({ share: null, text: `Reading${part}`, job });
      mergeReport(report, await finished(job));
    } catch (error) {
      report.error = error;
    }
    if (report.error) break;
  }
  return report;
}

/** Makes a knowledge base of `files`; the first batch builds it, the others are added. */
export async function buildFrom(name, files, options) {
  const { batches, captions } = batchesOf(files, options.limits);
  const form = await formOf(batches[0], { captions, captionColumn: options.captionColumn });
  form.append("name", name);
  const onSent = (share) => options.onProgress({ share: share < 1 ? share : null, text: share < 1 ? "Sending" : "Reading" });
  const job = await uploadForm("/api/knowledge-bases", form, { onSent, signal: options.signal });
  options.onProgress({ share: null, text: "Reading", job });
  const report = mergeReport(emptyReport([]), await finished(job));
  const rest = batches.slice(1).flat();
  if (!rest.length || report.error) return report;
  return { ...addReports(report, await addFiles(name, rest, options)), undo: null };
}

async function formOf(batch, { captions, dedup, captionColumn }) {
  const form = new FormData();
  for (const file of batch) form.append("files", file, file.name);
  const beside = await Promise.all(batch.map((file) => captions.get(stemOf(file))?.text() ?? ""));
  if (beside.some(Boolean)) for (const caption of beside) form.append("captions", caption.trim());
  if (captionColumn) form.append("caption_column", captionColumn);
  if (dedup) form.append("dedup", String(dedup));
  return form;
}

function emptyReport(others) {
  const unreadable = others.map((file) => `${file.name}: not sent, as it is no picture, zip or parquet`);
  return { added: 0, already_present: 0, unreadable, filtered: [], duplicates: [], notes: [], undo: null, version: null, shared: false, error: null };
}

function mergeReport(report, job) {
  if (job.state !== "done") {
    report.error = job.error ?? { message: job.state === "cancelled" ? "Cancelled." : "The server ended before it was done." };
    return report;
  }
  return addReports(report, job.report ?? {});
}

/** Adds what another batch did. `shared`: others wrote between two batches, which an undo would take back too. */
function addReports(report, more) {
  report.added += more.added ?? 0;
  report.already_present += more.already_present ?? 0;
  for (const list of ["unreadable", "filtered", "duplicates", "notes"]) report[list].push(...(more[list] ?? []));
  const before = more.undo ?? null;
  report.shared ||= more.shared || (report.version !== null && before !== null && before !== report.version);
  report.undo ??= before;
  report.version = more.version ?? report.version;
  report.error ??= more.error ?? null;
  return report;
}
