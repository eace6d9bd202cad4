data "lifeboat_jobs" "failed" {
  state = "failed"
  limit = 10
}
