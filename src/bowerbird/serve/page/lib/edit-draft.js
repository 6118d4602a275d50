// What is being prepared in Edit. Not kept beyond the page: an upload lives for a day only.
import { createStore } from "./store.js";
import { go } from "./router.js";

export const editDraft = createStore({
  source: null, // { id, url, alt }: an upload or one of our images
  by: "prompt", // or "reference"
  prompt: "",
  reference: null, // an upload
  model: null,
  n: 1,
  seed: null,
  strength: 1,
  preservation: null,
  imageGuidance: null, // of models that edit by an instruction, in place of it
  steps: null,
  k: null,
});

export function editPicture(source) {
  editDraft.patch({ source });
  go("edit");
}
