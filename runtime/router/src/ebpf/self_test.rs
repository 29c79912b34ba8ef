//! Sends three descriptors through the sidecar in one write, and looks where they come out. Kernels up to 6.1
//! load the program without complaint and then lose the second and the third.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use tributary_sidecar_layout::{Descriptor, Destination, Kind, Level};

use super::{
    refusal,
    sidecar::{Connection, Sidecar},
};
use crate::{
    Error,
    loopback::{self, Ends},
};

/// For a descriptor that does not come; one that comes is there when the write returns.
const PATIENCE: Duration = Duration::from_secs(2);

/// The port's number. Any will do: nobody else uses this sidecar.
const PORT: u32 = 1;

/// Runs the test on a sidecar that nothing else uses.
pub(super) fn run(sidecar: &mut Sidecar) -> Result<(), Error> {
    let ends = loopback::connect()?;
    let connection = Connection::of(PORT, &ends)?;
    sidecar.connect(&connection, &ends)?;
    let (routed, unknown) = (
        Destination::new(0, Level::Leaf, 0),
        Destination::new(0, Level::Leaf, 1),
    );
    sidecar.routes.set(routed, PORT)?;
    exchange(ends, routed, unknown).map_err(|reason| Error::SelfTest {
        release: refusal::release(),
        reason,
    })
}

fn exchange(ends: Ends, routed: Destination, unknown: Destination) -> Result<(), String> {
    let Ends {
        mut agent,
        mut port,
    } = ends;
    let sent = [
        descriptor(routed, 1),
        descriptor(unknown, 2),
        descriptor(routed, 3),
    ];
    let bytes: Vec<u8> = sent.iter().flat_map(Descriptor::to_bytes).collect();
    port.write_all(&bytes)
        .map_err(|error| format!("sending failed: {error}"))?;
    expect(&mut port, "its port", &[sent[0], sent[2]])?;
    expect(&mut agent, "the agent", &[sent[1]])?;
    let delivered = descriptor(unknown, 4);
    agent
        .write_all(&delivered.to_bytes())
        .map_err(|error| format!("delivering failed: {error}"))?;
    expect(&mut port, "its port", &[delivered])
}

fn descriptor(destination: Destination, slot: u32) -> Descriptor {
    let kind = Kind::Update as u32;
    Descriptor {
        destination: destination.raw(),
        sent_ns: 0,
        slot,
        generation: 0,
        round: 0,
        kind,
    }
}

fn expect(socket: &mut TcpStream, whose: &str, expected: &[Descriptor]) -> Result<(), String> {
    socket
        .set_read_timeout(Some(PATIENCE))
        .map_err(|error| error.to_string())?;
    for wanted in expected {
        let mut bytes = [0; Descriptor::BYTES];
        socket.read_exact(&mut bytes).map_err(|error| {
            format!("descriptor {} did not reach {whose}: {error}", wanted.slot)
        })?;
        let got = Descriptor::from_bytes(&bytes);
        if got != *wanted {
            return Err(format!(
                "descriptor {} reached {whose} instead of {}",
                got.slot, wanted.slot
            ));
        }
    }
    Ok(())
}
