//! Which disk is the appliance's own: for its journals, images, identity and settings.
//!
//! A disk that was made ours carries the label; it is taken again at every boot. Without one, a disk is made ours only if it holds
//! nothing: zeros where any file system, table of partitions or volume manager begins and ends. A disk that may hold something is never
//! touched; a person who wants it used empties it first.

/// The label of the file system.
pub const LABEL: &str = "lifeboat-data";
/// Bytes at each end that have to be zeros.
pub const EDGE_BYTES: u64 = 4 << 20;
/// Smallest disk that is made ours.
pub const BYTES_MIN: u64 = 4 << 30;

/// A whole disk, as it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its name: `sda`.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// What it holds.
    pub holds: Holds,
}

/// What a disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Our file system.
    Ours,
    /// Zeros at both ends.
    Nothing,
    /// Anything else, or it can't be read.
    Something,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one has what was kept.
    Use(String),
    /// This one is made ours.
    Format(String),
}

/// Chooses.
///
/// # Errors
/// A sentence: there is none, or which one isn't clear.
pub fn choose(disks: &[Disk]) -> Result<Choice, String> {
    let names = |found: &[&Disk]| found.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(", ");
    let of = |holds: Holds| disks.iter().filter(|disk| disk.holds == holds).collect::<Vec<_>>();
    let (ours, empty) = (of(Holds::Ours), of(Holds::Nothing));
    match (ours.as_slice(), empty.as_slice()) {
        ([one], _) => Ok(Choice::Use(one.name.clone())),
        ([_, _, ..], _) => Err(format!(
            "several disks carry the label {LABEL} ({}): leave the one of this gateway attached and take the others away",
            names(&ours)
        )),
        ([], [one]) if one.bytes < BYTES_MIN => Err(format!(
            "the empty disk {} has {} MiB, and the data disk needs {} MiB at least",
            one.name,
            one.bytes >> 20,
            BYTES_MIN >> 20
        )),
        ([], [one]) => Ok(Choice::Format(one.name.clone())),
        ([], []) => Err(
            "there is no data disk: attach an empty one of 64 GiB or more and start again; one that holds anything is \
                         never formatted"
                .to_owned(),
        ),
        ([], _) => {
            Err(format!("several disks are empty ({}): leave one attached, which becomes the data disk", names(&empty)))
        }
    }
}

/// Whether the first bytes of a device are those of our file system: ext4's superblock at 1024 with the label at 120 of it.
#[must_use]
pub fn is_ours(start: &[u8]) -> bool {
    let Some(superblock) = start.get(1024..2048) else { return false };
    let label = superblock.get(120..136).unwrap_or_default();
    let end = label.iter().position(|byte| *byte == 0).unwrap_or(label.len());
    superblock.get(56..58) == Some(&[0x53, 0xef]) && label.get(..end) == Some(LABEL.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, gib: u64, holds: Holds) -> Disk {
        Disk { name: name.to_owned(), bytes: gib << 30, holds }
    }

    #[test]
    fn the_labelled_disk_is_taken_whatever_else_there_is() {
        let disks = [disk("sda", 1, Holds::Something), disk("sdb", 64, Holds::Nothing), disk("sdc", 64, Holds::Ours)];
        assert_eq!(choose(&disks), Ok(Choice::Use("sdc".into())));
    }

    #[test]
    fn an_empty_disk_is_formatted_only_if_it_is_the_only_one() {
        assert_eq!(
            choose(&[disk("sda", 1, Holds::Something), disk("sdb", 64, Holds::Nothing)]),
            Ok(Choice::Format("sdb".into()))
        );
        for (disks, part) in [
            (vec![disk("sda", 1, Holds::Something), disk("sdb", 64, Holds::Something)], "no data disk"),
            (vec![disk("sdb", 64, Holds::Nothing), disk("sdc", 64, Holds::Nothing)], "sdb, sdc"),
            (vec![disk("sdb", 64, Holds::Ours), disk("sdc", 64, Holds::Ours)], "sdb, sdc"),
            (vec![disk("sdb", 1, Holds::Nothing)], "1024 MiB"),
        ] {
            let refused = choose(&disks).expect_err(part);
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn our_file_system_is_known_by_its_magic_and_whole_label() {
        let mut start = vec![0; 2048];
        start[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
        start[1024 + 120..1024 + 133].copy_from_slice(LABEL.as_bytes());
        assert!(is_ours(&start));
        start[1024 + 133] = b'2';
        assert!(!is_ours(&start));
        assert!(!is_ours(&[0; 100]));
    }
}
