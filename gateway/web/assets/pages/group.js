// One consistency group: how well it is protected, its volumes, its recovery points, and what can be done with it.

import { get, list, quiet } from "../api.js";
import { h } from "../dom.js";
import { byName, bytes, count, moment, rate, seconds, words } from "../format.js";
import { badge, button, facts, gauge, link, notice, reasons, section, sparkline, table, time } from "../ui.js";
import { rows as jobRows, HEAD as JOB_HEAD } from "./jobs.js";
import { actions } from "./recovery.js";

const POINTS = 200;
const FIRST = 20;

async function load({ id, signal, state }) {
  const path = `group=${encodeURIComponent(id)}`;
  const group = await get(`/v1/groups/${id}`, signal);
  const [status, volumes, points, clean, jobs, history, machines, policy, vault] = await Promise.all([
    list(`/v1/protection-status?${path}`, 1, signal).then((all) => all[0]),
    list("/v1/volumes", 1000, signal),
    list(`/v1/points?${path}`, state.view.allPoints ? 1000 : POINTS, signal).catch((problem) => ({ problem })),
    quiet(get(`/v1/clean-point?${path}`, signal), null),
    quiet(list(`/v1/jobs?${path}`, 10, signal)),
    quiet(list(`/v1/protection-history?${path}`, 1, signal)),
    quiet(list("/v1/machines", 1000, signal)),
    quiet(get(`/v1/policies/${group.spec.policy_id}`, signal), null),
    quiet(get(`/v1/vaults/${group.spec.vault_id}`, signal), null),
  ]);
  return {
    group,
    status,
    volumes: volumes.filter((volume) => volume.status.group_id === id),
    points,
    clean,
    jobs,
    history: history[0],
    machines: machines.filter((machine) => machine.spec.group_id === id),
    policy,
    vault,
  };
}

const DAY_MS = 86_400_000;

/** Until when a point can't be destroyed by anybody; nothing where the vault has no such time, or it is over. */
function lockedUntil(point, vault) {
  const days = vault?.spec.immutability?.days;
  if (!days) return undefined;
  const until = new Date(new Date(point.time).getTime() + days * DAY_MS);
  return until > new Date() ? until.toISOString() : undefined;
}

/** Where the points are in time: the present at the right, each step to the left ten times further away. */
function timeline(points, clean, vault) {
  if (points.length < 2) return undefined;
  const [width, height] = [1000, 56];
  const now = Date.now();
  const age = (at) => Math.max((now - new Date(at)) / 1000, 1);
  const oldest = Math.max(age(points.at(-1).time), 60);
  const x = (at) => width - 12 - (Math.log10(age(at)) / Math.log10(oldest)) * (width - 24);
  const marks = [
    [60, "1 min"],
    [3600, "1 h"],
    [86400, "1 day"],
    [7 * 86400, "1 week"],
    [30 * 86400, "30 days"],
  ].filter(([mark]) => mark < oldest);
  const suspicious = clean?.suspicions?.length > 0 && clean.point;
  const kinds = points.filter((point) => point.kind === "app-consistent").length;
  const pinned = points.filter((point) => point.pinned).length;
  const locked = points.filter((point) => lockedUntil(point, vault)).length;
  const told = `${count(points.length, "recovery point")} from ${moment(points.at(-1).time)} to ${moment(points[0].time)}: ${kinds} application-consistent, ${pinned} pinned, ${locked} locked${suspicious ? `; the suggested clean one is of ${moment(clean.point.time)}` : ""}. All of them are in the table below.`;
  return h(
    "svg",
    { class: "timeline", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told },
    h("title", null, told),
    h("line", { class: "axis", x1: 0, x2: width, y1: 30, y2: 30 }),
    marks.map(([mark, name]) => {
      const at = x(new Date(now - mark * 1000));
      return h("g", { key: name }, h("line", { class: "tick", x1: at, x2: at, y1: 26, y2: 34 }), h("text", { x: at, y: 52, "text-anchor": "middle" }, name));
    }),
    points.map((point) => h("circle", { key: point.id, class: `${point.kind} ${point.pinned ? "pinned" : ""}`, cx: x(point.time).toFixed(1), cy: 30, r: point.pinned || point.kind !== "crash-consistent" ? 6 : 3.5 })),
    suspicious && h("path", { class: "clean", d: `M${x(clean.point.time)} 20l-6 -12h12z` }),
  );
}

