//! The RPCs that answer with a stream: lists and actions.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::convert;
use super::server::ProviderService;
use super::tfplugin5 as pb;
use crate::core::engine::find;
use crate::diagnostic::Diagnostics;
use crate::listing::{ListRequest, ListedResource, Listing};
use crate::provider::Provider;
use crate::value::Value;

/// A stream of events.
pub(super) type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Progress messages that may wait for Terraform to read them; further ones are dropped.
const PROGRESS_MAX: usize = 64;

type Reply<T> = Result<Response<T>, Status>;

/// Lists resources: one event each, as they are found, then one with the diagnostics if there are any.
pub(super) async fn list<P: Provider>(
    service: &ProviderService<P>,
    message: pb::list_resource::Request,
) -> Reply<EventStream<pb::list_resource::Event>> {
    let engine = Arc::clone(&service.engine);
    let limit = usize::try_from(message.limit).ok().filter(|limit| *limit > 0);
    let (listing, found) = Listing::new(limit);
    let name = message.type_name.clone();
    let done = tokio::spawn(async move {
        let name = &message.type_name;
        let config = find(&engine.registry.lists, "list resource", name)
            .and_then(|entry| convert::config(message.config.as_ref(), &entry.schema));
        match config {
            Ok(config) => {
                let request = ListRequest { config, limit, with_resource: message.include_resource_object };
                engine.list(name, request, listing).await
            }
            Err(errors) => errors,
        }
    });
    let engine = Arc::clone(&service.engine);
    let with_object = message.include_resource_object;
    let found = ReceiverStream::new(found).map(move |item| {
        Ok(match engine.listed(&name, item) {
            Ok(item) => listed_event(item, with_object),
            Err(errors) => diagnostic_event(errors),
        })
    });
    let beside = futures::stream::once(done).filter_map(|ended| match ended {
        Ok(beside) if beside.is_empty() => None,
        Ok(beside) => Some(Ok(diagnostic_event(beside))),
        Err(error) => Some(Err(panicked("a list", &error))),
    });
    Ok(Response::new(Box::pin(found.chain(beside))))
}

fn diagnostic_event(found: Diagnostics) -> pb::list_resource::Event {
    pb::list_resource::Event { diagnostic: convert::diagnostics(found), ..Default::default() }
}

fn panicked(what: &str, error: &tokio::task::JoinError) -> Status {
    tracing::error!(%error, "{what} panicked");
    Status::internal("The provider failed in a way it should not; its log says where.")
}

fn listed_event(item: ListedResource, with_object: bool) -> pb::list_resource::Event {
    let object = item.resource.filter(|_| with_object);
    pb::list_resource::Event {
        identity: convert::identity(Some(Value::Object(item.identity))),
        display_name: item.display_name,
        resource_object: object.map(|object| convert::dynamic(&Value::Object(object))),
        diagnostic: Vec::new(),
    }
}

/// Invokes an action: progress as it comes, then the completion with the diagnostics.
pub(super) async fn invoke<P: Provider>(
    service: &ProviderService<P>,
    message: pb::invoke_action::Request,
) -> Reply<EventStream<pb::invoke_action::Event>> {
    use pb::invoke_action::event::{Completed, Progress, Type};
    let engine = Arc::clone(&service.engine);
    let (progress, messages) = mpsc::channel::<String>(PROGRESS_MAX);
    let done = tokio::spawn(async move {
        let name = message.action_type;
        let config = find(&engine.registry.actions, "action", &name)
            .and_then(|entry| convert::config(message.config.as_ref(), &entry.schema));
        match config {
            Ok(config) => engine.invoke(&name, config, progress).await,
            Err(errors) => errors,
        }
    });
    let messages = ReceiverStream::new(messages).map(|message| Ok(event(Type::Progress(Progress { message }))));
    let completed = futures::stream::once(async move {
        let found = done.await.map_err(|error| panicked("an action", &error))?;
        let diagnostics = convert::diagnostics(found);
        Ok(event(Type::Completed(Completed { diagnostics })))
    });
    Ok(Response::new(Box::pin(messages.chain(completed))))
}

fn event(kind: pb::invoke_action::event::Type) -> pb::invoke_action::Event {
    pb::invoke_action::Event { r#type: Some(kind) }
}
