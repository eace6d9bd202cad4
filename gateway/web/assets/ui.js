// What pages are put together from.

import { h } from "./dom.js";
import { bytes, moment, ago, seconds, words } from "./format.js";

const LEVELS = {
  good: ["healthy", "protected", "succeeded", "ready", "passed", "approved", "yes"],
  warn: ["warning", "creating", "pending", "failing-over", "failing-back", "running", "queued", "expired", "failed-over", "not-ready", "never-run"],
  bad: ["critical", "failed", "unprotected", "split", "rejected"],
};

/** How a word of the API looks: `good`, `warn`, `bad` or `plain`. */
export const levelOf = (word) => Object.keys(LEVELS).find((level) => LEVELS[level].includes(word)) ?? "plain";

/** A state, told by its word and its colour, never by colour alone. */
export const badge = (word, level = levelOf(word)) => h("span", { class: `badge ${level}` }, words(word));

/** Where something is. */
export const link = (to, ...children) => h("a", { href: `#/${to}` }, children);

/** A moment, with how long ago it was. */
export const time = (at) => (at ? h("time", { datetime: at, title: moment(at) }, ago(at)) : "–");

/** Names and what they are. */
export const facts = (...pairs) =>
  h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value ?? "–"))));

export const section = (title, ...children) => {
  const id = `section-${title.toLowerCase().replaceAll(/[^a-z]+/g, "-")}`;
  return h("section", { "aria-labelledby": id, key: id }, h("h2", { id }, title), children);
};

/** Something that whoever looks has to know; `alert` is read out. */
export const notice = (level, ...children) => h("div", { class: `notice ${level}`, role: level === "bad" ? "alert" : "status" }, children);

/** Reasons, as the gateway says them. */
export const reasons = (all) => all?.length > 0 && h("ul", { class: "reasons" }, all.map((reason) => h("li", null, reason)));

/**
 * A table; on a narrow screen each row is a card, and stays a row for who can't see. `head` are the columns' names, `rows` have a key
 * and cells.
 */
export function table(caption, head, rows, empty = "Nothing yet.") {
  if (rows.length === 0) return h("p", { class: "empty" }, empty);
  return h(
    "table",
    { role: "table" },
    h("caption", null, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head.map((name) => h("th", { role: "columnheader", scope: "col" }, name)))),
    h(
      "tbody",
      { role: "rowgroup" },
      rows.map(({ key, cells, level }) =>
        h(
          "tr",
          { role: "row", key, class: level },
          cells.map((cell, at) =>
            at === 0
              ? h("th", { role: "rowheader", scope: "row", "data-label": head[at] }, h("div", null, cell ?? "–"))
              : h("td", { role: "cell", "data-label": head[at] }, h("div", null, cell ?? "–")),
          ),
        ),
      ),
    ),
  );
}

/** A button; `why` says why it can't be pressed. */
export function button(label, onclick, { kind = "", disabled = false, why } = {}) {
  const blocked = disabled || Boolean(why);
  return h(
    "button",
    { type: "button", class: kind, "aria-disabled": blocked ? "true" : undefined, title: why, onclick: blocked ? undefined : onclick },
    label,
    why && h("span", { class: "visually-hidden" }, ` (${why})`),
  );
}

/** How full something is. */
export function gauge(label, used, limit, note) {
  if (limit === null || limit === undefined || limit === 0) return h("p", null, `${label}: ${bytes(used)}`);
  const share = Math.min(used / limit, 1);
  const level = share > 0.8 ? "bad" : share > 0.5 ? "warn" : "good";
  return h(
    "div",
    { class: `gauge ${level}` },
    h("meter", { min: 0, max: limit, value: used, high: limit * 0.8, "aria-label": label }, `${Math.round(share * 100)} %`),
    h("span", null, `${bytes(used)} of ${bytes(limit)}`, note && `, ${note}`),
  );
}

/** How far something is. */
export const progress = (done, total) =>
  h("div", { class: "progress" }, h("progress", { max: total || 1, value: done, "aria-label": "progress" }), h("span", null, `${bytes(done)} of ${bytes(total)}`));

/**
 * A line of values over time, with the limit they should stay under. `samples` are numbers or null where nothing was known; gaps stay
 * gaps.
 */
export function sparkline(label, samples, { limit, width = 120, height = 28, say = seconds } = {}) {
  const known = samples.filter((value) => value !== null && value !== undefined);
  if (known.length < 2) return h("span", { class: "quiet" }, "not measured long enough");
  const worst = Math.max(...known);
  const top = Math.max(worst, limit ?? 0) || 1;
  const x = (at) => ((at / (samples.length - 1)) * (width - 2) + 1).toFixed(1);
  const y = (value) => (height - 1 - (value / top) * (height - 2)).toFixed(1);
  let path = "";
  let pen = "M";
  samples.forEach((value, at) => {
    if (value === null || value === undefined) {
      pen = "M";
      return;
    }
    path += `${pen}${x(at)} ${y(value)}`;
    pen = "L";
  });
  const over = limit !== undefined && worst > limit;
  const told = `${label}: at most ${say(worst)}, now ${say(known.at(-1))}${limit === undefined ? "" : `; the limit is ${say(limit)}`}`;
  return h(
    "svg",
    { class: `spark ${over ? "bad" : ""}`, viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": told, preserveAspectRatio: "none" },
    h("title", null, told),
    limit !== undefined && h("line", { class: "limit", x1: 0, x2: width, y1: y(limit), y2: y(limit) }),
    h("path", { d: path }),
  );
}
