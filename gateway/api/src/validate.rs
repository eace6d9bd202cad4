//! The rules that say which values make sense, shared by server and provider.
//!
//! Every function takes the path of the field and adds to a list, so that all that is wrong is said at once. Nothing
//! here looks anything up: a rule that needs the vault (a name that is taken, an id that doesn't exist) is the server's.

mod drill;
mod export;
mod identity;
mod machine;
mod network;
mod plan;
mod token;

pub use drill::ASSERTIONS_MAX;
pub use identity::{REGISTRATION_TTL_MAX, REGISTRATION_TTL_MIN};
pub use machine::{DISKS_MAX, INTERFACES_MAX};
pub use network::SUBNETS_MAX;
pub use plan::BOOT_GROUPS_MAX;
pub use token::{GRACE_MAX, TTL_MAX, TTL_MIN};

use std::time::Duration;

use lifeboat_model::Hours;

pub use export::is_initiator;

use crate::problem::FieldError;
use crate::types::{
    BandwidthLimit, EncryptionKey, GatewaySpec, GroupSpec, Immutability, KeySourceKind, PolicySpec, Resync,
    RetentionRule, SiteSpec, VaultCreate, VolumeSpec,
};

/// Smallest volume, bytes.
pub const VOLUME_BYTES_MIN: u64 = 1 << 20;
/// Largest volume, bytes.
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;
/// Smallest block of a volume, bytes.
pub const BLOCK_BYTES: u64 = 4096;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// What is wrong, in the order of the fields.
pub type Errors = Vec<FieldError>;

/// A body whose values can be checked without looking anything up.
pub trait Validate {
    /// Adds what is wrong to `errors`, under paths that begin with `prefix` (empty, or ending in a dot).
    fn check(&self, prefix: &str, errors: &mut Errors);

    /// Everything that is wrong.
    ///
    /// # Errors
    /// The fields at fault, at least one.
    fn validate(&self) -> Result<(), Errors> {
        let mut errors = Errors::new();
        self.check("", &mut errors);
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

fn fault(errors: &mut Errors, field: impl Into<String>, message: impl Into<String>) {
    errors.push(FieldError { field: field.into(), message: message.into() });
}

/// A duration as people write it: a whole number and one of `ms`, `s`, `m`, `h`, `d`. Several may follow one another,
/// larger units first (`1h30m`).
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let wrong = || format!("{text:?} is no duration: expected a number and a unit, for example 5s, 15m, 24h or 15d");
    let mut rest = text;
    let mut millis = 0_u64;
    let mut smallest = u64::MAX;
    if text.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        if *factor >= smallest {
            return Err(wrong());
        }
        smallest = *factor;
        millis = number.checked_mul(*factor).and_then(|part| millis.checked_add(part)).ok_or_else(wrong)?;
        rest = tail;
    }
    Ok(Duration::from_millis(millis))
}

