terraform {
  required_providers {
    lifeboat = {
      source = "lifeboat-dr/lifeboat"
    }
  }
}

# Several endpoints are tried in order: list the gateways of both sites, and the same configuration
# works before and after the loss of one. Every argument can come from the environment instead:
# LIFEBOAT_ENDPOINT, LIFEBOAT_TOKEN or LIFEBOAT_TOKEN_FILE, LIFEBOAT_CA_CERT.
provider "lifeboat" {
  endpoints           = ["https://gateway.onprem.example", "https://gateway.recovery.example"]
  ca_certificate_file = "/etc/lifeboat/ca.pem"
}
