//! `GET /v1/audit`: the newest records of all chains of all vaults, by time.

use std::collections::{BTreeMap, VecDeque};

use axum::Json;
use axum::extract::{Request, State};
use lifeboat_api::{AuditRecord, Page, ProblemCode, Timestamp};
use lifeboat_model::VaultId;
use lifeboat_vault::{AuditLog, VaultErrorKind};

use super::Shared;
use super::body::{self, PAGING, Query};
use super::error::{ApiError, ApiResult};
use crate::audit::Entry;

/// One chain, read from its end, an object at a time.
struct Chain {
    vault: VaultId,
    log: AuditLog,
    writer: String,
    /// Objects that weren't read yet, by the numbers of their first records, oldest first.
    objects: Vec<u64>,
    /// Records of the object that was read last, oldest first, with their numbers.
    read: VecDeque<(u64, Entry)>,
    /// Only records before this number are shown.
    before: u64,
}

impl Chain {
    fn name(&self) -> String {
        format!("{}~{}", self.vault, self.writer)
    }

    /// The newest record that wasn't taken yet.
    async fn newest(&mut self) -> ApiResult<Option<&(u64, Entry)>> {
        while self.read.is_empty() {
            let Some(first) = self.objects.pop() else { return Ok(None) };
            if first >= self.before {
                continue;
            }
            let batch = match self.log.read(&self.writer, first).await {
                Ok(batch) => batch,
                Err(error) if error.kind() == VaultErrorKind::Retry => return Err(error.into()),
                // The rest is worth showing; `lifeboat audit verify` names what is damaged.
                Err(error) => {
                    tracing::warn!(%error, "a part of the audit log can't be shown");
                    continue;
                }
            };
            let numbered = (batch.first..).zip(batch.records).filter(|(number, _)| *number < self.before);
            self.read = numbered
                .filter_map(|(number, record)| Some((number, serde_json::from_value::<Entry>(record).ok()?)))
                .collect();
        }
        Ok(self.read.back())
    }
}

pub(crate) async fn list(State(context): Shared, request: Request) -> ApiResult<Json<Page<AuditRecord>>> {
    let query = Query::of(request.uri().query(), &[PAGING[0], PAGING[1], "since", "who"])?;
    let since = query.parsed::<Timestamp>("since")?;
    let (limit, who) = (body::limit(&query)?, query.text("who"));
    let mut places = places(query.text("page_token"))?;
    let mut chains = Vec::new();
    for attached in context.vaults.all() {
        let log = attached.vault()?.audit().clone();
        for writer in log.writers().await? {
            let objects = log.objects(&writer).await?;
            let chain = Chain {
                vault: attached.id(),
                log: log.clone(),
                writer,
                objects,
                read: VecDeque::new(),
                before: u64::MAX,
            };
            chains.push(Chain { before: places.get(&chain.name()).copied().unwrap_or(u64::MAX), ..chain });
        }
    }
    let mut items = Vec::new();
    while let Some(newest) = newest(&mut chains, since).await? {
        let Some(chain) = chains.get_mut(newest) else { break };
        let Some((number, entry)) = chain.read.pop_back() else { break };
        if items.len() == limit {
            return Ok(Json(Page { items, next_page_token: Some(token(&places)) }));
        }
        places.insert(chain.name(), number);
        let fits = who.is_none_or(|who| {
            entry.who.as_ref().is_some_and(|found| found.name == who || found.id.as_deref() == Some(who))
        });
        if fits {
            items.push(entry.shown(chain.vault, format!("{}:{number}", chain.writer)));
        }
    }
    Ok(Json(Page { items, next_page_token: None }))
}

/// Which chain has the newest record.
async fn newest(chains: &mut [Chain], since: Option<Timestamp>) -> ApiResult<Option<usize>> {
    let mut best: Option<(Timestamp, usize)> = None;
    for (index, chain) in chains.iter_mut().enumerate() {
        let Some((_, entry)) = chain.newest().await? else { continue };
        if since.is_none_or(|since| entry.time >= since) && best.is_none_or(|(time, _)| entry.time > time) {
            best = Some((entry.time, index));
        }
    }
    Ok(best.map(|(_, index)| index))
}

/// How far each chain was shown.
fn places(token: Option<&str>) -> ApiResult<BTreeMap<String, u64>> {
    let Some(token) = token else { return Ok(BTreeMap::new()) };
    let wrong = || ApiError::new(ProblemCode::Malformed, "page_token isn't one of this list: begin again without it");
    token
        .split(',')
        .map(|place| {
            let (name, number) = place.rsplit_once('.').ok_or_else(wrong)?;
            Ok((name.to_owned(), number.parse().map_err(|_| wrong())?))
        })
        .collect()
}

fn token(places: &BTreeMap<String, u64>) -> String {
    places.iter().map(|(name, number)| format!("{name}.{number}")).collect::<Vec<_>>().join(",")
}
