// How figures are said to people.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** Bytes, with three figures. */
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** Seconds, as far as they matter. */
export function seconds(count) {
  if (count === null || count === undefined) return "–";
  if (count < 10) return `${count.toFixed(1)} s`;
  if (count < 120) return `${Math.round(count)} s`;
  if (count < 7200) return `${Math.round(count / 60)} min`;
  if (count < 2 * 86400) return `${(count / 3600).toFixed(1)} h`;
  return `${Math.round(count / 86400)} days`;
}

/** A moment, in this person's time zone, to the second. */
export function moment(text) {
  if (!text) return "–";
  const at = new Date(text);
  const two = (value) => String(value).padStart(2, "0");
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** How long ago something was, or how long until it is. */
export function ago(text, now = Date.now()) {
  if (!text) return "–";
  const passed = (now - new Date(text).getTime()) / 1000;
  if (Math.abs(passed) < 2) return "now";
  return passed >= 0 ? `${seconds(passed)} ago` : `in ${seconds(-passed)}`;
}

/** `planned-failover` becomes `planned failover`. */
export const words = (name) => String(name ?? "–").replaceAll("-", " ").replaceAll("_", " ");

/** Declared objects in the order in which people look for them. */
export const byName = (objects, name = (object) => object.spec.name) => [...objects].sort((a, b) => name(a).localeCompare(name(b), "en", { numeric: true }));

/** One thing, or several. */
export const count = (number, one, several = `${one}s`) => `${number} ${number === 1 ? one : several}`;

/** Bytes a second. */
export const rate = (perSecond) => (perSecond === null || perSecond === undefined ? "–" : `${bytes(perSecond)}/s`);
