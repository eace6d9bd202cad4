// What destroys, where the vault wants a second person: asked by one, approved by another, done by the first.

import assert from "node:assert/strict";
import { open, picture, settings, settled, signIn, snapshot, step, visit } from "./browser.mjs";

async function unpin(page) {
  const row = page.getByRole("region", { name: "Recovery points" }).getByRole("row").filter({ hasText: "before the upgrade" });
  await row.getByRole("button", { name: "Unpin…" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("To go on, type ledger").fill("ledger");
  await dialog.getByRole("button", { name: "Take the pin off" }).click();
  return { row, dialog };
}

export default async function () {
  const refused = [/403|409|428/];
  const one = await open({ expected: refused });
  const other = await open({ expected: refused });
  const group = async ({ page }) => {
    await page.getByRole("link", { name: "ledger" }).first().click();
    await page.getByRole("region", { name: "Recovery points" }).waitFor();
  };

  step("an operator pins a point");
  await signIn(one, settings.operator);
  await group(one);
  const row = one.page.getByRole("region", { name: "Recovery points" }).getByRole("row").filter({ hasText: "before the upgrade" });
  await row.getByRole("button", { name: "Pin…" }).click();
  await one.page.getByRole("dialog").getByRole("button", { name: "Pin it" }).click();
  await row.getByRole("button", { name: "Unpin…" }).waitFor();

  step("taking the pin off needs a second person");
  const { dialog } = await unpin(one.page);
  await dialog.getByText("A second person with the role").waitFor();
  await picture(one, "approval-needed");
  await dialog.getByRole("button", { name: "Leave it" }).click();

  step("who asked does not decide");
  await visit(one, "Approvals");
  const mine = one.page.getByRole("row").filter({ hasText: "olga" });
  await mine.getByText("pending").waitFor();
  assert.equal(await mine.getByRole("button", { name: /^Approve/ }).getAttribute("aria-disabled"), "true");

  step("the second person sees it in the menu, and approves it by typing so");
  await signIn(other, settings.second);
  await other.page.getByRole("navigation").getByRole("link", { name: "Approvals 1 waiting" }).waitFor();
  await visit(other, /Approvals/);
  await snapshot(other.page.locator("main"), "approvals");
  const asked = other.page.getByRole("row").filter({ hasText: "olga" });
  await asked.getByRole("button", { name: "Approve…" }).click();
  const decision = other.page.getByRole("dialog");
  await decision.getByLabel("Comment").fill("the auditors are gone");
  await decision.getByLabel("To go on, type approve").fill("approve");
  await decision.getByRole("button", { name: "Approve" }).click();
  await asked.getByText("approved").waitFor();
  await other.close();

  step("then it is done, by who asked");
  await visit(one, "Overview");
  await group(one);
  await settled(one);
  const again = await unpin(one.page);
  await again.dialog.waitFor({ state: "detached" });
  await again.row.getByRole("button", { name: "Pin…" }).waitFor();
  await one.close();
}
