// The vault is there again: nobody reloads anything.

import { open, signIn, step } from "./browser.mjs";

export default async function () {
  const console = await open({ expected: [/50[0-9]/] });
  await signIn(console);
  step("everything is protected again");
  await console.page.getByRole("heading", { level: 1 }).getByText("is protected").waitFor();
  await console.page.getByText("can't be used now").waitFor({ state: "detached" });
  await console.close();
}
