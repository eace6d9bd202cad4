# A recovery point before each release.
action "lifeboat_take_point" "before_release" {
  config {
    group_id       = lifeboat_consistency_group.erp.id
    label          = "before the release"
    app_consistent = true
  }
}

resource "terraform_data" "release" {
  input = "v1.2.3"

  lifecycle {
    action_trigger {
      events  = [before_create, before_update]
      actions = [action.lifeboat_take_point.before_release]
    }
  }
}
