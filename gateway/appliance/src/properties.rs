//! What a person may say of an appliance when it is deployed, and what of it is kept.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Characters that a token of the administrator has at least: of hexadecimal ones, 128 bits.
const TOKEN_CHARS_MIN: usize = 32;
const TOKEN_CHARS_MAX: usize = 512;
/// Longest host name, and longest name of a site.
const NAME_CHARS_MAX: usize = 63;
const SERVERS_MAX: usize = 8;
/// Least and most bytes of a vault's key file.
const KEY_FILE_BYTES: std::ops::RangeInclusive<usize> = 32..=65_536;

/// A property that makes no sense: which, and why. The value isn't in it, since it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The property.
    pub key: String,
    /// What is wrong, and what is right.
    pub why: String,
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the property {}: {}", self.key, self.why)
    }
}

/// What stays on the data disk. All of it may be given anew at any boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Host name, and the gateway's.
    pub name: Option<String>,
    /// The name of the gateway's site.
    pub site: Option<String>,
    /// A fixed address; DHCP otherwise.
    pub address: Option<Address>,
    /// Whether DHCP was asked for, whatever was before.
    #[serde(skip)]
    pub dhcp: bool,
    /// The router, with a fixed address.
    pub gateway: Option<IpAddr>,
    /// Where names are looked up; what DHCP says when empty.
    pub dns: Vec<IpAddr>,
    /// Where the time comes from; the system's own choice when empty.
    pub ntp: Vec<String>,
    /// Whether vaults may be reached without TLS: for storage on a closed network, and for tests.
    pub allow_http_storage: Option<bool>,
}

/// An address with the length of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits that it shares with the others of its network.
    pub prefix: u8,
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(ip, prefix)| Some((ip.parse().ok()?, prefix.parse().ok()?)));
        let (ip, prefix): (IpAddr, u8) =
            parsed.ok_or("must be an address with the length of its network, for example 192.0.2.10/24")?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > longest || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(format!("must be the address of one machine, and its network from 1 to {longest} bits long"));
        }
        Ok(Self { ip, prefix })
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// Hides a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

/// How a gateway that has no vault yet registers. None of it is kept here: the gateway takes it in and forgets it when it has done its part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// The registration key.
    pub key: Option<Hidden>,
    /// Gateways that have the vault, `https://host[:port]`.
    pub endpoints: Vec<String>,
    /// What opens the vault: its passphrase,
    pub vault_passphrase: Option<Hidden>,
    /// or the bytes of its key file, in base64.
    pub vault_key: Option<Hidden>,
    /// Credentials of its storage, `NAME=VALUE`.
    pub storage_credentials: Vec<(String, Hidden)>,
}

impl Registration {
    /// Takes what another source says beyond this.
    fn and(&mut self, other: Self) {
        let or = |mine: &mut Option<Hidden>, theirs| *mine = mine.take().or(theirs);
        or(&mut self.key, other.key);
        or(&mut self.vault_passphrase, other.vault_passphrase);
        or(&mut self.vault_key, other.vault_key);
        if self.endpoints.is_empty() {
            self.endpoints = other.endpoints;
        }
        if self.storage_credentials.is_empty() {
            self.storage_credentials = other.storage_credentials;
        }
    }
}

/// What was said at this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Settings; what is empty wasn't said.
    pub settings: Settings,
    /// The administrator's token, for a gateway that has none yet.
    pub admin_token: Option<Hidden>,
    /// What it registers with.
    pub registration: Registration,
    /// Properties that nobody knows.
    pub unknown: Vec<String>,
}

impl Properties {
    /// Takes a property; an empty value says nothing. A key may come with the appliance's class before it, `lifeboat.name`.
    ///
    /// # Errors
    /// The value makes no sense.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Refused> {
        let key = key.strip_prefix("lifeboat.").unwrap_or(key);
        let value = value.trim();
        if value.is_empty() {
            return Ok(());
        }
        let refused = |why: String| Refused { key: key.to_owned(), why };
        let settings = &mut self.settings;
        match key {
            "name" => settings.name = Some(host_name(value).map_err(refused)?),
            "site" => settings.site = Some(site(value).map_err(refused)?),
            "address" if value.eq_ignore_ascii_case("dhcp") => settings.dhcp = true,
            "address" => settings.address = Some(Address::try_from(value.to_owned()).map_err(refused)?),
            "gateway" => settings.gateway = Some(ip(value).map_err(refused)?),
            "dns" => settings.dns = several(value, ip).map_err(refused)?,
            "ntp" => settings.ntp = several(value, server).map_err(refused)?,
            "allow_http_storage" => settings.allow_http_storage = Some(boolean(value).map_err(refused)?),
            "admin_token" => self.admin_token = Some(token(value).map_err(refused)?),
            "registration_key" => self.registration.key = Some(registration_key(value).map_err(refused)?),
            "endpoint" => self.registration.endpoints = several(value, endpoint).map_err(refused)?,
            "vault_passphrase" => self.registration.vault_passphrase = Some(Hidden(value.to_owned())),
            "vault_key" => self.registration.vault_key = Some(vault_key(value).map_err(refused)?),
            "storage_credentials" => {
                self.registration.storage_credentials = several(value, credential).map_err(refused)?;
            }
            _ => self.unknown.push(key.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()),
        }
        Ok(())
    }

    /// Takes what another source says beyond this.
    pub fn and(&mut self, other: Self) {
        let after = std::mem::take(&mut self.settings);
        self.settings = after.over(other.settings);
        self.admin_token = self.admin_token.take().or(other.admin_token);
        self.registration.and(other.registration);
        self.unknown.extend(other.unknown);
    }
}