/// A duration as [`parse_duration`] reads it, in the largest units that give it exactly.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor) in [("d", 86_400_000_u64), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
        if let Some(count) = millis.checked_div(factor).filter(|count| *count > 0) {
            text.push_str(&format!("{count}{unit}"));
            millis %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// A duration between two bounds; `None` when a fault was added.
pub fn duration(field: &str, text: &str, min: Duration, max: Duration, errors: &mut Errors) -> Option<Duration> {
    match parse_duration(text) {
        Ok(value) if value < min || value > max => {
            fault(
                errors,
                field,
                format!("must lie between {} and {}, not {text}", format_duration(min), format_duration(max)),
            );
            None
        }
        Ok(value) => Some(value),
        Err(message) => {
            fault(errors, field, message);
            None
        }
    }
}

/// A name that also serves as a file name: gateways, groups, volumes.
pub fn file_name(field: &str, text: &str, errors: &mut Errors) {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let sound = (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !sound {
        fault(
            errors,
            field,
            format!(
                "{text:?} can't be a name: use 1 to 63 letters, digits, `.`, `_` or `-`, beginning with a letter or digit"
            ),
        );
    }
}

/// A name that is only shown: vaults, sites, policies.
pub fn title(field: &str, text: &str, errors: &mut Errors) {
    let length = text.chars().count();
    let sound = (1..=64).contains(&length) && text.trim() == text && !text.chars().any(char::is_control);
    if !sound {
        fault(
            errors,
            field,
            format!(
                "{text:?} can't be a name: use 1 to 64 characters, without spaces at the ends or control characters"
            ),
        );
    }
}

/// An absolute path on the gateway.
pub fn absolute_path(field: &str, text: &str, errors: &mut Errors) {
    let sound = text.starts_with('/') && !text.contains('\0') && !text.split('/').any(|part| part == "..");
    if !sound {
        fault(errors, field, format!("{text:?} must be an absolute path on the gateway, without `..`"));
    }
}

/// Where a vault is kept.
pub fn storage_url(field: &str, text: &str, errors: &mut Errors) {
    if let Some(path) = text.strip_prefix("file://") {
        let sound = path.starts_with('/')
            && path.len() > 1
            && !path.contains(['\0', '?', '#'])
            && !path.split('/').any(|part| part == "..");
        if !sound {
            fault(
                errors,
                field,
                format!("{text:?} must name a directory by its absolute path, for example file:///srv/vault"),
            );
        }
        return;
    }
    let place = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "s3" | "az" | "gs"));
    let Some((scheme, place)) = place else {
        // What stands there may be a secret by mistake.
        let message = "is no storage URL: expected file:///absolute/directory, s3://bucket/prefix, az://container/prefix \
                       or gs://bucket/prefix";
        fault(errors, field, message);
        return;
    };
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let prefix = prefix.trim_end_matches('/');
    if bucket.len() < 3 || !plain(bucket) || !(prefix.is_empty() || prefix.split('/').all(plain)) {
        fault(
            errors,
            field,
            format!(
                "must be {scheme}://, a name of 3 or more characters, and a prefix of letters, digits, `.`, `_`, `-` and single `/`"
            ),
        );
    }
}

/// A size of a volume in bytes.
pub fn volume_size(field: &str, bytes: u64, errors: &mut Errors) {
    if !(VOLUME_BYTES_MIN..=VOLUME_BYTES_MAX).contains(&bytes) {
        fault(errors, field, format!("must lie between 1 MiB and 64 TiB, not {bytes} bytes"));
    } else if !bytes.is_multiple_of(BLOCK_BYTES) {
        fault(errors, field, format!("must be a multiple of {BLOCK_BYTES} bytes, not {bytes}"));
    }
}

/// The path of a source: absolute and plain, so that it means one place.
fn source_path(field: &str, path: &str, errors: &mut Errors) {
    let plain = path.starts_with('/')
        && path.len() <= 4095
        && !path.contains('\0')
        && path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
    if !plain {
        fault(
            errors,
            field,
            format!(
                "{path:?} must be the absolute path of a file or block device at the volume's gateway, without `.` or `..`"
            ),
        );
    }
}

/// `auto`, `off`, `zstd:1` to `zstd:19`; the level of the last.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_compression(text: &str) -> Result<CompressionSetting, String> {
    match text {
        "auto" => Ok(CompressionSetting::Auto),
        "off" => Ok(CompressionSetting::Off),
        _ => text
            .strip_prefix("zstd:")
            .and_then(|level| level.parse::<i32>().ok().filter(|l| (1..=19).contains(l) && l.to_string() == level))
            .map(CompressionSetting::Level)
            .ok_or_else(|| format!("{text:?} must be `auto`, `off`, or `zstd:1` to `zstd:19`")),
    }
}

/// What `compression` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionSetting {
    /// By content and backlog.
    Auto,
    /// None.
    Off,
    /// zstd at this level.
    Level(i32),
}

/// Minutes since midnight of `HH:MM`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_time_of_day(text: &str) -> Result<u16, String> {
    let wrong = || format!("{text:?} is no time of day: expected HH:MM, for example 08:30");
    let (hours, minutes) = text.split_once(':').filter(|(h, m)| h.len() == 2 && m.len() == 2).ok_or_else(wrong)?;
    let hours: u16 = hours.parse().ok().filter(|h| *h < 24).ok_or_else(wrong)?;
    let minutes: u16 = minutes.parse().ok().filter(|m| *m < 60).ok_or_else(wrong)?;
    Ok(hours * 60 + minutes)
}

