//! go-plugin's own services: the controller ends the process, stdio is a stream that says nothing.
//!
//! Without the controller, every Terraform command would wait two seconds per provider and then
//! kill it. The broker is not served: Terraform asks for none.

use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::plugin::grpc_controller_server::GrpcController;
use crate::plugin::grpc_stdio_server::GrpcStdio;
use crate::plugin::{Empty, StdioData};

/// Ends the process when asked.
#[derive(Debug)]
pub(super) struct Controller(Option<CancellationToken>);

impl Controller {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self(Some(shutdown))
    }

    /// For reattach mode, where many commands use one process: each of them says Shutdown.
    pub(super) fn that_stays() -> Self {
        Self(None)
    }
}

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        if let Some(token) = &self.0 {
            token.cancel();
        }
        Ok(Response::new(Empty {}))
    }
}

/// An idle stream: stdout holds nothing but the handshake line, and Terraform reads stderr itself.
#[derive(Debug)]
pub(super) struct Stdio(CancellationToken);

impl Stdio {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self(shutdown)
    }
}

#[tonic::async_trait]
impl GrpcStdio for Stdio {
    async fn stream_stdio(&self, _: Request<()>) -> Result<Response<tonic::codegen::BoxStream<StdioData>>, Status> {
        let silent = futures::stream::pending().take_until(self.0.clone().cancelled_owned());
        Ok(Response::new(Box::pin(silent)))
    }
}