impl Settings {
    /// These, and what they don't say as it was before. The network counts as one: an address without a router doesn't get the one
    /// from before.
    #[must_use]
    pub fn over(self, before: Self) -> Self {
        let (address, gateway) = match self.address {
            None if self.dhcp => (None, None),
            None => (before.address, self.gateway.or(before.gateway)),
            Some(_) => (self.address, self.gateway),
        };
        let or = |new: Vec<IpAddr>, old| if new.is_empty() { old } else { new };
        Self {
            name: self.name.or(before.name),
            site: self.site.or(before.site),
            address,
            dhcp: self.dhcp,
            gateway,
            dns: or(self.dns, before.dns),
            allow_http_storage: self.allow_http_storage.or(before.allow_http_storage),
            ntp: if self.ntp.is_empty() { before.ntp } else { self.ntp },
        }
    }

    /// Whether the parts fit each other.
    ///
    /// # Errors
    /// A router without an address, or of another family.
    pub fn check(&self) -> Result<(), Refused> {
        let refused = |why: &str| Err(Refused { key: "gateway".to_owned(), why: why.to_owned() });
        match (self.address, self.gateway) {
            (None, Some(_)) => refused("comes with a fixed address: give `address` too, or neither for DHCP"),
            (Some(address), Some(gateway)) if address.ip.is_ipv4() != gateway.is_ipv4() => {
                refused("must be of the same family as `address`")
            }
            _ => Ok(()),
        }
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" => Ok(true),
        "false" | "no" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn host_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        let sound = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        !label.is_empty() && label.len() <= NAME_CHARS_MAX && sound && !label.starts_with('-') && !label.ends_with('-')
    };
    if text.len() <= NAME_CHARS_MAX && text.split('.').all(label) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(format!("must be a host name: letters, digits and hyphens, {NAME_CHARS_MAX} at most"))
}

fn site(text: &str) -> Result<String, String> {
    if text.chars().count() <= NAME_CHARS_MAX && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(format!("must be the name of a site, {NAME_CHARS_MAX} characters at most"))
}

fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "must be an IP address".to_owned())
}

fn server(text: &str) -> Result<String, String> {
    ip(text).map(|ip| ip.to_string()).or_else(|_| host_name(text)).map_err(|_| "must be names or addresses".to_owned())
}

fn token(text: &str) -> Result<Hidden, String> {
    let length = text.len();
    if (TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX).contains(&length) && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(Hidden(text.to_owned()));
    }
    Err(format!(
        "must have {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} characters of ASCII without spaces: openssl rand -hex 32"
    ))
}

fn registration_key(text: &str) -> Result<Hidden, String> {
    if text.starts_with("lbr_") && text.len() <= TOKEN_CHARS_MAX && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(Hidden(text.to_owned()));
    }
    Err("must be the text that `lifeboat registration-key create` printed, beginning with lbr_".to_owned())
}

fn endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
    let sound = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
    if !rest.is_empty() && rest.len() <= 255 && rest.chars().all(sound) {
        return Ok(format!("https://{rest}"));
    }
    Err("must be gateways as https://host:port".to_owned())
}

fn vault_key(text: &str) -> Result<Hidden, String> {
    match STANDARD.decode(text) {
        Ok(bytes) if KEY_FILE_BYTES.contains(&bytes.len()) => Ok(Hidden(text.to_owned())),
        _ => Err("must be the bytes of the vault's key file in base64: base64 -w0 vault.key".to_owned()),
    }
}

fn credential(text: &str) -> Result<(String, Hidden), String> {
    let sound = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() && name.chars().all(sound) => {
            Ok((name.to_owned(), Hidden(value.to_owned())))
        }
        _ => Err("must be NAME=VALUE, separated by spaces or commas: AWS_ACCESS_KEY_ID=…".to_owned()),
    }
}