/// Both times of a window, or neither; not the same.
fn window(names: (&str, &str), times: (Option<&str>, Option<&str>), errors: &mut Errors) {
    match times {
        (None, None) => {}
        (Some(start), Some(end)) => {
            for (field, text) in [(names.0, start), (names.1, end)] {
                if let Err(message) = parse_time_of_day(text) {
                    fault(errors, field, message);
                }
            }
            if start == end {
                fault(errors, names.1, "must differ from the start of the window");
            }
        }
        (Some(_), None) => fault(errors, names.1, "is required with the start of the window"),
        (None, Some(_)) => fault(errors, names.0, "is required with the end of the window"),
    }
}

/// What a retention schedule says: (age up to which it holds, one point a so long; zero for all). A rule that can't be read
/// was refused when the policy was declared.
#[must_use]
pub fn retention_tiers(rules: &[RetentionRule]) -> Vec<(Duration, Duration)> {
    let tier = |rule: &RetentionRule| {
        let every = if rule.every == "all" { Duration::ZERO } else { parse_duration(&rule.every).ok()? };
        Some((parse_duration(&rule.keep_for).ok()?, every))
    };
    rules.iter().filter_map(tier).collect()
}

/// A retention schedule: each rule reaches further back than the one before and keeps points no closer together; the
/// points it asks for exist.
pub fn retention(field: &str, rules: &[RetentionRule], interval: Option<Duration>, errors: &mut Errors) {
    if rules.is_empty() {
        fault(errors, field, "needs at least one rule, for example every = \"all\", for = \"24h\"");
    }
    if rules.len() > 16 {
        fault(errors, field, "can't have more than 16 rules");
    }
    let mut previous: Option<(Duration, Duration)> = None;
    for (index, rule) in rules.iter().enumerate() {
        let every_path = format!("{field}[{index}].every");
        let for_path = format!("{field}[{index}].for");
        let every = if rule.every == "all" {
            interval
        } else {
            duration(&every_path, &rule.every, Duration::from_secs(1), 366 * DAY, errors)
        };
        let keep = duration(&for_path, &rule.keep_for, Duration::from_secs(60), 3660 * DAY, errors);
        let (Some(every), Some(keep)) = (every, keep) else { continue };
        if interval.is_some_and(|interval| every < interval) {
            let message = format!(
                "asks for points every {}, but recovery_point_interval gives one every {} at most",
                rule.every,
                format_duration(interval.unwrap_or_default())
            );
            fault(errors, &every_path, message);
        }
        if every > keep {
            fault(errors, &for_path, format!("must not be shorter than every ({})", rule.every));
        }
        if let Some((every_before, keep_before)) = previous {
            if every <= every_before {
                fault(errors, &every_path, "must be longer than in the rule before: later rules keep fewer points");
            }
            if keep <= keep_before {
                fault(errors, &for_path, "must be longer than in the rule before: later rules reach further back");
            }
        }
        previous = Some((every, keep));
    }
}

fn resync(prefix: &str, resync: &Resync, errors: &mut Errors) {
    if !(10..=95).contains(&resync.at_log_percent) {
        fault(
            errors,
            format!("{prefix}at_log_percent"),
            format!("must lie between 10 and 95, not {}", resync.at_log_percent),
        );
    }
    window(
        (&format!("{prefix}window_start"), &format!("{prefix}window_end")),
        (resync.window_start.as_deref(), resync.window_end.as_deref()),
        errors,
    );
    zone(&format!("{prefix}timezone"), resync.timezone.as_deref(), errors);
}

fn zone(field: &str, name: Option<&str>, errors: &mut Errors) {
    if let Err(error) = Hours::new(&[], None, name) {
        fault(errors, field, error.to_string());
    }
}

