//! The descriptor of the appliance: OVF 1.1 (DSP0243 1.1.0), as vSphere and compatible hypervisors import it.
//!
//! Two disks: the system's, and an empty one for what the appliance keeps. Settings are properties; the hypervisor hands them over on a
//! CD or by its guest channel.

use std::fmt::Write as _;

/// What differs from build to build.
#[derive(Clone, Debug)]
pub struct Appliance<'a> {
    /// The release, for people: `0.1.0`.
    pub version: &'a str,
    /// The system's disk: the name of the file beside the descriptor.
    pub disk: &'a str,
    /// Bytes of that file.
    pub file_bytes: u64,
    /// Bytes of the disk.
    pub capacity: u64,
    /// Bytes of the disk that hold something.
    pub populated: u64,
    /// The disk for what the appliance keeps, in GiB.
    pub data_gib: u64,
}

/// A setting that a person may give when the appliance is deployed.
struct Property {
    key: &'static str,
    category: &'static str,
    password: bool,
    default: &'static str,
    label: &'static str,
    description: &'static str,
}

const fn property(key: &'static str, category: &'static str, label: &'static str, about: &'static str) -> Property {
    Property { key, category, password: false, default: "", label, description: about }
}

/// The same keys as `docs/guides/deploy-vmware.md` explains, and as the appliance reads them.
const PROPERTIES: [Property; 12] = [
    property(
        "name",
        "Appliance",
        "Name",
        "Host name, and the gateway's name. Made from the machine's identifier when empty.",
    ),
    property("site", "Appliance", "Site", "The name of the site that this gateway is at."),
    Property {
        key: "registration_key",
        category: "Appliance",
        password: true,
        default: "",
        label: "Registration key",
        description: "What it registers with at a gateway that has the vault, for the first gateway of a vault none: \
                      lifeboat registration-key create --roles configuration_server,process_server,master_target",
    },
    property(
        "endpoint",
        "Appliance",
        "Endpoint",
        "Where it registers: gateways that have the vault, https://host:port, separated by commas or spaces.",
    ),
    Property {
        key: "vault_passphrase",
        category: "Appliance",
        password: true,
        default: "",
        label: "Vault's passphrase",
        description: "What opens the vault when it registers, unless a key file does. It isn't told by other gateways.",
    },
    Property {
        key: "vault_key",
        category: "Appliance",
        password: true,
        default: "",
        label: "Vault's key file",
        description: "The bytes of the vault's key file in base64, unless a passphrase opens it: base64 -w0 vault.key",
    },
    Property {
        key: "storage_credentials",
        category: "Appliance",
        password: true,
        default: "",
        label: "Storage credentials",
        description: "Credentials of the vault's storage, NAME=VALUE, separated by spaces: AWS_ACCESS_KEY_ID=… \
                      AWS_SECRET_ACCESS_KEY=…. Not needed where the vault needs none.",
    },
    Property {
        key: "admin_token",
        category: "Appliance",
        password: true,
        default: "",
        label: "Administrator's token",
        description: "What Terraform and the command line show, 32 characters or more; a new one at random: openssl rand -hex 32. \
                      It counts at the first start alone. Without one nobody can use this gateway.",
    },
    property(
        "address",
        "Network",
        "Address",
        "Address with the length of its network, for example 192.0.2.10/24. DHCP when empty.",
    ),
    property("gateway", "Network", "Router", "Address of the router. Only with an address."),
    property("dns", "Network", "DNS servers", "Addresses, separated by commas or spaces."),
    property(
        "ntp",
        "Network",
        "Time servers",
        "Names or addresses, separated by commas or spaces. Debian's pool when empty.",
    ),
];

const DISK_FORMAT: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
/// Bytes that stay free in an XML attribute or text.
const ESCAPES: [(char, &str); 4] = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;")];

