// The left side: the prompt and the settings. What is left empty is as the model has it.
import { html } from "../../lib/html.js";
import { draft } from "../../lib/draft.js";
import { limits, server } from "../../lib/server.js";
import { useStore } from "../../lib/store.js";
import { Check, NumberField, RangeField, Segments, SelectField, Settings, TextField } from "../../parts/fields.js";
import { Icon, IconButton } from "../../parts/icon.js";
import { ErrorNote } from "../../parts/notices.js";
import { MOST_VARIANTS, canGenerate, drawsTokens, gridAxes, readsText, takesReferences } from "./request.js";

const set = (part) => draft.patch(part);

const WAYS = [
  { value: "plain", label: "Plain" },
  { value: "sides", label: "With / without", title: "The same seeds with and without retrieval, side by side" },
  { value: "grid", label: "Grid", title: "k across, guidance or text ratio down" },
];

export function Form({ now, model, error, sending, onGenerate }) {
  const { models, status } = useStore(server);
  const most = useStore(server, limits);
  const wrong = (param) => (error?.param === param ? error.message : null);
  const defaults = model?.defaults ?? {};
  const samplers = model?.capabilities?.samplers ?? [];
  const onKeyDown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    onGenerate();
  };
  const submit = (event) => {
    event.preventDefault();
    onGenerate();
  };
  const long = now.prompt.length > most.prompt * 0.9;
  return html`<form class="panel generate-form" novalidate onSubmit=${submit}>
    <div class=${wrong("prompt") ? "field wrong" : "field"}>
      <label for="prompt" class="visually-hidden">Prompt</label>
      <textarea
        id="prompt"
        data-slash
        rows="3"
        maxlength=${most.prompt}
        placeholder="What should it be? red apple"
        value=${now.prompt}
        onInput=${(event) => set({ prompt: event.target.value })}
        onKeyDown=${onKeyDown}
        aria-invalid=${wrong("prompt") ? "true" : undefined}
        aria-describedby=${wrong("prompt") || long ? "prompt-hint" : undefined}
      ></textarea>
      ${(wrong("prompt") || long) && html`<p class="hint" id="prompt-hint">${wrong("prompt") ?? `${now.prompt.length} of ${most.prompt} characters`}</p>`}
    </div>
    <button class="primary big" disabled=${!canGenerate(now) || sending || tooMany(now)}><${Icon} name="spark" />${sending ? "Sending…" : "Generate"}</button>
    ${error && !wrong("prompt") && html`<${ErrorNote} error=${error} />`}
    <${Settings}>
    <${Segments} label="How" value=${now.how} onValue=${(how) => set({ how })} options=${WAYS} />
    ${now.how === "grid" && html`<${GridFields} now=${now} />`}
    <${SelectField} label="Model" value=${now.model ?? model?.id} onValue=${(id) => set({ model: id, sampler: null, size: null })} options=${modelOptions(models)} hint=${model?.description} />
    ${now.how !== "grid" && html`<${RangeField} label="Pictures" min="1" max=${most.images} step="1" value=${now.n} onValue=${(n) => set({ n })} />`}
    ${now.how !== "grid" && html`<${RangeField} label="Neighbors (k)" min="1" max=${Math.min(most.k, 20)} step="1" value=${now.k ?? defaults.k ?? 4} shown=${now.k ?? `${defaults.k ?? 4}, usual`} onValue=${(k) => set({ k })} />`}
    ${takesReferences(model) && html`<${ReferenceFields} now=${now} usually=${defaults.scale ?? 1} wrong=${wrong} />`}
    <div class="field-row">
      <${NumberField} label="Seed" min="0" value=${now.seed} onValue=${(seed) => set({ seed })} placeholder="another each time" error=${wrong("seed")} />
      ${now.seed !== null && html`<${IconButton} name="dice" label="Another seed each time" onClick=${() => set({ seed: null })} />`}
    </div>
    <details class="more">
      <summary>More settings</summary>
      <div class="field-grid">
        ${!drawsTokens(model) && html`<${NumberField} label="Steps" min="1" max=${most.steps} value=${now.steps} placeholder=${usual(defaults.steps)} onValue=${(steps) => set({ steps })} error=${wrong("steps")} />`}
        <${NumberField} label="Guidance" min="0" step="0.1" value=${now.guidance} placeholder=${usual(defaults.guidance_scale)} onValue=${(guidance) => set({ guidance })} error=${wrong("guidance_scale")} />
        ${readsText(model) && html`<${NumberField} label="Text ratio" min="0" max="1" step="0.05" value=${now.textRatio} placeholder="usual" onValue=${(textRatio) => set({ textRatio })} error=${wrong("text_ratio")} />`}
        ${!drawsTokens(model) && html`<${SelectField} label="Sampler" value=${now.sampler} onValue=${(sampler) => set({ sampler })} options=${[{ value: null, label: "usual" }, ...samplers.map(same)]} />`}
        <${SelectField} label="Size" value=${now.size === ownSize(model) ? null : now.size} onValue=${(size) => set({ size })} options=${sizeOptions(model, now.size)} error=${wrong("height") ?? wrong("width")} />
        <${SelectField} label="Search" value=${now.searchMode} onValue=${(searchMode) => set({ searchMode })} options=${SEARCHES} />
        <${SelectField} label="Re-rank" value=${now.rerank} onValue=${(rerank) => set({ rerank })} options=${rerankers(status)} hint="What is found, in a better order" />
      </div>
      <${TextField} label="Only neighbors where" value=${now.where} onValue=${(where) => set({ where })} placeholder="style = 'noto'" error=${wrong("where")} spellcheck="false" />
      <button type="button" class="link" onClick=${() => set({ k: null, steps: null, guidance: null, textRatio: null, sampler: null, size: null, searchMode: null, rerank: null, where: "", scale: null, negative: "", byPhrase: false })}>All as usual</button>
    </details>
    <//>
  </form>`;
}

