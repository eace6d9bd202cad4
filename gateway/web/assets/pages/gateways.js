// Gateways, agents, vaults: who takes part, and whose certificates end when.

import { list, quiet } from "../api.js";
import { h } from "../dom.js";
import { byName, bytes, moment, words } from "../format.js";
import { badge, section, table, time } from "../ui.js";

async function load({ signal }) {
  const [gateways, sites, agents] = await Promise.all([list("/v1/gateways", 500, signal), quiet(list("/v1/sites", 200, signal)), quiet(list("/v1/agents", 1000, signal))]);
  return { gateways, sites, agents };
}

const SOON_MS = 7 * 86_400_000;

function ends(at) {
  if (!at) return "–";
  const left = new Date(at) - Date.now();
  return [moment(at), left < 0 ? [" ", badge("expired", "bad")] : left < SOON_MS ? [" ", badge("soon", "warn")] : ""];
}

function view(ctx, { gateways, sites, agents }) {
  const { report } = ctx.state;
  const site = (id) => sites.find((one) => one.id === id)?.spec.name ?? "–";
  return [
    section(
      "Gateways",
      table(
        "Gateways",
        ["Gateway", "Site", "Health", "Version", "Last seen", "Addresses", "Roles"],
        byName(gateways).map((gateway) => ({
          key: gateway.id,
          cells: [
            [gateway.spec.name, report.gateway_ids.includes(gateway.id) && h("span", { class: "quiet" }, " (this one)")],
            site(gateway.spec.site_id),
            gateway.status.registered ? [badge(gateway.status.health), gateway.status.reasons.length > 0 && h("p", { class: "quiet" }, gateway.status.reasons.join("; "))] : badge("not registered", "warn"),
            gateway.status.version,
            time(gateway.status.last_seen),
            gateway.status.addresses.join(", ") || "–",
            gateway.spec.roles?.map(words).join(", ") ?? "all",
          ],
        })),
        "No gateway is declared.",
      ),
      h("p", null, "The certificate that this gateway shows ends: ", ends(report.certificate_expires)),
    ),
    section(
      "Vaults",
      table(
        "Vaults of this gateway",
        ["Vault", "Health", "Where", "Stored", "Second person", "Locked"],
        report.vaults.map((vault) => ({
          key: vault.id,
          cells: [
            vault.spec.name,
            [badge(vault.status.health), vault.status.reasons.length > 0 && h("p", { class: "quiet" }, vault.status.reasons.join("; "))],
            h("code", null, vault.status.attached_url),
            bytes(vault.status.bytes_stored),
            vault.spec.second_approval ? "needed for what destroys" : "not needed",
            vault.spec.immutability ? `${vault.spec.immutability.days} days, ${vault.spec.immutability.mode}` : "no",
          ],
        })),
        "No vault is attached: lifeboat vault open, or lifeboat vault create.",
      ),
    ),
    section(
      "Notices",
      table(
        "Channels through which this gateway tells people what happens",
        ["Channel", "Kind", "State", "Last sent", "Waiting", "Given up"],
        report.notices.map((channel) => ({
          key: channel.name,
          cells: [
            channel.name,
            channel.means,
            channel.failing_since ? [badge("fails", "bad"), " since ", time(channel.failing_since), channel.error && h("p", { class: "quiet" }, channel.error)] : badge("works", "good"),
            time(channel.last_sent),
            channel.waiting,
            channel.dropped,
          ],
        })),
        "It tells nobody: a webhook or a mail server stands in its configuration.",
      ),
    ),
    section(
      "Agents",
      table(
        "Agents and their certificates",
        ["Agent", "Site", "Certificate ends", "Serial number"],
        byName(agents).map((agent) => ({ key: agent.id, cells: [agent.spec.name, site(agent.spec.site_id), ends(agent.status.expires), h("code", null, agent.status.serial)] })),
        "No agent has enrolled.",
      ),
    ),
  ];
}

export const page = { title: () => "Gateways", load, view };
