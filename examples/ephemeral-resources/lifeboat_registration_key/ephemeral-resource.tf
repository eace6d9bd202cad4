# Made for this run of Terraform; in neither plan nor state. One machine enrols with it, once.
ephemeral "lifeboat_registration_key" "web" {
  site_id = lifeboat_site.onprem.id
  roles   = ["agent"]
  name    = "web"
  ttl     = "15m"
}

# A provisioner hands it to the machine, over the connection that it has anyway.
resource "terraform_data" "web" {
  connection {
    host = "web.onprem.example"
  }

  provisioner "remote-exec" {
    inline = [
      "printf %s '${ephemeral.lifeboat_registration_key.web.key}' | lifeboat agent enrol --key-file - --state /var/lib/lifeboat-agent --endpoint https://gateway.onprem.example",
    ]
  }
}
