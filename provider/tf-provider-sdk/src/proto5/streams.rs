//! The RPCs that answer with a stream: lists and actions.

use std::pin::Pin;

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
use crate::provider::{ListedResource, Provider};
use crate::value::Value;

/// A stream of events.
pub(super) type EventStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Progress messages that may wait for Terraform to read them; further ones are dropped.
const PROGRESS_MAX: usize = 64;

type Reply<T> = Result<Response<T>, Status>;

/// Lists resources: one event each, then one with the diagnostics if there are any.
pub(super) async fn list<P: Provider>(
    service: &ProviderService<P>,
    message: pb::list_resource::Request,
) -> Reply<EventStream<pb::list_resource::Event>> {
    let with_object = message.include_resource_object;
    let listed = service
        .run(|engine| async move {
            let name = &message.type_name;
            let config = find(&engine.registry.lists, "list resource", name)
                .and_then(|entry| convert::config(message.config.as_ref(), &entry.schema));
            let limit = usize::try_from(message.limit).ok().filter(|limit| *limit > 0);
            match config {
                Ok(config) => engine.list(name, config, limit.unwrap_or(usize::MAX)).await,
                Err(errors) => (Err(errors), Diagnostics::new()),
            }
        })
        .await?;
    let (result, mut found) = listed.into_inner();
    let items = result.unwrap_or_else(|errors| {
        found.extend(errors);
        Vec::new()
    });
    let mut events: Vec<_> = items.into_iter().map(|item| Ok(listed_event(item, with_object))).collect();
    if !found.is_empty() {
        events.push(Ok(pb::list_resource::Event { diagnostic: convert::diagnostics(found), ..Default::default() }));
    }
    Ok(Response::new(Box::pin(tokio_stream::iter(events))))
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
    let engine = std::sync::Arc::clone(&service.engine);
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
        let found = done.await.map_err(|error| {
            tracing::error!(%error, "an action panicked");
            Status::internal("The provider failed in a way it should not; its log says where.")
        })?;
        let diagnostics = convert::diagnostics(found);
        Ok(event(Type::Completed(Completed { diagnostics })))
    });
    Ok(Response::new(Box::pin(messages.chain(completed))))
}

fn event(kind: pb::invoke_action::event::Type) -> pb::invoke_action::Event {
    pb::invoke_action::Event { r#type: Some(kind) }
}
