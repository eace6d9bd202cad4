// The lost site is there again: home copies forward, then back, with what is moved told.

import { open, picture, signIn, step } from "./browser.mjs";

export default async function () {
  const console = await open();
  const { page } = console;
  await signIn(console);
  const act = page.getByRole("group", { name: "What can be done" });
  const dialog = page.getByRole("dialog");
  const group = async () => {
    await page.getByRole("navigation").getByRole("link", { name: "Overview" }).click();
    await page.getByRole("link", { name: "ledger" }).first().click();
    await act.waitFor();
  };

  step("the home copies are brought forward");
  await group();
  await act.getByRole("button", { name: "Bring home forward…" }).click();
  await dialog.getByRole("button", { name: "Bring them forward" }).click();
  await page.getByRole("heading", { name: "Reprotect of ledger" }).waitFor();
  await page.getByRole("region", { name: "Result" }).waitFor();

  step("and it goes home");
  await group();
  await act.getByRole("button", { name: "Fail back…", exact: true }).click();
  await dialog.getByLabel("To go on, type ledger").fill("ledger");
  await dialog.getByRole("button", { name: "Fail back" }).click();
  await page.getByRole("heading", { name: "Failback of ledger" }).waitFor();
  await page.getByRole("region", { name: "Result" }).getByText("Moved").waitFor();
  await picture(console, "back-job");
  await group();
  await page.locator("main").getByText("onprem").first().waitFor();
  await console.close();
}
