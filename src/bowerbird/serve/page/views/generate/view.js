// Generate: prompt on the left, neighbors above, pictures below.
import { html, useEffect, useRef, useState } from "../../lib/html.js";
import { draft } from "../../lib/draft.js";
import { useKeys } from "../../lib/hooks.js";
import { loadNeighbors, settingsBack } from "../../lib/images.js";
import { cancel, isActive, jobs, submit } from "../../lib/jobs.js";
import { chosen, modelOf, server } from "../../lib/server.js";
import { useStore } from "../../lib/store.js";
import { useDropZones } from "../../parts/drop.js";
import { Empty, showNewest } from "../../parts/notices.js";
import { toastError } from "../../parts/toast.js";
import { Form } from "./form.js";
import { NeighborRow, pinFiles } from "./neighbor-row.js";
import { useNeighbors } from "./neighbors.js";
import { canGenerate, isChanged, requestOf, usesChosen } from "./request.js";
import { Run } from "./run.js";

const KINDS = new Set(["generate", "compare", "regenerate"]);
const SHOWN = 12;

export function Generate() {
  const now = useStore(draft);
  const { kb } = useStore(chosen);
  const model = useStore(server, (state) => modelOf(state, now.model ?? state.status.default_model));
  const list = useStore(jobs);
  const runs = list.filter((job) => KINDS.has(job.kind));
  const found = useNeighbors({ kb, draft: now, model });
  const [error, setError] = useState(null);
  const [sending, setSending] = useState(false);
  const { lit, onLight } = useLight();

  // where the row itself is sent, a row that is still being looked for is waited for
  const [wanted, setWanted] = useState(false);
  const generate = () => setWanted(canGenerate(now) && !sending);
  const ready = wanted && !(usesChosen(now) && found.loading);
  useEffect(() => {
    if (!ready) return;
    setWanted(false);
    send();
  }, [ready]);
  const send = async () => {
    setSending(true);
    setError(null);
    try {
      const { path, body } = requestOf(now, { kb, model, neighbors: found.neighbors });
      await submit(path, body);
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
    Enter: (event) => (event.target === document.body ? generate() : false),
  });
  useDropZones([
    { icon: "pin", label: "Use as neighbor", hint: "Pictures from disk", onFiles: pinFiles },
    { icon: "spark", label: "Get its settings back", hint: "A PNG made by bowerbird", onFiles: ([file]) => settingsBack(file) },
  ]);

  return html`<div class="generate-body">
    <${Form} now=${now} model=${model} error=${error} sending=${sending || wanted} onGenerate=${generate} />
    <div class="generate-main">
      <${NeighborRow} kb=${kb} found=${found} now=${now} lit=${lit} hint=${hintOf(now, found.neighbors)} />
      <section class="runs" aria-label="Pictures">
        ${runs.slice(0, SHOWN).map((job) => html`<${Run} key=${job.id} job=${job} lit=${lit?.job === job.id ? lit : null} onLight=${onLight} />`)}
        ${runs.length > SHOWN && html`<p class="small">Older ones are in the <a href="#/history">history</a>.</p>`}
        ${!runs.length &&
        html`<${Empty} icon="spark" title="Nothing generated yet">
          <p>Write a prompt, look at what is found for it, press Enter. Hover over a picture to see which neighbors it came from.</p>
        <//>`}
      </section>
    </div>
  </div>`;
}

function hintOf(now, neighbors) {
  if (now.how === "sides") return "for the side with neighbors";
  if (now.how === "grid") return isChanged(now) ? "each picture is given the first k of these" : "for the largest k";
  if (isChanged(now)) return "exactly these are used";
  return neighbors.length ? "found for this prompt" : "";
}

/** The neighbors of the picture under the pointer: a Map of id -> score, with the job it belongs to. */
function useLight() {
  const [lit, setLit] = useState(null);
  const wanted = useRef(null);
  const onLight = async (image) => {
    wanted.current = image?.id ?? null;
    if (!image) return setLit(null);
    try {
      const { neighbors } = await loadNeighbors(image.id);
      if (wanted.current !== image.id) return undefined;
      const map = new Map(neighbors.map((neighbor) => [neighbor.id, neighbor.score]));
      map.job = image.job;
      return setLit(map);
    } catch {
      return setLit(null); // the open picture says what went wrong
    }
  };
  return { lit, onLight };
}
