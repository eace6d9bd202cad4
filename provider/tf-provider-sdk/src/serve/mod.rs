//! Start-up and shutdown of the provider's process.
//!
//! Terraform starts the process, passes a cookie, the versions it speaks and its own certificate in
//! the environment, and reads one line from stdout. From then on it talks gRPC over a unix socket,
//! both sides showing the certificate that the other was told of. It ends the process with
//! `GRPCController.Shutdown`.
//!
//! - Ctrl-C reaches the whole process group. SIGINT is ignored: Terraform sends `Stop` instead, and a
//!   provider that dies on SIGINT loses what it was creating.
//! - SIGTERM ends the process as Shutdown does.
//! - The socket is in a directory of its own, readable by its owner only, and removed at exit.

mod handshake;
mod listen;
pub(crate) mod logging;
mod plugin;
mod reattach;
mod tls;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub use reattach::ReattachServer;

use crate::plugin::grpc_controller_server::GrpcControllerServer;
use crate::plugin::grpc_stdio_server::GrpcStdioServer;
use crate::proto5::{MESSAGE_BYTES_MAX, ProviderService};
use crate::provider::Provider;
use crate::tfplugin5::provider_server::ProviderServer;
use handshake::Handshake;
use listen::Listener;
use plugin::{Controller, Stdio};

/// How long a shutdown waits for answers that are still being written.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// How to serve.
#[derive(Debug, Clone, Default)]
pub struct ServeOptions {
    /// Reattach mode: print `TF_REATTACH_PROVIDERS` and serve in plaintext until interrupted,
    /// instead of being started by Terraform.
    pub debug: bool,
}

impl ServeOptions {
    /// From the process's arguments: `--debug` or `-debug` turns reattach mode on.
    pub fn from_args() -> Self {
        Self { debug: std::env::args().skip(1).any(|arg| arg == "--debug" || arg == "-debug") }
    }
}

/// Why serving failed, for a person.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The environment is not the one that Terraform makes.
    #[error("{0}")]
    Handshake(String),
    /// A certificate or key could not be used.
    #[error("TLS: {0}")]
    Tls(String),
    /// The socket, the runtime or stdout.
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

impl ServeError {
    fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Serves `provider` until Terraform is done with it: the whole of a provider's `main`.
///
/// Starts its own runtime and log. The exit code is 1 where it was not started by Terraform (with
/// a message for a person) or where the handshake failed.
pub fn serve<P: Provider>(provider: P, options: ServeOptions) -> ExitCode {
    let result = if options.debug {
        logging::init();
        in_runtime(reattach::serve(provider))
    } else {
        Handshake::from_env().and_then(|handshake| {
            logging::init();
            in_runtime(serve_plugin(provider, handshake))
        })
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn in_runtime(serving: impl Future<Output = Result<(), ServeError>>) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(ServeError::io("starting the runtime"))?;
    let result = runtime.block_on(serving);
    // An operation that ignores its cancellation must not keep the process: Terraform kills it
    // after two seconds anyway, and then the socket would stay behind.
    runtime.shutdown_background();
    result
}

async fn serve_plugin<P: Provider>(provider: P, handshake: Handshake) -> Result<(), ServeError> {
    let mut interrupts = signal(SignalKind::interrupt()).map_err(ServeError::io("watching for SIGINT"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::io("watching for SIGTERM"))?;
    let identity = tls::Identity::generate(&handshake.client_certificate)?;
    let listener = Listener::bind(handshake.socket_dir.as_deref())?;
    print_line(&handshake.line(listener.path(), &identity.certificate))?;

    let shutdown = CancellationToken::new();
    let on_signal = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupts.recv() => tracing::debug!("SIGINT ignored: Terraform decides"),
                _ = terminate.recv() => return on_signal.cancel(),
            }
        }
    });
    tracing::debug!(provider = provider.address(), version = provider.version(), "serving");
    let controller = Controller::new(shutdown.clone());
    run(provider, listener, Some(identity.config), controller, shutdown).await
}

/// Serves all services on `listener` until `shutdown`; the socket is gone afterwards.
async fn run<P: Provider>(
    provider: P,
    listener: Listener,
    tls: Option<Arc<rustls::ServerConfig>>,
    controller: Controller,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let service = ProviderServer::new(ProviderService::new(provider))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (incoming, directory) = listener.incoming(tls, shutdown.clone());
    let server = Server::builder()
        // Whole schemas and states are one message: the default windows would cut them to pieces.
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(service)
        .add_service(GrpcControllerServer::new(controller))
        .add_service(GrpcStdioServer::new(Stdio::new(shutdown.clone())))
        .serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::pin!(server);
    let served = tokio::select! {
        served = &mut server => served,
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN_TIME).await;
        } => Ok(()),
    };
    drop(directory);
    served.map_err(|error| ServeError::Io { what: "serving", source: std::io::Error::other(error) })
}

/// Prints the one line that a host reads from stdout.
fn print_line(line: &str) -> Result<(), ServeError> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(ServeError::io("writing to stdout"))
}
