# Valid while this run of Terraform lasts; in neither plan nor state.
ephemeral "lifeboat_token" "watch" {
  name  = "monitoring set-up"
  roles = ["reader"]
  ttl   = "30m"
}

# Another provider block may be configured with it.
provider "lifeboat" {
  alias               = "watcher"
  endpoint            = "https://gateway.onprem.example"
  token               = ephemeral.lifeboat_token.watch.token
  ca_certificate_file = "/etc/lifeboat/onprem-ca.pem"
}
