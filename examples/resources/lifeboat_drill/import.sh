# By id: `lifeboat drill list` shows it.
terraform import lifeboat_drill.erp drill-019ab3f0c2d17e4a8b5c6d7e8f90123e
