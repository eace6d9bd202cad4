terraform {
  required_version = ">= 1.11"
  required_providers {
    lifeboat = {
      source  = "lifeboat-dr/lifeboat"
      version = ">= 0.1.0"
    }
  }
}
