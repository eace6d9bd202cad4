//! `lifeboat serve`: runs a gateway until SIGTERM or SIGINT.
//!
//! The first signal stops it in order: the mount goes, groups flush and ship what they can. A second one ends the process
//! at once, which is safe and loses nothing that was acknowledged, but may leave the mount behind for the next start to
//! clean up. A start that can't succeed prints one line on standard error and exits with 1; the log goes to standard
//! output.

mod logging;
mod notices;
mod otlp;
mod settings;

pub(crate) use logging::{start as start_log, verbose};
pub(crate) use otlp::Settings as TraceSettings;
pub(crate) use settings::{LogSettings, ServeArgs, peers, read as read_settings};

use std::future::Future;
use std::sync::Arc;

use lifeboat_server::Gateway;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::connect::environment;
use crate::failure::{Exit, Failure, Result};
use crate::notify::Notify;
use crate::output::note;

/// Runs a gateway.
///
/// # Errors
/// `Usage` for settings that make no sense, `Failed` for everything that keeps it from starting.
pub(crate) async fn run(args: ServeArgs) -> Result<()> {
    let mut settings = args.settings(environment)?;
    let traces = otlp::Settings::read(environment, &settings.serve.name)?;
    let exporter = logging::start(&settings.log, traces)?;
    settings.serve.traces = exporter.as_ref().map(|exporter| Arc::clone(exporter.counts()));
    let stop = stop_signal()?;
    let notify = Notify::new(environment);
    // One sentence with its causes; more than a line would hide what to do.
    let gateway = Gateway::start(settings.serve).await.map_err(|error| Failure::failed(format!("{error:#}")))?;
    notify.status(&gateway.summary());
    notify.ready();
    let look = || {
        let summary = gateway.summarize();
        async { summary.await.ok() }
    };
    tokio::select! {
        () = stop => {}
        () = notify.keep(look) => {}
    }
    notify.stopping();
    gateway.stop().await;
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    Ok(())
}

/// Resolves when the process is asked to stop. Signals count from now on, also those that come while it starts.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::failed(format!("the process can't listen for signals: {error}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (asked, stop) = oneshot::channel();
    tokio::spawn(async move {
        next(&mut terminate, &mut interrupt).await;
        // Nobody listens any more when the gateway failed in the meantime.
        let _ = asked.send(());
        next(&mut terminate, &mut interrupt).await;
        note("lifeboat: asked to stop twice: ending at once");
        std::process::exit(Exit::Failed as i32);
    });
    Ok(async move {
        // The sender lives as long as the runtime.
        let _ = stop.await;
    })
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
