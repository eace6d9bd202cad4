// The console's frame: signing in, which page, looking again and again, and what stands around every page.

import { act, get, list, onRefused, token } from "./api.js";
import * as dialog from "./dialog.js";
import { h, render } from "./dom.js";
import { ago, moment } from "./format.js";
import { badge, link, notice } from "./ui.js";
import * as approvals from "./pages/approvals.js";
import * as drills from "./pages/drills.js";
import * as gateways from "./pages/gateways.js";
import * as group from "./pages/group.js";
import * as jobs from "./pages/jobs.js";
import * as logs from "./pages/logs.js";
import * as machines from "./pages/machines.js";
import * as overview from "./pages/overview.js";
import * as plans from "./pages/plans.js";

const LOOK_EVERY_MS = 2000;
const LOOK_HIDDEN_MS = 15000;

/** First part of the address behind `#/`, and what is shown for it. The order is that of the menu. */
const PAGES = {
  "": { menu: "Overview", page: overview.page },
  groups: { page: group.page, under: "" },
  plans: { menu: "Plans", page: plans.list, one: plans.one },
  machines: { menu: "Machines", page: machines.list, one: machines.one },
  drills: { menu: "Drills", page: drills.list, one: drills.one },
  jobs: { menu: "Jobs", page: jobs.list, one: jobs.one },
  events: { menu: "Events", page: logs.events },
  audit: { menu: "Audit", page: logs.audit },
  gateways: { menu: "Gateways", page: gateways.page },
  approvals: { menu: "Approvals", page: approvals.page },
};

const state = {
  /** What this person is let do, and where. */
  whoami: undefined,
  /** The gateway's account of itself, and when it was given. */
  report: undefined,
  seen: undefined,
  /** What the page that is open needs. */
  data: undefined,
  problem: undefined,
  pageProblem: undefined,
  dialog: undefined,
  said: "",
  waiting: 0,
  signingIn: undefined,
  view: {},
};

let looking = 0;
let timer;
let abort = new AbortController();

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  const entry = PAGES[name] ?? PAGES[""];
  const page = rest.length > 0 && entry.one ? entry.one : entry.page;
  return { name: name in PAGES ? name : "", page, id: rest[0], query: new URLSearchParams(query ?? "") };
}

/** What pages get to work with. */
const ctx = {
  state,
  get route() {
    return route();
  },
  redraw,
  look,
  go: (to) => (location.hash = `#/${to}`),
  /** Says something to who can't see that the page has changed. */
  say(text) {
    state.said = text;
    redraw();
  },
  ask: (options) => dialog.open(ctx, options),
  act,
  /** Why this person may not do what a role is needed for; nothing when they may. */
  lacks(role) {
    const has = state.whoami?.roles ?? [];
    return has.includes(role) ? undefined : `needs the role ${role.replaceAll("_", " ")}`;
  },
};

/** Asks the gateway how things stand, for the page that is open. */
async function look() {
  clearTimeout(timer);
  if (!token.get()) return redraw();
  const mine = ++looking;
  abort.abort();
  abort = new AbortController();
  const { signal } = abort;
  const { page, id, query } = route();
  try {
    const [report, waiting] = await Promise.all([get("/v1/status", signal), list("/v1/approvals", 200, signal).catch(() => [])]);
    state.whoami ??= await get("/v1/whoami", signal);
    if (mine !== looking) return;
    Object.assign(state, { report, seen: new Date().toISOString(), problem: undefined });
    state.waiting = waiting.filter((approval) => approval.status.state === "pending").length;
    redraw();
    try {
      const data = await page.load({ id, query, signal, report, state });
      if (mine !== looking) return;
      state.data = data;
      state.pageProblem = undefined;
    } catch (problem) {
      if (mine !== looking || signal.aborted) return;
      state.pageProblem = problem;
    }
  } catch (problem) {
    if (mine !== looking || signal.aborted) return;
    state.problem = problem;
  }
  redraw();
  timer = setTimeout(look, document.hidden ? LOOK_HIDDEN_MS : LOOK_EVERY_MS);
}

function arrived() {
  state.data = undefined;
  state.pageProblem = undefined;
  state.view = {};
  state.said = "";
  if (state.dialog) state.dialog = undefined;
  redraw();
  document.querySelector("h1")?.focus();
  look();
}

function signOut(why) {
  token.forget();
  looking += 1;
  Object.assign(state, { whoami: undefined, report: undefined, data: undefined, dialog: undefined, signingIn: { problem: why } });
  redraw();
}

async function signIn(event) {
  event.preventDefault();
  const field = document.getElementById("token");
  token.set(field.value.trim());
  state.signingIn = { busy: true };
  redraw();
  try {
    state.whoami = await get("/v1/whoami");
    state.signingIn = undefined;
    await look();
    document.querySelector("h1")?.focus();
  } catch (problem) {
    token.forget();
    state.signingIn = { problem };
    redraw();
    document.getElementById("token")?.focus();
  }
}

