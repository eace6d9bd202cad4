//! Who may use a volume from elsewhere.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::{Errors, Validate, fault};
use crate::types::{IscsiExport, NbdExport, VolumeExport};

const CERTIFICATES_MAX: usize = 16;
const CERTIFICATE_BYTES_MAX: usize = 16 << 10;
const INITIATORS_MAX: usize = 64;
/// The longest name of RFC 3720.
const INITIATOR_BYTES_MAX: usize = 223;

impl Validate for VolumeExport {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        if self.nbd.is_none() && self.iscsi.is_none() {
            fault(errors, format!("{prefix}nbd"), "is required, or iscsi is: an export says by which protocol");
        }
        if let Some(nbd) = &self.nbd {
            nbd.check(&format!("{prefix}nbd."), errors);
        }
        if let Some(iscsi) = &self.iscsi {
            iscsi.check(&format!("{prefix}iscsi."), errors);
        }
    }
}

impl Validate for NbdExport {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        let field = format!("{prefix}client_certificates");
        if !(1..=CERTIFICATES_MAX).contains(&self.client_certificates.len()) {
            return fault(errors, field, format!("must have 1 to {CERTIFICATES_MAX} certificates"));
        }
        for (index, pem) in self.client_certificates.iter().enumerate() {
            let field = format!("{field}[{index}]");
            if pem.len() > CERTIFICATE_BYTES_MAX {
                fault(errors, field, format!("must have at most {CERTIFICATE_BYTES_MAX} bytes"));
            } else if pem.contains("PRIVATE KEY") {
                fault(
                    errors,
                    field,
                    "has a private key in it: give the certificate alone, and make a new key, since this one was sent",
                );
            } else if CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).count() != 1 {
                fault(errors, field, "must be one certificate in PEM (-----BEGIN CERTIFICATE-----)");
            }
        }
    }
}

impl Validate for IscsiExport {
    fn check(&self, prefix: &str, errors: &mut Errors) {
        let field = format!("{prefix}initiators");
        if !(1..=INITIATORS_MAX).contains(&self.initiators.len()) {
            return fault(errors, field, format!("must have 1 to {INITIATORS_MAX} names of initiators"));
        }
        for (index, name) in self.initiators.iter().enumerate() {
            if !is_initiator(name) {
                fault(
                    errors,
                    format!("{field}[{index}]"),
                    format!(
                        "{name:?} is no initiator's name: expected iqn.YEAR-MONTH.DOMAIN:NAME, eui.… or naa.…, in small letters"
                    ),
                );
            } else if self.initiators.iter().take(index).any(|other| other == name) {
                fault(errors, format!("{field}[{index}]"), format!("{name} stands there twice"));
            }
        }
    }
}

/// Whether a text is the name of an initiator as RFC 3720 has them, in the form that programs compare: without capital letters.
/// Nothing in such a name has a meaning for a file system.
#[must_use]
pub fn is_initiator(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b':');
    let hex = |digits: &str, lengths: &[usize]| {
        lengths.contains(&digits.len()) && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let dated = |rest: &str| {
        let (date, authority) = rest.split_at_checked(8)?;
        let month = date.get(5..7)?.parse().is_ok_and(|month: u8| (1..=12).contains(&month));
        let year = date.get(..4)?.bytes().all(|byte| byte.is_ascii_digit());
        let marks = date.get(4..5)? == "-" && date.get(7..)? == ".";
        Some(month && year && marks && authority.bytes().next()?.is_ascii_alphanumeric())
    };
    name.len() <= INITIATOR_BYTES_MAX
        && name.bytes().all(allowed)
        && match name.split_once('.') {
            Some(("iqn", rest)) => dated(rest) == Some(true),
            Some(("eui", digits)) => hex(digits, &[16]),
            Some(("naa", digits)) => hex(digits, &[16, 32]),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_initiators_are_those_of_hypervisors() {
        for name in [
            "iqn.1993-08.org.debian:01:5c8e8ee2b6f",
            "iqn.1998-01.com.vmware:esx1-6f2a1c3d",
            "iqn.1991-05.com.microsoft:host.example.com",
            "eui.0123456789abcdef",
            "naa.52004567ba64678d",
        ] {
            assert!(is_initiator(name), "{name}");
        }
        for name in [
            "",
            "iqn",
            "iqn.",
            "iqn.2026-13.org:x",
            "iqn.26-01.org:x",
            "iqn.1993-08.org.Debian:x",
            "eui.01",
            "esx1",
            "iqn.1993-08./etc",
            "iqn.1993-08.",
            "..",
        ] {
            assert!(!is_initiator(name), "{name}");
        }
    }

    #[test]
    fn an_export_says_who_and_how() {
        let faults = |export: &VolumeExport| {
            let mut errors = Errors::new();
            export.check("export.", &mut errors);
            errors.into_iter().map(|error| format!("{}: {}", error.field, error.message)).collect::<Vec<_>>().join("\n")
        };
        assert!(faults(&VolumeExport::default()).starts_with("export.nbd: is required"));
        let pem = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
        let nbd = |texts: &[&str]| VolumeExport {
            nbd: Some(NbdExport { client_certificates: texts.iter().map(|&text| text.to_owned()).collect() }),
            iscsi: None,
        };
        assert_eq!(faults(&nbd(&[pem])), "");
        assert!(faults(&nbd(&[])).contains("1 to 16"));
        assert!(faults(&nbd(&["nothing"])).starts_with("export.nbd.client_certificates[0]: must be one certificate"));
        assert!(faults(&nbd(&[&format!("{pem}{pem}")])).contains("must be one"));
        assert!(faults(&nbd(&["-----BEGIN PRIVATE KEY-----"])).contains("make a new key"));
        let iscsi = |names: &[&str]| VolumeExport {
            nbd: None,
            iscsi: Some(IscsiExport { initiators: names.iter().map(|&name| name.to_owned()).collect() }),
        };
        assert_eq!(faults(&iscsi(&["iqn.1998-01.com.vmware:esx1"])), "");
        assert!(faults(&iscsi(&["iqn.1998-01.com.vmware:a", "iqn.1998-01.com.vmware:a"])).contains("twice"));
        assert!(faults(&iscsi(&[])).contains("1 to 64"));
    }
}
