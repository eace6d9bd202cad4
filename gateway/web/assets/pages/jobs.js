// What was done, is being done, went wrong.

import { get, list as listed } from "../api.js";
import { h } from "../dom.js";
import { bytes, moment, seconds, words } from "../format.js";
import { badge, button, facts, link, notice, progress, section, table, time } from "../ui.js";

export const HEAD = ["Job", "Of", "State", "Step", "Begun", "Took"];

const took = (job) => (job.started ? seconds((new Date(job.finished ?? Date.now()) - new Date(job.started)) / 1000) : "–");
const current = (job) => job.steps.find((step) => step.state === "running" || step.state === "failed") ?? job.steps.at(-1);

export const rows = (jobs) =>
  jobs.map((job) => ({
    key: job.id,
    cells: [link(`jobs/${job.id}`, words(job.kind)), job.name, badge(job.state), job.finished ? "" : words(current(job)?.name), time(job.created), took(job)],
  }));

export const list = {
  title: () => "Jobs",
  load: ({ signal }) => listed("/v1/jobs", 100, signal),
  view: (_, jobs) => table(jobs.more ? "The latest 100 jobs" : "Jobs, newest first", HEAD, rows(jobs), "No job was ever begun."),
};

const isOver = (job) => ["succeeded", "failed", "cancelled"].includes(job.state);

function result(job) {
  const { result } = job;
  const pairs = [
    result.point_time && ["Recovery point", moment(result.point_time)],
    result.rpo_seconds !== null && ["RPO", seconds(result.rpo_seconds)],
    result.rto_seconds !== null && ["RTO", seconds(result.rto_seconds)],
    result.downtime_seconds !== null && ["Writes stopped for", seconds(result.downtime_seconds)],
    result.bytes_changed !== null && ["Had changed", bytes(result.bytes_changed)],
    result.bytes_moved !== null && ["Moved", bytes(result.bytes_moved)],
    result.notes && ["Notes", result.notes],
    result.paths.length > 0 && ["Volumes", h("ul", { class: "plain" }, result.paths.map((path) => h("li", null, h("code", null, path))))],
    result.machines.length > 0 && ["Machines", h("ul", { class: "plain" }, result.machines.map((run) => h("li", null, run.name, run.interfaces.map((face) => face.address && ` ${face.address}`))))],
    result.jobs.length > 0 && ["Its jobs", result.jobs.map((id, at) => [at > 0 && ", ", link(`jobs/${id}`, id.slice(0, 12))])],
  ].filter(Boolean);
  return pairs.length > 0 && section("Result", facts(...pairs));
}

function steps(job) {
  return h(
    "ol",
    { class: "steps" },
    job.steps.map((step, at) =>
      h(
        "li",
        { key: String(at), class: step.state },
        h("strong", null, words(step.name)),
        " ",
        badge(step.state),
        step.started && h("span", { class: "quiet" }, ` ${seconds((new Date(step.finished ?? Date.now()) - new Date(step.started)) / 1000)}`),
        step.message && h("p", null, step.message),
        step.state === "running" && step.progress && progress(step.progress.done_bytes, step.progress.total_bytes),
        step.waits_for && notice("warn", `Waits for a person: ${step.waits_for}`),
      ),
    ),
  );
}

function view(ctx, job) {
  const lacks = ctx.lacks("recovery");
  const waits = job.steps.find((step) => step.waits_for);
  const send = (verb, body) => () => ctx.act(`/v1/jobs/${job.id}:${verb}`, body);
  const goOn = () =>
    ctx.ask({
      title: "The task is done",
      intro: waits.waits_for,
      fields: [{ name: "note", label: "Note for the record" }],
      confirm: "Go on",
      run: ({ note }) => ctx.act(`/v1/jobs/${job.id}:continue`, { note: note || null }),
      done: () => ctx.say("The job goes on."),
    });
  const retry = (skip) => () =>
    ctx.ask({
      title: skip ? "Go on without the step that failed?" : "Try again?",
      intro: skip ? "What the step should have done is left out. That stands in the job and in the audit log." : "The job begins again where it failed.",
      confirm: skip ? "Leave it out" : "Try again",
      typed: skip ? job.name : undefined,
      danger: skip,
      run: send("retry", { skip }),
    });
  const cancel = () =>
    ctx.ask({
      title: `Cancel the ${words(job.kind)} of ${job.name}?`,
      intro: "It stops at the next place where it can be stopped, and undoes what has to be undone. Past a promotion it goes on to its end.",
      confirm: "Cancel the job",
      danger: true,
      typed: job.name,
      run: send("cancel"),
      done: () => ctx.say("The job was asked to stop."),
    });
  const about = job.drill_id ? link(`drills/${job.drill_id}`, job.name) : job.plan_id ? link(`plans/${job.plan_id}`, job.name) : job.group_id ? link(`groups/${job.group_id}`, job.name) : job.name;
  return [
    facts(
      ["Of", about],
      ["State", badge(job.state)],
      ["Begun", time(job.created)],
      ["Took", took(job)],
      job.parent_id && ["Part of", link(`jobs/${job.parent_id}`, job.parent_id.slice(0, 12))],
    ),
    job.cause && notice(job.state === "failed" ? "bad" : "warn", job.cause),
    h(
      "div",
      { class: "row" },
      waits && button("The task is done…", goOn, { kind: "primary", why: lacks }),
      !isOver(job) && button("Cancel…", cancel, { why: lacks }),
      job.state === "failed" && button("Try again…", retry(false), { kind: "primary", why: lacks }),
      job.state === "failed" && button("Leave the step out…", retry(true), { why: lacks }),
    ),
    section("Steps", job.steps.length > 0 ? steps(job) : h("p", { class: "empty" }, "It has not begun.")),
    isOver(job) && result(job),
  ];
}

export const one = {
  title: (job) => (job ? `${words(job.kind)[0].toUpperCase()}${words(job.kind).slice(1)} of ${job.name}` : "Job"),
  load: ({ id, signal }) => get(`/v1/jobs/${id}`, signal),
  view,
};
