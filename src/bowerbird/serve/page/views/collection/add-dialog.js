// The dialog to add pictures, or to make a new knowledge base of them: choose, send, and what became of each.
import { html, useRef, useState } from "../../lib/html.js";
import { post, isAbort, kbPath } from "../../lib/api.js";
import { chooseFiles } from "../../lib/files.js";
import { bytes, plural, score } from "../../lib/format.js";
import { cancel, jobs } from "../../lib/jobs.js";
import { chosen, limits, server } from "../../lib/server.js";
import { useStore } from "../../lib/store.js";
import { Dialog } from "../../parts/dialog.js";
import { Check, TextField } from "../../parts/fields.js";
import { Icon } from "../../parts/icon.js";
import { Bar, ErrorNote, stageText } from "../../parts/notices.js";
import { toast, toastError } from "../../parts/toast.js";
import { addFiles, batchesOf, buildFrom } from "./adding.js";

/** kb: null makes a new knowledge base. files: what was dropped already. */
export function AddDialog({ kb, files: dropped, onClose, onChanged }) {
  const [files, setFiles] = useState(dropped);
  const [name, setName] = useState("");
  const [dedup, setDedup] = useState(false);
  const [captionColumn, setCaptionColumn] = useState("");
  const [progress, setProgress] = useState(null);
  const [report, setReport] = useState(null);
  const [error, setError] = useState(null);
  const stop = useRef(null);
  const bounds = useStore(server, limits);

  const choose = async (how) => setFiles([...files, ...(await chooseFiles({ multiple: true, ...how }))]);
  const start = async () => {
    stop.current = new AbortController();
    const options = { limits: bounds, dedup: dedup ? 0.99 : null, captionColumn, signal: stop.current.signal, onProgress: setProgress };
    setProgress({ share: null, text: "Sending" });
    setError(null);
    try {
      const done = kb ? await addFiles(kb, files, options) : await buildFrom(name, files, options);
      await onChanged();
      if (!kb && !done.error) chosen.set({ kb: name });
      if (done.error && !done.added) {
        setError(done.error);
        setReport(null);
      } else setReport(done);
    } catch (failure) {
      if (!isAbort(failure)) setError(failure);
    }
    setProgress(null);
  };
  const abort = () => {
    stop.current?.abort();
    if (progress?.job) cancel(progress.job).catch(toastError);
  };
  const title = kb ? `Add to ${kb}` : "New knowledge base";
  const close = progress ? () => toast("Still adding. Cancel it first, or leave this open.") : onClose;
  return html`<${Dialog} title=${title} onClose=${close}>
    <div class="stack">
      ${report
        ? html`<${Report} report=${report} kb=${kb ?? name} onClose=${onClose} onChanged=${onChanged} />`
        : html`${!kb && html`<${TextField} label="Name" value=${name} onValue=${setName} hint="Small letters, digits and hyphens" pattern="[a-z0-9\\-]{1,64}" error=${error?.param === "name" ? error.message : null} />`}
            <${Chosen} files=${files} bounds=${bounds} onForget=${() => setFiles([])} />
            ${!progress &&
            html`<div class="button-row">
                <button type="button" onClick=${() => choose({ accept: "image/*,.zip,.parquet" })}><${Icon} name="upload" />Files</button>
                <button type="button" onClick=${() => choose({ folder: true })}><${Icon} name="folder" />A folder</button>
              </div>
              ${kb && html`<${Check} label="Leave out near-duplicates" hint="of pictures that are there already" checked=${dedup} onValue=${setDedup} />`}
              ${files.some((file) => /\.parquet$/i.test(file.name)) && html`<${TextField} label="Column with the captions" value=${captionColumn} onValue=${setCaptionColumn} placeholder="found by itself when empty" />`}`}
            ${progress && html`<${Sending} progress=${progress} />`}
            ${error?.param !== "name" && html`<${ErrorNote} error=${error} />`}
            <div class="button-row end">
              ${progress
                ? html`<button type="button" onClick=${abort}>Cancel</button>`
                : html`<button type="button" class="primary" disabled=${!files.length || (!kb && !/^[a-z0-9-]{1,64}$/.test(name))} onClick=${start}>${kb ? "Add" : "Make it"}</button>`}
            </div>`}
    </div>
  <//>`;
}

