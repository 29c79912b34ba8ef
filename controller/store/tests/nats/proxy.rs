//! A cable that can be cut, in one direction or both.

use std::sync::Arc;

use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    port: u16,
    cable: Arc<watch::Sender<Cable>>,
}

#[derive(Clone, Copy, Default)]
struct Cable {
    /// Nothing gets through.
    cut: bool,
    /// How often it was cut. No connection outlives that, however short it was.
    cuts: usize,
    /// What the server says is lost.
    deaf: bool,
}

impl Proxy {
    /// Passes everything on to a port of this machine.
    pub(crate) async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cable = Arc::new(watch::Sender::new(Cable::default()));
        let state = cable.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = state.subscribe();
                tokio::spawn(pass(stream, target, state));
            }
        });
        Self { port, cable }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Cuts all connections, and new ones at once, until it is mended.
    pub(crate) fn cut(&self) {
        self.cable.send_modify(|cable| {
            cable.cut = true;
            cable.cuts += 1;
        });
    }

    /// Loses what the server says, until it is mended.
    pub(crate) fn deafen(&self) {
        self.cable.send_modify(|cable| cable.deaf = true);
    }

    pub(crate) fn mend(&self) {
        self.cable.send_modify(|cable| {
            cable.cut = false;
            cable.deaf = false;
        });
    }
}

async fn pass(near: TcpStream, target: u16, mut cable: watch::Receiver<Cable>) {
    let began = *cable.borrow();
    if began.cut {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let state = cable.clone();
    // What comes at the very moment of a cut is lost with the connection, even if the cable is mended by then.
    let lost = || {
        let cable = *state.borrow();
        cable.deaf || cable.cuts != began.cuts
    };
    // Dropped, the halves close both connections.
    tokio::select! {
        _ = copy(near_read, far_write, || false) => {}
        _ = copy(far_read, near_write, lost) => {}
        _ = cable.wait_for(|cable| cable.cuts != began.cuts) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    lost: impl Fn() -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if !lost() {
            to.write_all(&buffer[..count]).await?;
        }
    }
}