/** What somebody else's base model is asked beside its prompt. */
function ReferenceFields({ now, usually, wrong }) {
  return html`<${RangeField} label="Reference scale" min="0" max="1.5" step="0.05" value=${now.scale ?? usually} shown=${now.scale ?? `${usually}, usual`} onValue=${(scale) => set({ scale })} />
    <${Check} label="A reference for each phrase" hint="of the prompt; mark your own with [brackets]" checked=${now.byPhrase} onValue=${(byPhrase) => set({ byPhrase })} />
    <${TextField} label="To avoid" value=${now.negative} onValue=${(negative) => set({ negative })} placeholder="blurry, text" error=${wrong("negative_prompt")} />`;
}

function ownSize(model) {
  const edge = model?.capabilities?.sizes?.at(-1);
  return edge ? `${edge}x${edge}` : null;
}

/** Sizes that the model takes; one that came with a picture's settings may be between them. */
function sizeOptions(model, chosen) {
  const own = ownSize(model);
  const others = new Set([...(model?.sizes ?? []), ...(chosen ? [chosen] : [])]);
  others.delete(own);
  return [{ value: null, label: usual(own?.replace("x", " × ")) }, ...[...others].map((size) => ({ value: size, label: size.replace("x", " × ") }))];
}

const same = (value) => ({ value, label: value });
const usual = (value) => (value === null || value === undefined ? "usual" : `${value}, usual`);
const rerankers = (status) => [{ value: null, label: "usual" }, ...(status?.rerankers ?? []).filter((name) => name !== "auto").map((name) => ({ value: name, label: name === "none" ? "off" : `by ${name}` }))];
const SEARCHES = [{ value: null, label: "usual" }, same("hybrid"), { value: "dense", label: "dense (embeddings)" }, { value: "bm25", label: "bm25 (words)" }];

function modelOptions(models) {
  return models.map(({ id, default: first }) => ({ value: id, label: first ? `${id} (default)` : id }));
}

function tooMany(now) {
  if (now.how !== "grid") return false;
  const { ks, values } = gridAxes(now);
  return !ks.length || !values.length || ks.length * values.length > MOST_VARIANTS;
}

function GridFields({ now }) {
  const { ks, values } = gridAxes(now);
  const cells = ks.length * values.length;
  return html`<div class="grid-fields">
    <${TextField} label="k across" value=${now.gridK} onValue=${(gridK) => set({ gridK })} placeholder="1, 2, 4" />
    <${SelectField} label="Down" value=${now.gridBy} onValue=${(gridBy) => set({ gridBy, gridValues: gridBy === "text_ratio" ? "0, 0.5, 1" : "1, 3, 5" })} options=${[{ value: "guidance_scale", label: "Guidance" }, { value: "text_ratio", label: "Text ratio" }]} />
    <${TextField} label="Its values" value=${now.gridValues} onValue=${(gridValues) => set({ gridValues })} placeholder="1, 3, 5" />
    <p class=${cells > MOST_VARIANTS || !cells ? "hint wrong-text" : "hint"}>${cells ? `${ks.length} × ${values.length} = ${cells} pictures${cells > MOST_VARIANTS ? `; at most ${MOST_VARIANTS}` : ""}` : "Numbers with commas between"}</p>
  </div>`;
}
