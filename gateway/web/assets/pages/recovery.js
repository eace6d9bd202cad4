// Failovers and failbacks, of a group, a machine or a plan: what is asked before, in the same words everywhere.

import { act } from "../api.js";
import { moment, words } from "../format.js";
import { button } from "../ui.js";

const LATEST = [
  ["latest", "latest: the newest one"],
  ["latest-processed", "latest processed: what is ready at once"],
  ["latest-app-consistent", "latest application-consistent"],
];

/** What can be chosen as a point: the newest of a kind, the suggested clean one, each one that is known. */
export function pointOptions(points = [], clean) {
  const suggested = clean?.point && clean.suspicions.length > 0 ? [[clean.point.id, `suggested clean point: ${moment(clean.point.time)}`]] : [];
  return [...LATEST, ...suggested, ...points.map((point) => [point.id, `${moment(point.time)} ${words(point.kind)}${point.label ? `, ${point.label}` : ""}`])];
}

const point = (options, value = "latest") => ({ name: "point", label: "Recovery point", kind: "select", value, options });

/**
 * The buttons for one group, machine or plan. `path` is its address in the API, `is` says where it stands, `points` what can be chosen.
 */
export function actions(ctx, { path, name, what, is, points, hasTtl, modes = true }) {
  const lacks = ctx.lacks("recovery");
  const busy = is.busy ? "a job is under way" : undefined;
  const why = (reason) => lacks ?? busy ?? reason;
  const send = (verb, body) => act(`${path}:${verb}`, body);
  const options = pointOptions(points, is.clean);

  const test = () =>
    ctx.ask({
      title: `Test failover of ${name}`,
      intro: `Brings a copy of the ${what} up at ${ctx.state.report.name}, apart from everything else. Protection goes on, and nothing is changed at home.`,
      fields: [point(options), ...(hasTtl ? [{ name: "ttl", label: "Ends by itself after", value: "8h", help: "A time such as 30m, 8h or 2d." }] : [])],
      confirm: "Begin the test",
      run: (values) => send("failover", { kind: "test", ...values }),
    });
  const failOver = () =>
    ctx.ask({
      title: `Fail ${name} over to ${ctx.state.report.name}?`,
      intro: `The ${what} goes into service here. Where it was in service until now is fenced: what it still writes counts for nothing.`,
      fields: [
        {
          name: "kind",
          label: "What happened",
          kind: "select",
          value: is.reachable ? "planned" : "unplanned",
          options: [
            ["planned", "planned: the other site works"],
            ["unplanned", "unplanned: the other site is lost"],
          ],
          help: "Planned: what runs there is stopped first, and nothing is lost. Unplanned: what had not landed in the vault is lost.",
        },
        { ...point(options), when: ({ kind }) => kind === "unplanned" },
      ],
      typed: name,
      confirm: "Fail over",
      danger: true,
      run: ({ kind, point: chosen }) => send("failover", { kind, point: kind === "planned" ? "latest" : chosen }),
    });
  const change = () =>
    ctx.ask({
      title: `Change the recovery point of ${name}?`,
      intro: "What was written here since the failover is given up, and the other point takes its place.",
      fields: [point(options)],
      typed: name,
      confirm: "Change the point",
      danger: true,
      run: (values) => send("change-point", values),
    });
  const commit = () =>
    ctx.ask({
      title: `Commit the failover of ${name}?`,
      intro: "It becomes final: the recovery point can't be changed any more.",
      typed: name,
      confirm: "Commit",
      danger: true,
      run: () => send("commit", {}),
    });
  const reprotect = () =>
    ctx.ask({
      title: `Bring the home copies of ${name} forward?`,
      intro: "What was written here travels home while everything goes on. The failback after it is short.",
      confirm: "Bring them forward",
      run: () => send("reprotect", {}),
    });
  const failBack = () =>
    ctx.ask({
      title: `Fail ${name} back?`,
      intro: "Writes stop here for a moment; then it is in service at home again. This can take as long as what is left to move.",
      fields: modes
        ? [
            {
              name: "mode",
              label: "How the disk at home is brought forward",
              kind: "select",
              value: "minimize-downtime",
              options: [
                ["minimize-downtime", "minimize downtime: what changed travels while it runs here"],
                ["full-download", "full download: everything, without comparing"],
                ["create", "create: a new disk, filled while it is in use"],
              ],
            },
          ]
        : [],
      typed: name,
      confirm: "Fail back",
      danger: true,
      run: (values) => send("failback", values),
    });
  const endTest = () =>
    ctx.ask({
      title: `End the ${is.tests === 1 ? "test" : "tests"} of ${name}?`,
      intro: "What was brought up for it is removed, with everything that was written to it.",
      fields: hasTtl ? [{ name: "notes", label: "Notes for the record", value: "" }] : [],
      confirm: "End and clean up",
      run: ({ notes }) => send("cleanup", hasTtl ? { notes: notes || null } : {}),
    });

  const away = is.state === "failed-over";
  const home = is.state === "protected";
  const elsewhere = is.activeHere && home ? "it is in service at this gateway: open the console of the gateway that it should go to" : undefined;
  const notHome = home ? undefined : `it is ${words(is.state)}`;
  return [
    button("Test failover…", test, { kind: "primary", why: why(is.noTest) }),
    button("Fail over…", failOver, { kind: "danger", why: why(notHome ?? elsewhere) }),
    is.tests > 0 && button("End the test…", endTest, { why: why() }),
    away && button("Change point…", change, { why: why(is.committed ? "the failover is committed" : undefined) }),
    away && button("Commit…", commit, { why: why(is.committed ? "it is committed already" : undefined) }),
    away && button("Bring home forward…", reprotect, { why: why() }),
    away && button("Fail back…", failBack, { kind: "danger", why: why() }),
  ];
}
