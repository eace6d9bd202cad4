# By id: `lifeboat gateway list` shows it.
terraform import lifeboat_gateway.primary gw-019ab3f0c2d17e4a8b5c6d7e8f901236
