# Warns at every plan when a volume of the group looks as if it was being encrypted.
data "lifeboat_clean_point" "erp" {
  group_id = lifeboat_consistency_group.erp.id
}

check "nothing_is_being_encrypted" {
  assert {
    condition     = length(data.lifeboat_clean_point.erp.suspicions) == 0
    error_message = "erp: ${data.lifeboat_clean_point.erp.reason}"
  }
}
