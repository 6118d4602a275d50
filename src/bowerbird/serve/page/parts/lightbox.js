// One picture large, with where it came from: its neighbors and their scores, its settings, and what can be done next.
import { html, useEffect, useState } from "../lib/html.js";
import { again, altOf, checkCopies, deleteImages, editImage, isItem, loadNeighbors, loadRecord, neighborPicture, pinImage, saveImage, star, useSettings } from "../lib/images.js";
import { finished } from "../lib/jobs.js";
import { count, likeness, plain, score, when } from "../lib/format.js";
import { useLoaded } from "../lib/hooks.js";
import { createStore, useStore } from "../lib/store.js";
import { Dialog } from "./dialog.js";
import { Icon, IconButton } from "./icon.js";
import { ErrorNote } from "./notices.js";
import { NearCopy, StarButton } from "./marks.js";
import { Thumbnail, ownAddress } from "./thumbnail.js";
import { toastError } from "./toast.js";

const shown = createStore(null); // { list, id }

export const openLightbox = (list, id) => shown.set({ list, id });
const close = () => shown.set(null);

export function Lightbox() {
  const state = useStore(shown);
  return state ? html`<${Open} key="lightbox" ...${state} />` : null;
}

function Open({ list, id }) {
  const at = list.findIndex((image) => image.id === id);
  const image = list[at];
  const move = (by) => {
    const next = list[at + by];
    if (next) shown.set({ list, id: next.id });
  };
  const replace = (next) => shown.set({ list: list.map((other) => (other.id === next.id ? next : other)), id });
  const act = (run) => () => Promise.resolve(run(image)).catch(toastError);
  const leave = (run) => () => {
    close();
    Promise.resolve(run(image)).catch(toastError);
  };
  useEffect(() => {
    const onKey = (event) => {
      if (/^(input|textarea|select)$/i.test(event.target.tagName)) return;
      if (event.key === "ArrowLeft") move(-1);
      else if (event.key === "ArrowRight") move(1);
      else if (event.key === "s") star(image).then(replace, toastError);
      else return;
      event.preventDefault();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  });
  const neighbors = useLoaded(() => loadNeighbors(id), id);
  const record = useLoaded((signal) => loadRecord(id, signal), id);
  const copy = neighbors.data?.copy;
  return html`<${Dialog} title=${image.prompt || "Picture"} wide onClose=${close}>
    <div class="lightbox">
      <div class="lightbox-stage">
        <img class="lightbox-picture" src=${ownAddress(image.url)} alt=${altOf(image)} />
        ${image.near_copy && html`<${NearCopy} />`}
        ${at > 0 && html`<${IconButton} class="step left" name="left" label="Picture before" onClick=${() => move(-1)} />`}
        ${at < list.length - 1 && html`<${IconButton} class="step right" name="right" label="Next picture" onClick=${() => move(1)} />`}
      </div>
      <div class="lightbox-side">
        <div class="button-row">
          <${StarButton} image=${image} onStarred=${replace} />
          <${IconButton} name="download" label="Save as PNG" onClick=${act(saveImage)} />
          <${IconButton} name="trash" label="Delete" onClick=${leave((one) => deleteImages([one]))} />
        </div>
        <div class="button-row">
          <button type="button" onClick=${leave((one) => again(one, { newSeed: true }))}><${Icon} name="dice" />Another seed</button>
          <button type="button" onClick=${leave(again)}><${Icon} name="again" />Again</button>
          <button type="button" onClick=${leave(useSettings)}><${Icon} name="spark" />Use settings</button>
          <button type="button" onClick=${leave(editImage)}><${Icon} name="edit" />Edit</button>
          <button type="button" onClick=${leave(pinImage)}><${Icon} name="pin" />Use as neighbor</button>
        </div>
        <section>
          <h3>Generated from</h3>
          <${ErrorNote} error=${neighbors.error} />
          ${neighbors.data && html`<${Sources} neighbors=${neighbors.data.neighbors} copy=${copy} />`}
          ${copy && html`<${CopyLine} copy=${copy} />`}
          <${CopyCheck} key=${id} image=${image} />
        </section>
        <section>
          <h3>Settings</h3>
          <${ErrorNote} error=${record.error} />
          <${Settings} image=${image} request=${record.data?.request} />
        </section>
      </div>
    </div>
  <//>`;
}

function Sources({ neighbors, copy }) {
  if (!neighbors.length) return html`<p class="small">No neighbors: from the text alone.</p>`;
  return html`<ul class="sources">
    ${neighbors.map(
      (neighbor, at) => html`<li key=${at} class=${copy?.near_copy && copy.neighbor === neighbor.id ? "near" : ""}>
        <${Thumbnail} src=${neighborPicture(neighbor)} alt=${neighbor.caption || neighbor.name || "Neighbor"} size=${128} />
        <span class="source-name" title=${neighbor.caption || neighbor.name}>${neighbor.caption || neighbor.name}</span>
        <span class="small">${likeness(neighbor.score)}${neighbor.weight !== 1 ? ` × ${neighbor.weight}` : ""}${neighbor.present || !isItem(neighbor) ? "" : " · removed"}</span>
        ${neighbor.phrase && html`<span class="small phrase">for “${neighbor.phrase}”</span>`}
        ${Object.values(neighbor.credit ?? {}).length > 0 && html`<span class="small">${Object.values(neighbor.credit).map(plain).join(", ")}</span>`}
      </li>`,
    )}
  </ul>`;
}

function CopyLine({ copy }) {
  const text = copy.near_copy
    ? `Nearly a copy of the marked neighbor: likeness ${score(copy.score)}, over the threshold of ${score(copy.threshold)}.`
    : `No near copy of a neighbor: likeness ${score(copy.score)}, threshold ${score(copy.threshold)}.`;
  return html`<p class=${copy.near_copy ? "small warn-text" : "small"}>${text}</p>`;
}

/** Looks through the whole knowledge base for something it might copy. */
function CopyCheck({ image }) {
  const [state, setState] = useState({});
  const run = async () => {
    setState({ running: true });
    try {
      setState({ job: await finished(await checkCopies(image)) });
    } catch (error) {
      setState({ error });
    }
  };
  if (state.error) return html`<${ErrorNote} error=${state.error} />`;
  if (state.job?.error) return html`<${ErrorNote} error=${state.job.error} />`;
  if (state.job) {
    return html`<p class="small" role="status">${copySentence(state.job.report)}</p>
      <details class="more"><summary>The whole report</summary><pre class="report" tabindex="0">${reportLines(state.job.report)}</pre></details>`;
  }
  return html`<button type="button" class="small-button" disabled=${state.running} onClick=${run}>${state.running ? "Comparing…" : "Compare with the whole collection"}</button>`;
}

/** What the report of `check` comes to for one picture. */
function copySentence(report) {
  const likeness = report?.whole?.["generated to training"]?.mean;
  const [name] = Object.keys(report?.thresholds?.whole ?? {}).filter((key) => key.endsWith("of the copy guard"));
  if (!Number.isFinite(likeness) || !name) return "Compared.";
  const threshold = report.thresholds.whole[name];
  const verdict = likeness >= threshold ? "A near copy" : "No copy";
  return `${verdict}: the most alike of ${count(report["training pictures"])} pictures has a likeness of ${score(likeness)}; a copy has ${score(threshold)} or more.`;
}

function reportLines(report) {
  const lines = [];
  const walk = (value, indent) => {
    for (const [name, inner] of Object.entries(value ?? {})) {
      if (inner && typeof inner === "object") {
        lines.push(`${indent}${name}`);
        walk(inner, `${indent}  `);
      } else lines.push(`${indent}${name}: ${typeof inner === "number" ? Number(inner.toFixed(4)) : plain(inner)}`);
    }
  };
  walk(report, "");
  return lines.join("\n");
}

const NAMES = { k: "Neighbors (k)", steps: "Steps", guidance_scale: "Guidance", text_ratio: "Text ratio", sampler: "Sampler", search_mode: "Search", rerank: "Re-ranked", where: "Filter", scale: "Reference scale", negative_prompt: "To avoid", strength: "Strength", preservation: "Preservation" };

function Settings({ image, request }) {
  const rows = [
    ["Model", image.model],
    ["Knowledge base", image.knowledge_base],
    ["Seed", image.seed],
    ["Size", `${image.width} × ${image.height}`],
    ["Made", when(image.created)],
  ];
  for (const [key, name] of Object.entries(NAMES)) if (request?.[key] !== null && request?.[key] !== undefined) rows.push([name, request[key]]);
  return html`<dl class="pairs">${rows.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${plain(value)}</dd></div>`)}</dl>`;
}
