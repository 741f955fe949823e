// Talking to the service: the token, waiting when it is busy, one shape of error. Only its own origin is ever asked.

const TOKEN = "strokect-token"; // in sessionStorage: gone with this tab
const TRIES = 3; // after the first, when the service says 429
const MAX_WAIT_S = 60;

/** An answer that is none. `status` is 0 when the service cannot be reached. */
export class ServiceError extends Error {
  constructor(status, { code = "", message = "", requestId = "", retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, code, requestId, retryAfter });
  }
}

/** Keep a token for this tab, or forget it. */
export function setToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/** Whether there is one, accepted or not. */
export const hasToken = () => sessionStorage.getItem(TOKEN) !== null;

/** GET a path → its JSON. */
export async function getJson(path, options = {}) {
  return JSON.parse(await (await send("GET", path, null, options)).text());
}

/** POST blobs as the multipart field `field` → the answer as a Blob. They are sent under neutral names, never their own. */
export function post(path, field, blobs, options = {}) {
  const form = new FormData();
  for (const [number, blob] of blobs.entries()) {
    form.append(field, blob.slice(0, blob.size, "application/octet-stream"), `slice-${number}`);
  }
  return send("POST", path, form, options);
}

/** The same → the answer's JSON. */
export async function postJson(path, field, blobs, options = {}) {
  return JSON.parse(await (await post(path, field, blobs, options)).text());
}

/**
 * Send a request, and again up to `tries` times when the service is busy, each time after the wait that it asks for.
 * `onWait(seconds, attempt)` is told every second of waiting, `onSent(share)` how much of the body is out.
 */
async function send(method, path, body, { signal, onSent, onWait = () => {}, tries = TRIES } = {}) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await once(method, path, body, signal, onSent);
    } catch (error) {
      if (error.status !== 429 || attempt > tries) throw error;
      for (let left = Math.min(Math.max(error.retryAfter, 1), MAX_WAIT_S); left > 0; left--) {
        onWait(left, attempt);
        await pause(1000, signal);
      }
    }
  }
}

/** XMLHttpRequest and not fetch, which does not tell how much of a large series has been sent. */
function once(method, path, body, signal, onSent) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    request.open(method, path);
    request.responseType = "blob";
    const token = sessionStorage.getItem(TOKEN);
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    if (onSent) request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.onload = () => (request.status < 300 ? resolve(request.response) : failure(request).then(reject));
    request.onerror = () => reject(new ServiceError(0));
    request.onabort = () => reject(signal?.reason ?? new ServiceError(0));
    request.onloadend = () => signal?.removeEventListener("abort", abort);
    signal?.addEventListener("abort", abort);
    request.send(body);
  });
}

async function failure(request) {
  let detail = {};
  try {
    detail = JSON.parse(await request.response.text()).error ?? {};
  } catch {
    // A proxy in between answers in a shape of its own; the status says enough.
  }
  return new ServiceError(request.status, {
    code: detail.code,
    message: detail.message,
    requestId: detail.request_id ?? request.getResponseHeader("X-Request-Id") ?? "",
    retryAfter: Number(request.getResponseHeader("Retry-After")) || 0,
  });
}

/** Wait, or stop waiting when the signal says so. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop);
  });
}