fn bandwidth(prefix: &str, limit: &BandwidthLimit, errors: &mut Errors) {
    if !(1..=100_000).contains(&limit.mbps) {
        fault(errors, format!("{prefix}mbps"), format!("must lie between 1 and 100000, not {}", limit.mbps));
    }
    drill::days(&format!("{prefix}days"), &limit.days, errors);
    window(
        (&format!("{prefix}start"), &format!("{prefix}end")),
        (limit.start.as_deref(), limit.end.as_deref()),
        errors,
    );
    zone(&format!("{prefix}timezone"), limit.timezone.as_deref(), errors);
}

/// A key source with the one field that goes with it.
fn encryption(prefix: &str, key: &EncryptionKey, errors: &mut Errors) {
    let fields = [
        ("passphrase", KeySourceKind::Passphrase, key.passphrase.is_some()),
        ("key_file", KeySourceKind::KeyFile, key.key_file.is_some()),
        ("kms_key", KeySourceKind::Kms, key.kms_key.is_some()),
    ];
    for (field, source, given) in fields {
        let needed = source == key.key_source;
        let word = if source == KeySourceKind::Kms { "kms" } else { field };
        if needed && !given {
            fault(errors, format!("{prefix}{field}"), format!("is required when key_source is `{word}`"));
        } else if given && !needed {
            fault(errors, format!("{prefix}{field}"), format!("goes with key_source `{word}` only"));
        }
    }
    match key.key_source {
        KeySourceKind::Passphrase if key.passphrase.as_ref().is_some_and(|text| text.expose().chars().count() < 8) => {
            fault(errors, format!("{prefix}passphrase"), "must have at least 8 characters");
        }
        KeySourceKind::KeyFile => {
            if let Some(path) = &key.key_file {
                absolute_path(&format!("{prefix}key_file"), path, errors);
            }
        }
        KeySourceKind::Kms => {
            if let Some(name) = &key.kms_key {
                kms_key(&format!("{prefix}kms_key"), name, errors);
            }
        }
        KeySourceKind::Passphrase => {}
    }
}

/// The name of a key in a key management service. What its options mean is the vault's business.
fn kms_key(field: &str, name: &str, errors: &mut Errors) {
    let path = name.strip_prefix("command:").map(|rest| rest.split('?').next().unwrap_or_default());
    let sound = path.is_some_and(|path| path.starts_with('/') && !path.ends_with('/'));
    if !sound || name.len() > 1024 || name.chars().any(char::is_control) {
        fault(errors, field, "must be command: and the absolute path of a program, with ?key=NAME where it needs one");
    }
}

impl Validate for EncryptionKey {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        encryption(prefix, self, errors);
    }
}

impl Validate for VaultCreate {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        title(&format!("{prefix}name"), &self.name, errors);
        storage_url(&format!("{prefix}storage_url"), &self.storage_url, errors);
        let remote = !self.storage_url.starts_with("file:");
        for (name, given) in [
            ("storage_endpoint", self.storage_endpoint.is_some()),
            ("storage_region", self.storage_region.is_some()),
            ("storage_credentials", self.storage_credentials.is_some()),
            ("storage_proxy", self.storage_proxy.is_some()),
        ] {
            if given && !remote {
                fault(errors, format!("{prefix}{name}"), "makes no sense for a vault in a directory");
            }
        }
        encryption(&format!("{prefix}encryption."), &self.encryption, errors);
        vault_protection(prefix, self.soft_delete_days, self.immutability, errors);
        if self.second_approval && !self.attach {
            let message = "can be set once the vault has a second person who could approve: make the vault, then a token with the role \
                           security_administrator, then set it";
            fault(errors, format!("{prefix}second_approval"), message);
        }
    }
}

/// How a vault protects what it holds from people.
pub fn vault_protection(prefix: &str, soft_delete_days: u32, immutability: Option<Immutability>, errors: &mut Errors) {
    if soft_delete_days > 3650 {
        fault(
            errors,
            format!("{prefix}soft_delete_days"),
            format!("must lie between 0 and 3650, not {soft_delete_days}"),
        );
    }
    let Some(Immutability { days, .. }) = immutability else { return };
    if !(1..=3650).contains(&days) {
        let message = format!("must lie between 1 and 3650, not {days}");
        fault(errors, format!("{prefix}immutability.days"), message);
    } else if soft_delete_days < days {
        let message = format!("must be at least as long as the vault is immutable, {days} days");
        fault(errors, format!("{prefix}soft_delete_days"), message);
    }
}

