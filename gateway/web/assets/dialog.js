// Asking before something is done. What destroys, or stops something, wants the name of what it is about typed.

import { h } from "./dom.js";
import { link, notice } from "./ui.js";

/**
 * Opens a dialog. `fields`: name, label, kind (`text`, `number`, `select`, `checkbox`), value, options ([value, label]), help, when (values).
 * `typed`: what has to be typed first. `run` gets the values; what it gives is handed to `done`.
 */
export function open(ctx, { title, intro, fields = [], typed, confirm, danger = false, run, done }) {
  const values = Object.fromEntries(fields.map((field) => [field.name, field.value ?? ""]));
  ctx.state.dialog = { title, intro, fields, typed, confirm, danger, run, done, values, word: "", from: document.activeElement };
  ctx.redraw();
}

export function close(ctx) {
  const from = ctx.state.dialog?.from;
  ctx.state.dialog = undefined;
  ctx.redraw();
  if (from?.isConnected) from.focus();
}

async function go(ctx, dialog) {
  if (dialog.busy || (dialog.typed && dialog.word !== dialog.typed)) return;
  dialog.busy = true;
  dialog.problem = undefined;
  ctx.redraw();
  try {
    const given = await dialog.run(dialog.values);
    if (ctx.state.dialog !== dialog) return;
    close(ctx);
    ctx.look();
    if (dialog.done) dialog.done(given);
    else if (given?.steps) ctx.go(`jobs/${given.id}`);
  } catch (problem) {
    dialog.busy = false;
    dialog.problem = problem;
    ctx.redraw();
  }
}

function field(ctx, dialog, { name, label, kind = "text", options, help, when }) {
  if (when && !when(dialog.values)) return undefined;
  const id = `field-${name}`;
  const set = (event) => {
    dialog.values[name] = kind === "checkbox" ? event.target.checked : event.target.value;
    ctx.redraw();
  };
  const common = { id, oninput: set, "aria-describedby": help ? `${id}-help` : undefined };
  const input =
    kind === "select"
      ? h(
          "select",
          common,
          options.map(([value, text]) => h("option", { value, selected: value === dialog.values[name], key: value }, text)),
        )
      : kind === "checkbox"
        ? h("input", { ...common, type: "checkbox", checked: dialog.values[name] })
        : h("input", { ...common, type: kind, value: dialog.values[name], autocomplete: "off" });
  return h("div", { class: `field ${kind}`, key: name }, h("label", { for: id }, label), input, help && h("p", { id: `${id}-help`, class: "help" }, help));
}

export function view(ctx) {
  const dialog = ctx.state.dialog;
  if (!dialog) return undefined;
  const ready = !dialog.busy && (!dialog.typed || dialog.word === dialog.typed);
  return h(
    "dialog",
    { modal: true, "aria-labelledby": "dialog-title", key: "dialog", oncancel: (event) => (event.preventDefault(), close(ctx)) },
    h(
      "form",
      { onsubmit: (event) => (event.preventDefault(), go(ctx, dialog)) },
      h("h2", { id: "dialog-title" }, dialog.title),
      [dialog.intro].flat().map((text) => text && h("p", null, text)),
      dialog.fields.map((each) => field(ctx, dialog, each)),
      dialog.typed &&
        h(
          "div",
          { class: "field", key: "typed" },
          h("label", { for: "field-typed" }, "To go on, type ", h("code", null, dialog.typed)),
          h("input", {
            id: "field-typed",
            value: dialog.word,
            autocomplete: "off",
            autocapitalize: "off",
            spellcheck: "false",
            oninput: (event) => ((dialog.word = event.target.value.trim()), ctx.redraw()),
          }),
        ),
      dialog.problem && trouble(dialog.problem),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", onclick: () => close(ctx) }, "Leave it"),
        h("button", { type: "submit", class: dialog.danger ? "danger" : "primary", disabled: !ready }, dialog.busy ? "Asking…" : dialog.confirm),
      ),
    ),
  );
}

/** What went wrong, with everything the gateway said. */
export function trouble(problem) {
  if (problem.approval) {
    return notice(
      "warn",
      h("p", null, problem.message),
      h("p", null, "A second person with the role security administrator decides it under ", link("approvals", "Approvals"), "; then do the same again."),
    );
  }
  const more = [...(problem.fields ?? []).map((error) => `${error.field}: ${error.message}`), ...(problem.blockers ?? [])];
  return notice("bad", h("p", null, problem.message), more.length > 0 && h("ul", null, more.map((text) => h("li", null, text))));
}
