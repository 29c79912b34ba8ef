//! A server of files as others have it: one that serves, and does all that servers do when something is wrong.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// How a path is answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// With the file.
    File(Vec<u8>),
    /// With these very bytes; then the connection ends.
    Raw(Vec<u8>),
    /// With these very bytes; then nothing comes until [`FileServer::release`].
    Hold(Vec<u8>),
}

/// The server. It listens until the process ends.
#[derive(Debug)]
pub struct FileServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    replies: Mutex<BTreeMap<String, Reply>>,
    asked: Mutex<Vec<String>>,
    released: (Mutex<bool>, Condvar),
}

impl FileServer {
    /// Listens on loopback.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = Arc::clone(&serving);
                thread::spawn(move || serving.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers a path so from now on; gives its URL.
    ///
    /// # Panics
    /// If a connection's thread has panicked.
    pub fn reply(&self, path: &str, reply: Reply) -> String {
        self.shared
            .replies
            .lock()
            .expect("no thread panics")
            .insert(path.to_owned(), reply);
        self.url(path)
    }

    /// The paths that were asked for, in order.
    ///
    /// # Panics
    /// If a connection's thread has panicked.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().expect("no thread panics").clone()
    }

    /// Lets every answer go on that is held back.
    ///
    /// # Panics
    /// If a connection's thread has panicked.
    pub fn release(&self) {
        let (released, bell) = &self.shared.released;
        *released.lock().expect("no thread panics") = true;
        bell.notify_all();
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let Some(path) = path_of(&mut stream) else {
            return;
        };
        self.asked
            .lock()
            .expect("no thread panics")
            .push(path.clone());
        let reply = self
            .replies
            .lock()
            .expect("no thread panics")
            .get(&path)
            .cloned();
        let not_found = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        let reply = reply.unwrap_or_else(|| Reply::Raw(not_found.to_vec()));
        // Who asked may have gone.
        let _ = match reply {
            Reply::File(file) => stream.write_all(&whole(&file)),
            Reply::Raw(bytes) => stream.write_all(&bytes),
            Reply::Hold(bytes) => {
                let _ = stream.write_all(&bytes);
                let (released, bell) = &self.released;
                let waiting = released.lock().expect("no thread panics");
                drop(bell.wait_while(waiting, |released| !*released));
                Ok(())
            }
        };
    }
}

/// An answer with a file.
#[must_use]
pub fn whole(file: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", file.len());
    [head.as_bytes(), file].concat()
}

/// The target of a request; its head is read, and it has no body.
fn path_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    Some(head.split(' ').nth(1)?.to_owned())
}
