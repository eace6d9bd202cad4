# By id: `lifeboat group list` shows it.
terraform import lifeboat_consistency_group.erp grp-019ab3f0c2d17e4a8b5c6d7e8f901238
