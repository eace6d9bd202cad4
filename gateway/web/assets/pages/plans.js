// Recovery plans: whether they would work, and carrying them out.

import { get, list as listed, quiet } from "../api.js";
import { h } from "../dom.js";
import { byName, moment, words } from "../format.js";
import { badge, facts, link, notice, section, table, time } from "../ui.js";
import { rows as jobRows, HEAD as JOB_HEAD } from "./jobs.js";
import { actions } from "./recovery.js";

export const list = {
  title: () => "Recovery plans",
  load: ({ signal }) => listed("/v1/plans", 200, signal),
  view: (_, plans) =>
    table(
      "Recovery plans",
      ["Plan", "State", "Readiness", "In service at", "Tests up"],
      byName(plans).map((plan) => ({
        key: plan.id,
        cells: [link(`plans/${plan.id}`, plan.spec.name), badge(plan.status.state), badge(plan.status.readiness), plan.status.active_site ?? "–", plan.status.tests.length],
      })),
      "No plan is declared. A plan says what comes up at the other site, and in what order: lifeboat_recovery_plan in Terraform.",
    ),
};

async function load({ id, signal }) {
  const plan = await get(`/v1/plans/${id}`, signal);
  const [machines, volumes, drills, jobs, sites] = await Promise.all([
    quiet(listed("/v1/machines", 1000, signal)),
    quiet(listed("/v1/volumes", 1000, signal)),
    quiet(listed("/v1/drills", 200, signal)),
    quiet(listed(`/v1/jobs?plan=${encodeURIComponent(id)}`, 10, signal)),
    quiet(listed("/v1/sites", 200, signal)),
  ]);
  // A point is a moment for all groups of a plan; those of its first group are offered.
  const first = plan.spec.boot_group.flatMap((boot) => [
    ...(boot.machine_ids ?? []).map((one) => machines.find((machine) => machine.id === one)?.spec.group_id),
    ...(boot.volume_ids ?? []).map((one) => volumes.find((volume) => volume.id === one)?.status.group_id),
  ])[0];
  return { plan, machines, volumes, drills: drills.filter((drill) => drill.spec.plan_id === id), jobs, sites, first };
}

function order({ plan, machines, volumes }) {
  const machine = (id) => machines.find((one) => one.id === id)?.spec.name ?? id;
  const volume = (id) => volumes.find((one) => one.id === id)?.spec.name ?? id;
  const step = (action) => h("li", { class: "action" }, `${words(action.type)}: ${action.name}`, action.instruction && h("p", { class: "quiet" }, action.instruction));
  return h(
    "ol",
    { class: "steps" },
    plan.spec.shutdown && h("li", { key: "shutdown" }, h("strong", null, "Shut down at the source"), ` within ${plan.spec.shutdown.timeout}`),
    plan.spec.boot_group.map((boot, at) =>
      h(
        "li",
        { key: String(at) },
        h("strong", null, boot.name ?? `Boot group ${at + 1}`),
        h("ul", { class: "plain" }, [
          ...(boot.pre_action ?? []).map(step),
          ...(boot.machine_ids ?? []).map((id) => h("li", null, "machine ", link(`machines/${id}`, machine(id)))),
          ...(boot.volume_ids ?? []).map((id) => h("li", null, "volume ", volume(id))),
          ...(boot.post_action ?? []).map(step),
        ]),
      ),
    ),
  );
}

function view(ctx, data) {
  const { plan, drills, jobs, sites } = data;
  const { status: is, spec } = plan;
  const site = (id) => sites.find((one) => one.id === id)?.spec.name ?? "–";
  const running = jobs.find((job) => !job.finished);
  return [
    facts(
      ["State", badge(is.state)],
      ["Readiness", badge(is.readiness)],
      ["Goes", `from ${site(spec.source_site_id)} to ${site(spec.target_site_id)}`],
      ["In service at", is.active_site ?? "–"],
      is.failover && ["Failover", `${is.failover.kind}${is.failover.committed ? ", committed" : ""}`],
    ),
    is.reasons.length > 0 && notice("bad", h("p", null, "A failover would not work:"), h("ul", null, is.reasons.map((reason) => h("li", null, reason)))),
    is.warnings.length > 0 && notice("warn", h("ul", null, is.warnings.map((reason) => h("li", null, reason)))),
    running && notice("plain", "Under way: ", link(`jobs/${running.id}`, words(running.kind))),
    h(
      "div",
      { class: "row", role: "group", "aria-label": "What can be done" },
      actions(ctx, {
        path: `/v1/plans/${plan.id}`,
        name: spec.name,
        what: "plan",
        hasTtl: true,
        is: { state: is.state, busy: Boolean(running), committed: is.failover?.committed, tests: is.tests.length, activeHere: ctx.state.report.site !== site(spec.target_site_id), reachable: true },
      }),
    ),
    is.tests.length > 0 &&
      section(
        "Tests",
        table(
          "Tests that are up",
          ["Begun", "Ends by itself", "Machines"],
          is.tests.map((test) => ({ key: test.job_id, cells: [link(`jobs/${test.job_id}`, moment(test.started)), time(test.expires), test.machines.map((run) => run.name).join(", ") || "–"] })),
        ),
      ),
    section("Order", order(data)),
    section(
      "Drills",
      table(
        "Drills of the plan",
        ["Drill", "State", "Evidence ends"],
        drills.map((drill) => ({ key: drill.id, cells: [link(`drills/${drill.id}`, drill.spec.name), badge(drill.status.state), time(drill.status.expires)] })),
        "No drill proves this plan. Declare one: lifeboat_drill in Terraform.",
      ),
    ),
    section("Jobs", table("Latest jobs of the plan", JOB_HEAD, jobRows(jobs), "None yet.")),
  ];
}

export const one = { title: (data) => (data ? `Plan ${data.plan.spec.name}` : "Plan"), load, view };
