// What happened, and who asked for what.

import { list } from "../api.js";
import { h } from "../dom.js";
import { moment, words } from "../format.js";
import { badge, link, table } from "../ui.js";

const SHOWN = 100;

export const events = {
  title: () => "Events",
  load: ({ signal }) => list("/v1/events", SHOWN, signal),
  view: (_, all) =>
    table(
      all.more ? `The latest ${SHOWN} events` : "Events, newest first",
      ["Time", "Severity", "What", "Kind"],
      all.map((event) => ({
        key: event.id,
        cells: [
          moment(event.time),
          badge(event.severity),
          [event.message, event.job_id && [" (", link(`jobs/${event.job_id}`, "job"), ")"], event.group_id && [" (", link(`groups/${event.group_id}`, "group"), ")"]],
          h("code", null, event.kind),
        ],
      })),
      "Nothing has happened yet.",
    ),
};

const person = (who) => (who ? `${who.kind === "token" ? "" : `${who.kind} `}${who.name}` : "–");

export const audit = {
  title: () => "Audit log",
  load: ({ signal }) => list("/v1/audit", SHOWN, signal),
  view: (_, all) => [
    h("p", null, "Everything that changes something, who asked for it, and what became of it. ", h("code", null, "lifeboat audit verify"), " proves that nothing was taken out."),
    table(
      all.more ? `The latest ${SHOWN} records` : "Records, newest first",
      ["Time", "Who", "What", "Came to", "From"],
      all.map((record) => ({
        key: record.id,
        cells: [
          moment(record.time),
          person(record.who),
          [h("code", null, record.what ?? "–"), record.detail && h("p", { class: "quiet" }, record.detail)],
          [words(record.kind), record.status && ` ${record.status}`, record.problem && h("p", { class: "quiet" }, record.problem)],
          [record.from ?? "–", h("span", { class: "quiet" }, ` by ${record.gateway}`)],
        ],
      })),
      "Nothing was recorded yet.",
    ),
  ],
};