impl Validate for SiteSpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        title(&format!("{prefix}name"), &self.name, errors);
        if self.description.as_ref().is_some_and(|text| text.chars().count() > 1024) {
            fault(errors, format!("{prefix}description"), "can't be longer than 1024 characters");
        }
    }
}

impl Validate for GatewaySpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        file_name(&format!("{prefix}name"), &self.name, errors);
        if let Some(roles) = &self.roles {
            if roles.is_empty() {
                fault(errors, format!("{prefix}roles"), "needs at least one role; leave it out for all roles");
            }
            if roles.iter().enumerate().any(|(index, role)| roles.iter().take(index).any(|earlier| earlier == role)) {
                fault(errors, format!("{prefix}roles"), "names a role twice");
            }
        }
        if let Some(path) = &self.mount_path {
            absolute_path(&format!("{prefix}mount_path"), path, errors);
        }
    }
}

impl Validate for PolicySpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        let field = |name: &str| format!("{prefix}{name}");
        title(&field("name"), &self.name, errors);
        let interval = duration(
            &field("recovery_point_interval"),
            &self.recovery_point_interval,
            Duration::from_secs(1),
            HOUR,
            errors,
        );
        let floor = interval.unwrap_or(Duration::from_secs(1));
        if let Some(text) = &self.app_consistent_interval {
            duration(&field("app_consistent_interval"), text, floor, 7 * DAY, errors);
        }
        retention(&field("retention"), &self.retention, interval, errors);
        duration(&field("rpo_threshold"), &self.rpo_threshold, floor, 7 * DAY, errors);
        if let Some(spec) = &self.resync {
            resync(&field("resync."), spec, errors);
        }
        for (index, limit) in self.bandwidth_limit.iter().enumerate() {
            bandwidth(&field(&format!("bandwidth_limit[{index}].")), limit, errors);
        }
        if let Err(message) = parse_compression(&self.compression) {
            fault(errors, field("compression"), message);
        }
    }
}

impl Validate for GroupSpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        file_name(&format!("{prefix}name"), &self.name, errors);
        if let Some(shared) = &self.shared_points {
            let field = |name: &str| format!("{prefix}shared_points.{name}");
            file_name(&field("replication_group"), &shared.replication_group, errors);
            let (least, most) = (Duration::from_secs(5), Duration::from_secs(24 * 3600));
            duration(&field("every"), &shared.every, least, most, errors);
        }
        let Some(app) = &self.app_consistency else { return };
        let field = |name: &str| format!("{prefix}app_consistency.{name}");
        if app.pre_script.is_none() && app.post_script.is_none() {
            fault(
                errors,
                field("pre_script"),
                "is required, or post_script is: without a hook no application is asked",
            );
        }
        for (name, script) in [("pre_script", &app.pre_script), ("post_script", &app.post_script)] {
            if let Some(script) = script {
                file_name(&field(name), script, errors);
            }
        }
        duration(&field("timeout"), &app.timeout, Duration::from_secs(1), Duration::from_secs(600), errors);
    }
}

impl Validate for VolumeSpec {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        let field = |name: &str| format!("{prefix}{name}");
        file_name(&field("name"), &self.name, errors);
        if let Some(source) = &self.source {
            source_path(&field("source.path"), &source.path, errors);
        }
        if self.source.is_none() || self.size_bytes != 0 {
            volume_size(&field("size_bytes"), self.size_bytes, errors);
        }
        match (self.group_id.is_some(), self.policy_id.is_some()) {
            (true, true) => fault(errors, field("policy_id"), "can't stand beside group_id: the group has the policy"),
            (false, false) => fault(errors, field("group_id"), "either group_id or policy_id is required"),
            _ => {}
        }
        if self.cache_bytes.is_some_and(|bytes| !((64 << 20)..=(64 << 40)).contains(&bytes)) {
            fault(errors, field("cache_bytes"), "must lie between 64 MiB and 64 TiB");
        }
        if let Some(export) = &self.export {
            export.check(&field("export."), errors);
        }
    }
}

#[cfg(test)]
mod tests;
