// Everything that is there to be looked at, on a desk and on a telephone, in light and dark, as an administrator and as a reader.

import assert from "node:assert/strict";
import { fitsScreen, open, picture, settings, settled, signIn, snapshot, step, visit } from "./browser.mjs";

const MENU = ["Overview", "Plans", "Machines", "Drills", "Jobs", "Events", "Audit", "Gateways", "Approvals"];

async function everyPage(console, look) {
  for (const name of MENU) {
    step(`${look}: ${name}`);
    await visit(console, name);
    await fitsScreen(console, `${name} (${look})`);
    await picture(console, `${look}-${name.toLowerCase()}`);
  }
  await visit(console, "Overview");
  await console.page.getByRole("link", { name: "ledger" }).first().click();
  await console.page.getByRole("heading", { name: "Group ledger" }).waitFor();
  await settled(console);
  await fitsScreen(console, `the group (${look})`);
  await picture(console, `${look}-group`);
}

/** What a gateway answers, changed a little on its way: what would take days to come about for real. */
const changed = (page, path, change) =>
  page.route(path, async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: await change(await response.json()) });
  });

async function marks() {
  step("points that nobody can destroy, and the one before an encryption, are marked");
  const console = await open();
  const { page } = console;
  let newest;
  await changed(page, /\/v1\/points\?/, (all) => ((newest = all.items[0]), all));
  await changed(page, /\/v1\/vaults\/[^/?]+$/, (vault) => ({ ...vault, spec: { ...vault.spec, immutability: { mode: "locked", days: 30 } } }));
  await changed(page, /\/v1\/clean-point\?/, (clean) => ({
    ...clean,
    point: newest ?? clean.point,
    confidence: "high",
    reason: "what was written since looks encrypted",
    suspicions: [{ since: "2026-01-01T00:00:00Z" }],
  }));
  await signIn(console);
  await page.getByRole("link", { name: "ledger" }).first().click();
  const points = page.getByRole("region", { name: "Recovery points" });
  await points.getByText("what was written since looks encrypted").waitFor();
  await points.getByRole("row").nth(1).getByText("suggested clean point").waitFor();
  await points.getByRole("row").nth(1).getByText("locked until").waitFor();
  await points.getByRole("img", { name: /[0-9]+ locked; the suggested clean one is of/ }).waitFor();
  await page.getByRole("button", { name: "Test failover…" }).click();
  await page.getByRole("dialog").getByRole("option", { name: /^suggested clean point/ }).waitFor({ state: "attached" });
  await picture(console, "marks");
  await console.close();
}

async function machine() {
  step("a machine that runs is looked at");
  const console = await open();
  const { page } = console;
  const run = { machine_id: "mch-1", name: "shop", gateway_id: "gw-1", since: new Date().toISOString(), interfaces: [{ network_id: null, mac: "52:54:00:00:00:01", address: "192.0.2.7" }] };
  const shop = {
    id: "mch-1",
    spec: { site_id: "site-1", name: "shop", group_id: "grp-1", cpus: 2, memory_mib: 512, firmware: "bios", disk: [], network_interface: [] },
    status: { state: "failed-over", active_site: "onprem", health: "healthy", reasons: [], mac_addresses: [], run, tests: [], failover: { kind: "unplanned", committed: false } },
  };
  const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
  await page.route(/\/v1\/machines\?/, (route) => route.fulfill({ json: { items: [shop] } }));
  await page.route(/\/v1\/machines\/mch-1$/, (route) => route.fulfill({ json: shop }));
  await page.route(/\/v1\/machines\/mch-1\/run\?screen=true$/, (route) => route.fulfill({ json: { state: "running", reason: null, console: "login: <b>", screen_png: pixel } }));
  await page.route(/\/v1\/groups\/grp-1$/, (route) => route.fulfill({ json: { id: "grp-1", spec: { name: "shop" } } }));
  await page.route(/\/v1\/(jobs\?machine|points\?group=grp-1)/, (route) => route.fulfill({ json: { items: [] } }));
  await signIn(console);
  await visit(console, "Machines");
  await page.getByRole("row").filter({ hasText: "192.0.2.7" }).getByRole("link", { name: "shop" }).click();
  await page.getByRole("heading", { name: "Machine shop" }).waitFor();
  await snapshot(page.getByRole("group", { name: "What can be done" }), "machine-actions");
  await page.getByRole("button", { name: "Look at it" }).click();
  const screen = page.getByRole("img", { name: /^The screen of shop/ });
  await screen.waitFor();
  assert.equal(await screen.evaluate((image) => image.naturalWidth), 1);
  await page.getByText("login: <b>").waitFor();
  await page.getByRole("button", { name: "Stop…" }).click();
  await page.getByRole("dialog").getByLabel("To go on, type shop").waitFor();
  await console.close();
}

