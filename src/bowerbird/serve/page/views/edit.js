// Edit: a source, and words or a reference picture for what it should become; before and after under one slider.
import { html, useState } from "../lib/html.js";
import { editDraft, editPicture } from "../lib/edit-draft.js";
import { chooseFiles } from "../lib/files.js";
import { again, settingsBack, uploadFile } from "../lib/images.js";
import { cancel, hide, isActive, jobs, submit } from "../lib/jobs.js";
import { useKeys } from "../lib/hooks.js";
import { at } from "../lib/root.js";
import { chosen, limits, server } from "../lib/server.js";
import { useStore } from "../lib/store.js";
import { CompareSlider } from "../parts/compare-slider.js";
import { useDropZones } from "../parts/drop.js";
import { NumberField, RangeField, Segments, SelectField, Settings } from "../parts/fields.js";
import { Icon, IconButton } from "../parts/icon.js";
import { openLightbox } from "../parts/lightbox.js";
import { NearCopy, StarButton } from "../parts/marks.js";
import { Empty, ErrorNote, JobEnd, JobProgress, jobSeconds, showNewest } from "../parts/notices.js";
import { Thumbnail, ownAddress } from "../parts/thumbnail.js";
import { toastError } from "../parts/toast.js";

const set = (part) => editDraft.patch(part);

async function sourceFrom(file) {
  const upload = await uploadFile(file);
  editPicture({ id: upload.id, url: upload.url, alt: file.name });
}

async function referenceFrom(file) {
  const upload = await uploadFile(file);
  set({ by: "reference", reference: { id: upload.id, url: upload.url, alt: file.name } });
}

const isReady = (now, instructs) => Boolean(now.source && (now.by === "reference" && !instructs ? now.reference : now.prompt.trim()));
const instructsOf = (models, id) => Boolean(models.find((model) => model.id === id)?.instructs);

/** instructs: whether the model takes what should change in words, and nothing else. */
function bodyOf(now, kb, instructs) {
  const body = { image: now.source.id, knowledge_base: kb, n: now.n, seed: now.seed };
  if (now.by === "reference" && !instructs) body.reference = now.reference.id;
  else body.prompt = now.prompt.trim();
  for (const key of ["model", "steps", "k"]) if (now[key] !== null) body[key] = now[key];
  if (instructs) body.image_guidance = now.imageGuidance;
  else Object.assign(body, { strength: now.strength, preservation: now.preservation });
  return body;
}

