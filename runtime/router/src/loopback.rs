//! The connection behind a port.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use crate::Error;

/// The two ends of a port.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) agent: TcpStream,
    pub(crate) port: TcpStream,
}

/// How many strangers may come before the own connection is accepted. Somebody would have to guess the port and
/// hit the microseconds for which it listens.
const STRANGERS_MAX: usize = 16;

/// Connects two sockets. The listener is closed before this returns, so nobody can join later.
pub(crate) fn connect() -> Result<Ends, Error> {
    let failed = |step| move |error| Error::Connection { step, error };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed("listening"))?;
    let address = listener.local_addr().map_err(failed("listening"))?;
    let port = TcpStream::connect(address).map_err(failed("connecting"))?;
    let agent = accept(&listener, &port).map_err(failed("accepting"))?;
    for end in [&agent, &port] {
        end.set_nodelay(true)
            .map_err(failed("setting TCP_NODELAY"))?;
    }
    Ok(Ends { agent, port })
}

/// Accepts the connection that `own` has made, and no other.
fn accept(listener: &TcpListener, own: &TcpStream) -> io::Result<TcpStream> {
    let expected = own.local_addr()?;
    for _ in 0..=STRANGERS_MAX {
        let (accepted, peer) = listener.accept()?;
        if peer == expected {
            return Ok(accepted);
        }
    }
    Err(io::Error::other("others kept connecting to the listener"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_ends_are_connected_to_each_other_and_nobody_can_join() {
        let Ends {
            mut agent,
            mut port,
        } = connect().unwrap();
        assert_eq!(agent.local_addr().unwrap(), port.peer_addr().unwrap());
        assert_eq!(agent.peer_addr().unwrap(), port.local_addr().unwrap());
        let refused = TcpStream::connect(agent.local_addr().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        port.write_all(b"abc").unwrap();
        let mut read = [0; 3];
        agent.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"abc");
    }

    #[test]
    fn a_stranger_is_not_taken_for_the_own_connection() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let _stranger = TcpStream::connect(address).unwrap();
        let own = TcpStream::connect(address).unwrap();
        let accepted = accept(&listener, &own).unwrap();
        assert_eq!(accepted.peer_addr().unwrap(), own.local_addr().unwrap());
    }
}
