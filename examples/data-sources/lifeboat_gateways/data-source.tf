data "lifeboat_gateways" "all" {}

# Fails the plan while a gateway is not heard of.
check "gateways" {
  assert {
    condition     = alltrue([for gateway in data.lifeboat_gateways.all.gateways : gateway.health != "critical"])
    error_message = "A gateway needs a person."
  }
}
