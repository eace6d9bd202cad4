// What waits for a second person.

import { list } from "../api.js";
import { h } from "../dom.js";
import { moment } from "../format.js";
import { badge, button, table, time } from "../ui.js";

const isSame = (a, b) => a && b && a.kind === b.kind && (a.kind === "administrator" || a.id === b.id);

function row(ctx, approval) {
  const { spec, status } = approval;
  const own = isSame(spec.requested_by, ctx.state.whoami?.principal) ? "you asked for it yourself" : undefined;
  const why = ctx.lacks("security_administrator") ?? own;
  const decide = (verb, title, confirm, danger) => () =>
    ctx.ask({
      title,
      intro: [`${spec.requested_by.name} wants to ${spec.name}.`, spec.act],
      fields: [{ name: "comment", label: "Comment", value: "" }],
      typed: danger ? "approve" : undefined,
      confirm,
      danger,
      run: (values) => ctx.act(`/v1/approvals/${approval.id}:${verb}`, values),
      done: () => ctx.say(`The approval is ${verb === "approve" ? "given" : "refused"}.`),
    });
  const pending = status.state === "pending";
  return {
    key: approval.id,
    cells: [
      [spec.name, h("p", { class: "quiet" }, h("code", null, spec.act))],
      badge(status.state),
      spec.requested_by.name,
      time(approval.created),
      pending ? time(status.expires) : "–",
      pending
        ? h("div", { class: "row" }, button("Approve…", decide("approve", "Approve what destroys?", "Approve", true), { kind: "danger", why }), button("Reject…", decide("reject", "Reject it?", "Reject", false), { why }))
        : [status.decided_by?.name, status.decided && ` ${moment(status.decided)}`, status.comment && h("p", { class: "quiet" }, status.comment)],
    ],
  };
}

export const page = {
  title: () => "Approvals",
  load: ({ signal }) => list("/v1/approvals", 100, signal),
  view: (ctx, all) => [
    h("p", null, "What destroys needs a second person where the vault is set so. An approval holds for one request of who asked, for a day."),
    table("Approvals, newest first", ["Act", "State", "Asked by", "Asked", "Ends", "Decision"], all.map((approval) => row(ctx, approval)), "Nobody asked for anything that needs a second person."),
  ],
};