function Chosen({ files, bounds, onForget }) {
  if (!files.length) return html`<p class="small">Pictures, folders of pictures, one zip, or a parquet file. A text file beside a picture (apple.txt for apple.png) is its caption. Files can be dropped anywhere on the page, too.</p>`;
  const { pictures, archives, captions, others, batches } = batchesOf(files, bounds);
  const parts = [];
  if (pictures.length) parts.push(plural(pictures.length, "picture"));
  if (archives.length) parts.push(plural(archives.length, "archive"));
  if (captions.size) parts.push(plural(captions.size, "caption"));
  const size = bytes(files.reduce((sum, file) => sum + file.size, 0));
  return html`<div class="note">
    <p>
      <strong>${parts.join(", ") || "Nothing to add"}</strong>, ${size}${batches.length > 1 ? `, sent in ${batches.length} parts` : ""}.
      ${others.length > 0 && ` ${plural(others.length, "file")} left out: no picture, zip or parquet.`}
    </p>
    <button type="button" class="link" onClick=${onForget}>Forget</button>
  </div>`;
}

function Sending({ progress }) {
  const job = useStore(jobs, (list) => list.find((other) => other.id === progress.job?.id) ?? null);
  const { done = 0, total = 0 } = job?.progress ?? {};
  const share = job ? (total && done ? done / total : null) : progress.share;
  const text = job ? `${progress.text}: ${stageText(job).toLowerCase()}` : `${progress.text}${progress.share === null ? "…" : ` ${Math.round(progress.share * 100)} %`}`;
  return html`<div class="job-progress"><${Bar} value=${share} label=${text} /><span class="small">${text}</span></div>`;
}

function Report({ report, kb, onClose, onChanged }) {
  const undo = async () => {
    try {
      await post(kbPath(kb, "/restore"), { version: report.undo, expected_version: report.version });
      await onChanged();
      onClose();
      toast("Taken back: the collection is as it was before.");
    } catch (error) {
      toastError(error);
    }
  };
  const refused = [...report.unreadable, ...report.filtered];
  return html`<div class="stack" role="status">
    <p><strong>${plural(report.added, "picture")} added.</strong>${report.already_present > 0 && ` ${plural(report.already_present, "picture")} ${report.already_present === 1 ? "was" : "were"} there already.`}</p>
    <${ErrorNote} error=${report.error} />
    ${refused.length > 0 && html`<${Lines} title=${`${plural(refused.length, "file")} left out`} lines=${refused} />`}
    ${report.duplicates.length > 0 &&
    html`<${Lines} title=${plural(report.duplicates.length, "near-duplicate")} lines=${report.duplicates.map(({ name, like, cosine }) => `${name} is like ${like} (${score(cosine)})`)} />`}
    ${report.notes.length > 0 && html`<${Lines} title="Notes" lines=${report.notes} />`}
    ${report.shared && html`<p class="small">Others changed the collection meanwhile, so there is no undo here; <code>bowerbird kb restore</code> brings back any version.</p>`}
    <div class="button-row end">
      ${report.undo !== null && !report.shared && report.added > 0 && html`<button type="button" onClick=${undo}>Undo</button>`}
      <button type="button" class="primary" onClick=${onClose}>Done</button>
    </div>
  </div>`;
}

const SHOWN = 200;

function Lines({ title, lines }) {
  return html`<section>
    <h3>${title}</h3>
    <ul class="lines" tabindex="0" aria-label=${title}>
      ${lines.slice(0, SHOWN).map((line, at) => html`<li key=${at}>${line}</li>`)}
      ${lines.length > SHOWN && html`<li>… and ${lines.length - SHOWN} more</li>`}
    </ul>
  </section>`;
}
