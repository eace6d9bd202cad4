//! Every metric that there is. Names, labels and meanings are promises: docs/metrics.md lists them, and a test holds it against this.

use super::text::{Family, Kind};

macro_rules! families {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] = $help:literal;)*) => {
        $(pub(super) const $constant: Family =
            Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*
        /// All of them, in the order of the document.
        #[cfg(test)]
        pub(super) const ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    INFO: Gauge "lifeboat_gateway_info" ["gateway", "version"] = "1; says the version of the gateway that answers.";
    STARTED: Gauge "lifeboat_gateway_start_time_seconds" ["gateway"] = "When the process began, in seconds since 1970.";
    GATEWAY: Gauge "lifeboat_gateway_health" ["gateway"] = "Health of the gateway that answers: 0 healthy, 1 warning, 2 critical.";
    AT_REST: Gauge "lifeboat_gateway_local_key" ["gateway"] = "1 where new local files are encrypted.";
    PROCESSOR: Gauge "lifeboat_gateway_processor_share" ["gateway"] = "Share of its processors' time that was used in the last minute, 0 to 1.";
    MEMORY_USED: Gauge "lifeboat_gateway_memory_used_bytes" ["gateway"] = "Bytes of memory in use.";
    MEMORY_TOTAL: Gauge "lifeboat_gateway_memory_total_bytes" ["gateway"] = "Bytes of memory that there are for it.";
    DISK_FREE: Gauge "lifeboat_gateway_disk_free_bytes" ["gateway"] = "Bytes free on the file system of its state directory.";
    DISK_TOTAL: Gauge "lifeboat_gateway_disk_total_bytes" ["gateway"] = "Bytes of that file system.";
    SILENCE: Gauge "lifeboat_gateway_silence_seconds" ["peer"] = "Seconds since another gateway was heard of in a vault. None for one that has never registered.";

    HEALTH: Gauge "lifeboat_group_health" ["group", "name"] = "Health of a group: 0 healthy, 1 warning, 2 critical.";
    ACTIVE: Gauge "lifeboat_group_active" ["group", "name"] = "1 where the gateway that answers serves the group; what others say of it is as old as its last report.";
    RPO: Gauge "lifeboat_group_landed_rpo_seconds" ["group", "name"] = "Seconds of acknowledged writes that a disaster now would lose.";
    APPLIED: Gauge "lifeboat_group_applied_rpo_seconds" ["group", "name"] = "Seconds of acknowledged writes that a failover to the newest recovery point would lose at most, by what the gateway that answers knows.";
    THRESHOLD: Gauge "lifeboat_group_rpo_threshold_seconds" ["group", "name"] = "The policy's limit for the landed RPO.";
    OLDEST: Gauge "lifeboat_group_oldest_unshipped_seconds" ["group", "name"] = "Age of the oldest acknowledged write that is not in the vault, at most; 0 while there is none.";
    POINT_AGE: Gauge "lifeboat_group_point_age_seconds" ["group", "name"] = "Seconds since the newest recovery point in the vault was taken; it grows while nothing is written.";
    BACKLOG: Gauge "lifeboat_group_backlog_bytes" ["group", "name"] = "Bytes acknowledged and not in the vault yet.";
    JOURNAL: Gauge "lifeboat_group_journal_used_bytes" ["group", "name"] = "Bytes of the journal in use.";
    JOURNAL_LIMIT: Gauge "lifeboat_group_journal_limit_bytes" ["group", "name"] = "Bytes that the journal may take.";
    JOURNAL_FULL: Gauge "lifeboat_group_journal_full_in_seconds" ["group", "name"] = "Seconds until the journal is full if all goes on as in the last minute; absent while it does not fill.";
    CHURN: Gauge "lifeboat_group_churn_bytes_per_second" ["group", "name"] = "Bytes written per second.";
    SHIP_RATE: Gauge "lifeboat_group_shipped_bytes_per_second" ["group", "name"] = "Bytes put into the vault per second, over the last minute.";
    SHIPPED: Counter "lifeboat_group_shipped_bytes_total" ["group", "name"] = "Bytes of segments put into the vault since the gateway opened the group.";
    SHIPPED_RAW: Counter "lifeboat_group_shipped_raw_bytes_total" ["group", "name"] = "Bytes of the blocks in them, before compression; overwrites within a point and zeroes are left out.";
    SHIP_FAILED: Counter "lifeboat_group_shipping_errors_total" ["group", "name", "class"] = "Tries to ship that failed since the gateway opened the group, by the class of the error.";
    EPOCH: Gauge "lifeboat_group_epoch" ["group", "name"] = "The tenure of the gateway that answers, where it serves the group.";
    RESYNC: Gauge "lifeboat_group_resync_state" ["group", "name"] = "0 none is needed, 1 one waits, 2 one copies.";
    RESYNC_LEFT: Gauge "lifeboat_group_resync_left_bytes" ["group", "name"] = "Bytes that a resync has still to copy.";
    SYNCS: Histogram "lifeboat_group_journal_fdatasync_seconds" ["group", "name"] = "How long each fdatasync of the journal took, since the gateway opened the group.";

    SHARED: Gauge "lifeboat_replication_group_points" ["vault", "replication_group"] = "Points taken together by all groups of a replication group, since this gateway coordinates it.";
    UNSHARED: Gauge "lifeboat_replication_group_missed" ["vault", "replication_group"] = "Tries to take a point together that came to nothing.";
    SHARED_AGE: Gauge "lifeboat_replication_group_point_age_seconds" ["vault", "replication_group"] = "Seconds since the last point that all groups took together.";
    HELD: Gauge "lifeboat_replication_group_hold_seconds" ["vault", "replication_group"] = "Seconds that writes waited for the last point taken together, at most.";

    VAULT: Gauge "lifeboat_vault_reachable" ["vault", "name"] = "1 while the vault can be reached.";
    VAULT_REQUESTS: Counter "lifeboat_vault_requests_total" ["vault", "name", "operation", "outcome"] = "Requests to the vault's storage since it was opened, by operation (create, get, list, head, delete, sweep) and outcome (ok, already_exists, not_found, retry, denied, no_bucket, fatal).";

    DRILL_AGE: Gauge "lifeboat_drill_age_seconds" ["drill", "name"] = "Seconds since the last run of a drill ended.";
    DRILL_PASSED: Gauge "lifeboat_drill_passed" ["drill", "name"] = "1 when its last run passed, 0 when it didn't.";
    DRILL_EXPIRES: Gauge "lifeboat_drill_expires_time_seconds" ["drill", "name"] = "When its last run is worth nothing any more, in seconds since 1970; absent when it didn't pass or nothing says so.";
    DRILL_RTO: Gauge "lifeboat_drill_rto_seconds" ["drill", "name"] = "RTO that its last run measured.";
    DRILL_RPO: Gauge "lifeboat_drill_rpo_seconds" ["drill", "name"] = "RPO that its last run measured.";
    JOBS: Gauge "lifeboat_jobs" ["vault", "state"] = "Jobs that the catalog holds, by state.";
    CERTIFICATE: Gauge "lifeboat_certificate_expires_time_seconds" ["kind", "name"] = "When a certificate ends, in seconds since 1970: kind gateway-authority (ca.pem of the gateway that answers), or agent (its newest one).";

    REQUESTS: Counter "lifeboat_api_requests_total" ["method", "route", "status"] = "Requests of the API that were answered, by the route's pattern and the status.";
    MOUNT_ERRORS: Counter "lifeboat_volume_request_errors_total" ["class"] = "Requests of users of volumes, through the mount and NBD, that failed, by the class of the error.";
    EVENTS: Counter "lifeboat_events_total" ["kind", "severity"] = "Events that this gateway wrote down since its start.";

    SPANS_EXPORTED: Counter "lifeboat_trace_spans_exported_total" [] = "Spans that the collector of traces took; absent where no traces are asked for.";
    SPANS_DROPPED: Counter "lifeboat_trace_spans_dropped_total" [] = "Spans that were given up: the queue was full, or the collector didn't take them; absent where no traces are asked for.";

    NOTICE_FAILING: Gauge "lifeboat_notice_channel_failing" ["channel"] = "1 while notices can't be sent through a channel.";
    NOTICE_WAITING: Gauge "lifeboat_notice_waiting" ["channel"] = "Notices that wait to be sent.";
    NOTICE_SENT: Counter "lifeboat_notice_sent_total" ["channel"] = "Notices sent since the start of the process.";
    NOTICE_FAILED: Counter "lifeboat_notice_failed_total" ["channel"] = "Tries to send one that failed.";
    NOTICE_DROPPED: Counter "lifeboat_notice_dropped_total" ["channel"] = "Notices that were given up: the queue was full, or they were too old.";

    SERVER: Gauge "lifeboat_process_server_health" ["gateway"] = "Health of the gateway that answers as a process server: 0 healthy, 1 warning, 2 critical.";
    AGENTS: Gauge "lifeboat_process_server_agents" ["gateway"] = "Agents that stream to this process server.";
    CACHE_USED: Gauge "lifeboat_process_server_cache_used_bytes" ["gateway"] = "Bytes cached that are not in the vault yet.";
    CACHE_LIMIT: Gauge "lifeboat_process_server_cache_limit_bytes" ["gateway"] = "Bytes that may be cached.";
    BACKLOG_AGE: Gauge "lifeboat_process_server_backlog_age_seconds" ["gateway"] = "Age of the oldest cached record that could be in the vault.";
}