/** What the marks of the timeline mean. */
function legend(suspicious) {
  const mark = (name, child) => h("li", null, h("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, child), name);
  const dot = (kind, r) => h("circle", { class: kind, cx: 8, cy: 8, r });
  return h(
    "ul",
    { class: "legend" },
    mark("crash-consistent", dot("", 4)),
    mark("application-consistent", dot("app-consistent", 6)),
    mark("taken by somebody", dot("manual", 6)),
    mark("pinned", dot("pinned", 5)),
    suspicious && mark("suggested clean point", h("path", { d: "M8 13l-6 -11h12z" })),
  );
}

function pointRows(ctx, { group, points, clean, vault }, shown) {
  const lacks = ctx.lacks("operator");
  const base = `/v1/groups/${group.id}/points/`;
  const pin = (point) => () =>
    ctx.ask({
      title: `Pin the point of ${moment(point.time)}?`,
      intro: "It is kept whatever the retention schedule says, until somebody takes the pin off.",
      fields: [{ name: "reason", label: "Why", value: "" }],
      confirm: "Pin it",
      run: ({ reason }) => ctx.act(`${base}${point.id}:pin`, { reason }),
      done: () => ctx.say("The point is pinned."),
    });
  const unpin = (point) => () =>
    ctx.ask({
      title: `Take the pin off the point of ${moment(point.time)}?`,
      intro: "The retention schedule decides about it again, and may remove it at once.",
      typed: group.spec.name,
      confirm: "Take the pin off",
      danger: true,
      run: () => ctx.act(`${base}${point.id}:unpin`),
      done: () => ctx.say("The pin is off."),
    });
  return points.slice(0, shown).map((point) => {
    const locked = lockedUntil(point, vault);
    const marks = [
      clean?.point?.id === point.id && clean.suspicions.length > 0 && badge("suggested clean point", "good"),
      point.pinned && badge("pinned", "plain"),
      point.shared && badge("shared", "plain"),
      locked && h("span", { class: "badge plain", title: `Nobody can destroy it before ${moment(locked)}.` }, `locked until ${moment(locked).slice(0, 10)}`),
    ].filter(Boolean);
    return {
      key: point.id,
      cells: [
        h("time", { datetime: point.time }, moment(point.time)),
        words(point.kind),
        point.label || "–",
        marks.length > 0 ? marks.map((mark, at) => [at > 0 && " ", mark]) : "–",
        point.path ? h("code", null, point.path) : "–",
        point.pinned ? button("Unpin…", unpin(point), { why: lacks }) : button("Pin…", pin(point), { why: lacks }),
      ],
    };
  });
}

function pointsSection(ctx, data) {
  const { points, clean, vault } = data;
  if (points.problem) return section("Recovery points", notice("bad", points.problem.message));
  const shown = ctx.state.view.allPoints ? points.length : FIRST;
  return section(
    "Recovery points",
    clean?.suspicions?.length > 0 &&
      notice(
        "warn",
        h("p", null, clean.reason),
        clean.point && h("p", null, `Suggested clean point: ${moment(clean.point.time)} (confidence ${clean.confidence}). Look into it before you rely on it.`),
      ),
    points.length > 1 && [h("div", { class: "wide" }, timeline(points, clean, vault)), legend(clean?.suspicions?.length > 0)],
    table("Recovery points, newest first", ["Time", "Kind", "Label", "Marks", "Files", "Action"], pointRows(ctx, data, shown), "There is none yet: the first one follows the first copy."),
    (points.length > shown || points.more) &&
      !ctx.state.view.allPoints &&
      button(`Show ${points.more ? "more" : `all ${points.length}`}`, () => {
        ctx.state.view.allPoints = true;
        ctx.look();
        ctx.redraw();
      }),
  );
}

function view(ctx, data) {
  const { group, status, volumes, points, clean, jobs, history, machines, policy } = data;
  const { report } = ctx.state;
  const { status: is } = group;
  const running = jobs.find((job) => !job.finished);
  const samples = history?.samples ?? [];
  const takePoint = () =>
    ctx.ask({
      title: `Take a recovery point of ${group.spec.name}?`,
      fields: [
        { name: "label", label: "Label", value: "" },
        { name: "app_consistent", label: "With the application's hooks", kind: "checkbox", value: false },
      ],
      confirm: "Take it",
      run: (values) => ctx.act(`/v1/groups/${group.id}:point`, values),
    });
  const single = machines.length > 0 && notice("plain", "Machines boot from this group: fail over their plan, or the machine, rather than the group alone: ", machines.map((machine, at) => [at > 0 && ", ", link(`machines/${machine.id}`, machine.spec.name)]));
  return [
    facts(
      ["State", [badge(is.health), " ", words(is.state)]],
      ["In service at", is.active_site ?? "–"],
      is.failover && ["Failed over", `${is.failover.kind}, to the point of ${moment(is.failover.point_time)}${is.committed ? ", committed" : ""}`],
      ["Landed RPO", [seconds(status.landed_rpo_seconds), h("span", { class: "quiet" }, ` of ${seconds(status.rpo_threshold_seconds)}, what a disaster now would lose`)]],
      ["Applied RPO", [seconds(status.applied_rpo_seconds), h("span", { class: "quiet" }, ", what a failover now would cost at most")]],
      ["Latest point", time(status.latest_recovery_point?.time)],
      ["Backlog", [bytes(status.backlog_bytes), status.oldest_unshipped_seconds !== null && status.oldest_unshipped_seconds !== undefined && `, the oldest for ${seconds(status.oldest_unshipped_seconds)}`]],
      ["Written", rate(status.churn_bytes_per_second)],
      ["Shipped", [rate(status.shipped_bytes_per_second), status.compression_ratio && `, ${status.compression_ratio.toFixed(1)} times smaller`]],
      policy && ["Policy", `${policy.spec.name}: a point every ${policy.spec.recovery_point_interval}`],
      status.hydrated_bytes !== null && ["Fetched from the vault", bytes(status.hydrated_bytes)],
    ),
    is.reasons.length > 0 && notice(is.health === "critical" ? "bad" : "warn", reasons(is.reasons)),
    running && notice("plain", "Under way: ", link(`jobs/${running.id}`, words(running.kind)), ` (${words(running.steps.find((step) => step.state === "running")?.name ?? running.state)})`),
    single,
    h(
      "div",
      { class: "row", role: "group", "aria-label": "What can be done" },
      actions(ctx, {
        path: `/v1/groups/${group.id}`,
        name: group.spec.name,
        what: "group",
        points: points.problem ? [] : points,
        is: { state: is.state, busy: Boolean(running), committed: is.committed, tests: is.tests.length, activeHere: report.gateway_ids.includes(is.active_gateway_id), clean, reachable: false },
      }),
      button("Take a point…", takePoint, { why: ctx.lacks("operator") ?? (running ? "a job is under way" : undefined) }),
    ),
    is.tests.length > 0 &&
      section(
        "Tests",
        table(
          "Test failovers that are up",
          ["Point", "Job", "Files"],
          is.tests.map((test) => ({ key: test.branch_id, cells: [moment(test.point_time), link(`jobs/${test.job_id}`, "job"), test.path ? h("code", null, test.path) : "at another gateway"] })),
        ),
      ),
    section(
      "The last hour",
      h("div", { class: "charts" }, [
        h("figure", null, h("figcaption", null, "Landed RPO"), sparkline("Landed RPO", samples.map((sample) => sample.landed_rpo_seconds), { limit: status.rpo_threshold_seconds, width: 320, height: 72 })),
        h("figure", null, h("figcaption", null, "Backlog"), sparkline("Backlog", samples.map((sample) => sample.backlog_bytes), { width: 320, height: 72, say: bytes })),
      ]),
    ),
    section(
      "Journal",
      gauge(
        "Journal in use",
        status.journal_bytes_used,
        status.journal_bytes_limit,
        status.journal_full_in_seconds !== null && status.journal_full_in_seconds !== undefined ? `full in ${seconds(status.journal_full_in_seconds)} at this rate` : "not filling",
      ),
      status.resync && notice("warn", `A resync (${words(status.resync.cause)}) is ${status.resync.state}: ${bytes(status.resync.bytes_left)} of ${bytes(status.resync.bytes_total)} left. ${status.resync.waits_for ?? ""}`),
    ),
    section(
      "Volumes",
      table(
        "Volumes of the group",
        ["Volume", "State", "Size", "File", "For other hosts"],
        byName(volumes).map((volume) => ({
          key: volume.id,
          cells: [
            volume.spec.name,
            [badge(volume.status.health), " ", words(volume.status.state)],
            bytes(volume.status.size_bytes ?? volume.spec.size_bytes),
            volume.status.path ? h("code", null, volume.status.path) : "served elsewhere",
            volume.status.export ? [volume.status.export.iscsi_target, " ", volume.status.export.nbd_url] : "–",
          ],
        })),
        "It has no volume.",
      ),
    ),
    pointsSection(ctx, data),
    section("Jobs", table("Latest jobs of the group", JOB_HEAD, jobRows(jobs), "None yet.")),
  ];
}

export const page = { title: (data) => (data ? `Group ${data.group.spec.name}` : "Group"), load, view };
