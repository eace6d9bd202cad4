// The gateway's API: who asks, what went wrong, and looking again and again.

const TOKEN = "lifeboat.token";

/** What the gateway, or the way to it, said no with. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `the gateway answered ${status}`);
    this.status = status;
    this.code = body.code;
    this.approval = body.approval ?? undefined;
    this.fields = body.errors ?? [];
    this.blockers = body.blockers ?? [];
  }
}

/** The token lives as long as this tab. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
  forget: () => sessionStorage.removeItem(TOKEN),
};

let refused = () => {};
/** What is done when the token isn't taken any more. */
export function onRefused(handler) {
  refused = handler;
}

async function ask(method, path, { body, key, signal, unanswered = "The gateway does not answer. This page tries again by itself." } = {}) {
  const headers = { authorization: `Bearer ${token.get() ?? ""}` };
  const init = { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (key) headers["idempotency-key"] = key;
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, { code: "unreachable", detail: unanswered });
  }
  if (response.ok) return response;
  const found = new Problem(response.status, await response.json().catch(() => ({})));
  if (response.status === 401) refused(found);
  throw found;
}

/** One object. */
export const get = async (path, signal) => (await ask("GET", path, { signal })).json();

/** What a page can do without: `otherwise` where the gateway doesn't give it now. */
export const quiet = (asked, otherwise = []) => asked.catch(() => otherwise);

/** A file, as it is. */
export const blob = async (path) => (await ask("GET", path)).blob();

/** At most `limit` objects of a list, the first ones. */
export async function list(path, limit = 200, signal) {
  const found = [];
  let next;
  do {
    const url = new URL(path, location.origin);
    url.searchParams.set("limit", String(Math.min(limit - found.length, 200)));
    if (next) url.searchParams.set("page_token", next);
    const page = await get(url.pathname + url.search, signal);
    found.push(...page.items);
    next = page.next_page_token;
  } while (next && found.length < limit);
  found.more = Boolean(next);
  return found;
}

/** Does something; the same act, sent again because no answer came, is done once. */
export async function act(path, body = {}) {
  const unanswered = "The gateway does not answer: whether it was done is not known. Look at the jobs before trying again.";
  const key = crypto.randomUUID();
  for (let tried = 1; ; tried += 1) {
    try {
      const response = await ask("POST", path, { body, key, unanswered });
      return response.status === 204 ? undefined : await response.json();
    } catch (error) {
      if (error.status !== 0 || tried === 3) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500 * tried));
    }
  }
}
