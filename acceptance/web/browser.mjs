// A real browser in front of a real gateway's console. One scenario is one module beside this one; `run.mjs NAME` runs it with what
// LIFEBOAT_WEB says (JSON: endpoint, token, screenshots, and what the scenario wants besides).
//
// Every scenario is held to this, whatever else it looks at: nothing is asked of anybody but the gateway, nothing is written to the
// browser's console as an error, no script throws, and no page is wider than the screen.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { createRequire } from "node:module";

const require = createRequire(join(process.env.LIFEBOAT_PLAYWRIGHT, "package.json"));
const { chromium } = require("playwright-core");

export const settings = JSON.parse(process.env.LIFEBOAT_WEB);
/** Longest wait for something to come up on a page, which nothing but a fault reaches. */
export const PATIENCE_MS = 60_000;

const SNAPSHOTS = new URL("snapshots/", import.meta.url).pathname;

/** Says where a scenario is; the last line before a failure tells where it was. */
export const step = (text) => console.log(`- ${text}`);

/**
 * Opens the console. `expected`: patterns of what the browser may say on its console: it reports every answer that isn't a success
 * there, also one that the page deals with.
 */
export async function open({ width = 1280, height = 900, dark = false, expected = [], endpoint = settings.endpoint } = {}) {
  const browser = await chromium.launch({
    executablePath: settings.browser,
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  });
  const context = await browser.newContext({
    ignoreHTTPSErrors: true,
    viewport: { width, height },
    colorScheme: dark ? "dark" : "light",
    reducedMotion: "reduce",
    locale: "en-GB",
    timezoneId: "UTC",
  });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const faults = [];
  context.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`${endpoint}/`) && !url.startsWith("blob:")) faults.push(`asked ${url}`);
  });
  page.on("console", (message) => {
    const text = `${message.text()} ${message.location().url}`;
    if (message.type() === "error" && !expected.some((pattern) => pattern.test(text))) faults.push(`console: ${text}`);
  });
  page.on("pageerror", (error) => faults.push(`threw: ${error.stack ?? error}`));
  await page.goto(`${endpoint}/`);
  return {
    page,
    endpoint,
    async close() {
      await browser.close();
      assert.deepEqual(faults, []);
    },
  };
}

/** Signs in, and waits for the first look. */
export async function signIn({ page }, token = settings.token) {
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("navigation").waitFor();
}

/** Opens a page by its entry in the menu. */
export async function visit({ page }, name) {
  await page.getByRole("navigation").getByRole("link", { name }).click();
  await settled({ page });
}

/** Waits until the page of the address that is open is there, and has what it shows. */
export async function settled({ page }) {
  await page.waitForFunction(() => {
    const main = document.querySelector("main");
    return main?.dataset.address === location.hash && !main.hasAttribute("aria-busy");
  });
}

/** The page is no wider than the screen, so that nobody scrolls sideways for a button. */
export async function fitsScreen({ page }, where) {
  const [wanted, given] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wanted <= given, `${where} is ${wanted} px wide on a screen of ${given} px`);
}

/** A picture for people, kept where the test was told to. */
export async function picture({ page }, name) {
  if (!settings.screenshots) return;
  mkdirSync(settings.screenshots, { recursive: true });
  await page.screenshot({ path: join(settings.screenshots, `${name}.png`), fullPage: true });
}

/** What changes from run to run is a word: times, sizes, ids, places. */
function steady(text) {
  return text
    .replaceAll(settings.dir ?? "\u0000", "DIR")
    .replaceAll(/\b[a-z]{2,5}-[0-9a-f]{32}\b/g, "ID")
    .replaceAll(/\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?/g, "TIME")
    .replaceAll(/\b\d+(\.\d+)? (s|min|h|days)( ago)?\b|\bnow\b/g, "SPAN")
    .replaceAll(/\b\d+(\.\d+)? ([KMGT]i)?B(\/s)?/g, "SIZE")
    .replaceAll(/, (full in SPAN at this rate|not filling)|, full in SPAN/g, "")
    .replaceAll(/\b\d+ %/g, "SHARE")
    .replaceAll(/127\.0\.0\.\d+:\d+/g, "ADDRESS")
    .replaceAll(/\b\d+\.\d+\.\d+\b/g, "VERSION")
    .replaceAll(/^.*\/url: .*\n/gm, "");
}

/** Holds what assistive technology is told of a part of the page against the snapshot in the repository. LIFEBOAT_BLESS=1 writes it. */
export async function snapshot(locator, name) {
  const found = `${steady(await locator.ariaSnapshot())}\n`;
  const file = join(SNAPSHOTS, `${name}.yml`);
  if (process.env.LIFEBOAT_BLESS === "1") {
    mkdirSync(SNAPSHOTS, { recursive: true });
    writeFileSync(file, found);
    return;
  }
  assert.ok(existsSync(file), `there is no ${file}: run the test once with LIFEBOAT_BLESS=1 and read what it wrote`);
  assert.equal(found, readFileSync(file, "utf8"), `${name} reads otherwise; with LIFEBOAT_BLESS=1 the test writes it anew`);
}
