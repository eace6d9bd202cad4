//! Taking the deletion of what holds no data back: `GET /v1/deleted` and `POST /v1/deleted/{id}:undelete`.
//!
//! What one needs and was deleted too comes back before it: a plan's machines with their networks and mappings, everything's
//! site. Volumes and groups hold data, and come back by themselves ([`super::group`]). Each is judged as if it were declared now,
//! and none is there before what it refers to. So a request that was broken off, or refused half-way, leaves whole objects, and
//! the next one goes on; for what is there, there is nothing to do.
//!
//! A drill comes back without its runs: their evidence went with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Request, State};
use lifeboat_api::{
    DeletedObject, DrillSpec, GatewaySpec, MachineSpec, NetworkMappingSpec, NetworkSpec, Page, PlanSpec, Problem,
    ProblemCode, RestoreRequest, Restored,
};
use lifeboat_vault::{Catalog, Document, VaultError};

use super::super::Shared;
use super::super::body::{self, PAGING, Query};
use super::super::error::{ApiError, ApiResult};
use super::super::resources::{
    Drills, Gateways, Kind, Machines, Mappings, Networks, Plans, Policies, Sites, name_taken,
};
use super::super::verbs::split;
use crate::context::{Context, Happening};
use crate::records::kind;
use crate::vaults::AttachedVault;

/// Kinds that come back by themselves, each after those that it may need, and what people call one.
const KINDS: [(&str, &str); 8] = [
    (kind::SITES, Sites::WHAT),
    (kind::GATEWAYS, Gateways::WHAT),
    (kind::POLICIES, Policies::WHAT),
    (kind::NETWORKS, Networks::WHAT),
    (kind::MAPPINGS, Mappings::WHAT),
    (kind::MACHINES, Machines::WHAT),
    (kind::PLANS, Plans::WHAT),
    (kind::DRILLS, Drills::WHAT),
];

fn what(kind: &str) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("object", |(_, what)| what)
}

/// Everything of a vault that was deleted and holds no data, by id.
struct Graves {
    by_id: BTreeMap<String, Arc<Document>>,
}

impl Graves {
    async fn of(catalog: &Catalog) -> Result<Self, VaultError> {
        let mut by_id = BTreeMap::new();
        for (kind, _) in KINDS {
            by_id.extend(catalog.list_deleted(kind).await?.into_iter().map(|document| (document.id.clone(), document)));
        }
        Ok(Self { by_id })
    }

    /// The ids that a document refers to.
    fn references(&self, document: &Document, vault: &AttachedVault) -> Result<Vec<String>, VaultError> {
        Ok(match document.kind.as_str() {
            kind::GATEWAYS => vec![document.spec_as::<GatewaySpec>()?.site_id.to_string()],
            kind::NETWORKS => vec![document.spec_as::<NetworkSpec>()?.site_id.to_string()],
            kind::MAPPINGS => {
                let spec: NetworkMappingSpec = document.spec_as()?;
                let ends = [Some(spec.source_network_id), Some(spec.target_network_id), spec.test_network_id];
                ends.into_iter().flatten().map(|end| end.to_string()).collect()
            }
            kind::MACHINES => {
                let spec: MachineSpec = document.spec_as()?;
                let networks = spec.network_interface.iter().map(|one| one.network_id.to_string());
                networks.chain([spec.site_id.to_string()]).collect()
            }
            kind::PLANS => {
                let spec: PlanSpec = document.spec_as()?;
                let machines: Vec<String> = spec.machines().map(|(_, _, machine)| machine.to_string()).collect();
                let mappings = self.mappings_for(&spec, &machines, vault);
                let sites = [spec.source_site_id.to_string(), spec.target_site_id.to_string()];
                sites.into_iter().chain(machines).chain(mappings).collect()
            }
            kind::DRILLS => {
                let spec: DrillSpec = document.spec_as()?;
                let machines = spec.assertion.iter().filter_map(|one| one.machine_id).map(|id| id.to_string());
                machines.chain([spec.plan_id.to_string(), spec.network.clone()]).collect()
            }
            _ => Vec::new(),
        })
    }

