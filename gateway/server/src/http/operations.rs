//! Everything that may be asked of the API, and what a caller has to have for it: one row for each operation.
//!
//! The routes are built against this table ([`super::access::Routes`]): a route without a row can't be built, and a verb
//! without a row reaches no handler. The API's description is made from it.

use lifeboat_api::Role;
use lifeboat_identity::MachineKind;

/// How a route answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A page of objects.
    Page,
    /// One object.
    One,
    /// One object, made.
    Made,
    /// A job that was begun.
    Begun,
    /// Nothing.
    Nothing,
    /// Text.
    Text,
    /// An archive.
    Archive,
    /// A page.
    Html,
}

/// What a caller has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: everybody may.
    Nothing,
    /// A registration key, which stands in the body: whoever enrols has nothing else yet.
    RegistrationKey,
    /// A machine's certificate. No token passes for one, whatever its roles.
    Machine(MachineKind),
    /// Any valid token.
    Token,
    /// A token with a role that covers this one.
    Role(Role),
}

/// One operation: method, path, who may, what it does, body, answer, query parameters.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) need: Need,
    pub(super) summary: &'static str,
    pub(super) body: Option<&'static str>,
    pub(super) shape: Shape,
    pub(super) answer: &'static str,
    pub(super) query: &'static [&'static str],
}

impl Operation {
    /// Whether who asks for it is written down: everything that changes something.
    pub(crate) fn is_audited(&self) -> bool {
        self.method != "get"
    }

    /// The path that the router knows: without the verb.
    pub(crate) fn route(&self) -> &'static str {
        self.path.split_once(':').map_or(self.path, |(route, _)| route)
    }

    /// The verb behind the object's id.
    pub(crate) fn verb(&self) -> Option<&'static str> {
        self.path.split_once(':').map(|(_, verb)| verb)
    }
}

const READ: Need = Need::Role(Role::Reader);
const DECLARE: Need = Need::Role(Role::Operator);
const RECOVER: Need = Need::Role(Role::Recovery);
const SECURE: Need = Need::Role(Role::SecurityAdministrator);

#[expect(clippy::too_many_arguments, reason = "the columns of a table")]
const fn operation(
    method: &'static str,
    path: &'static str,
    need: Need,
    summary: &'static str,
    body: Option<&'static str>,
    shape: Shape,
    answer: &'static str,
    query: &'static [&'static str],
) -> Operation {
    Operation { method, path, need, summary, body, shape, answer, query }
}

/// A verb of recovery, which begins a job.
const fn begins(path: &'static str, summary: &'static str, body: &'static str) -> Operation {
    operation("post", path, RECOVER, summary, Some(body), Shape::Begun, "Job", &[])
}

const LIST: &[&str] = &["limit", "page_token", "name"];

macro_rules! resource_operations {
    ($need:expr, $path:literal, $item:literal, $what:literal, $view:literal, $create:literal, $spec:literal) => {
        resource_operations!($need, $path, $item, $what, $view, $create, $spec, &[])
    };
    ($need:expr, $path:literal, $item:literal, $what:literal, $view:literal, $create:literal, $spec:literal, $deletion:expr) => {
        [
            operation("get", $path, READ, concat!("Lists ", $what, "."), None, Shape::Page, $view, LIST),
            operation(
                "post",
                $path,
                $need,
                concat!("Declares one of the ", $what, "."),
                Some($create),
                Shape::Made,
                $view,
                &[],
            ),
            operation("get", $item, READ, concat!("Reads one of the ", $what, "."), None, Shape::One, $view, &[]),
            operation(
                "patch",
                $item,
                $need,
                concat!("Changes one of the ", $what, " (RFC 7396)."),
                Some($spec),
                Shape::One,
                $view,
                &[],
            ),
            operation(
                "delete",
                $item,
                $need,
                concat!("Deletes one of the ", $what, "."),
                None,
                Shape::Nothing,
                "",
                $deletion,
            ),
        ]
    };
}

