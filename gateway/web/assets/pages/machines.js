// Machines: where they run, what is on their screens, and what can be done with one by itself.

import { get, list as listed, quiet } from "../api.js";
import { h } from "../dom.js";
import { byName, bytes, moment, words } from "../format.js";
import { badge, button, facts, link, notice, section, table, time } from "../ui.js";
import { rows as jobRows, HEAD as JOB_HEAD } from "./jobs.js";
import { actions } from "./recovery.js";

const addresses = (run) => run.interfaces.map((face) => face.address).filter(Boolean).join(", ");

export const list = {
  title: () => "Machines",
  load: ({ signal }) => listed("/v1/machines", 1000, signal),
  view: (_, machines) =>
    table(
      "Machines",
      ["Machine", "State", "In service at", "Runs", "Addresses", "Tests up"],
      byName(machines).map((machine) => ({
        key: machine.id,
        cells: [
          link(`machines/${machine.id}`, machine.spec.name),
          [badge(machine.status.health), " ", words(machine.status.state)],
          machine.status.active_site ?? "–",
          machine.status.run ? ["since ", time(machine.status.run.since)] : "no",
          machine.status.run ? addresses(machine.status.run) || "–" : "–",
          machine.status.tests.length,
        ],
      })),
      "No machine is declared. A machine boots from protected volumes at the other site: lifeboat_machine in Terraform.",
    ),
};

/** What can be looked at: the machine in service, and each test of it; by the test's job, empty for the machine itself. */
function runs(machine) {
  const tests = machine.status.tests.flatMap((test) => test.machines.filter((run) => run.machine_id === machine.id).map((run) => ({ test: test.job_id, run })));
  return [...(machine.status.run ? [{ test: "", run: machine.status.run }] : []), ...tests];
}

async function load({ id, signal, state }) {
  const machine = await get(`/v1/machines/${id}`, signal);
  const { looking } = state.view;
  const [group, jobs, points, look] = await Promise.all([
    quiet(get(`/v1/groups/${machine.spec.group_id}`, signal), null),
    quiet(listed(`/v1/jobs?machine=${encodeURIComponent(id)}`, 10, signal)),
    quiet(listed(`/v1/points?group=${encodeURIComponent(machine.spec.group_id)}`, 50, signal)),
    looking === undefined ? undefined : get(`/v1/machines/${id}/run?screen=true${looking ? `&test=${encodeURIComponent(looking)}` : ""}`, signal).catch((problem) => ({ problem })),
  ]);
  return { machine, group, jobs, points, look };
}

function screen(ctx, { machine, look }) {
  const { looking } = ctx.state.view;
  const choose = (test) => () => {
    ctx.state.view.looking = test;
    ctx.look();
  };
  return section(
    "Screen",
    h(
      "div",
      { class: "row" },
      runs(machine).map(({ test, run }) => button(`Look at ${test ? `the test of ${moment(run.since)}` : "it"}`, choose(test), { kind: looking === test ? "primary" : "" })),
      looking !== undefined && button("Look away", choose(undefined)),
    ),
    look?.problem && notice("bad", look.problem.message),
    look?.state && [
      h("p", null, badge(look.state), look.reason && ` ${look.reason}`),
      look.screen_png && h("img", { class: "screen", src: `data:image/png;base64,${look.screen_png}`, alt: `The screen of ${machine.spec.name}; what its console says stands below.` }),
      look.console && h("pre", { tabindex: "0", "aria-label": "The end of what its console said" }, look.console),
    ],
  );
}

function view(ctx, data) {
  const { machine, group, jobs, points } = data;
  const { status: is, spec } = machine;
  const lacks = ctx.lacks("recovery");
  const running = jobs.find((job) => !job.finished);
  const busy = running ? "a job is under way" : undefined;
  const start = () =>
    ctx.ask({
      title: `Start ${spec.name}?`,
      intro: "It is started where its volumes are.",
      confirm: "Start it",
      run: () => ctx.act(`/v1/machines/${machine.id}:start`, {}),
    });
  const stop = () =>
    ctx.ask({
      title: `Stop ${spec.name}?`,
      intro: "It is asked to shut down, and ended when it doesn't within the time.",
      fields: [{ name: "timeout", label: "Time that it gets", value: "5m" }],
      typed: spec.name,
      confirm: "Stop it",
      danger: true,
      run: (values) => ctx.act(`/v1/machines/${machine.id}:stop`, values),
    });
  return [
    facts(
      ["State", [badge(is.health), " ", words(is.state)]],
      ["In service at", is.active_site ?? "–"],
      ["Group", link(`groups/${spec.group_id}`, group?.spec.name ?? "group")],
      ["Made of", `${spec.cpus} processors, ${bytes(spec.memory_mib * 1024 * 1024)}, ${spec.firmware}`],
      ["Runs", is.run ? ["since ", time(is.run.since), addresses(is.run) && `, at ${addresses(is.run)}`] : "no"],
      is.failover && ["Failover", `${is.failover.kind}${is.failover.committed ? ", committed" : ""}`],
    ),
    is.reasons.length > 0 && notice(is.health === "critical" ? "bad" : "warn", h("ul", null, is.reasons.map((reason) => h("li", null, reason)))),
    running && notice("plain", "Under way: ", link(`jobs/${running.id}`, words(running.kind))),
    h(
      "div",
      { class: "row", role: "group", "aria-label": "What can be done" },
      actions(ctx, {
        path: `/v1/machines/${machine.id}`,
        name: spec.name,
        what: "machine",
        hasTtl: true,
        points,
        is: {
          state: is.state,
          busy: Boolean(running),
          committed: is.failover?.committed,
          tests: is.tests.length,
          activeHere: ctx.state.report.site === is.active_site,
          reachable: false,
        },
      }),
      is.run ? button("Stop…", stop, { why: lacks ?? busy }) : button("Start…", start, { why: lacks ?? busy }),
    ),
    runs(machine).length > 0 && screen(ctx, data),
    section("Jobs", table("Latest jobs of the machine", JOB_HEAD, jobRows(jobs), "None yet.")),
  ];
}

export const one = { title: (data) => (data ? `Machine ${data.machine.spec.name}` : "Machine"), load, view };