    /// A document, deleted or not.
    fn any(&self, kind: &str, id: &str, vault: &AttachedVault) -> Option<Arc<Document>> {
        self.by_id.get(id).cloned().or_else(|| vault.snapshot().get(kind, id).cloned())
    }

    /// The deleted mappings that lead a plan's machines to its target: the newest for each of their networks that has none now.
    fn mappings_for(&self, spec: &PlanSpec, machines: &[String], vault: &AttachedVault) -> Vec<String> {
        let machines = machines.iter().filter_map(|id| self.any(kind::MACHINES, id, vault));
        let machines = machines.filter_map(|document| document.spec_as::<MachineSpec>().ok());
        let networks: BTreeSet<_> =
            machines.flat_map(|machine| machine.network_interface.into_iter().map(|one| one.network_id)).collect();
        let leads = |document: &Arc<Document>| {
            let mapping: NetworkMappingSpec = document.spec_as().ok()?;
            let target = self.any(kind::NETWORKS, &mapping.target_network_id.to_string(), vault)?;
            let target: NetworkSpec = target.spec_as().ok()?;
            (networks.contains(&mapping.source_network_id) && target.site_id == spec.target_site_id)
                .then(|| (mapping.source_network_id, Arc::clone(document)))
        };
        let snapshot = vault.snapshot();
        let there: BTreeSet<_> =
            snapshot.of(kind::MAPPINGS).iter().filter_map(leads).map(|(source, _)| source).collect();
        let mut newest: BTreeMap<_, Arc<Document>> = BTreeMap::new();
        let gone = self.by_id.values().filter(|document| document.kind == kind::MAPPINGS);
        for (source, document) in gone.filter_map(leads).filter(|(source, _)| !there.contains(source)) {
            let known = newest.entry(source).or_insert_with(|| Arc::clone(&document));
            if known.updated < document.updated {
                *known = document;
            }
        }
        newest.into_values().map(|document| document.id.clone()).collect()
    }

    /// What comes back with one, itself included, each after what it refers to.
    fn with_needs(&self, id: &str, vault: &AttachedVault) -> Result<Vec<Arc<Document>>, VaultError> {
        let mut found: BTreeMap<String, Arc<Document>> = BTreeMap::new();
        let mut open = vec![id.to_owned()];
        while let Some(next) = open.pop() {
            let Some(document) = self.by_id.get(&next).filter(|_| !found.contains_key(&next)) else { continue };
            open.extend(self.references(document, vault)?);
            found.insert(next, Arc::clone(document));
        }
        let mut all: Vec<_> = found.into_values().collect();
        all.sort_by_key(|document| KINDS.iter().position(|(kind, _)| *kind == document.kind));
        Ok(all)
    }
}

/// How one is shown: a mapping by its networks, as far as they are there.
fn shown(vault: &AttachedVault, document: &Document) -> DeletedObject {
    let name = if document.kind == kind::MAPPINGS { Mappings::called(vault, document) } else { document.name.clone() };
    DeletedObject {
        id: document.id.clone(),
        kind: what(&document.kind).to_owned(),
        name,
        vault_id: vault.id(),
        deleted: document.updated,
    }
}

pub(in crate::http) async fn list(State(context): Shared, request: Request) -> ApiResult<Json<Page<DeletedObject>>> {
    let query = Query::of(request.uri().query(), &PAGING)?;
    let mut objects = Vec::new();
    for attached in context.vaults.all() {
        let graves = Graves::of(attached.vault()?.catalog()).await?;
        objects.extend(graves.by_id.values().map(|document| shown(&attached, document)));
    }
    body::page(&query, objects, |object| object.id.clone()).map(Json)
}

