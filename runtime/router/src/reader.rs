//! Reads what a port's owner sends to the agent.

use std::net::TcpStream;

use tokio::{io::AsyncReadExt, net::tcp::OwnedReadHalf};
use tracing::debug;
use tributary_sidecar_layout::Descriptor;

use crate::{
    Error, PortId,
    board::{Board, Outlet},
};

/// One read: a multiple of a descriptor's size, a few hundred of them.
const CHUNK_BYTES: usize = 256 * Descriptor::BYTES;

/// Hands the agent's end of a port to the runtime.
pub(crate) fn register(agent: TcpStream) -> Result<tokio::net::TcpStream, Error> {
    let failed = |error| Error::Connection {
        step: "registering with the runtime",
        error,
    };
    agent.set_nonblocking(true).map_err(failed)?;
    tokio::net::TcpStream::from_std(agent).map_err(failed)
}

/// Dispatches everything until the port's owner has closed the socket. A connection that breaks counts as closed:
/// that is what a killed owner leaves behind.
pub(crate) async fn read_to_end<O: Outlet>(
    board: &Board<O>,
    port: PortId,
    stream: &mut OwnedReadHalf,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut cutter = Cutter::default();
    loop {
        match stream.read(&mut chunk).await {
            Ok(0) => break,
            Ok(bytes) => cutter.cut(&chunk[..bytes], |descriptor| {
                board.dispatch(port, descriptor);
            }),
            Err(error) => {
                debug!(port, %error, "a port broke");
                break;
            }
        }
    }
    if !cutter.piece.is_empty() {
        board.malformed(port, &cutter.piece);
    }
}

/// Cuts a stream into descriptors.
#[derive(Debug, Default)]
struct Cutter {
    /// The beginning of a descriptor whose end has not come yet; shorter than a descriptor.
    piece: Vec<u8>,
}

impl Cutter {
    fn cut(&mut self, mut bytes: &[u8], mut each: impl FnMut(Descriptor)) {
        if !self.piece.is_empty() {
            let missing = (Descriptor::BYTES - self.piece.len()).min(bytes.len());
            self.piece.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            let Some(whole) = self.piece.first_chunk::<{ Descriptor::BYTES }>() else {
                return;
            };
            each(Descriptor::from_bytes(whole));
            self.piece.clear();
        }
        let (whole, piece) = bytes.as_chunks::<{ Descriptor::BYTES }>();
        whole.iter().map(Descriptor::from_bytes).for_each(each);
        self.piece.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn descriptors_come_out_whole_however_the_stream_is_cut(
            slots in prop::collection::vec(any::<u32>(), 0..50),
            cuts in prop::collection::vec(1_usize..100, 1..200),
        ) {
            let sent: Vec<Descriptor> = slots
                .iter()
                .map(|slot| Descriptor { destination: 1, sent_ns: 2, slot: *slot, generation: 3, round: 4, kind: 1 })
                .collect();
            let stream: Vec<u8> = sent.iter().flat_map(Descriptor::to_bytes).collect();
            let (mut cutter, mut received, mut rest) = (Cutter::default(), Vec::new(), stream.as_slice());
            for length in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*length).min(rest.len()));
                cutter.cut(now, |descriptor| received.push(descriptor));
                rest = later;
            }
            prop_assert_eq!(received, sent);
            prop_assert!(cutter.piece.is_empty());
        }
    }
}
