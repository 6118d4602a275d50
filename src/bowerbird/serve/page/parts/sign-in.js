// Asks for the token where the server was started with one.
import { html, useEffect, useState } from "../lib/html.js";
import { get, post, signedIn } from "../lib/api.js";
import { useStore } from "../lib/store.js";
import { Dialog } from "./dialog.js";
import { TextField } from "./fields.js";

/** Whether the views may ask the server for anything yet. */
export async function checkSession() {
  try {
    const session = await get("/api/session");
    signedIn.set(!session.token_required || session.signed_in);
  } catch {
    // an unreachable server is said by the banner
  }
}

export function SignIn() {
  const inside = useStore(signedIn);
  const [token, setToken] = useState("");
  const [error, setError] = useState(null);
  useEffect(() => setError(null), [token]);
  if (inside) return null;
  const enter = async (event) => {
    event.preventDefault();
    try {
      await post("/api/session", { token });
      location.reload();
    } catch (failure) {
      setError(failure);
    }
  };
  return html`<${Dialog} title="This server wants a token" fixed onClose=${() => {}}>
    <form class="stack" onSubmit=${enter}>
      <p>Who runs the server has it: <code>bowerbird serve</code> was given it, or printed it when it started.</p>
      <${TextField} label="Token" type="password" value=${token} onValue=${setToken} error=${error?.message} autofocus />
      <button class="primary" disabled=${!token}>Open</button>
    </form>
  <//>`;
}
