// The other site is lost. Without a mouse: sign in, find the group, fail over to a point, see the job through, commit.

import assert from "node:assert/strict";
import { open, picture, settings, settled, snapshot, step } from "./browser.mjs";

/** Goes on with the keyboard until what has the focus is called so. */
async function tabTo(page, name) {
  for (let pressed = 0; pressed < 80; pressed += 1) {
    const found = await page.evaluate(() => (document.activeElement?.labels?.[0] ?? document.activeElement)?.textContent?.trim());
    if (found?.startsWith(name)) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`the keyboard does not lead to ${name}`);
}

export default async function () {
  const console = await open();
  const { page } = console;
  const keys = page.keyboard;

  step("in by keyboard: the field has the focus");
  await page.getByLabel("Token").waitFor();
  await keys.type(settings.token);
  await keys.press("Enter");
  await page.getByRole("navigation").waitFor();
  await page.getByRole("link", { name: "ledger" }).first().waitFor();
  await picture(console, "lost-overview");
  await tabTo(page, "ledger");
  await keys.press("Enter");
  await page.getByRole("heading", { name: "Group ledger" }).waitFor();
  await settled(console);
  await snapshot(page.getByRole("group", { name: "What can be done" }), "group-actions-standby");

  step("the name has to be typed, exactly");
  await tabTo(page, "Fail over…");
  await keys.press("Enter");
  const dialog = page.getByRole("dialog", { name: "Fail ledger over to standby?" });
  await dialog.waitFor();
  await snapshot(dialog, "dialog-fail-over");
  await picture(console, "lost-dialog");
  await tabTo(page, "Recovery point");
  await keys.press("ArrowDown");
  await keys.press("ArrowUp");
  await tabTo(page, "To go on, type");
  await keys.type("ledge");
  const go = dialog.getByRole("button", { name: "Fail over" });
  assert.equal(await go.isDisabled(), true);
  await keys.press("Enter");
  assert.equal(await dialog.isVisible(), true);
  await keys.type("r");
  assert.equal(await go.isDisabled(), false);
  await keys.press("Enter");

  step("the job is followed to its end");
  await page.getByRole("heading", { name: "Unplanned failover of ledger" }).waitFor();
  await page.getByRole("region", { name: "Result" }).waitFor();
  await page.getByText("RTO").first().waitFor();
  await picture(console, "lost-job");

  step("in service here, and the point can still be changed");
  await page.locator("main").getByRole("link", { name: "ledger" }).click();
  await page.getByText("failed over").first().waitFor();
  const act = page.getByRole("group", { name: "What can be done" });
  await act.getByRole("button", { name: "Change point…" }).waitFor();
  await snapshot(act, "group-actions-away");

  step("committed");
  await tabTo(page, "Commit…");
  await keys.press("Enter");
  await page.getByRole("dialog").waitFor();
  await tabTo(page, "To go on, type");
  await keys.type("ledger");
  await keys.press("Enter");
  await page.getByRole("heading", { name: "Commit of ledger" }).waitFor();
  await page.locator("main").getByText("succeeded").first().waitFor();
  await console.close();
}
