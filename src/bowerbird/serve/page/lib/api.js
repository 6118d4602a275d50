// Requests to the server: JSON in, JSON out, and every failure an ApiError with a sentence to show.
import { countIfSlow } from "./busy.js";
import { at } from "./root.js";
import { createStore } from "./store.js";

/** False once the server wants a token and has none. */
export const signedIn = createStore(true);

export class ApiError extends Error {
  constructor(message, { status = 0, param = null, code = null, retryAfter = null, requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, param, code, retryAfter, requestId });
  }
}

export const isAbort = (error) => error?.name === "AbortError";

export const get = (path, { query, signal } = {}) => send("GET", path + queryString(query), { signal });
export const post = (path, body, { signal } = {}) => send("POST", path, { json: body, signal });
export const patch = (path, body) => send("PATCH", path, { json: body });
export const remove = (path) => send("DELETE", path);

/** Posts one file; `progress` of a larger body is uploadForm's. */
export function postFile(path, file, { signal } = {}) {
  const form = new FormData();
  form.append("file", file, file.name || "picture.png");
  return send("POST", path, { form, signal });
}

/** Posts a body and answers with the file that comes back. */
export async function postForBlob(path, body) {
  const response = await countIfSlow(fetchOrExplain(path, jsonRequest("POST", body)));
  if (!response.ok) throw await readError(response);
  return response.blob();
}

async function send(method, path, { json, form, signal } = {}) {
  const init = form ? { method, body: form } : jsonRequest(method, json);
  const response = await countIfSlow(fetchOrExplain(path, { ...init, signal }));
  if (!response.ok) throw await readError(response);
  return response.status === 204 ? null : response.json();
}

function jsonRequest(method, json) {
  if (json === undefined) return { method };
  return { method, body: JSON.stringify(json), headers: { "Content-Type": "application/json" } };
}

async function fetchOrExplain(path, init) {
  try {
    return await fetch(at(path), { credentials: "same-origin", ...init });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError("The server does not answer. Is `bowerbird serve` still running?", { code: "unreachable" });
  }
}

async function readError(response) {
  let error = null;
  try {
    error = (await response.json()).error;
  } catch {
    // an answer of something between: a proxy, say
  }
  return toError(response.status, error, response.headers.get("Retry-After"));
}

function toError(status, error, retryAfter) {
  if (status === 401) signedIn.set(false);
  const message = error?.message || `The server answered ${status}.`;
  return new ApiError(message, {
    status,
    param: error?.param,
    code: error?.code,
    retryAfter: Number(retryAfter) || null,
    requestId: error?.request_id,
  });
}

/** Posts a large form; calls onSent with the share of bytes sent (fetch cannot say that). */
export function uploadForm(path, form, { onSent, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", at(path));
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onSent?.(event.loaded / event.total);
    request.onload = () => {
      if (request.status < 300) resolve(request.response);
      else reject(toError(request.status, request.response?.error, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new ApiError("The upload broke off. Is `bowerbird serve` still running?"));
    request.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

function queryString(query = {}) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "" && value !== false) params.set(name, String(value));
  }
  const text = params.toString();
  return text ? `?${text}` : "";
}

/** Path of a knowledge base, or of something in it. */
export const kbPath = (kb, rest = "") => `/api/knowledge-bases/${encodeURIComponent(kb)}${rest}`;
