//! Something of every kind that Terraform declares, at two gateways: what tests of all kinds begin with.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

use crate::bench::Bench;
use crate::gateway::Gateway;
use crate::terraform::Tier;

/// Something of every kind. `DIR` is the directory of everything.
pub const CONFIGURATION: &str = r#"
resource "lifeboat_vault" "main" {
  name             = "main"
  storage_url      = "file://DIR/vault"
  soft_delete_days = 14
  encryption {
    key_source = "key_file"
    key_file   = "DIR/vault.key"
  }
}

resource "lifeboat_site" "onprem" {
  vault_id    = lifeboat_vault.main.id
  name        = "onprem"
  description = "at home"
}

resource "lifeboat_site" "recovery" {
  vault_id = lifeboat_vault.main.id
  name     = "recovery"
}

resource "lifeboat_gateway" "primary" {
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}

resource "lifeboat_gateway" "standby" {
  site_id = lifeboat_site.recovery.id
  name    = "standby"
  roles   = ["master_target"]
}

resource "lifeboat_replication_policy" "standard" {
  vault_id                = lifeboat_vault.main.id
  name                    = "standard"
  recovery_point_interval = "1s"
  rpo_threshold           = "5m"
  retention {
    every = "all"
    for   = "1h"
  }
}

resource "lifeboat_consistency_group" "erp" {
  vault_id  = lifeboat_vault.main.id
  site_id   = lifeboat_site.onprem.id
  name      = "erp" # group
  policy_id = lifeboat_replication_policy.standard.id
}

resource "lifeboat_network" "source" {
  site_id = lifeboat_site.onprem.id
  name    = "servers"
  bridge  = "br-servers"
  subnet {
    name = "web"
    cidr = "10.20.0.0/24"
  }
}

resource "lifeboat_network" "target" {
  site_id = lifeboat_site.recovery.id
  name    = "servers"
  subnet {
    name = "web"
    cidr = "10.30.0.0/24"
  }
}

resource "lifeboat_network" "isolated" {
  site_id = lifeboat_site.recovery.id
  name    = "isolated"
  subnet {
    name = "web"
    cidr = "10.40.0.0/24"
  }
}

resource "lifeboat_network_mapping" "out" {
  source_network_id = lifeboat_network.source.id
  target_network_id = lifeboat_network.target.id
  test_network_id   = lifeboat_network.isolated.id
  address_rule      = "keep-or-next-free"
}

resource "lifeboat_volume" "data" {
  group_id   = lifeboat_consistency_group.erp.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "data"
  size_gib   = 0.0625
  cache_gib  = 1
}

resource "lifeboat_machine" "db" {
  site_id    = lifeboat_site.onprem.id
  name       = "db"
  group_id   = lifeboat_consistency_group.erp.id
  cpus       = 1
  memory_mib = 512
  disk {
    volume_id = lifeboat_volume.data.id
  }
  network_interface {
    network_id = lifeboat_network.source.id
    address    = "10.20.0.11"
  }
}

resource "lifeboat_recovery_plan" "erp" {
  vault_id       = lifeboat_vault.main.id
  name           = "erp" # plan
  source_site_id = lifeboat_site.onprem.id
  target_site_id = lifeboat_site.recovery.id
  shutdown {
    timeout = "1m"
  }
  boot_group {
    machine_ids = [lifeboat_machine.db.id]
    post_action {
      name       = "look"
      type       = "script"
      script     = "verify"
      directions = ["failover"]
    }
  }
  depends_on = [lifeboat_network_mapping.out]
}

resource "lifeboat_drill" "probe" {
  plan_id   = lifeboat_recovery_plan.erp.id
  name      = "probe"
  valid_for = "90d"
  assertion {
    type   = "script"
    script = "check"
    within = "1m"
  }
  depends_on = [lifeboat_gateway.standby]
}
"#;

/// Which provider it is.
pub const HEAD: &str = r#"
terraform {
  required_providers {
    lifeboat = {
      source = "lifeboat-dr/lifeboat"
    }
  }
}
"#;

/// A bench with a second gateway at the recovery site, which runs machines and checks as scripts.
#[derive(Debug)]
pub struct Everything {
    // Dropped before the bench and its directory.
    /// The gateway `standby` of the site `recovery`.
    pub standby: Gateway,
    /// The gateway at home, and Terraform.
    pub bench: Bench,
}

impl Everything {
    /// Starts both gateways; nothing is declared.
    ///
    /// # Errors
    /// When one doesn't start.
    pub fn new(label: &str, tier: Tier) -> Result<Self> {
        let bench = Bench::new(label, tier)?;
        let dir = bench.scratch.path();
        programs(dir)?;
        let mut standby = Gateway::prepare("recovery", "standby", &dir.join("recovery"))?;
        standby
            .env("LIFEBOAT_COMPUTE", "script")
            .env("LIFEBOAT_COMPUTE_PROGRAMS", dir.join("compute"))
            .env("LIFEBOAT_HOOKS", dir.join("hooks"));
        standby.restart()?;
        Ok(Self { standby, bench })
    }

    /// The same with everything applied, and planned empty.
    ///
    /// # Errors
    /// As [`Self::new`], and when something can't be applied.
    pub fn applied(label: &str, tier: Tier) -> Result<Self> {
        Self::applied_as(label, tier, |all| all.configuration())
    }

    /// The same with another configuration, which has the vault `main`.
    ///
    /// # Errors
    /// As [`Self::applied`].
    pub fn applied_as(label: &str, tier: Tier, configuration: impl FnOnce(&Self) -> String) -> Result<Self> {
        let all = Self::new(label, tier)?;
        let workspace = &all.bench.workspace;
        let configuration = configuration(&all);
        workspace.write(&configuration)?;
        if tier == Tier::Installed {
            workspace.init()?;
        }
        let vault = ["apply", "-no-color", "-auto-approve", "-target=lifeboat_vault.main"];
        workspace.run(&vault)?.ok()?;
        all.open_vault()?;
        workspace.step(&configuration, |_| Ok(()), |_| Ok(()))?;
        Ok(all)
    }

    /// The gateway at the recovery site learns of the vault.
    ///
    /// # Errors
    /// When it doesn't open it.
    pub fn open_vault(&self) -> Result<()> {
        let dir = self.bench.scratch.path().display();
        let (url, key) = (format!("file://{dir}/vault"), format!("{dir}/vault.key"));
        self.standby.run(&["vault", "open", &url, "--key-file", &key])?.ok().map(drop)
    }

    /// [`CONFIGURATION`] for this directory, with the provider.
    #[must_use]
    pub fn configuration(&self) -> String {
        HEAD.to_owned() + &CONFIGURATION.replace("DIR", &self.bench.scratch.path().display().to_string())
    }
}

/// What the gateway at the recovery site runs: machines as files, and checks that always hold.
fn programs(dir: &Path) -> Result<()> {
    let machines = dir.join("machines");
    std::fs::create_dir_all(&machines)?;
    let run = format!("{}/$LIFEBOAT_RUN_ID", machines.display());
    for (directory, name, text) in [
        ("compute", "start", format!("touch {run}")),
        ("compute", "stop", format!("rm -f {run}")),
        ("compute", "status", format!("if [ -e {run} ]; then echo running; else echo absent; fi")),
        ("hooks", "check", "true".to_owned()),
        ("hooks", "verify", "true".to_owned()),
    ] {
        let path = dir.join(directory).join(name);
        std::fs::create_dir_all(dir.join(directory))?;
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
