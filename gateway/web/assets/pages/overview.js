// Whether everything is protected, and what has to be done.

import { list, quiet } from "../api.js";
import { h } from "../dom.js";
import { byName, bytes, count, seconds, words } from "../format.js";
import { badge, link, section, sparkline, table, time } from "../ui.js";
import { rows as jobRows, HEAD as JOB_HEAD } from "./jobs.js";

const RECENT = 8;
/** The last hour has a sample every half a minute: it isn't asked for more often than that is worth. */
const HISTORY_MS = 10_000;

async function histories(signal, view) {
  if (!(view.historyAt > Date.now() - HISTORY_MS)) {
    const all = await list("/v1/protection-history", 1000, signal);
    view.history = new Map(all.map((one) => [one.group_id, one]));
    view.historyAt = Date.now();
  }
  return view.history;
}

async function load({ signal, state }) {
  const [history, jobs, drills, plans, events] = await Promise.all([
    quiet(histories(signal, state.view), new Map()),
    quiet(list("/v1/jobs", 50, signal)),
    quiet(list("/v1/drills", 200, signal)),
    quiet(list("/v1/plans", 200, signal)),
    quiet(list("/v1/events", RECENT, signal)),
  ]);
  return { history, jobs, drills, plans, events };
}

/** The group's landed RPO over the last hour. */
export function trend(history, group) {
  const samples = history?.samples ?? [];
  return sparkline("Landed RPO in the last hour", samples.map((sample) => sample.landed_rpo_seconds), { limit: group.rpo_threshold_seconds });
}

export const rpo = (group) => h("span", { class: group.landed_rpo_seconds > group.rpo_threshold_seconds ? "over" : "" }, seconds(group.landed_rpo_seconds), h("span", { class: "quiet" }, ` of ${seconds(group.rpo_threshold_seconds)}`));

export function journal(group) {
  const full = group.journal_full_in_seconds;
  return [
    bytes(group.journal_bytes_used),
    group.journal_bytes_limit && h("span", { class: "quiet" }, ` of ${bytes(group.journal_bytes_limit)}`),
    full !== null && full !== undefined && h("span", { class: full < 3600 ? "over" : "" }, `, full in ${seconds(full)}`),
  ];
}

function view(ctx, { history, jobs, drills, plans, events }) {
  const { report } = ctx.state;
  const rows = byName(report.protection, (group) => group.group).map((group) => ({
    key: group.group_id,
    level: group.health === "critical" ? "bad" : group.health === "warning" ? "warn" : "",
    cells: [
      link(`groups/${group.group_id}`, group.group),
      [badge(group.health), " ", words(group.state)],
      rpo(group),
      seconds(group.applied_rpo_seconds),
      trend(history.get(group.group_id), group),
      bytes(group.backlog_bytes),
      journal(group),
      group.active_site ?? "–",
    ],
  }));
  const running = jobs.filter((job) => !job.finished);
  const waits = running.filter((job) => job.steps.some((step) => step.waits_for));
  const old = drills.filter((drill) => drill.status.state !== "passed" && drill.status.state !== "running");
  const unready = plans.filter((plan) => plan.status.readiness !== "ready");
  const all = report.protection.flatMap((group) => group.reasons.map((reason) => `${group.group}: ${reason}`));
  // What is wrong with a vault stands above already.
  const told = report.vaults.flatMap((vault) => vault.status.reasons);
  const todo = [
    ...report.reasons.filter((reason) => !told.includes(reason)).map((reason) => [reason]),
    ...all.map((reason) => [reason]),
    ...waits.map((job) => [`${job.name}: the `, link(`jobs/${job.id}`, words(job.kind)), " waits for a person"]),
    ...unready.map((plan) => ["The plan ", link(`plans/${plan.id}`, plan.spec.name), " is not ready"]),
    ...old.map((drill) => ["The drill ", link(`drills/${drill.id}`, drill.spec.name), ` ${drill.status.state === "never-run" ? "has never been run" : `is ${drill.status.state}`}`]),
    ...(ctx.state.waiting > 0 ? [[link("approvals", count(ctx.state.waiting, "approval")), " waiting for a second person"]] : []),
  ];
  return [
    todo.length > 0 && section("To look at", h("ul", { class: "reasons" }, todo.map((parts, at) => h("li", { key: String(at) }, parts)))),
    section(
      "Groups",
      table(
        "Protected groups",
        ["Group", "State", "Landed RPO", "Applied RPO", "Last hour", "Backlog", "Journal", "Active at"],
        rows,
        "No group is declared in the vaults of this gateway. Declare one with Terraform, or open a vault: lifeboat vault open.",
      ),
    ),
    running.length > 0 && section("Under way", table("Jobs under way", JOB_HEAD, jobRows(running))),
    section(
      "Latest events",
      events.length === 0
        ? h("p", { class: "empty" }, "None is known.")
        : h("ul", { class: "plain" }, events.map((event) => h("li", { key: event.id }, badge(event.severity), " ", event.message, h("span", { class: "quiet" }, " · ", time(event.time))))),
    ),
  ];
}

export const page = {
  load,
  view,
  title: (_, __, { report }) => report?.summary?.sentence ?? "Looking…",
  verdict: ({ report }) => `verdict ${{ healthy: "good", warning: "warn", critical: "bad" }[report?.summary?.health] ?? ""}`,
};