fn several<T>(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let words = text.split([',', ' ', ';']).filter(|word| !word.is_empty());
    let found: Vec<T> = words.map(one).collect::<Result<_, _>>()?;
    if found.len() > SERVERS_MAX { Err(format!("must be {SERVERS_MAX} at most")) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Properties, Refused> {
        let mut properties = Properties::default();
        pairs.iter().try_for_each(|(key, value)| properties.set(key, value))?;
        Ok(properties)
    }

    #[test]
    fn what_is_said_is_taken_with_and_without_its_class() {
        let token = "0123456789abcdef0123456789abcdef";
        let said = of(&[
            ("lifeboat.name", "GW-1"),
            ("site", "on prem"),
            ("address", "192.0.2.10/24"),
            ("gateway", "192.0.2.1"),
            ("dns", "192.0.2.53, 192.0.2.54"),
            ("ntp", ""),
            ("admin_token", token),
            ("registration_key", "lbr_secret"),
            ("endpoint", "https://gw-a:8443/ 192.0.2.7"),
            ("vault_passphrase", "correct horse, battery"),
            ("storage_credentials", "AWS_ACCESS_KEY_ID=AK AWS_SECRET_ACCESS_KEY=a/b+c=="),
            ("colour", "red"),
        ])
        .unwrap();
        assert_eq!(said.settings.name.as_deref(), Some("gw-1"));
        assert_eq!(said.settings.address.unwrap().to_string(), "192.0.2.10/24");
        assert_eq!(said.settings.dns.len(), 2);
        assert_eq!(said.unknown, ["colour"]);
        assert!(said.settings.check().is_ok());
        let registration = &said.registration;
        assert_eq!(registration.endpoints, ["https://gw-a:8443", "https://192.0.2.7"]);
        assert_eq!(registration.key.as_ref().map(Hidden::expose), Some("lbr_secret"));
        assert_eq!(registration.vault_passphrase.as_ref().map(Hidden::expose), Some("correct horse, battery"));
        let credentials = &registration.storage_credentials;
        assert_eq!((credentials[1].0.as_str(), credentials[1].1.expose()), ("AWS_SECRET_ACCESS_KEY", "a/b+c=="));
        for secret in ["lbr_secret", "horse", "a/b+c"] {
            assert!(!format!("{said:?}").contains(secret), "a secret is shown");
        }
        assert!(!format!("{said:?}").contains(token), "a secret is shown");
        assert_eq!(said.admin_token.unwrap().expose(), token);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name_and_without_its_value() {
        for (key, value) in [
            ("name", "a_b"),
            ("name", "-a"),
            ("address", "192.0.2.10"),
            ("address", "192.0.2.10/33"),
            ("address", "127.0.0.1/8"),
            ("gateway", "router"),
            ("dns", "192.0.2.53,no where"),
            ("admin_token", "hunter2"),
            ("registration_key", "hunter2"),
            ("vault_key", "hunter2"),
            ("storage_credentials", "hunter2"),
            ("endpoint", "http://gw/path"),
            ("site", "a\u{7}b"),
        ] {
            let refused = of(&[(key, value)]).expect_err(value);
            assert_eq!(refused.key, key);
            assert!(!refused.to_string().contains("hunter2"), "{refused}");
        }
    }

    #[test]
    fn a_new_network_replaces_the_one_from_before_as_a_whole() {
        let before = of(&[("address", "192.0.2.10/24"), ("gateway", "192.0.2.1"), ("site", "a")]).unwrap().settings;
        let moved = of(&[("address", "198.51.100.7/24")]).unwrap().settings.over(before.clone());
        assert_eq!((moved.gateway, moved.site.as_deref()), (None, Some("a")));
        assert_eq!(Settings::default().over(before.clone()), before);
        assert_eq!(of(&[("address", "DHCP")]).unwrap().settings.over(before).address, None);
        let alone = of(&[("gateway", "192.0.2.1")]).unwrap().settings;
        assert!(alone.check().unwrap_err().to_string().contains("`address`"));
        let mixed = of(&[("gateway", "2001:db8::1"), ("address", "192.0.2.10/24")]).unwrap().settings;
        assert!(mixed.check().is_err());
    }

    #[test]
    fn settings_of_before_and_of_later_are_read() {
        let read: Settings = serde_json::from_str(r#"{"name": "a", "later": 1}"#).unwrap();
        assert_eq!(read.name.as_deref(), Some("a"));
        let kept = of(&[("address", "2001:db8::7/64")]).unwrap().settings;
        let text = serde_json::to_string(&kept).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), kept, "{text}");
    }
}