export default async function () {
  step("a stranger gets nothing but the door");
  let console = await open({ expected: [/401/, /ERR_INTERNET_DISCONNECTED/] });
  await snapshot(console.page.locator("body"), "door");
  await picture(console, "desk-door");
  await console.page.getByLabel("Token").fill("lbt_wrong");
  await console.page.keyboard.press("Enter");
  await console.page.getByRole("alert").getByText("isn't valid here").waitFor();
  assert.equal(await console.page.getByRole("navigation").count(), 0);

  step("one sentence says how things are");
  await signIn(console);
  const { page } = console;
  const verdict = page.getByRole("heading", { level: 1 });
  await verdict.getByText("is protected").waitFor();
  assert.match(await page.title(), /primary$/);
  await page.getByRole("img", { name: "Landed RPO in the last hour" }).waitFor();
  await snapshot(page.getByRole("banner"), "banner");
  await snapshot(page.getByRole("navigation"), "menu");
  await snapshot(page.getByRole("region", { name: "Groups" }), "groups");

  step("the group tells everything of itself");
  await everyPage(console, "desk");
  for (const name of ["Journal", "Volumes", "The last hour"]) {
    await snapshot(page.getByRole("region", { name, exact: true }), `group-${name.toLowerCase().replaceAll(" ", "-")}`);
  }
  const points = page.getByRole("region", { name: "Recovery points" });
  await points.getByRole("cell", { name: "before the upgrade" }).waitFor();
  step("a label is text");
  await points.getByRole("cell", { name: "<img src=x onerror=alert(1)>" }).waitFor();
  assert.equal(await page.locator("main img[src]").count(), 0);

  step("certificates say when they end");
  await visit(console, "Gateways");
  await page.getByText(/The certificate that this gateway shows ends: \d{4}-/).waitFor();
  await page.goBack();
  await settled(console);

  step("a point is pinned, by name and reason");
  const row = points.getByRole("row").filter({ hasText: "before the upgrade" });
  await row.getByRole("button", { name: "Pin…" }).click();
  const dialog = page.getByRole("dialog");
  await snapshot(dialog, "dialog-pin");
  await dialog.getByLabel("Why").fill("kept for the auditors");
  await dialog.getByRole("button", { name: "Pin it" }).click();
  await dialog.waitFor({ state: "detached" });
  await row.getByText("pinned").waitFor();

  step("what is in service here is not failed over to here, and a test is offered as loudly");
  const act = page.getByRole("group", { name: "What can be done" });
  await snapshot(act, "group-actions-home");
  await act.getByRole("button", { name: "Fail over…" }).click({ force: true });
  assert.equal(await dialog.count(), 0);

  step("escape leaves a dialog, and the focus is where it was");
  const take = act.getByRole("button", { name: "Take a point…" });
  await take.focus();
  await page.keyboard.press("Enter");
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  assert.equal(await take.evaluate((button) => button === document.activeElement), true);

  step("the first stop of the keyboard leads past the menu");
  await page.reload();
  await page.getByRole("navigation").waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the page");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "H1");

  step("a gateway that does not answer is said, and the page goes on by itself");
  await page.context().setOffline(true);
  await page.getByRole("alert").getByText("The gateway does not answer").waitFor();
  await page.getByRole("heading", { name: "Group ledger" }).waitFor();
  await page.context().setOffline(false);
  await page.getByText("The gateway does not answer").waitFor({ state: "detached" });

  step("signed out, nothing is left");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  assert.equal(await page.evaluate(() => document.body.textContent.includes("ledger")), false);
  await console.close();

  await marks();
  await machine();

  step("on a telephone, in the dark");
  console = await open({ width: 390, height: 844, dark: true });
  await picture(console, "phone-door");
  await signIn(console);
  await everyPage(console, "phone");
  const contrast = await console.page.evaluate(() => {
    const of = (element, name) => getComputedStyle(element).getPropertyValue(name);
    return [of(document.body, "background-color"), of(document.body, "color")];
  });
  assert.deepEqual(contrast, ["rgb(16, 22, 28)", "rgb(230, 237, 243)"]);
  await console.close();

  step("a reader may look, and is told what it takes to do more");
  console = await open({ expected: [/403/] });
  await signIn(console, settings.reader);
  await console.page.getByRole("link", { name: "ledger" }).first().click();
  await settled(console);
  const failOver = console.page.getByRole("button", { name: "Test failover… (needs the role recovery)" });
  assert.equal(await failOver.getAttribute("aria-disabled"), "true");
  await console.close();
}
