terraform {
  required_version = ">= 1.11"
  required_providers {
    lifeboat = {
      source  = "lifeboat-dr/lifeboat"
      version = ">= 0.1.0"
    }
  }
}

# The endpoints, the token and the certificate come from LIFEBOAT_ENDPOINT, LIFEBOAT_TOKEN_FILE and
# LIFEBOAT_CA_CERT. LIFEBOAT_ENDPOINT lists both gateways, so that this configuration works before,
# during and after the loss of the primary.
provider "lifeboat" {}