function door() {
  const { busy, problem } = state.signingIn ?? {};
  return h(
    "main",
    { class: "door", id: "main", key: "door" },
    h("h1", { tabindex: "-1" }, "Lifeboat"),
    h("p", null, "The console of one gateway. It works as long as this gateway runs, also where the other site is gone."),
    problem && notice("bad", problem.message),
    h(
      "form",
      { onsubmit: signIn },
      h(
        "div",
        { class: "field" },
        h("label", { for: "token" }, "Token"),
        h("input", { id: "token", type: "password", required: true, autocomplete: "off", focus: true, "aria-describedby": "token-help" }),
        h("p", { id: "token-help", class: "help" }, "One that ", h("code", null, "lifeboat token create"), " made, or ", h("code", null, "admin.token"), " of the gateway's state directory. It is forgotten with this tab."),
      ),
      h("button", { type: "submit", class: "primary", disabled: busy }, busy ? "Asking…" : "Sign in"),
    ),
  );
}

function menu(name) {
  const open = PAGES[name].under ?? name;
  return h(
    "nav",
    { "aria-label": "Pages" },
    h(
      "ul",
      null,
      Object.entries(PAGES)
        .filter(([, entry]) => entry.menu)
        .map(([to, entry]) =>
          h(
            "li",
            { key: to },
            h(
              "a",
              { href: `#/${to}`, "aria-current": to === open ? "page" : undefined },
              entry.menu,
              to === "approvals" && state.waiting > 0 && h("span", { class: "count" }, ` ${state.waiting}`, h("span", { class: "visually-hidden" }, " waiting")),
            ),
          ),
        ),
    ),
  );
}

function lost() {
  const vaults = (state.report?.vaults ?? []).filter((vault) => vault.status.health === "critical");
  const why = (vault) => (route().name === "" ? "" : `: ${vault.status.reasons.join("; ") || "no reason is known"}`);
  return [
    state.problem && notice("bad", state.problem.message, state.seen && ` What you see is of ${moment(state.seen)}.`),
    !state.problem &&
      vaults.map((vault) =>
        notice("bad", `The vault ${vault.spec.name} can't be used now${why(vault)}. What is shown of it was read before. Writes go on into the journal.`),
      ),
  ];
}

/** A page; one that can't make anything of an answer says so, and the next look may do. */
function shown(page) {
  try {
    return page.view(ctx, state.data);
  } catch (error) {
    console.error(error);
    return notice("bad", "This page can't show what the gateway answered. The command line can: lifeboat status.");
  }
}

/** Administrators have the name of their gateway, which stands at the left already. */
const who = (principal) => (principal?.kind === "administrator" ? "administrator" : principal?.name);

function frame() {
  const { name, page, id } = route();
  const { report } = state;
  const place = report?.site ? ` at ${report.site}` : "";
  const title = page.title(state.data, id, state);
  document.title = `${title} · ${report?.name ?? "Lifeboat"}`;
  return [
    h("a", { class: "skip", href: "#main", key: "skip", onclick: (event) => (event.preventDefault(), document.querySelector("h1")?.focus()) }, "Skip to the page"),
    h(
      "header",
      { key: "header" },
      h("p", { class: "brand" }, link("", "Lifeboat")),
      h("p", { class: "place" }, report ? [h("strong", null, report.name), `${place} `, badge(report.health)] : "…"),
      h("p", { class: "who" }, who(state.whoami?.principal), " ", h("button", { type: "button", onclick: () => signOut() }, "Sign out")),
    ),
    menu(name),
    h(
      "main",
      {
        id: "main",
        key: `main-${name}-${id ?? ""}`,
        "data-address": location.hash,
        "aria-busy": state.data === undefined && !state.pageProblem ? "true" : undefined,
      },
      h("h1", { tabindex: "-1", class: page.verdict?.(state) }, title),
      lost(),
      state.pageProblem && notice("bad", state.pageProblem.message),
      state.data === undefined ? !state.pageProblem && h("p", { class: "empty" }, "Looking…") : shown(page),
    ),
    h("footer", { key: "footer" }, report && [`Lifeboat ${report.version}. `, state.problem ? `Last seen ${ago(state.seen)}.` : "Looks again every 2 seconds."]),
  ];
}

function redraw() {
  const root = document.getElementById("root");
  const here = token.get() && !state.signingIn ? frame() : door();
  render(root, here, h("p", { class: "visually-hidden", role: "status", key: "said" }, state.said), dialog.view(ctx));
}

onRefused((problem) => state.signingIn?.busy || signOut(problem));
window.addEventListener("hashchange", arrived);
document.addEventListener("visibilitychange", () => !document.hidden && look());
redraw();
look();