/// The text of the descriptor.
#[must_use]
pub fn descriptor(appliance: &Appliance<'_>) -> String {
    let Appliance { version, disk, file_bytes, capacity, populated, data_gib } = appliance;
    let (version, disk) = (escape(version), escape(disk));
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="{disk}" ovf:id="system-file" ovf:size="{file_bytes}"/>
  </References>
  <DiskSection>
    <Info>The disks</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="system" ovf:fileRef="system-file" ovf:format="{DISK_FORMAT}" ovf:populatedSize="{populated}"/>
    <Disk ovf:capacity="{data_gib}" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="data" ovf:format="{DISK_FORMAT}"/>
  </DiskSection>
  <NetworkSection>
    <Info>The networks</Info>
    <Network ovf:name="management">
      <Description>Where protected servers, Terraform and the vault's storage are reached</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="lifeboat">
    <Info>A gateway of Lifeboat</Info>
    <Name>lifeboat</Name>
    <OperatingSystemSection ovf:id="96" vmw:osType="debian12_64Guest">
      <Info>The operating system</Info>
      <Description>Debian 12, 64 bit</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="iso com.vmware.guestInfo">
      <Info>The hardware</Info>
      <System>
        <vssd:ElementName>Virtual hardware</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>lifeboat</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{items}    </VirtualHardwareSection>
    <ProductSection ovf:class="lifeboat">
      <Info>The appliance and its settings</Info>
      <Product>Lifeboat gateway</Product>
      <Vendor>The Lifeboat authors</Vendor>
      <Version>{version}</Version>
      <FullVersion>{version}</FullVersion>
{properties}    </ProductSection>
  </VirtualSystem>
</Envelope>
"#,
        items = hardware(),
        properties = properties(),
    )
}

/// An item's elements in the schema's order, which is alphabetic.
fn item(elements: &[(&str, &str)]) -> String {
    let mut text = String::from("      <Item>\n");
    for (name, value) in elements {
        let _ = writeln!(text, "        <rasd:{name}>{value}</rasd:{name}>");
    }
    text + "      </Item>\n"
}

fn hardware() -> String {
    let processors = [
        ("AllocationUnits", "hertz * 10^6"),
        ("Description", "Processors"),
        ("ElementName", "2 processors"),
        ("InstanceID", "1"),
        ("ResourceType", "3"),
        ("VirtualQuantity", "2"),
    ];
    let memory = [
        ("AllocationUnits", "byte * 2^20"),
        ("Description", "Memory"),
        ("ElementName", "4096 MB of memory"),
        ("InstanceID", "2"),
        ("ResourceType", "4"),
        ("VirtualQuantity", "4096"),
    ];
    let controller = [
        ("Address", "0"),
        ("Description", "SCSI controller"),
        ("ElementName", "SCSI controller 0"),
        ("InstanceID", "3"),
        ("ResourceSubType", "VirtualSCSI"),
        ("ResourceType", "6"),
    ];
    let ide = [
        ("Address", "0"),
        ("Description", "IDE controller"),
        ("ElementName", "IDE controller 0"),
        ("InstanceID", "4"),
        ("ResourceType", "5"),
    ];
    let cd = [
        ("AddressOnParent", "0"),
        ("AutomaticAllocation", "false"),
        ("ElementName", "CD drive"),
        ("InstanceID", "5"),
        ("Parent", "4"),
        ("ResourceSubType", "vmware.cdrom.remotepassthrough"),
        ("ResourceType", "15"),
    ];
    let disk = |unit: &'static str, instance: &'static str, name: &'static str, resource: &'static str| {
        [
            ("AddressOnParent", unit),
            ("ElementName", name),
            ("HostResource", resource),
            ("InstanceID", instance),
            ("Parent", "3"),
            ("ResourceType", "17"),
        ]
    };
    let network = [
        ("AddressOnParent", "7"),
        ("AutomaticAllocation", "true"),
        ("Connection", "management"),
        ("Description", "Network adapter"),
        ("ElementName", "Network adapter 1"),
        ("InstanceID", "8"),
        ("ResourceSubType", "VmxNet3"),
        ("ResourceType", "10"),
    ];
    [
        item(&processors),
        item(&memory),
        item(&controller),
        item(&ide),
        item(&cd),
        item(&disk("0", "6", "System disk", "ovf:/disk/system")),
        item(&disk("1", "7", "Data disk", "ovf:/disk/data")),
        item(&network),
    ]
    .concat()
}

fn properties() -> String {
    let mut text = String::new();
    let mut category = "";
    for property in &PROPERTIES {
        if property.category != category {
            category = property.category;
            let _ = writeln!(text, "      <Category>{category}</Category>");
        }
        let Property { key, default, label, description, .. } = property;
        let password = if property.password { " ovf:password=\"true\"" } else { "" };
        let _ = writeln!(
            text,
            "      <Property ovf:key=\"{key}\" ovf:type=\"string\" ovf:userConfigurable=\"true\"{password} ovf:value=\"{default}\">\n        \
             <Label>{}</Label>\n        <Description>{}</Description>\n      </Property>",
            escape(label),
            escape(description)
        );
    }
    text
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut done, character| {
        match ESCAPES.iter().find(|(plain, _)| *plain == character) {
            Some((_, escaped)) => done += escaped,
            None => done.push(character),
        }
        done
    })
}
