//! Bits that rot: in the local files of a gateway that was stopped, and in the objects of the vault. All of it happens to
//! copies, so that the world goes on unharmed.
//!
//! Whoever reads what has rotted is refused, or shown what was written: the records of the journal, the group's state, the map
//! of what the vault lacks and everything in the vault carry checksums or are sealed. Two local files are left alone, since
//! nothing covers them: images, whose blocks are the volume's own (a comparison with the vault finds what changed in
//! them), and the bits of presence maps.

use lifeboat_engine::branch::list_branches_with;
use lifeboat_engine::points::list_points_with;
use lifeboat_engine::segments::{Reader, ReaderLimits};
use lifeboat_engine::view::PointView;

use super::*;

/// Bits that rot in one object or file.
const BITS: u64 = 3;
/// Objects that rot.
const OBJECTS: u64 = 4;

impl World {
    /// Lets a copy of the world rot, and looks at it.
    pub(super) async fn rot(&self, gateway: usize) -> Checked {
        if self.is_down(gateway) {
            return Ok(());
        }
        if self.one_in(2) { self.rot_disk(gateway).await } else { self.rot_store().await }
    }

    async fn rot_disk(&self, gateway: usize) -> Checked {
        let config = self.config(gateway);
        let (machine, name, skew) = {
            let one = self.gateways[gateway].borrow();
            (one.machine.crash(self.next_seed(), CrashKind::Kill), one.name, one.clock_skew_micros)
        };
        let Some(disk) = machine.disk(&config.dir) else { return Ok(()) };
        let mut files = disk.names();
        files.retain(|name| !name.ends_with(".img") && !name.ends_with(".present"));
        if files.is_empty() {
            return Ok(());
        }
        let file = files.swap_remove(usize::try_from(self.below(files.len() as u64)).unwrap_or(0));
        for _ in 0..=self.below(BITS) {
            // Where something is: most of a journal file is zeroes that nobody has written to yet.
            let len = disk.length(&file).unwrap_or(0);
            let most = if self.one_in(2) { len } else { len.min(64 << 10) };
            disk.flip(&file, self.below(most * 8));
        }
        let store = self.store.copy(self.next_seed());
        let Ok((_, vault)) = connect(&store, name, self.next_seed(), skew) else { return Ok(()) };
        let group = match Group::open(GroupConfig { reach: vault.into(), machine: self.local(machine), ..config }).await
        {
            Ok(group) => group,
            Err(error) => {
                self.note(format!("{name}'s {file} has rotted, and is refused: {error}"));
                self.tally.borrow_mut().rot_refused += 1;
                return Ok(());
            }
        };
        let shown = self.is_prefix(gateway, &group).await;
        group.close(Duration::ZERO).await;
        self.tally.borrow_mut().rot_harmless += 1;
        promise!(shown?, "{name} shows what nobody wrote after {file} has rotted");
        Ok(())
    }

    /// Whether a group shows a state of what its gateway wrote, or nothing.
    async fn is_prefix(&self, gateway: usize, group: &Arc<Group>) -> Checked<bool> {
        let Some(local) = self.gateways[gateway].borrow().local else { return Ok(true) };
        if group.status().state == GroupState::Rehydrating {
            return Ok(true);
        }
        let mut stamps = Vec::new();
        for volume in 0..VOLUMES {
            match group.volume(volume_id(volume)) {
                Some(volume) => match stamps_of(&volume).await {
                    Ok(found) => stamps.push(found),
                    Err(_) => return Ok(true),
                },
                None => stamps.push(Vec::new()),
            }
        }
        Ok(self.history(local, |history| history.find(&stamps, 0, history.len()).is_some()))
    }

    async fn rot_store(&self) -> Checked {
        let store = self.store.copy(self.next_seed());
        let names = store.names();
        let mut rotten = Vec::new();
        for _ in 0..=self.below(OBJECTS) {
            let name = &names[usize::try_from(self.below(names.len() as u64)).unwrap_or(0)];
            let bits = store.length(name).unwrap_or(0) * 8;
            store.flip(name, usize::try_from(self.below(bits as u64)).unwrap_or(0));
            rotten.push(name.clone());
        }
        let vault = vault_at(store.perfect_link(), false, self.next_seed(), 0);
        let outcome = match vault {
            Ok(vault) => self.shown_is_true(&vault, &rotten).await?,
            Err(_) => false,
        };
        let mut tally = self.tally.borrow_mut();
        if outcome {
            tally.rot_harmless += 1;
        } else {
            tally.rot_refused += 1;
        }
        Ok(())
    }

    /// Every point that can be read is true; whether all could be.
    async fn shown_is_true(&self, vault: &Arc<Vault>, rotten: &[String]) -> Checked<bool> {
        let Ok(reader) = Reader::open(vault, GROUP, ReaderLimits::default()).await else { return Ok(false) };
        let Ok(branches) = list_branches_with(&reader).await else { return Ok(false) };
        let mut all = true;
        for info in branches {
            let Ok(points) = list_points_with(&reader, info.id).await else {
                all = false;
                continue;
            };
            for point in points.iter().filter(|point| point.branch == info.id) {
                let found = match PointView::open_point(&reader, point).await {
                    Ok(view) => self.view_stamps(&view).await,
                    Err(error) => Err(error),
                };
                let Ok(found) = found else {
                    all = false;
                    continue;
                };
                promise!(
                    self.is_true_at(point.branch, point.lsn, &found),
                    "the point at {} of {} shows what nobody wrote after {rotten:?} rotted",
                    point.lsn,
                    point.branch
                );
            }
        }
        Ok(all)
    }
}
