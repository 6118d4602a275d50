// Models: a card each (what it is for, license, data, figures, limits), and the papers' claims as measured.
import { html, useEffect } from "../lib/html.js";
import { get } from "../lib/api.js";
import { draft } from "../lib/draft.js";
import { bytes } from "../lib/format.js";
import { useLoaded } from "../lib/hooks.js";
import { settingsBack } from "../lib/images.js";
import { go } from "../lib/router.js";
import { refreshModels, server } from "../lib/server.js";
import { useStore } from "../lib/store.js";
import { useDropZones } from "../parts/drop.js";
import { Icon } from "../parts/icon.js";
import { Bar, Empty, ErrorNote } from "../parts/notices.js";
import { toastError } from "../parts/toast.js";

export function Models() {
  const { models } = useStore(server);
  const claims = useLoaded((signal) => get("/api/claims", { signal }), "claims");
  useEffect(() => {
    refreshModels().catch(toastError); // what a model can do is known once it was opened
  }, []);
  useDropZones([{ icon: "spark", label: "Get its settings back", hint: "A PNG made by bowerbird", onFiles: ([file]) => settingsBack(file) }]);
  return html`<div class="models-scroll">
    <section aria-label="Cards">
      <h2 class="visually-hidden">Cards</h2>
      ${!models.length && html`<${Empty} icon="cube" title="No models"><p>Start the server with one: <code>bowerbird serve --model tiny-rdm</code></p><//>`}
      <div class="model-cards">${models.map((model) => html`<${ModelCard} key=${model.id} model=${model} />`)}</div>
    </section>
    <section class="claims" aria-label="Claims of the papers">
      <h2>What the papers claim, as measured</h2>
      <${ErrorNote} error=${claims.error} />
      ${claims.loading && html`<${Bar} value=${null} label="Loading the claims" />`}
      ${claims.data && html`<${Claims} claims=${claims.data.claims} />`}
    </section>
  </div>`;
}

function ModelCard({ model }) {
  const { card = {}, capabilities: can, defaults } = model;
  const use = () => {
    draft.patch({ model: model.default ? null : model.id, sampler: null });
    go("generate");
  };
  const facts = [
    ["Adapter", model.adapter],
    ["LoRA", model.loras.join(", ")],
    ["License", card.license],
    ["Data", card.data],
    ["Limits", card.limits],
    ["Can", can && abilities(can, model.sizes)],
    ["Usual", defaults && `k ${defaults.k}, ${defaults.steps} steps, guidance ${defaults.guidance_scale}, ${defaults.sampler}`],
  ];
  return html`<article class="model-card">
    <header>
      <h3>${model.id}</h3>
      ${model.default && html`<span class="badge">default</span>`}
      ${model.loaded && html`<span class="badge">loaded</span>`}
      <span class="small push">${model.bytes ? bytes(model.bytes) : ""}</span>
    </header>
    <p>${model.description}</p>
    <dl class="pairs">${facts.filter(([, value]) => value).map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${card.figures?.length > 0 &&
    html`<table class="figures">
      <caption class="visually-hidden">Figures of ${model.id}</caption>
      <tbody>${card.figures.map(({ what, value }) => html`<tr key=${what}><th scope="row">${what}</th><td>${value}</td></tr>`)}</tbody>
    </table>`}
    ${card.text && html`<details class="more"><summary>Its own README</summary><pre class="report">${card.text}</pre></details>`}
    ${!can && html`<p class="small">What it can do is known once it was used.</p>`}
    <button type="button" class="card-button" onClick=${use}><${Icon} name="spark" />Generate with it</button>
  </article>`;
}

function abilities(can, sizes) {
  const words = [];
  if (can.reads_text) words.push("reads the prompt");
  if (can.takes_references) words.push(can.max_references === 0 ? "takes no references" : "takes neighbors as references");
  if (can.edits) words.push("edits");
  if (can.starts_from_image) words.push("starts from a picture");
  if (can.without_neighbors) words.push("generates without neighbors");
  if (can.sizes?.length) words.push(`${can.sizes.join(", ")} px${can.any_size && sizes.length ? `, up to ${sizes.at(-1).replace("x", " × ")}` : ""}`);
  return words.join(", ");
}

const MOST_EFFECTS = 4;
const WORDS = { holds: "Holds", undecided: "Undecided", "does not hold": "Does not hold", fails: "Does not hold" };

function Claims({ claims }) {
  if (!claims.length) return html`<p>No claim was measured yet: <code>bowerbird reproduce</code> does.</p>`;
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label="Table of claims">
    <table>
      <thead><tr><th scope="col">Claim</th><th scope="col">Paper</th><th scope="col">Effect</th><th scope="col">Verdict</th></tr></thead>
      <tbody>
        ${claims.map(
          (claim) => html`<tr key=${claim.name}>
            <td><strong>${claim.name}</strong><br />${claim.claim}</td>
            <td>${claim.paper}</td>
            <td><${Effects} effects=${claim.effects} /></td>
            <td class="nowrap"><span class=${`badge ${claim.verdict === "holds" ? "good" : ""}`}>${WORDS[claim.verdict] ?? claim.verdict}</span></td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** The first effects; a claim that has many keeps the rest folded. */
function Effects({ effects }) {
  const list = (some) => html`<ul class="effects">${some.map((effect, at) => html`<li key=${at}>${effect.effect}: ${figure(effect)}</li>`)}</ul>`;
  const more = effects.length - MOST_EFFECTS;
  return html`${list(effects.slice(0, MOST_EFFECTS))} ${more > 0 && html`<details><summary>${more} more</summary>${list(effects.slice(MOST_EFFECTS))}</details>`}`;
}

const short = (value) => (Number.isFinite(value) ? Number(value.toPrecision(3)) : value);
const figure = ({ value, low, high }) => (Number.isFinite(low) ? `${short(value)} [${short(low)}, ${short(high)}]` : String(short(value) ?? ""));
