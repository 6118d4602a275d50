// One job and its pictures: previews while it runs, then the pictures and the neighbors they came from.
import { classes, html, useState } from "../../lib/html.js";
import { download } from "../../lib/files.js";
import { loadNeighbors, neighborPicture } from "../../lib/images.js";
import { cancel, hide, isActive, submit } from "../../lib/jobs.js";
import { likeness } from "../../lib/format.js";
import { useLoaded } from "../../lib/hooks.js";
import { at } from "../../lib/root.js";
import { Icon, IconButton } from "../../parts/icon.js";
import { JobEnd, JobProgress, jobSeconds } from "../../parts/notices.js";
import { PictureCard } from "../../parts/picture-card.js";
import { Thumbnail } from "../../parts/thumbnail.js";
import { toastError } from "../../parts/toast.js";
import { NAMES, axesOf } from "./request.js";

/** lit: Map of neighbor id -> score for the picture under the pointer; onLight(image or null). */
export function Run({ job, lit, onLight }) {
  const variants = job.request?.variants ?? null;
  const request = job.request?.request ?? job.request ?? {};
  const active = isActive(job);
  const retry = (change = {}) => {
    const body = variants ? { ...job.request, request: { ...request, ...change } } : { ...request, ...change };
    submit(variants ? "/api/compare" : "/api/generate", body).catch(toastError);
  };
  const seeds = [...new Set(job.images.map((image) => image.seed))];
  const facts = [job.images[0]?.model ?? request.model, job.images[0]?.knowledge_base ?? request.knowledge_base, seedText(seeds), jobSeconds(job)];
  return html`<article class=${classes("run", { active })} aria-label=${`Generated: ${request.prompt || "from pictures"}`}>
    <header class="run-head">
      <h3>${request.prompt || "From the neighbors alone"}</h3>
      <span class="small">${facts.filter(Boolean).join(" · ")}</span>
      ${!active &&
      html`<div class="run-buttons">
        ${job.kind !== "regenerate" && html`<${IconButton} name="dice" label="Same, but another seed" onClick=${() => retry({ seed: null })} />`}
        ${job.images.length > 0 && html`<${IconButton} name="download" label="Save all as zip" onClick=${() => download(at(`/api/jobs/${job.id}/zip`), `${job.id}.zip`)} />`}
        ${job.sheet && html`<a class="icon-button" href=${at(`/api/jobs/${job.id}/sheet`)} target="_blank" rel="noopener" aria-label="Contact sheet: each picture beside its neighbors" title="Contact sheet"><${Icon} name="grid" /></a>`}
        <${IconButton} name="close" label="Put away (the history keeps it)" onClick=${() => hide(job)} />
      </div>`}
    </header>
    ${active && html`<${JobProgress} job=${job} onCancel=${() => cancel(job).catch(toastError)} />`}
    <${JobEnd} job=${job} onRetry=${() => retry()} />
    ${(job.notes ?? []).map((note, at) => html`<p key=${at} class="small run-note">${note}</p>`)}
    ${variants ? html`<${Variants} job=${job} variants=${variants} n=${request.n ?? 1} onLight=${onLight} />` : html`<${Pictures} job=${job} indices=${upTo(active ? (request.n ?? 1) : job.images.length)} onLight=${onLight} />`}
    ${job.images.length > 0 && html`<${Strip} image=${job.images.at(-1)} lit=${lit} />`}
  </article>`;
}

const upTo = (n) => Array.from({ length: n }, (_, at) => at);
const seedText = (seeds) => (!seeds.length ? "" : seeds.length === 1 ? `seed ${seeds[0]}` : `seeds ${Math.min(...seeds)} to ${Math.max(...seeds)}`);

function Pictures({ job, indices, onLight }) {
  if (!indices.length) return null;
  return html`<div class=${classes("pictures", { one: indices.length === 1 })}>${indices.map((index) => html`<${Slot} key=${index} job=${job} index=${index} onLight=${onLight} />`)}</div>`;
}

/** A picture; before it is there its preview; before that an empty place. */
function Slot({ job, index, onLight }) {
  const image = job.images.find((other) => other.index === index);
  if (image) return html`<${PictureCard} image=${image} list=${job.images} onLight=${onLight} />`;
  const preview = job.previews?.[index];
  if (preview && isActive(job)) return html`<figure class="picture-card preview"><img class="thumb" src=${preview} alt="Preview" /></figure>`;
  return isActive(job) ? html`<figure class="picture-card"><span class="thumb waiting"></span></figure>` : null;
}

function Variants({ job, variants, n, onLight }) {
  const axes = axesOf(variants);
  const slots = (variant) => upTo(n).map((at) => variant * n + at);
  if (axes) {
    return html`<div class="xy-scroll" tabindex="0" role="region" aria-label="Grid of settings">
      <table class="xy">
        <thead>
          <tr>
            <th scope="col">${NAMES[axes.by]} ↓ k →</th>
            ${axes.ks.map((k) => html`<th key=${k} scope="col">k ${k}</th>`)}
          </tr>
        </thead>
        <tbody>
          ${axes.values.map(
            (value) => html`<tr key=${value}>
              <th scope="row">${value}</th>
              ${axes.ks.map((k) => html`<td key=${k}>${slots(axes.at(k, value)).map((index) => html`<${Slot} key=${index} job=${job} index=${index} onLight=${onLight} />`)}</td>`)}
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`;
  }
  return html`<div class="sides">
    ${variants.map(
      (variant, at) => html`<section key=${at} aria-label=${variant.label}>
        <h4>${variant.label}</h4>
        <${Pictures} job=${job} indices=${slots(at)} onLight=${onLight} />
      </section>`,
    )}
  </div>`;
}

/** The neighbors of a run's pictures, small; they light up with the picture under the pointer. */
function Strip({ image, lit }) {
  const { data } = useLoaded(() => loadNeighbors(image.id), image.id);
  if (!data?.neighbors.length) return null;
  return html`<ul class=${classes("strip", { dim: lit })} aria-label="Generated from">
    ${data.neighbors.map((neighbor, at) => {
      const on = lit?.has(neighbor.id);
      const name = neighbor.caption || neighbor.name || "Neighbor";
      return html`<li key=${at} class=${classes({ lit: on })} title=${name}>
        <${Thumbnail} src=${neighborPicture(neighbor)} alt=${name} size=${64} />
        <span class="small">${likeness(on ? lit.get(neighbor.id) : neighbor.score)}</span>
      </li>`;
    })}
  </ul>`;
}