pub(in crate::http) async fn verb(
    State(context): Shared,
    Path(segment): Path<String>,
    request: Request,
) -> ApiResult<Json<Restored>> {
    let (id, verb) = split(&segment)?;
    if verb != "undelete" {
        return Err(ApiError::new(
            ProblemCode::NotFound,
            format!("what was deleted has no verb {verb:?}; there is undelete"),
        ));
    }
    let id = id.to_owned();
    let RestoreRequest {} = body::typed(&body::json(request).await?)?;
    for attached in context.vaults.all() {
        let _alone = attached.alone().await?;
        let graves = Graves::of(attached.vault()?.catalog()).await?;
        if graves.by_id.contains_key(&id) {
            return restore_all(&context, &attached, &graves.with_needs(&id, &attached)?).await.map(Json);
        }
    }
    // What is there already needs nothing: an earlier request brought it back.
    for (kind, _) in KINDS {
        if context.find(kind, &id).await.is_some() {
            return Ok(Json(Restored { objects: Vec::new() }));
        }
    }
    Err(ApiError::new(
        ProblemCode::NotFound,
        format!(
            "nothing that was deleted has the id {id}: /v1/deleted lists what can come back, /v1/deleted-groups the groups and \
             volumes"
        ),
    ))
}

async fn restore_all(
    context: &Arc<Context>,
    attached: &Arc<AttachedVault>,
    documents: &[Arc<Document>],
) -> ApiResult<Restored> {
    let mut objects = Vec::new();
    for document in documents {
        match document.kind.as_str() {
            kind::SITES => restore::<Sites>(context, attached, document).await?,
            kind::GATEWAYS => restore::<Gateways>(context, attached, document).await?,
            kind::POLICIES => restore::<Policies>(context, attached, document).await?,
            kind::NETWORKS => restore::<Networks>(context, attached, document).await?,
            kind::MAPPINGS => restore::<Mappings>(context, attached, document).await?,
            kind::MACHINES => restore::<Machines>(context, attached, document).await?,
            kind::PLANS => restore::<Plans>(context, attached, document).await?,
            kind::DRILLS => restore::<Drills>(context, attached, document).await?,
            other => {
                return Err(ApiError::new(ProblemCode::Internal, format!("{other} don't come back by themselves")));
            }
        }
        let object = shown(attached, document);
        let message = format!("the deletion of the {} {} was taken back", object.kind, object.name);
        context.event(attached, Happening { kind: "declaration.undeleted", message, ..Happening::default() }).await;
        objects.push(object);
    }
    context.wrote(attached).await;
    Ok(Restored { objects })
}

/// Brings one back, if it could be declared now as it was.
async fn restore<K: Kind>(context: &Context, vault: &AttachedVault, document: &Document) -> ApiResult<()> {
    let spec: K::Spec = document.spec_as()?;
    let judged = async {
        K::admit(context, &spec).await?;
        if let Some(other) = K::namesake(vault, &document.id, &spec).await? {
            return Err(name_taken(K::WHAT, &K::name(&spec), &other));
        }
        K::prepare(vault, &document.id, &spec).await
    };
    judged.await.map_err(|ApiError(problem)| {
        let Problem { code, detail, errors, .. } = *problem;
        // It is what is declared that is in the way, not the request.
        let code = if code == ProblemCode::Invalid { ProblemCode::Conflict } else { code };
        let detail = format!(
            "the {} {} can't come back as it was: {detail}. Groups and volumes come back by `lifeboat group undelete`",
            K::WHAT,
            K::called(vault, document)
        );
        Problem { errors, ..Problem::new(code, detail) }
    })?;
    let mut back = |tombstone: &Document| match K::KIND {
        kind::DRILLS => serde_json::json!({}),
        _ => tombstone.status.clone(),
    };
    vault.vault()?.catalog().restore(K::KIND, &document.id, &mut back).await?;
    vault.refresh().await?;
    Ok(())
}
