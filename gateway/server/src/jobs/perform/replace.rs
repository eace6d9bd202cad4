//! A group that a gateway had which is lost, or that is to be at home elsewhere: another one has it from here on.
//!
//! ```text
//! the group's document: active, home, what is left behind ─> each volume's document names the new home ─> the home is the declared one
//! ```
//! Whatever a crash leaves of it is right: the group's document says where its home is as long as a volume's doesn't.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lifeboat_api::{JobKind, VolumeSpec};
use lifeboat_model::{GatewayId, JobId, VolumeId};
use lifeboat_vault::VaultErrorKind;

use super::{Done, Failure, Work, change_group};
use crate::adoption;
use crate::records::{ActiveRecord, GroupRecord, HOME_INSTANCE, LeftRecord, kind};
use crate::view;

impl Work<'_> {
    /// Disks that the lost gateway had adopted, and that may be here now: those of a group that was at home there.
    pub(super) fn disks(&self) -> BTreeMap<VolumeId, PathBuf> {
        let moves = matches!(self.spec.kind, JobKind::ReplaceGateway | JobKind::MoveGroup);
        if !moves || self.spec.leave_disks {
            return BTreeMap::new();
        }
        let snapshot = self.attached.snapshot();
        let volumes = view::volumes_of(&snapshot, self.spec.group);
        let held = view::held(&volumes).into_iter();
        held.filter(|volume| adoption::admit(self.context, self.own, self.own, volume).is_ok())
            .filter_map(|volume| Some((volume.id, volume.source?)))
            .collect()
    }

    /// Writes down who has the group now.
    pub(super) async fn move_home(&self) -> Result<Done, Failure> {
        let (lost, here) = (self.lost()?, self.spec.gateway);
        let volumes = view::volumes_of(&self.attached.snapshot(), self.spec.group);
        let taken = match self.spec.new_branch {
            None => None,
            Some(_) => {
                let instance = self.open(&self.name()).await?;
                Some(ActiveRecord { gateway: here, branch: instance.status().branch, instance: self.name() })
            }
        };
        let observed = taken.as_ref().and_then(|active| view::observe(self.context, self.spec.group, active));
        let set_up = self.group().await?.active.is_some();
        let mut ended: Option<JobId> = None;
        change_group(self.attached, self.spec, |record| {
            let before = record.clone();
            if !set_up {
                // It begins anew, here.
                ended = record.failed_job.take();
            }
            take(record, lost, here, taken.as_ref(), view::home_of(&before, &volumes));
            if self.spec.kind == JobKind::MoveGroup {
                // It was given up in order, and goes in a step of its own.
                record.left.retain(|left| left.gateway != lost || !left.shown || before.left.contains(left));
            }
            if record.active != before.active {
                record.observed.clone_from(&observed);
            }
            *record != before
        })
        .await?;
        if !set_up {
            self.forget_set_up().await?;
        }
        // After a move the declarations may stay as they are, as after a failback to another gateway.
        let moved = self.spec.kind == JobKind::MoveGroup;
        let followed = if moved { 0 } else { self.volumes_follow(lost, here).await? };
        let after = change_group(self.attached, self.spec, |record| {
            let follows = |named: GatewayId| named == here || (named == lost && !moved);
            let declared = volumes.iter().all(|(_, spec)| follows(spec.gateway_id));
            record.home.take_if(|home| *home == here && declared).is_some()
        })
        .await?;
        let Some(active) = taken else {
            let what = if set_up { "it is at home here once it fails back" } else { "it is set up here" };
            let away = after.active.as_ref().is_some_and(|active| active.gateway != here);
            let what = if set_up && !away { "it is at home here" } else { what };
            return Ok(Done::new(format!("{what}; {followed} volumes name this gateway")));
        };
        let point = self.record.result.point_id;
        let (rpo, rto) = self.record.result.point_time.map(|time| self.measures(time)).unwrap_or_default();
        let paths = self.paths("volumes", &active.instance);
        let on_disks = self.on_disks(&active);
        Ok(Done::with(format!("the volumes can be written here{on_disks}"), move |record| {
            record.result.branch_id = Some(active.branch);
            record.result.point_id = point;
            (record.result.rpo_seconds, record.result.rto_seconds) = (rpo, rto);
            record.result.paths.clone_from(&paths);
        }))
    }

    fn lost(&self) -> Result<GatewayId, Failure> {
        self.spec.source.ok_or_else(|| Failure::Final("the job says nothing of the lost gateway".to_owned()))
    }

    /// What became of the disks, for people.
    fn on_disks(&self, active: &ActiveRecord) -> String {
        let wanted = self.disks();
        let Some(open) = self.context.instances.get(self.spec.group, &active.instance) else { return String::new() };
        let held = open.instance.volumes();
        let there = |id: &VolumeId| held.iter().any(|volume| volume.id == *id && volume.source.is_some());
        let (taken, not): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|(id, _)| there(id));
        let list = |all: Vec<(VolumeId, PathBuf)>| {
            all.into_iter().map(|(_, path)| path.display().to_string()).collect::<Vec<_>>().join(", ")
        };
        let mut said = String::new();
        if !taken.is_empty() {
            said.push_str(&format!("; on {}, where only what differs is fetched", list(taken)));
        }
        if !not.is_empty() {
            said.push_str(&format!("; not on {}: not there, in use, or something else is on it", list(not)));
        }
        said
    }

    /// What was to set the group up at the lost gateway: the next look of this one begins it anew under the same id.
    async fn forget_set_up(&self) -> Result<(), Failure> {
        let id = JobId::from_bytes(self.spec.group.to_bytes()).to_string();
        let vault = self.attached.vault()?;
        match vault.catalog().delete(kind::JOBS, &id, None).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == VaultErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the declarations of the volumes name this gateway. Gives how many there are.
    async fn volumes_follow(&self, lost: GatewayId, here: GatewayId) -> Result<usize, Failure> {
        let vault = self.attached.vault()?;
        let mut followed = 0;
        for (id, _) in view::volumes_of(&self.attached.snapshot(), self.spec.group) {
            let document = match vault.catalog().get(kind::VOLUMES, &id.to_string()).await {
                Ok(document) => document,
                Err(error) if error.kind() == VaultErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let mut spec: VolumeSpec = document.spec_as()?;
            followed += 1;
            if spec.gateway_id != lost {
                continue;
            }
            spec.gateway_id = here;
            let value = serde_json::to_value(&spec).map_err(|error| Failure::Final(error.to_string()))?;
            vault
                .catalog()
                .update_spec(kind::VOLUMES, &document.id, document.generation, &document.name, value)
                .await?;
        }
        Ok(followed)
    }
}

/// How a group stands once a gateway has taken the place of another. `home`: where it was at home. Done again, it comes to the same.
fn take(
    record: &mut GroupRecord,
    lost: GatewayId,
    here: GatewayId,
    taken: Option<&ActiveRecord>,
    home: Option<GatewayId>,
) {
    let was_home = home == Some(lost);
    let mut leave = |instance: &str| {
        if record.left.iter().all(|left| left.gateway != lost || left.instance != instance) {
            record.left.push(LeftRecord::shown(lost, instance.to_owned()));
        }
    };
    if let Some(before) = record.active.as_ref().filter(|active| active.gateway == lost) {
        leave(&before.instance);
    }
    if was_home && record.active.is_some() {
        leave(record.home_instance.as_deref().unwrap_or(HOME_INSTANCE));
    }
    if let Some(active) = taken {
        record.active = Some(active.clone());
        record.released = false;
    }
    if was_home {
        record.home = Some(here);
        record.home_instance = None;
    }
    // Where it is served is its home by now, and no failover is under way any more.
    if let Some(active) = record.active.as_ref().filter(|active| active.gateway == here)
        && (was_home || home == Some(here))
    {
        record.home_instance = Some(active.instance.clone());
        record.failover = None;
        record.committed = false;
    }
}
