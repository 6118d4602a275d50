// What a knowledge base is: size, encoder, versions to go back to, and whether it is whole.
import { html, useState } from "../../lib/html.js";
import { get, kbPath, post } from "../../lib/api.js";
import { bytes, count, plain } from "../../lib/format.js";
import { useLoaded } from "../../lib/hooks.js";
import { finished, submit } from "../../lib/jobs.js";
import { Dialog } from "../../parts/dialog.js";
import { SelectField } from "../../parts/fields.js";
import { Bar, ErrorNote } from "../../parts/notices.js";
import { toast } from "../../parts/toast.js";

export function About({ base, onClose, onChanged }) {
  const versions = useLoaded((signal) => get(kbPath(base.id, "/versions"), { signal }), `${base.id} ${base.version}`);
  const [version, setVersion] = useState(null);
  const [check, setCheck] = useState({});
  const [error, setError] = useState(null);
  const verify = async () => {
    setCheck({ running: true });
    try {
      setCheck({ job: await finished(await submit(kbPath(base.id, "/verify"))) });
    } catch (failure) {
      setCheck({});
      setError(failure);
    }
  };
  const restore = async () => {
    try {
      const { items } = await post(kbPath(base.id, "/restore"), { version: Number(version) });
      await onChanged();
      onClose();
      toast(`${base.id} is as in version ${version}: ${count(items)} items.`);
    } catch (failure) {
      setError(failure);
    }
  };
  const earlier = (versions.data?.versions ?? []).filter((other) => other !== base.version).toReversed();
  const pairs = [
    ["Items", count(base.items)],
    ["On disk", bytes(base.bytes)],
    ["Encoder", `${base.encoder.name}, ${base.encoder.dim} dimensions`],
    ["Version", base.version],
    ["Columns", Object.keys(base.columns ?? {}).join(", ") || "none"],
    ["Credit", base.credit?.join(", ") || "none recorded"],
  ];
  return html`<${Dialog} title=${base.id} onClose=${onClose}>
    <div class="stack">
      <dl class="pairs">${pairs.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
      <${ErrorNote} error=${error ?? versions.error} />
      ${base.writable &&
      earlier.length > 0 &&
      html`<div class="field-row">
        <${SelectField} label="Go back to a version" value=${version} onValue=${setVersion} options=${[{ value: null, label: "choose" }, ...earlier.map((n) => ({ value: String(n), label: `version ${n}` }))]} />
        <button type="button" disabled=${!version} onClick=${restore}>Restore</button>
      </div>`}
      ${check.running && html`<${Bar} value=${null} label="Verifying" />`}
      ${check.job && html`<${Findings} job=${check.job} />`}
      <div class="button-row end"><button type="button" disabled=${check.running} onClick=${verify}>Verify every file</button></div>
    </div>
  <//>`;
}

function Findings({ job }) {
  if (job.error) return html`<${ErrorNote} error=${job.error} />`;
  const { good, corrupt = [], outdated = [] } = job.report ?? {};
  if (good) return html`<p role="status"><strong>Whole:</strong> every file is as it was written.</p>`;
  return html`<ul class="lines" role="status">${[...corrupt, ...outdated].map((line, at) => html`<li key=${at}>${plain(line)}</li>`)}</ul>`;
}