export function Edit() {
  const now = useStore(editDraft);
  const { kb } = useStore(chosen);
  const { models, status } = useStore(server);
  const instructs = instructsOf(models, now.model ?? status.edit_model);
  const list = useStore(jobs);
  const runs = list.filter((job) => job.kind === "edit").slice(0, 12);
  const [error, setError] = useState(null);
  const [sending, setSending] = useState(false);
  const generate = async () => {
    if (!isReady(now, instructs) || sending) return;
    setSending(true);
    setError(null);
    try {
      await submit("/api/edit", bodyOf(now, kb, instructs));
      showNewest();
    } catch (failure) {
      setError(failure);
    }
    setSending(false);
  };
  useKeys({
    Escape: () => {
      const running = runs.find(isActive);
      if (!running) return false;
      cancel(running).catch(toastError);
      return true;
    },
  });
  useDropZones([
    { icon: "edit", label: "Edit this", hint: "The picture to start from", onFiles: ([file]) => sourceFrom(file) },
    { icon: "pin", label: "Make it like this", hint: "A reference", onFiles: ([file]) => referenceFrom(file) },
    { icon: "spark", label: "Get its settings back", hint: "A PNG made by bowerbird", onFiles: ([file]) => settingsBack(file) },
  ]);
  return html`<div class="generate-body">
    <${EditForm} now=${now} instructs=${instructs} error=${error} sending=${sending} onGenerate=${generate} />
    <div class="generate-main">
      <h2 class="visually-hidden">Edits</h2>
      <section class="runs" aria-label="Edits">
        ${runs.map((job) => html`<${EditRun} key=${job.id} job=${job} />`)}
        ${!runs.length &&
        html`<${Empty} icon="edit" title="Nothing edited yet">
          <p>Choose a picture, or drop one here; say what it should become. The rest of it is kept: no mask is needed.</p>
          <button type="button" onClick=${() => pick(sourceFrom)}><${Icon} name="upload" />Choose a picture</button>
        <//>`}
      </section>
    </div>
  </div>`;
}

async function pick(use) {
  const [file] = await chooseFiles({ accept: "image/*" });
  if (file) await use(file).catch(toastError);
}

const WAYS = [
  { value: "prompt", label: "By words" },
  { value: "reference", label: "By a picture" },
];

function EditForm({ now, instructs, error, sending, onGenerate }) {
  const { models, status } = useStore(server);
  const most = useStore(server, limits);
  const wrong = (param) => (error?.param === param ? error.message : null);
  const editors = models.filter((model) => model.edits);
  const submitForm = (event) => {
    event.preventDefault();
    onGenerate();
  };
  const onKeyDown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    onGenerate();
  };
  return html`<form class="panel generate-form" novalidate onSubmit=${submitForm}>
    <${PictureSlot} label="Source" picture=${now.source} onPick=${() => pick(sourceFrom)} onClear=${() => set({ source: null })} />
    ${!instructs && html`<${Segments} label="How to say it" value=${now.by} onValue=${(by) => set({ by })} options=${WAYS} />`}
    ${now.by === "prompt" || instructs
      ? html`<div class=${wrong("prompt") ? "field wrong" : "field"}>
          <label for="edit-prompt" class="visually-hidden">${instructs ? "What to change" : "What it should become"}</label>
          <textarea id="edit-prompt" data-slash rows="2" maxlength=${most.prompt} placeholder=${instructs ? "What should change? make it blue" : "What should it become? a face with sunglasses"} value=${now.prompt} onInput=${(event) => set({ prompt: event.target.value })} onKeyDown=${onKeyDown}></textarea>
          ${wrong("prompt") && html`<p class="hint">${wrong("prompt")}</p>`}
        </div>`
      : html`<${PictureSlot} label="Reference" picture=${now.reference} onPick=${() => pick(referenceFrom)} onClear=${() => set({ reference: null })} />`}
    <button class="primary big" disabled=${!isReady(now, instructs) || sending}><${Icon} name="edit" />${sending ? "Sending…" : "Edit"}</button>
    ${error && !wrong("prompt") && html`<${ErrorNote} error=${error} />`}
    <${Settings}>
    ${!instructs && html`<${RangeField} label="Strength" min="0.05" max="1" step="0.05" value=${now.strength} shown=${now.strength.toFixed(2)} onValue=${(strength) => set({ strength })} />`}
    <${RangeField} label="Pictures" min="1" max=${most.images} step="1" value=${now.n} onValue=${(n) => set({ n })} />
    <details class="more">
      <summary>More settings</summary>
      <div class="field-grid">
        <${SelectField} label="Model" value=${now.model ?? status.edit_model} onValue=${(model) => set({ model })} options=${editors.map(({ id }) => ({ value: id, label: id === status.edit_model ? `${id} (default)` : id }))} />
        <${NumberField} label="Seed" min="0" value=${now.seed} onValue=${(seed) => set({ seed })} placeholder="another" />
        ${instructs
          ? html`<${NumberField} label="Kept of the source" min="0" step="0.1" value=${now.imageGuidance} onValue=${(imageGuidance) => set({ imageGuidance })} placeholder="1.5, usual" error=${wrong("image_guidance")} />`
          : html`<${NumberField} label="Preservation" min="0" step="0.05" value=${now.preservation} onValue=${(preservation) => set({ preservation })} placeholder="usual" error=${wrong("preservation")} />`}
        <${NumberField} label="Steps" min="1" max=${most.steps} value=${now.steps} onValue=${(steps) => set({ steps })} placeholder="usual" error=${wrong("steps")} />
        <${NumberField} label="Neighbors (k)" min="1" max=${most.k} value=${now.k} onValue=${(k) => set({ k })} placeholder="usual" error=${wrong("k")} />
      </div>
    </details>
    <//>
  </form>`;
}

function PictureSlot({ label, picture, onPick, onClear }) {
  if (!picture) {
    return html`<button type="button" class="picture-slot" onClick=${onPick}><${Icon} name="upload" /><strong>${label}</strong><span class="small">Choose a picture, or drop one on the page</span></button>`;
  }
  return html`<div class="picture-slot full">
    <${Thumbnail} src=${picture.url} alt=${picture.alt || label} eager />
    <span class="slot-label">${label}</span>
    <${IconButton} name="close" label=${`Another ${label.toLowerCase()}`} onClick=${onClear} />
  </div>`;
}

function EditRun({ job }) {
  const [shown, setShown] = useState(0);
  const image = job.images.find((other) => other.index === shown) ?? job.images[0];
  const title = job.request?.prompt || "By a picture";
  const retry = () => submit("/api/edit", job.request).catch(toastError);
  return html`<article class="run" aria-label=${`Edited: ${title}`}>
    <header class="run-head">
      <h3>${title}</h3>
      <span class="small">${[image?.model ?? job.request?.model, image && `seed ${image.seed}`, jobSeconds(job)].filter(Boolean).join(" · ")}</span>
      ${image &&
      html`<div class="run-buttons">
        <${StarButton} image=${image} />
        <${IconButton} name="info" label="Where it came from" onClick=${() => openLightbox(job.images, image.id)} />
        <${IconButton} name="dice" label="Same, but another seed" onClick=${() => again(image, { newSeed: true }).catch(toastError)} />
        <${IconButton} name="edit" label="Edit the result further" onClick=${() => editPicture({ id: image.id, url: image.url, alt: title })} />
        <${IconButton} name="close" label="Put away (the history keeps it)" onClick=${() => hide(job)} />
      </div>`}
    </header>
    ${isActive(job) && html`<${JobProgress} job=${job} onCancel=${() => cancel(job).catch(toastError)} />`}
    <${JobEnd} job=${job} onRetry=${retry} />
    ${(job.notes ?? []).map((note, at) => html`<p key=${at} class="small run-note">${note}</p>`)}
    ${isActive(job) && job.previews?.[0] && html`<figure class="edit-preview picture-card preview"><img class="thumb" src=${job.previews[0]} alt="Preview" /></figure>`}
    ${image &&
    html`<div class="edit-result">
      <${CompareSlider} key=${image.id} before=${at(`/api/images/${image.id}/source`)} after=${ownAddress(image.url)} alt=${title} />
      ${image.near_copy && html`<${NearCopy} />`}
      ${job.images.length > 1 &&
      html`<ul class="picker">
        ${job.images.map(
          (other) => html`<li key=${other.id}>
            <button type="button" class="picture-open" aria-pressed=${other.id === image.id ? "true" : "false"} aria-label=${`Seed ${other.seed}`} onClick=${() => setShown(other.index)}><${Thumbnail} src=${other.thumbnail} alt="" size=${128} /></button>
          </li>`,
        )}
      </ul>`}
    </div>`}
  </article>`;
}
