//! A gRPC unary call with the update as its message: bytes as they are, without protobuf around them.

use std::convert::Infallible;
use std::future::Ready;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::{Hop, answer, read_all, runtime, timed};

/// The largest message; the default is 4 MiB.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// HTTP/2's windows and frames, far above their defaults, which would make large messages wait for credit.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
const FRAME: u32 = 1 << 20;

const METHOD: &str = "/tributary.bench.Updates/Put";

/// A server and a channel to it, both in this process.
pub struct Grpc {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
    update: Bytes,
    expected: Bytes,
}

impl Grpc {
    /// Starts the server, and connects.
    ///
    /// # Errors
    /// What the network says.
    pub fn start(update: Bytes) -> Result<Self> {
        let runtime = runtime()?;
        let channel = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let server = Server::builder()
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME)
                .add_service(Updates);
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?
                .tcp_nodelay(true)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            anyhow::Ok(endpoint.connect().await?)
        })?;
        let expected = answer(read_all(&update));
        Ok(Self {
            runtime,
            channel,
            update,
            expected,
        })
    }
}

impl Hop for Grpc {
    fn name(&self) -> &str {
        "gRPC unary call"
    }

    fn requests(&mut self, count: usize) -> Result<Vec<Duration>> {
        let (channel, update, expected) = (
            self.channel.clone(),
            self.update.clone(),
            self.expected.clone(),
        );
        let requests = async move {
            timed(count, || {
                call(channel.clone(), update.clone(), expected.clone())
            })
            .await
        };
        self.runtime.block_on(self.runtime.spawn(requests))?
    }
}

async fn call(channel: Channel, update: Bytes, expected: Bytes) -> Result<()> {
    let mut client = tonic::client::Grpc::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
    client.ready().await?;
    let path = PathAndQuery::from_static(METHOD);
    let answer = client.unary(Request::new(update), path, Raw).await?;
    if answer.into_inner() != expected {
        bail!("the receiver has read something else");
    }
    Ok(())
}

/// The service: reads every update, and answers with its sum.
#[derive(Clone)]
struct Updates;

impl NamedService for Updates {
    const NAME: &'static str = "tributary.bench.Updates";
}

impl Service<http::Request<tonic::body::Body>> for Updates {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc =
                tonic::server::Grpc::new(Raw).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok(grpc.unary(Put, request).await)
        })
    }
}

/// The service's one method.
struct Put;

impl UnaryService<Bytes> for Put {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(answer(read_all(request.get_ref())))))
    }
}

/// Messages are their own bytes.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(item.len());
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}
