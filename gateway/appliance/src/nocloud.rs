//! The documents of cloud-init's NoCloud source, as far as an appliance needs them: `meta-data`, `user-data`, `network-config`.
//!
//! `user-data` is `#cloud-config` with a key `lifeboat`, whose properties are those of the OVF; whatever else is in it is for other
//! readers. `network-config` is version 2 (that of netplan), of which the first interface counts.

use crate::properties::{Properties, Refused};
use crate::yaml::{Value, parse};

/// Reads the three documents; those that aren't there are empty. What `user-data` says comes before `network-config` and `meta-data`.
///
/// # Errors
/// A sentence: a document isn't understood, or a property makes no sense.
pub fn read(meta_data: &str, user_data_text: &str, network_config: &str) -> Result<Properties, String> {
    let mut properties = user_data(user_data_text)?;
    properties.and(network(network_config).map_err(|why| format!("network-config: {why}"))?);
    properties.and(meta(meta_data).map_err(|why| format!("meta-data: {why}"))?);
    Ok(properties)
}

/// Reads `user-data`. What isn't `#cloud-config` (a script, say) has nothing for the appliance.
///
/// # Errors
/// A sentence: it isn't understood, or a property makes no sense.
pub fn user_data(text: &str) -> Result<Properties, String> {
    if !text.starts_with("#cloud-config") {
        return Ok(Properties::default());
    }
    let document = parse(text).map_err(|why| format!("user-data: {why}"))?;
    let mut properties = Properties::default();
    for (key, value) in document.get("lifeboat").map(Value::entries).unwrap_or_default() {
        let value = match value {
            Value::Empty => continue,
            Value::Map(_) => return Err(format!("user-data: lifeboat: {key} must be a text or a list of texts")),
            other => other.texts().join(","),
        };
        properties.set(key, &value).map_err(|refused| format!("user-data: {refused}"))?;
    }
    if let Some(name) = document.get("hostname").and_then(Value::text)
        && properties.settings.name.is_none()
    {
        properties.set("name", name).map_err(|refused| format!("user-data: {refused}"))?;
    }
    Ok(properties)
}

fn meta(text: &str) -> Result<Properties, String> {
    let document = parse(text)?;
    let mut properties = Properties::default();
    let name = document.get("local-hostname").or_else(|| document.get("hostname")).and_then(Value::text);
    properties.set("name", name.unwrap_or_default()).map_err(|refused| refused.to_string())?;
    Ok(properties)
}

fn network(text: &str) -> Result<Properties, String> {
    let document = parse(text)?;
    let mut properties = Properties::default();
    let network = document.get("network").unwrap_or(&document);
    if matches!(network, Value::Empty) {
        return Ok(properties);
    }
    if network.get("version").and_then(Value::text) != Some("2") {
        return Err("must be version 2: `version: 2`, `ethernets: …`".to_owned());
    }
    let Some((_, interface)) = network.get("ethernets").and_then(|found| found.entries().first()) else {
        return Ok(properties);
    };
    let set = |properties: &mut Properties, key: &str, value: &str| {
        properties.set(key, value).map_err(|refused: Refused| refused.to_string())
    };
    let addresses = interface.get("addresses").map(Value::texts).unwrap_or_default();
    set(&mut properties, "address", addresses.first().copied().unwrap_or_default())?;
    let route = match interface.get("routes") {
        Some(Value::List(routes)) => routes
            .iter()
            .find(|route| matches!(route.get("to").and_then(Value::text), Some("default" | "0.0.0.0/0" | "::/0"))),
        _ => None,
    };
    let via = route.and_then(|route| route.get("via"));
    let router = via.or_else(|| interface.get("gateway4")).or_else(|| interface.get("gateway6")).and_then(Value::text);
    set(&mut properties, "gateway", router.unwrap_or_default())?;
    let servers = interface.get("nameservers").and_then(|servers| servers.get("addresses")).map(Value::texts);
    set(&mut properties, "dns", &servers.unwrap_or_default().join(","))?;
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_documents_are_read_and_user_data_comes_first() {
        let read = read(
            "instance-id: i-1\nlocal-hostname: from-meta\n",
            "#cloud-config\nlifeboat:\n  site: onprem\n  dns: [192.0.2.54]\n  registration_key:\nruncmd: [ignored]\n",
            "version: 2\nethernets:\n  any:\n    addresses:\n      - 192.0.2.10/24\n    routes:\n      - to: 198.51.100.0/24\n        via: 192.0.2.2\n      - to: default\n        via: 192.0.2.1\n    nameservers:\n      addresses: [192.0.2.53]\n",
        )
        .unwrap();
        let settings = read.settings;
        assert_eq!((settings.name.as_deref(), settings.site.as_deref()), (Some("from-meta"), Some("onprem")));
        assert_eq!(settings.address.unwrap().to_string(), "192.0.2.10/24");
        assert_eq!(settings.gateway.unwrap().to_string(), "192.0.2.1");
        assert_eq!(settings.dns, ["192.0.2.54".parse::<std::net::IpAddr>().unwrap()]);
        assert!(settings.check().is_ok() && read.registration.key.is_none());
    }

    #[test]
    fn nothing_and_scripts_say_nothing() {
        assert_eq!(read("", "", "").unwrap(), Properties::default());
        assert_eq!(user_data("#!/bin/sh\nexit 1\n").unwrap(), Properties::default());
        let dhcp = "network:\n  version: 2\n  ethernets:\n    e0:\n      dhcp4: true\n";
        assert_eq!(read("", "", dhcp).unwrap(), Properties::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_document() {
        for (document, part) in [
            (read("", "", "version: 1\nconfig: []\n"), "network-config: must be version 2"),
            (read("a: |\n", "", ""), "meta-data: line 1"),
            (read("", "#cloud-config\nlifeboat:\n  address: everywhere\n", ""), "user-data: the property address"),
            (read("", "#cloud-config\nlifeboat:\n  dns:\n    a: b\n", ""), "must be a text or a list"),
        ] {
            let refused = document.expect_err(part);
            assert!(refused.contains(part), "{refused}");
        }
    }
}
