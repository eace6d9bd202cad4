# By id: `lifeboat policy list` shows it.
terraform import lifeboat_replication_policy.gold pol-019ab3f0c2d17e4a8b5c6d7e8f901237
