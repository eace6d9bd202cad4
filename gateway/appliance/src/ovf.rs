//! `ovf-env.xml` on a CD: the OVF environment (DSP0243 1.1.0, section 11) of VMware and those like it, and Azure's document of that name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use crate::nocloud;
use crate::properties::Properties;

/// Reads either.
///
/// # Errors
/// A sentence: it is no XML, neither of the two, or a property makes no sense.
pub fn read(text: &str) -> Result<Properties, String> {
    let broken = |error: &dyn std::fmt::Display| format!("ovf-env.xml is no XML: {error}");
    let mut reader = Reader::from_str(text);
    let mut properties = Properties::default();
    let (mut known, mut inside, mut held) = (false, String::new(), String::new());
    loop {
        match reader.read_event().map_err(|error| broken(&error))? {
            Event::Eof => break,
            Event::Start(element) | Event::Empty(element) => {
                inside = name(&element);
                held.clear();
                match inside.as_str() {
                    "PropertySection" | "ProvisioningSection" => known = true,
                    "Property" => {
                        let (key, value) = property(&element).map_err(|error| broken(&error))?;
                        properties.set(&key, &value).map_err(|refused| refused.to_string())?;
                    }
                    _ => {}
                }
            }
            Event::Text(words) if inside == "HostName" || inside == "CustomData" => {
                held += &words.decode().map_err(|error| broken(&error))?;
            }
            Event::End(_) => {
                match inside.as_str() {
                    "HostName" => properties.set("name", &held).map_err(|refused| refused.to_string())?,
                    "CustomData" => properties.and(custom_data(&held)?),
                    _ => {}
                }
                inside.clear();
            }
            _ => {}
        }
    }
    if known {
        Ok(properties)
    } else {
        Err("ovf-env.xml has neither a PropertySection nor a ProvisioningSection".into())
    }
}

fn name(element: &BytesStart<'_>) -> String {
    String::from_utf8_lossy(element.local_name().as_ref()).into_owned()
}

fn property(element: &BytesStart<'_>) -> Result<(String, String), quick_xml::Error> {
    let (mut key, mut value) = (String::new(), String::new());
    for attribute in element.attributes() {
        let attribute = attribute?;
        match attribute.key.local_name().as_ref() {
            b"key" => key = attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned(),
            b"value" => value = attribute.normalized_value(XmlVersion::Implicit1_0)?.into_owned(),
            _ => {}
        }
    }
    Ok((key, value))
}

/// What was given to the machine as custom data: the same as NoCloud's user-data.
fn custom_data(text: &str) -> Result<Properties, String> {
    let packed: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let wrong = |_| "the custom data in ovf-env.xml is no text in base64".to_owned();
    let bytes = STANDARD.decode(packed).map_err(|error| wrong(error.to_string()))?;
    nocloud::user_data(&String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMWARE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:oe="http://schemas.dmtf.org/ovf/environment/1" xmlns:ve="http://www.vmware.com/schema/ovfenv" oe:id="" ve:vCenterId="vm-42">
   <PlatformSection><Kind>VMware ESXi</Kind><Version>8.0.2</Version></PlatformSection>
   <PropertySection>
         <Property oe:key="lifeboat.name" oe:value="gw-1"/>
         <Property oe:key="lifeboat.site" oe:value="R&amp;D &quot;north&quot;"/>
         <Property oe:key="lifeboat.dns" oe:value=""/>
   </PropertySection>
</Environment>"#;

    #[test]
    fn an_environment_of_vmware_is_read() {
        let read = read(VMWARE).unwrap().settings;
        assert_eq!((read.name.as_deref(), read.site.as_deref()), (Some("gw-1"), Some("R&D \"north\"")));
        assert!(read.dns.is_empty());
    }

    #[test]
    fn azures_document_is_read_with_its_custom_data() {
        let data = STANDARD.encode("#cloud-config\nlifeboat:\n  site: west europe\n  name: other\n");
        let text = format!(
            r#"<?xml version="1.0"?><Environment xmlns="http://schemas.dmtf.org/ovf/environment/1" xmlns:wa="http://schemas.microsoft.com/windowsazure">
            <wa:ProvisioningSection><wa:Version>1.0</wa:Version><LinuxProvisioningConfigurationSet xmlns="http://schemas.microsoft.com/windowsazure">
            <HostName>gw-azure</HostName><UserName>someone</UserName><CustomData>{data}</CustomData>
            </LinuxProvisioningConfigurationSet></wa:ProvisioningSection></Environment>"#
        );
        let read = read(&text).unwrap().settings;
        assert_eq!((read.name.as_deref(), read.site.as_deref()), (Some("gw-azure"), Some("west europe")));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for (text, part) in [
            ("<Environment/>", "neither"),
            ("<a><b></a>", "no XML"),
            (
                r#"<Environment><PropertySection><Property key="address" value="x"/></PropertySection></Environment>"#,
                "address",
            ),
        ] {
            let refused = read(text).expect_err(text);
            assert!(refused.contains(part), "{refused}");
        }
    }
}
