//! What settings mean for the system: files under `/run`, and a host name.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::properties::Settings;

/// Where the data disk is mounted.
pub const DATA: &str = "/data";
/// The gateway's state directory.
pub const STATE: &str = "/data/gateway";
/// Where volumes are mounted.
pub const MOUNT: &str = "/mnt/lifeboat";
/// The socket of the helper for iSCSI.
pub const ISCSI: &str = "/run/lifeboat-iscsi/socket";
/// The settings of services; `/etc/lifeboat` leads there.
pub const SETTINGS: &str = "/run/lifeboat-settings";

/// What this machine is, beside its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// The hypervisor's identifier of the machine; empty when it gives none.
    pub identifier: String,
    /// The hardware address of the first network interface.
    pub mac: Option<String>,
}

/// A file with what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub content: String,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The host name.
    pub name: String,
    /// Files, all readable by everybody: none of them has a secret.
    pub files: Vec<Written>,
}

/// The name of an appliance that was given none.
#[must_use]
pub fn default_name(identifier: &str) -> String {
    let digits: String = identifier.chars().filter(char::is_ascii_hexdigit).take(8).collect();
    if digits.len() == 8 { format!("lifeboat-{}", digits.to_ascii_lowercase()) } else { "lifeboat".to_owned() }
}

/// What settings mean.
#[must_use]
pub fn plan(settings: &Settings, hardware: &Hardware) -> Plan {
    let name = settings.name.clone().unwrap_or_else(|| default_name(&hardware.identifier));
    let mut files = vec![
        Written { path: "/run/systemd/network/10-lifeboat.network".into(), content: network(settings, hardware) },
        Written { path: PathBuf::from(SETTINGS).join("gateway.toml"), content: gateway(settings, &name) },
    ];
    if settings.allow_http_storage == Some(true) {
        let content = "LIFEBOAT_ALLOW_HTTP_STORAGE=1\n".to_owned();
        files.push(Written { path: PathBuf::from(SETTINGS).join("gateway.env"), content });
    }
    if !settings.ntp.is_empty() {
        let content = format!("[Time]\nNTP={}\n", settings.ntp.join(" "));
        files.push(Written { path: "/run/systemd/timesyncd.conf.d/lifeboat.conf".into(), content });
    }
    Plan { name, files }
}

fn network(settings: &Settings, hardware: &Hardware) -> String {
    let mut text = String::new();
    let servers = settings.dns.iter().fold(String::new(), |mut text, server| {
        let _ = writeln!(text, "DNS={server}");
        text
    });
    match (settings.address, &hardware.mac) {
        (Some(address), mac) => {
            // A fixed address is for one interface.
            let which = mac.as_ref().map_or("Type=ether".to_owned(), |mac| format!("MACAddress={mac}"));
            let _ = write!(text, "[Match]\n{which}\n\n[Network]\nAddress={address}\n{servers}");
            if let Some(router) = settings.gateway {
                let _ = writeln!(text, "Gateway={router}");
            }
        }
        (None, _) => {
            // The identifier stays the same over restarts, as the machine's own, which is made anew, doesn't.
            let _ = write!(
                text,
                "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n{servers}\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nUseDNS={}\n",
                if settings.dns.is_empty() { "yes" } else { "no" }
            );
        }
    }
    text
}

/// The file of settings of the gateway. It listens on the fixed address, so that its certificate names it, or else on every one.
fn gateway(settings: &Settings, name: &str) -> String {
    let listen = |port: u16| match settings.address.map(|address| address.ip) {
        None => format!("[::]:{port}"),
        Some(IpAddr::V4(ip)) => format!("{ip}:{port}"),
        Some(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
    };
    let mut text = String::from("# Made from the appliance's settings at every boot.\n");
    let mut put = |key: &str, value: &str| {
        // A basic string of TOML and one of JSON are the same for what these values may hold.
        let _ = writeln!(text, "{key} = {}", serde_json::Value::from(value));
    };
    put("state", STATE);
    put("mount", MOUNT);
    put("name", name);
    if let Some(site) = &settings.site {
        put("site", site);
    }
    put("listen_management", &listen(443));
    put("listen_data", &listen(9443));
    put("listen_consistency", &listen(20004));
    put("listen_nbd", &listen(10809));
    put("iscsi", ISCSI);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::Properties;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let mut properties = Properties::default();
        pairs.iter().for_each(|(key, value)| properties.set(key, value).unwrap());
        properties.settings
    }

    fn file<'a>(plan: &'a Plan, end: &str) -> &'a str {
        let found = plan.files.iter().find(|file| file.path.ends_with(end));
        found.map(|file| file.content.as_str()).unwrap_or_default()
    }

    #[test]
    fn without_settings_it_asks_for_an_address_and_has_a_name_of_its_own() {
        let hardware = Hardware { identifier: "4C4C4544-0042".into(), mac: Some("52:54:00:00:00:01".into()) };
        let plan = plan(&Settings::default(), &hardware);
        assert_eq!(plan.name, "lifeboat-4c4c4544");
        assert!(
            file(&plan, "10-lifeboat.network").contains("DHCP=yes")
                && !file(&plan, "10-lifeboat.network").contains("MACAddress")
        );
        let gateway = file(&plan, "gateway.toml");
        assert!(gateway.contains("listen_management = \"[::]:443\"") && !gateway.contains("site"), "{gateway}");
        assert_eq!(plan.files.len(), 2);
        assert_eq!(default_name("none"), "lifeboat");
    }

    #[test]
    fn a_fixed_address_is_for_the_first_interface_and_is_listened_on() {
        let settings = settings(&[
            ("address", "192.0.2.10/24"),
            ("gateway", "192.0.2.1"),
            ("dns", "192.0.2.53"),
            ("ntp", "time.example"),
            ("site", "a \"quoted\" \\ one"),
            ("name", "gw"),
        ]);
        let plan = plan(&settings, &Hardware { identifier: String::new(), mac: Some("52:54:00:00:00:01".into()) });
        assert_eq!(
            file(&plan, "10-lifeboat.network"),
            "[Match]\nMACAddress=52:54:00:00:00:01\n\n[Network]\nAddress=192.0.2.10/24\nDNS=192.0.2.53\nGateway=192.0.2.1\n"
        );
        let gateway = file(&plan, "gateway.toml");
        assert!(gateway.contains("listen_data = \"192.0.2.10:9443\""), "{gateway}");
        assert!(
            gateway.contains("listen_nbd = \"192.0.2.10:10809\"") && gateway.contains("iscsi = \"/run/"),
            "{gateway}"
        );
        assert!(gateway.contains(r#"site = "a \"quoted\" \\ one""#), "{gateway}");
        assert_eq!(file(&plan, "timesyncd.conf.d/lifeboat.conf"), "[Time]\nNTP=time.example\n");
    }
}
