data "lifeboat_protection_status" "erp" {
  group_id = lifeboat_consistency_group.erp.id
}

check "erp_is_protected" {
  assert {
    condition     = data.lifeboat_protection_status.erp.health == "healthy"
    error_message = "erp is not protected: ${join("; ", data.lifeboat_protection_status.erp.reasons)}"
  }
}
