//! How a group comes to its history: through the vault itself, or over a line to a process server that has it.

use std::sync::Arc;

use lifeboat_model::{BranchId, GatewayId, GroupId, Lsn, Timestamp, VolumeId};
use lifeboat_vault::Vault;
use tokio::sync::Notify;

use crate::branch::Position;
use crate::error::{EngineError, ErrorKind, Result};
use crate::relay::{Relay, RelayedWriter};
use crate::ship::{Appended, BranchWriter, CarriedBlock, Interval, Open, Opened, ShipError, ShipSettings, Totals};

/// How a group comes to its history.
#[derive(Clone, Debug)]
pub enum Reach {
    /// The vault is here.
    Vault(Arc<Vault>),
    /// A process server has it.
    Relay(Arc<dyn Relay>),
}

impl From<Arc<Vault>> for Reach {
    fn from(vault: Arc<Vault>) -> Self {
        Self::Vault(vault)
    }
}

impl Reach {
    /// The time here.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::Vault(vault) => vault.now(),
            Self::Relay(relay) => relay.now(),
        }
    }

    /// The bytes of an identifier that nobody has.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new_id(&self) -> Result<[u8; 16]> {
        match self {
            Self::Vault(vault) => vault.new_id().map_err(crate::cause::vault),
            Self::Relay(relay) => Ok(relay.new_id()),
        }
    }

    /// The vault, for what can't be done over a line.
    ///
    /// # Errors
    /// `Invalid` where there is only a line.
    pub fn vault(&self) -> Result<&Arc<Vault>> {
        match self {
            Self::Vault(vault) => Ok(vault),
            Self::Relay(_) => Err(EngineError::new(
                ErrorKind::Invalid,
                "an agent has no vault, and reads no history: ask a gateway that has the group's vault",
            )),
        }
    }

    /// Makes the keys of a group, and of a volume if one is named; over a line that is the process server's to do.
    pub(crate) async fn make_keys(&self, group: GroupId, volume: Option<VolumeId>) -> Result<()> {
        let Self::Vault(vault) = self else { return Ok(()) };
        match volume {
            Some(volume) => vault.create_volume_keys(volume).await.map(drop),
            None => vault.group_key(group).await.map(drop),
        }
        .map_err(crate::cause::vault)
    }

    /// Opens a tenure; `known`: records up to here were in the vault as far as is known here.
    pub(crate) async fn open(
        &self,
        group: GroupId,
        branch: BranchId,
        gateway: GatewayId,
        open: Open,
        settings: ShipSettings,
        known: Lsn,
    ) -> Result<(Writer, Opened), ShipError> {
        match self {
            Self::Vault(vault) => {
                let (writer, opened) = BranchWriter::open(vault, group, branch, gateway, open, settings).await?;
                Ok((writer.into(), opened))
            }
            Self::Relay(relay) => {
                let (writer, opened) = RelayedWriter::open(relay, group, branch, gateway, open, known).await?;
                Ok((Writer::Relayed(Box::new(writer)), opened))
            }
        }
    }
}

/// Who ships a tenure.
#[derive(Debug)]
pub(crate) enum Writer {
    /// This process, into the vault: an interval that was appended has landed.
    Vault(Box<BranchWriter>),
    /// A process server: an interval that was appended lands later.
    Relayed(Box<RelayedWriter>),
}

impl From<BranchWriter> for Writer {
    fn from(writer: BranchWriter) -> Self {
        Self::Vault(Box::new(writer))
    }
}

impl Writer {
    /// How far the log goes in the vault.
    pub(crate) fn shipped(&self) -> Position {
        match self {
            Self::Vault(writer) => writer.shipped(),
            Self::Relayed(writer) => writer.shipped(),
        }
    }

    /// How far it was handed over: what comes after is to be appended next.
    pub(crate) fn sent(&self) -> Lsn {
        match self {
            Self::Vault(writer) => writer.shipped().lsn,
            Self::Relayed(writer) => writer.sent(),
        }
    }

    /// How far what may land goes, whatever becomes of it here.
    pub(crate) fn may_land(&self) -> Lsn {
        match self {
            Self::Vault(writer) => writer.pending().unwrap_or(writer.shipped().lsn),
            Self::Relayed(writer) => writer.sent(),
        }
    }

    /// Whether something is to be appended again until it lands, whatever it was that it came from.
    pub(crate) fn is_unsettled(&self) -> bool {
        match self {
            Self::Vault(writer) => writer.pending().is_some(),
            Self::Relayed(_) => false,
        }
    }

    /// Whether more may be appended now.
    pub(crate) fn has_room(&mut self) -> bool {
        match self {
            Self::Vault(_) => true,
            Self::Relayed(writer) => writer.has_room(),
        }
    }

    /// Whether the tenure is over, and another one is to be opened.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Vault(_) => false,
            Self::Relayed(writer) => writer.is_over(),
        }
    }

    /// Why nothing lands just now, although everything was handed over.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self {
            Self::Vault(_) => None,
            Self::Relayed(writer) => writer.trouble(),
        }
    }

    /// Is told when something has landed that was appended before.
    pub(crate) fn news(&self) -> Option<Arc<Notify>> {
        match self {
            Self::Vault(_) => None,
            Self::Relayed(writer) => Some(writer.wake()),
        }
    }

    /// Ships differently from now on. A process server goes by its own settings.
    pub(crate) fn set(&mut self, settings: ShipSettings) {
        if let Self::Vault(writer) = self {
            writer.set_compression(settings.compression);
            writer.set_retention(settings.retention);
            writer.set_pace(settings.pace);
        }
    }

    pub(crate) fn carry(&mut self, blocks: Vec<CarriedBlock>) {
        if let Self::Vault(writer) = self {
            writer.carry(blocks);
        }
    }

    /// Looks for a newer epoch, or has it looked for.
    pub(crate) async fn check_fence(&mut self) -> Result<(), ShipError> {
        match self {
            Self::Vault(writer) => writer.check_fence().await,
            Self::Relayed(writer) => writer.look().await,
        }
    }

    /// What has landed by itself since the last call.
    pub(crate) fn landed(&mut self) -> Result<Option<Appended>, ShipError> {
        match self {
            Self::Vault(_) => Ok(None),
            Self::Relayed(writer) => writer.landed(),
        }
    }

    /// Ships records, or hands them over: what has landed, if anything is known of that. `push`: they are to be shipped
    /// although no point ends them.
    pub(crate) async fn append(&mut self, interval: &Interval, push: bool) -> Result<Option<Appended>, ShipError> {
        match self {
            Self::Vault(writer) => writer.append(interval).await.map(Some),
            Self::Relayed(writer) => writer.append(interval, push).await.map(|()| None),
        }
    }

    /// What was put into the vault since the last call.
    pub(crate) fn take_totals(&mut self) -> Totals {
        match self {
            Self::Vault(writer) => writer.take_totals(),
            Self::Relayed(_) => Totals::default(),
        }
    }

    /// Ships records and waits until they have landed; for whoever has nothing else to do meanwhile.
    pub(crate) async fn land(&mut self, interval: &Interval) -> Result<(), ShipError> {
        match self {
            Self::Vault(writer) => writer.append(interval).await.map(drop),
            Self::Relayed(writer) => writer.land(interval).await,
        }
    }

    /// Takes a map over that has landed, and begins the next if it is due: neither is waited for.
    pub(crate) async fn drive_map(&mut self) -> Result<(), ShipError> {
        match self {
            Self::Vault(writer) => writer.drive_map_or_later().await,
            Self::Relayed(_) => Ok(()),
        }
    }
}
