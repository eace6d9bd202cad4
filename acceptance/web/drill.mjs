// A plan: is it ready, a test of it, its end; a drill, its evidence, the report that somebody takes away.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { open, picture, signIn, snapshot, step, visit } from "./browser.mjs";

export default async function () {
  const console = await open();
  const { page } = console;
  const dialog = page.getByRole("dialog");
  const act = page.getByRole("group", { name: "What can be done" });
  await signIn(console);
  await page.getByText("has never been run").waitFor();

  step("the plan says that it is ready");
  await visit(console, "Plans");
  await page.getByRole("row").filter({ hasText: "books" }).getByText("ready").waitFor();
  await page.getByRole("link", { name: "books" }).click();
  await page.getByRole("heading", { name: "Plan books" }).waitFor();
  await page.getByRole("region", { name: "Order" }).getByText("volume data").waitFor();
  await snapshot(page.getByRole("region", { name: "Order" }), "plan-order");
  await snapshot(act, "plan-actions");
  await picture(console, "plan");

  step("a test is as near as the failover");
  const [test, failOver] = await Promise.all(["Test failover…", "Fail over…"].map((name) => act.getByRole("button", { name, exact: true }).boundingBox()));
  assert.ok(test.x < failOver.x && test.height >= failOver.height && test.width >= failOver.width, "the test is not as prominent");
  await act.getByRole("button", { name: "Test failover…" }).click();
  await dialog.getByRole("button", { name: "Begin the test" }).click();
  await page.getByRole("heading", { name: "Test failover of books" }).waitFor();
  await page.getByRole("region", { name: "Result" }).waitFor();
  await page.locator("main").getByRole("link", { name: "books" }).click();
  await page.getByRole("region", { name: "Tests" }).waitFor();
  await act.getByRole("button", { name: "End the test…" }).click();
  await dialog.getByLabel("Notes for the record").fill("it came up");
  await dialog.getByRole("button", { name: "End and clean up" }).click();
  await page.getByRole("heading", { name: "Cleanup of books" }).waitFor();
  await page.getByRole("region", { name: "Result" }).getByText("it came up").waitFor();

  step("the drill is run and passes");
  await visit(console, "Drills");
  await page.getByRole("link", { name: "quarterly" }).click();
  await act.getByRole("button", { name: "Run the drill…" }).click();
  await dialog.getByRole("button", { name: "Run it" }).click();
  await page.getByRole("heading", { name: "Drill of quarterly" }).waitFor();
  await page.getByRole("region", { name: "Steps" }).waitFor();
  await page.locator("main .facts").getByText("succeeded").waitFor();
  await page.locator("main").getByRole("link", { name: "quarterly" }).click();
  const evidence = page.getByRole("region", { name: "Evidence" });
  await evidence.waitFor();
  await page.getByRole("region", { name: "Runs" }).getByText("passed").waitFor();
  await picture(console, "drill");

  step("what proves it can be taken away");
  const saved = async (name) => {
    const download = page.waitForEvent("download");
    await evidence.getByRole("button", { name }).click();
    return readFileSync(await (await download).path(), "utf8");
  };
  assert.match(await saved("Save the report"), /<html/);
  const signed = JSON.parse(await saved("Save the signed evidence"));
  assert.equal(JSON.parse(signed.evidence).passed, true);
  assert.ok(signed.signature.length > 40);
  await console.close();
}
