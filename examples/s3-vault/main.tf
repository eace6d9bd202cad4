# A vault in an S3 bucket, or in a bucket of anything that speaks S3 and refuses to overwrite where it
# is told to (the gateway tries that before it makes a vault).

resource "lifeboat_vault" "main" {
  name             = "main"
  storage_url      = "s3://${var.bucket}/${var.prefix}"
  storage_region   = var.region
  storage_endpoint = var.endpoint

  # Kept by the gateway, and in neither plan nor state. Without them the gateway's environment counts:
  # leave both lines out there. Raise the version to send new ones.
  storage_credentials = {
    AWS_ACCESS_KEY_ID     = var.access_key_id
    AWS_SECRET_ACCESS_KEY = var.secret_access_key
  }
  storage_credentials_version = 1

  encryption {
    key_source         = "passphrase"
    passphrase         = var.passphrase
    passphrase_version = 1
  }
}

resource "lifeboat_site" "onprem" {
  vault_id = lifeboat_vault.main.id
  name     = "onprem"
}

resource "lifeboat_gateway" "primary" {
  site_id = lifeboat_site.onprem.id
  name    = "primary"
}

# A bucket far away: points less often than on a local network, and a limit in working hours.
resource "lifeboat_replication_policy" "remote" {
  vault_id                = lifeboat_vault.main.id
  name                    = "remote"
  recovery_point_interval = "15s"
  rpo_threshold           = "5m"
  compression             = "zstd:3"

  retention {
    every = "all"
    for   = "1h"
  }
  retention {
    every = "1h"
    for   = "15d"
  }

  bandwidth_limit {
    mbps  = 200
    days  = ["mon", "tue", "wed", "thu", "fri"]
    start = "08:00"
    end   = "18:00"
  }
}

resource "lifeboat_volume" "files" {
  policy_id  = lifeboat_replication_policy.remote.id
  gateway_id = lifeboat_gateway.primary.id
  name       = "files"
  size_gib   = var.volume_size_gib
}