const RESOURCES: [[Operation; 5]; 11] = [
    resource_operations!(SECURE, "/v1/vaults", "/v1/vaults/{id}", "vaults", "Vault", "VaultCreate", "VaultSpec"),
    resource_operations!(DECLARE, "/v1/sites", "/v1/sites/{id}", "sites", "Site", "SiteSpec", "SiteSpec"),
    resource_operations!(
        DECLARE,
        "/v1/gateways",
        "/v1/gateways/{id}",
        "gateways",
        "Gateway",
        "GatewaySpec",
        "GatewaySpec"
    ),
    resource_operations!(
        DECLARE,
        "/v1/policies",
        "/v1/policies/{id}",
        "policies",
        "Policy",
        "PolicySpec",
        "PolicySpec",
        &["while_named"]
    ),
    resource_operations!(DECLARE, "/v1/groups", "/v1/groups/{id}", "groups", "Group", "GroupSpec", "GroupSpec"),
    resource_operations!(
        DECLARE,
        "/v1/volumes",
        "/v1/volumes/{id}",
        "volumes",
        "Volume",
        "VolumeSpec",
        "VolumeSpec",
        &["while_named"]
    ),
    resource_operations!(
        DECLARE,
        "/v1/networks",
        "/v1/networks/{id}",
        "networks",
        "Network",
        "NetworkSpec",
        "NetworkSpec",
        &["while_named"]
    ),
    resource_operations!(
        DECLARE,
        "/v1/network-mappings",
        "/v1/network-mappings/{id}",
        "network mappings",
        "NetworkMapping",
        "NetworkMappingSpec",
        "NetworkMappingSpec"
    ),
    resource_operations!(
        DECLARE,
        "/v1/machines",
        "/v1/machines/{id}",
        "machines",
        "Machine",
        "MachineSpec",
        "MachineSpec",
        &["while_named"]
    ),
    resource_operations!(DECLARE, "/v1/plans", "/v1/plans/{id}", "recovery plans", "Plan", "PlanSpec", "PlanSpec"),
    resource_operations!(DECLARE, "/v1/drills", "/v1/drills/{id}", "drills", "Drill", "DrillSpec", "DrillSpec"),
];

