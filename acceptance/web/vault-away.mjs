// The vault can't be reached: the console says so, what is known stays to be looked at, and every page still opens.

import { fitsScreen, open, picture, signIn, step, visit } from "./browser.mjs";

export default async function () {
  // What needs the vault is answered with 503 then, which the browser tells on its console.
  const console = await open({ expected: [/50[0-9]/] });
  const { page } = console;
  await signIn(console);
  step("it is the first thing that is said");
  await page.getByRole("alert").getByText("The vault main can't be used now").waitFor();
  await page.getByRole("heading", { level: 1 }).getByText("Nothing new reaches the vault main").waitFor();
  await page.getByRole("link", { name: "ledger" }).first().waitFor();
  await picture(console, "away-overview");
  for (const name of ["Plans", "Drills", "Jobs", "Gateways", "Events", "Audit", "Overview"]) {
    step(name);
    await visit(console, name);
    await fitsScreen(console, name);
  }
  step("the group is still there to look at");
  await page.getByRole("link", { name: "ledger" }).first().click();
  await page.getByRole("heading", { name: "Group ledger" }).waitFor();
  await page.getByRole("region", { name: "Journal" }).waitFor();
  await picture(console, "away-group");
  await console.close();
}
