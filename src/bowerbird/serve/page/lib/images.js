// What can be done with a picture that was made here.
import { get, kbPath, patch, postFile, postForBlob } from "./api.js";
import { fillDraft, pin, pinnedItem, pinnedUpload } from "./draft.js";
import { editDraft, editPicture } from "./edit-draft.js";
import { download, downloadBlob } from "./files.js";
import { submit, updateImages } from "./jobs.js";
import { leave } from "./leaving.js";
import { at } from "./root.js";
import { go } from "./router.js";
import { chosen, server } from "./server.js";
import { createStore } from "./store.js";
import { plural } from "./format.js";
import { toast, toastError } from "../parts/toast.js";

/** Counts changes, so that the history knows that it is old. */
export const changes = createStore(0);
const changed = () => changes.set((n) => n + 1);

export const altOf = (image) => `Generated from “${image.prompt || "pictures alone"}”, seed ${image.seed}`;
const fileName = (image) => `${image.id}.png`;

export async function star(image) {
  const next = await patch(`/api/images/${image.id}`, { starred: !image.starred });
  updateImages((images) => images.map((other) => (other.id === next.id ? { ...other, starred: next.starred } : other)));
  changed();
  return next;
}

export function deleteImages(images) {
  const back = leave(images, toastError);
  toast(`${plural(images.length, "picture")} deleted`, { action: { label: "Undo", run: back } });
}

export const saveImage = (image) => download(image.url, fileName(image));

export async function saveZip(images) {
  downloadBlob(await postForBlob("/api/history/zip", { images: images.map((image) => image.id) }), "bowerbird.zip");
}

const neighborsOf = new Map(); // a picture's neighbors never change

export function loadNeighbors(id) {
  if (!neighborsOf.has(id)) {
    const loading = get(`/api/images/${id}/neighbors`);
    neighborsOf.set(id, loading);
    loading.catch(() => neighborsOf.delete(id));
  }
  return neighborsOf.get(id);
}

/** Where a neighbor's picture is: in the knowledge base, or among the uploads, or nowhere any more. */
export function neighborPicture({ present, thumbnail, name }) {
  if (present) return thumbnail;
  const upload = /^(upl_[0-9a-f]+)\.png$/.exec(name ?? "");
  return upload ? at(`/api/uploads/${upload[1]}`) : null;
}

/** Ids below zero are no items: the prompt's own embedding, or a picture from disk. */
export const isItem = ({ id }) => !id.startsWith("-");

export const loadRecord = (id, signal) => get(`/api/images/${id}/record`, { signal });

/** Generates once more with the same settings: the same pixels, or another seed. */
export async function again(image, { newSeed = false } = {}) {
  const { request } = await loadRecord(image.id);
  const body = newSeed ? { ...request, seed: null } : { ...request };
  const edit = image.kind === "edit";
  if (edit) body.image = (await sourceOf(image)).id; // a record names no upload: those live for a day only
  await submit(edit ? "/api/edit" : "/api/generate", body);
  go(edit ? "edit" : "generate");
}

export async function useSettings(image) {
  const { request } = await loadRecord(image.id);
  if (image.kind === "edit") {
    const { id, url } = await sourceOf(image);
    editDraft.patch({ source: { id, url, alt: image.prompt } });
  }
  await putBack(image.kind, request);
}

/** A PNG that bowerbird made gives its settings back. */
export async function settingsBack(file) {
  const answer = await postFile("/api/records", file);
  await putBack(answer.kind, answer.request);
  const lost = [];
  if (!answer.model_here) lost.push(`the model ${answer.request.model ?? ""} is not here`);
  if (!answer.knowledge_base_here) lost.push(`the knowledge base ${answer.request.knowledge_base ?? ""} is not here`);
  const missing = answer.missing_neighbors?.length ?? 0;
  if (missing) lost.push(`${plural(missing, "neighbor")} of it ${missing === 1 ? "is" : "are"} gone`);
  toast(lost.length ? `Settings are back, but ${lost.join(", ")}.` : `Settings of ${file.name} are back.`);
}

async function putBack(kind, request) {
  const { bases } = server.get();
  if (bases.some((base) => base.id === request.knowledge_base)) chosen.set({ kb: request.knowledge_base });
  if (kind === "edit") {
    editDraft.patch({ by: request.reference ? "reference" : "prompt", prompt: request.prompt ?? "", model: request.model ?? null, seed: request.seed ?? null });
    editDraft.patch({ strength: request.strength ?? 1, preservation: request.preservation ?? null, imageGuidance: request.image_guidance ?? null, steps: request.steps ?? null, k: request.k ?? null });
    go("edit");
    return;
  }
  const kb = request.knowledge_base ?? chosen.get().kb;
  fillDraft(request, await pinnedOf(request.neighbors ?? [], kb));
}

async function pinnedOf(neighbors, kb) {
  const entries = [];
  for (const { item, upload, weight = 1, caption } of neighbors) {
    if (upload) entries.push(pinnedUpload({ id: upload, url: at(`/api/uploads/${upload}`) }, caption, weight));
    else {
      try {
        entries.push(pinnedItem(await get(kbPath(kb, `/items/${item}`)), weight));
      } catch (error) {
        if (error.status !== 404) throw error; // one that is gone is said by the caller
      }
    }
  }
  return entries;
}

/** The picture as an upload, to start from it or to generate from it. */
async function asUpload(url, name) {
  const response = await fetch(url);
  return postFile("/api/uploads", new File([await response.blob()], name, { type: "image/png" }));
}

const sourceOf = (image) => asUpload(at(`/api/images/${image.id}/source`), "source.png");

export async function uploadFile(file) {
  return postFile("/api/uploads", file);
}

export async function pinImage(image) {
  pin(pinnedUpload(await asUpload(image.url, fileName(image)), image.prompt));
  go("generate");
}

export function editImage(image) {
  editPicture({ id: image.id, url: image.url, alt: altOf(image) });
}

export async function editItem(item) {
  const upload = await asUpload(item.picture, item.name || "item.png");
  editPicture({ id: upload.id, url: upload.url, alt: item.caption || item.name });
}

export const checkCopies = (image) => submit("/api/check", { images: [image.id], knowledge_base: image.knowledge_base });