const OTHERS: [Operation; 89] = [
    operation(
        "get",
        "/v1/whoami",
        Need::Token,
        "Says whom the gateway takes you for.",
        None,
        Shape::One,
        "Whoami",
        &[],
    ),
    operation("get", "/v1/tokens", READ, "Lists tokens, without their secrets.", None, Shape::Page, "Token", LIST),
    operation(
        "post",
        "/v1/tokens",
        SECURE,
        "Makes a token. Its secret is in this answer only; a repeat under the same Idempotency-Key is a conflict.",
        Some("TokenCreate"),
        Shape::Made,
        "NewToken",
        &[],
    ),
    operation("get", "/v1/tokens/{id}", READ, "Reads a token, without its secret.", None, Shape::One, "Token", &[]),
    operation("delete", "/v1/tokens/{id}", SECURE, "Revokes a token.", None, Shape::Nothing, "", &[]),
    operation(
        "post",
        "/v1/tokens/{id}:rotate",
        SECURE,
        "Gives a token another secret. Its old ones end after the grace period.",
        Some("RotateTokenRequest"),
        Shape::One,
        "NewToken",
        &[],
    ),
    operation(
        "post",
        "/v1/tokens/{id}:renew",
        SECURE,
        "Lets a token live on from now.",
        Some("RenewTokenRequest"),
        Shape::One,
        "Token",
        &[],
    ),
    operation(
        "get",
        "/v1/registration-keys",
        READ,
        "Lists registration keys, without their texts.",
        None,
        Shape::Page,
        "RegistrationKey",
        LIST,
    ),
    operation(
        "post",
        "/v1/registration-keys",
        SECURE,
        "Makes a key that one machine enrols with, once. Its text is in this answer only; a repeat under the same Idempotency-Key is a \
         conflict.",
        Some("RegistrationKeyCreate"),
        Shape::Made,
        "NewRegistrationKey",
        &[],
    ),
    operation(
        "get",
        "/v1/registration-keys/{id}",
        READ,
        "Reads a registration key, without its text.",
        None,
        Shape::One,
        "RegistrationKey",
        &[],
    ),
    operation(
        "delete",
        "/v1/registration-keys/{id}",
        SECURE,
        "Deletes a registration key: no machine enrols with it any more.",
        None,
        Shape::Nothing,
        "",
        &[],
    ),
    operation(
        "post",
        "/v1/enrolments",
        Need::RegistrationKey,
        "Makes a machine known and signs its certificate; needs no token, but a registration key. The same registration key and \
         public key again give the same identity.",
        Some("EnrolRequest"),
        Shape::Made,
        "Enrolment",
        &[],
    ),
    operation(
        "post",
        "/v1/gateway-enrolments",
        Need::RegistrationKey,
        "Makes a gateway known and says where the vault is, without anything that opens it; needs no token, but a registration key for a \
         gateway. The same registration key and public key again give the same answer.",
        Some("GatewayEnrolRequest"),
        Shape::Made,
        "GatewayEnrolment",
        &[],
    ),
    operation(
        "get",
        "/v1/registration",
        READ,
        "Says how far this gateway's registration by key is.",
        None,
        Shape::One,
        "Registration",
        &[],
    ),
    operation(
        "post",
        "/v1/registration",
        SECURE,
        "Has this gateway, which has no vault yet, register itself at another one by key, and attach the vault if it can open it.",
        Some("RegisterRequest"),
        Shape::One,
        "Registration",
        &[],
    ),
    operation("get", "/v1/agents", READ, "Lists agents.", None, Shape::Page, "Agent", LIST),
    operation("get", "/v1/agents/{id}", READ, "Reads an agent.", None, Shape::One, "Agent", &[]),
    operation(
        "delete",
        "/v1/agents/{id}",
        SECURE,
        "Revokes an agent: its certificate is believed no more.",
        None,
        Shape::Nothing,
        "",
        &[],
    ),
    operation(
        "get",
        "/v1/agents/{id}/process-servers",
        Need::Machine(MachineKind::Agent),
        "Says which process servers the agent that asks may go to.",
        None,
        Shape::One,
        "KnownProcessServers",
        &[],
    ),
    operation(
        "post",
        "/v1/agents/{id}:renew",
        Need::Machine(MachineKind::Agent),
        "Signs another certificate for the agent that asks.",
        Some("RenewCertificateRequest"),
        Shape::One,
        "Enrolment",
        &[],
    ),
    operation(
        "get",
        "/v1/vaults/{id}/keys",
        READ,
        "Lists the ways to open a vault, without its keys.",
        None,
        Shape::One,
        "VaultKeys",
        &[],
    ),
    operation(
        "post",
        "/v1/vaults/{id}:add-key",
        SECURE,
        "Makes another key open a vault.",
        Some("AddKeyRequest"),
        Shape::One,
        "VaultKeys",
        &[],
    ),
    operation(
        "post",
        "/v1/vaults/{id}:remove-key",
        SECURE,
        "Makes a key open a vault no more.",
        Some("RemoveKeyRequest"),
        Shape::One,
        "VaultKeys",
        &[],
    ),
    operation(
        "post",
        "/v1/vaults/{id}:verify-key",
        SECURE,
        "Says what a key opens.",
        Some("VerifyKeyRequest"),
        Shape::One,
        "VerifiedKey",
        &[],
    ),
    operation(
        "post",
        "/v1/vaults/{id}:rotate-key",
        SECURE,
        "Replaces the master key of a vault.",
        Some("RotateKeyRequest"),
        Shape::One,
        "KeyRotation",
        &[],
    ),
    operation(
        "post",
        "/v1/volumes/{id}:rotate-key",
        SECURE,
        "Makes a new data key for a volume.",
        Some("RotateVolumeKeyRequest"),
        Shape::One,
        "VolumeKey",
        &[],
    ),
    operation(
        "post",
        "/v1/volumes/{id}:erase",
        SECURE,
        "Destroys the keys of a volume.",
        Some("EraseRequest"),
        Shape::One,
        "VolumeErasure",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:undelete",
        DECLARE,
        "Takes the deletion of a group and of its volumes back.",
        Some("UndeleteRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "get",
        "/v1/deleted",
        READ,
        "Lists what was deleted, holds no data and can come back.",
        None,
        Shape::Page,
        "DeletedObject",
        &[],
    ),
    operation(
        "post",
        "/v1/deleted/{id}:undelete",
        DECLARE,
        "Takes the deletion of something that holds no data back, with what it needs and was deleted too.",
        Some("RestoreRequest"),
        Shape::One,
        "Restored",
        &[],
    ),
    operation(
        "get",
        "/v1/deleted-groups",
        READ,
        "Lists the deleted groups that can come back.",
        None,
        Shape::Page,
        "DeletedGroup",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:failover",
        RECOVER,
        "Fails a group over to this gateway.",
        Some("FailoverRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:change-point",
        RECOVER,
        "Goes on from another recovery point after a failover that isn't committed.",
        Some("ChangePointRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:commit",
        RECOVER,
        "Makes a failover final.",
        Some("CommitRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:cleanup",
        RECOVER,
        "Ends test failovers.",
        Some("CleanupRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:release",
        RECOVER,
        "Stops a group in order.",
        Some("ReleaseRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    begins("/v1/groups/{id}:move", "Gives a group its home at another gateway of its site.", "MoveGroupRequest"),
    begins(
        "/v1/gateways/{id}:replace",
        "Has another gateway of the site take over what a lost one had.",
        "ReplaceGatewayRequest",
    ),
    operation(
        "post",
        "/v1/groups/{id}:resume",
        RECOVER,
        "Starts a released group again.",
        Some("ResumeRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:failback",
        RECOVER,
        "Moves a group back home.",
        Some("FailbackRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:point",
        DECLARE,
        "Takes a recovery point.",
        Some("PointRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}:resync",
        DECLARE,
        "Copies what the vault lacks, at once.",
        Some("ResyncRequest"),
        Shape::Begun,
        "Job",
        &[],
    ),
    operation(
        "get",
        "/v1/points",
        READ,
        "Lists recovery points, newest first.",
        None,
        Shape::Page,
        "Point",
        &["group", "branch", "from", "to", "kind", "limit", "page_token"],
    ),
    operation(
        "get",
        "/v1/points/{id}",
        READ,
        "Reads a recovery point with its volumes.",
        None,
        Shape::One,
        "Point",
        &["group", "branch"],
    ),
    operation(
        "post",
        "/v1/groups/{id}/points/{point}:pin",
        DECLARE,
        "Keeps a recovery point whatever the retention schedule says.",
        Some("PinRequest"),
        Shape::One,
        "Point",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}/points/{point}:unpin",
        DECLARE,
        "Leaves a recovery point to the retention schedule again.",
        Some("UnpinRequest"),
        Shape::One,
        "Point",
        &[],
    ),
    operation(
        "post",
        "/v1/groups/{id}/points/{point}:label",
        DECLARE,
        "Calls a recovery point by another name.",
        Some("LabelRequest"),
        Shape::One,
        "Point",
        &[],
    ),
    operation(
        "get",
        "/v1/clean-point",
        READ,
        "Suggests the newest recovery point before anything that looks like an encryption.",
        None,
        Shape::One,
        "CleanPoint",
        &["group", "branch"],
    ),
    operation(
        "get",
        "/v1/jobs",
        READ,
        "Lists jobs, newest first.",
        None,
        Shape::Page,
        "Job",
        &["group", "plan", "machine", "drill", "state", "kind", "limit", "page_token"],
    ),
    operation(
        "get",
        "/v1/jobs/{id}",
        READ,
        "Reads a job; with `wait`, once it changed.",
        None,
        Shape::One,
        "Job",
        &["wait", "since"],
    ),
    begins("/v1/plans/{id}:failover", "Carries a recovery plan out at this gateway.", "PlanFailoverRequest"),
    begins(
        "/v1/plans/{id}:change-point",
        "Goes on from another recovery point after a failover of a recovery plan that isn't committed.",
        "ChangePointRequest",
    ),
    begins("/v1/plans/{id}:commit", "Makes the failover of a recovery plan final.", "CommitRequest"),
    begins("/v1/plans/{id}:cleanup", "Ends the tests of a recovery plan.", "PlanCleanupRequest"),
    begins(
        "/v1/plans/{id}:reprotect",
        "Brings the home copies of a recovery plan forward while the recovery side runs.",
        "ReprotectRequest",
    ),
    begins("/v1/plans/{id}:failback", "Moves everything of a recovery plan back home.", "FailbackRequest"),
    begins("/v1/drills/{id}:run", "Runs a drill.", "DrillRunRequest"),
    begins("/v1/drills/{id}:cleanup", "Ends the test that a drill left up.", "PlanCleanupRequest"),
    operation(
        "get",
        "/v1/drills/{id}/evidence",
        READ,
        "Reads the signed evidence of a run, the newest unless one is named.",
        None,
        Shape::One,
        "DrillEvidence",
        &["run"],
    ),
    operation(
        "get",
        "/v1/drills/{id}/report",
        READ,
        "Reads the evidence of a run as a page for people.",
        None,
        Shape::Html,
        "",
        &["run"],
    ),
    begins("/v1/machines/{id}:failover", "Fails a machine by itself over to this gateway.", "PlanFailoverRequest"),
    begins(
        "/v1/machines/{id}:change-point",
        "Goes on from another recovery point after a failover of a machine by itself that isn't committed.",
        "ChangePointRequest",
    ),
    begins("/v1/machines/{id}:commit", "Makes the failover of a machine by itself final.", "CommitRequest"),
    begins("/v1/machines/{id}:cleanup", "Ends the tests of a machine by itself.", "PlanCleanupRequest"),
    begins(
        "/v1/machines/{id}:reprotect",
        "Brings the home copies of a machine by itself forward while the recovery side runs.",
        "ReprotectRequest",
    ),
    begins("/v1/machines/{id}:failback", "Moves everything of a machine by itself back home.", "FailbackRequest"),
    operation(
        "get",
        "/v1/machines/{id}/run",
        READ,
        "Looks at a machine that this gateway runs.",
        None,
        Shape::One,
        "MachineLook",
        &["test", "console_bytes", "screen"],
    ),
    operation(
        "post",
        "/v1/machines/{id}:reach",
        RECOVER,
        "Says where a port of a machine that this gateway runs answers.",
        Some("ReachRequest"),
        Shape::One,
        "ReachAnswer",
        &[],
    ),
    begins("/v1/machines/{id}:start", "Starts a machine where its volumes are.", "StartRequest"),
    begins("/v1/machines/{id}:stop", "Stops a machine where it runs.", "StopRequest"),
    begins(
        "/v1/groups/{id}:reprotect",
        "Brings the home copy of a group forward while the recovery side runs.",
        "ReprotectRequest",
    ),
    operation("post", "/v1/jobs/{id}:cancel", RECOVER, "Asks a job to stop.", Some("Empty"), Shape::Begun, "Job", &[]),
    begins("/v1/jobs/{id}:retry", "Tries a failed job again.", "RetryRequest"),
    begins("/v1/jobs/{id}:continue", "Tells a job that waits for a person that the task is done.", "ContinueRequest"),
    operation(
        "get",
        "/v1/events",
        READ,
        "Lists events, newest first.",
        None,
        Shape::Page,
        "Event",
        &["group", "since", "limit", "page_token"],
    ),
    operation("get", "/v1/approvals", READ, "Lists approvals, newest first.", None, Shape::Page, "Approval", LIST),
    operation("get", "/v1/approvals/{id}", READ, "Reads an approval.", None, Shape::One, "Approval", &[]),
    operation(
        "post",
        "/v1/approvals/{id}:approve",
        SECURE,
        "Lets somebody else do what was asked for, once.",
        Some("DecideRequest"),
        Shape::One,
        "Approval",
        &[],
    ),
    operation(
        "post",
        "/v1/approvals/{id}:reject",
        SECURE,
        "Refuses what was asked for.",
        Some("DecideRequest"),
        Shape::One,
        "Approval",
        &[],
    ),
    operation(
        "get",
        "/v1/audit",
        READ,
        "Lists the audit log, newest first: who asked for what.",
        None,
        Shape::Page,
        "AuditRecord",
        &["since", "who", "limit", "page_token"],
    ),
    operation(
        "get",
        "/v1/protection-status",
        READ,
        "Says how well groups are protected.",
        None,
        Shape::Page,
        "ProtectionStatus",
        &["group", "volume", "limit", "page_token"],
    ),
    operation(
        "get",
        "/v1/protection-history",
        READ,
        "Says how well groups were protected in the last hour, as far as this gateway has seen it since it started.",
        None,
        Shape::Page,
        "ProtectionHistory",
        &["group", "limit", "page_token"],
    ),
    operation("get", "/v1/status", READ, "The gateway's account of itself.", None, Shape::One, "GatewayReport", &[]),
    operation("get", "/v1/openapi.json", Need::Token, "This document.", None, Shape::One, "Empty", &[]),
    operation(
        "get",
        "/v1/support-bundles/{id}",
        SECURE,
        "A support bundle that was made on this machine, by its file's name; `latest` is the newest. A tar archive under zstd.",
        None,
        Shape::Archive,
        "",
        &[],
    ),
    operation(
        "post",
        "/v1/notice-tests",
        DECLARE,
        "Sends a test through each channel of notices that this gateway is configured with, and says what came of it.",
        None,
        Shape::One,
        "NoticeTests",
        &[],
    ),
    operation("get", "/metrics", READ, "Metrics in Prometheus's text form.", None, Shape::Text, "", &[]),
    operation(
        "get",
        "/livez",
        Need::Nothing,
        "Whether the process is alive; needs no token.",
        None,
        Shape::One,
        "Empty",
        &[],
    ),
    operation("get", "/readyz", Need::Nothing, "Whether it is ready; needs no token.", None, Shape::One, "Empty", &[]),
];

/// Every operation.
pub(crate) fn operations() -> impl Iterator<Item = &'static Operation> {
    RESOURCES.iter().flatten().chain(OTHERS.iter())
}
