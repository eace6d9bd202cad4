// Drills: what was proved, when, and for how long it holds.

import { blob, get, list as listed } from "../api.js";
import { h } from "../dom.js";
import { byName, moment, seconds, words } from "../format.js";
import { badge, button, facts, link, notice, section, table, time } from "../ui.js";

const newest = (drill) => drill.status.runs[0];

export const list = {
  title: () => "Drills",
  load: ({ signal }) => listed("/v1/drills", 200, signal),
  view: (_, drills) =>
    table(
      "Drills",
      ["Drill", "State", "Last run", "RTO", "RPO", "Evidence ends", "Next run"],
      byName(drills).map((drill) => ({
        key: drill.id,
        cells: [
          link(`drills/${drill.id}`, drill.spec.name),
          badge(drill.status.state),
          time(newest(drill)?.finished),
          seconds(newest(drill)?.outcome.rto_seconds),
          seconds(newest(drill)?.outcome.rpo_seconds),
          time(drill.status.expires),
          time(drill.status.next_run),
        ],
      })),
      "No drill is declared. A recovery that was never tried is a hope: lifeboat_drill in Terraform.",
    ),
};

async function load({ id, signal }) {
  const drill = await get(`/v1/drills/${id}`, signal);
  const evidence = drill.status.runs.length > 0 ? await get(`/v1/drills/${id}/evidence`, signal).catch((problem) => ({ problem })) : undefined;
  return { drill, evidence };
}

/** Gives a file to whoever looks; the name is ours, the bytes are as they came. */
function save(name, content) {
  const url = URL.createObjectURL(content);
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function assertions(text) {
  let parsed;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  const found = parsed.assertions ?? [];
  return (
    found.length > 0 &&
    table(
      "What had to hold",
      ["Assertion", "Held", "Seen"],
      found.map((one, at) => ({ key: String(at), cells: [[words(one.type), one.of && ` of ${one.of}`], badge(one.passed ? "passed" : "failed"), [one.found, one.wanted && h("p", { class: "quiet" }, `wanted: ${one.wanted}`)]] })),
    )
  );
}

function view(ctx, { drill, evidence }) {
  const { status: is, spec } = drill;
  const last = newest(drill);
  const lacks = ctx.lacks("recovery");
  const run = () =>
    ctx.ask({
      title: `Run the drill ${spec.name}?`,
      intro: "A copy comes up apart from everything else, what has to hold is looked at, and all of it is removed again. Protection goes on.",
      confirm: "Run it",
      run: () => ctx.act(`/v1/drills/${drill.id}:run`),
    });
  const end = () =>
    ctx.ask({
      title: `End the test that ${spec.name} left up?`,
      intro: "What was brought up for it is removed.",
      confirm: "End and clean up",
      run: () => ctx.act(`/v1/drills/${drill.id}:cleanup`, { notes: null }),
    });
  const report = async () => {
    try {
      save(`${spec.name}-report.html`, await blob(`/v1/drills/${drill.id}/report`));
    } catch (problem) {
      ctx.say(problem.message);
    }
  };
  const signed = () => save(`${spec.name}-evidence.json`, new Blob([JSON.stringify(evidence, null, 2)], { type: "application/json" }));
  return [
    facts(
      ["State", badge(is.state)],
      ["Plan", link(`plans/${spec.plan_id}`, is.plan ?? "plan")],
      last && ["Last run", [time(last.finished), last.outcome.passed ? "" : ", failed"]],
      last && ["RTO", [seconds(last.outcome.rto_seconds), spec.max_rto && h("span", { class: "quiet" }, ` of ${spec.max_rto}`)]],
      last && ["RPO", [seconds(last.outcome.rpo_seconds), spec.max_rpo && h("span", { class: "quiet" }, ` of ${spec.max_rpo}`)]],
      ["Evidence ends", time(is.expires)],
      ["Next run", time(is.next_run)],
    ),
    last?.outcome.failures.length > 0 && notice("bad", h("p", null, "The last run failed:"), h("ul", null, last.outcome.failures.map((failure) => h("li", null, failure)))),
    is.job_id && is.state === "running" && notice("plain", "Under way: ", link(`jobs/${is.job_id}`, "the drill's job")),
    h(
      "div",
      { class: "row", role: "group", "aria-label": "What can be done" },
      button("Run the drill…", run, { kind: "primary", why: lacks ?? (is.state === "running" ? "it runs" : undefined) }),
      is.test_job_id && button("End its test…", end, { why: lacks }),
    ),
    evidence &&
      section(
        "Evidence",
        evidence.problem
          ? notice("bad", evidence.problem.message)
          : [
              h("p", null, "Signed by the gateway that ran it; ", h("code", null, "lifeboat drill verify"), " checks the signature."),
              assertions(evidence.evidence),
              facts(["Signature", h("code", null, evidence.signature)], ["Key", h("code", null, evidence.public_key)]),
              h("div", { class: "row" }, button("Save the report", report), button("Save the signed evidence", signed)),
            ],
      ),
    section(
      "Runs",
      table(
        "Runs, newest first",
        ["Ended", "Outcome", "RTO", "RPO", "Job"],
        is.runs.map((one) => ({
          key: one.job_id,
          cells: [moment(one.finished), badge(one.outcome.passed ? "passed" : "failed"), seconds(one.outcome.rto_seconds), seconds(one.outcome.rpo_seconds), link(`jobs/${one.job_id}`, "job")],
        })),
        "It has never been run.",
      ),
    ),
  ];
}

export const one = { title: (data) => (data ? `Drill ${data.drill.spec.name}` : "Drill"), load, view };
