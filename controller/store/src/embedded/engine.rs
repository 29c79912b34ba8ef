//! One thread that writes: whatever arrives while it commits goes into its next transaction, so a sync to the disk is
//! shared by all who wait for one.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};
use tokio::sync::oneshot;

use super::state::State;
use crate::Error;

/// Changes in one transaction. More make waiting longer and syncs no cheaper.
const BATCH_MAX: usize = 512;

/// How long the thread sleeps when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

/// A disk that refuses is asked again after this long.
const RETRY: Duration = Duration::from_millis(100);

/// What follows from a change once it is on the disk.
pub(super) type Effect = Box<dyn FnOnce(&mut State) + Send>;

/// A change that a transaction took, and its answer.
pub(super) struct Written<T> {
    pub(super) answer: T,
    pub(super) effect: Effect,
}

impl<T> Written<T> {
    /// A change that nobody has to hear of.
    pub(super) fn quietly(answer: T) -> Self {
        let effect: Effect = Box::new(|_| {});
        Self { answer, effect }
    }
}

/// Why a change was not made.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It must not be made. Nothing was written.
    Refused(Error),
    /// The database failed. The whole transaction is given up.
    Broken(redb::Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<redb::StorageError> for Refusal {
    fn from(error: redb::StorageError) -> Self {
        Self::Broken(error.into())
    }
}

impl From<redb::TableError> for Refusal {
    fn from(error: redb::TableError) -> Self {
        Self::Broken(error.into())
    }
}

/// What is called when the transaction has ended, one way or the other.
type Done = Box<dyn FnOnce(Result<&mut State, Error>) + Send>;
type Write = Box<dyn FnOnce(&WriteTransaction) -> Result<Done, (Done, redb::Error)> + Send>;
type Look = Box<dyn FnOnce(&ReadTransaction, &mut State) + Send>;

enum Command {
    Write(Write),
    Look(Look),
}

/// The thread's handle. Dropped, it waits until what was begun is written.
#[derive(Debug)]
pub(super) struct Engine {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    path: String,
}

impl Engine {
    pub(super) fn start(database: Database, state: State, path: String) -> Result<Self, Error> {
        let (commands, receiver) = mpsc::channel();
        let mut worker = Worker {
            database,
            state,
            path: path.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.run(&receiver))
            .map_err(|error| Error::storage(&path, error))?;
        Ok(Self {
            commands: Some(commands),
            thread: Some(thread),
            path,
        })
    }

    /// Makes a change, and answers when it is on the disk.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<Written<T>, Refusal> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, receiver) = oneshot::channel();
        let write: Write = Box::new(move |transaction| {
            // Who asked may have gone; then nobody needs the answer.
            let answer = |result: Result<T, Error>| {
                let _ = sender.send(result);
            };
            match change(transaction) {
                Ok(Written { answer: ok, effect }) => {
                    let done: Done = Box::new(move |committed| match committed {
                        Ok(state) => {
                            effect(state);
                            answer(Ok(ok));
                        }
                        Err(error) => answer(Err(error)),
                    });
                    Ok(done)
                }
                Err(Refusal::Refused(error)) => {
                    let done: Done = Box::new(move |_| answer(Err(error)));
                    Ok(done)
                }
                Err(Refusal::Broken(error)) => {
                    let done: Done = Box::new(move |committed| {
                        answer(Err(committed
                            .err()
                            .unwrap_or_else(|| Error::storage("store", "not written"))));
                    });
                    Err((done, error))
                }
            }
        });
        self.send(Command::Write(write))?;
        receiver.await.map_err(|_| self.ended())?
    }

    /// Looks at what is written, and at the thread's own state, between two transactions.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&ReadTransaction, &mut State) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Error> {
        let path = self.path.clone();
        let (sender, receiver) = oneshot::channel();
        let look: Look = Box::new(move |transaction, state| {
            let result = look(transaction, state).map_err(|refusal| match refusal {
                Refusal::Refused(error) => error,
                Refusal::Broken(error) => Error::storage(path, error),
            });
            let _ = sender.send(result);
        });
        self.send(Command::Look(look))?;
        receiver.await.map_err(|_| self.ended())?
    }

    fn send(&self, command: Command) -> Result<(), Error> {
        let commands = self.commands.as_ref();
        let sent = commands.is_some_and(|commands| commands.send(command).is_ok());
        sent.then_some(()).ok_or_else(|| self.ended())
    }

    fn ended(&self) -> Error {
        Error::storage(
            &self.path,
            "not done: the store has ended, or could not be written",
        )
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // If it has panicked, its callers have heard of it.
            let _ = thread.join();
        }
    }
}

struct Worker {
    database: Database,
    state: State,
    path: String,
}

impl Worker {
    fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            if let Err(error) = self.state.turn(&self.database, Instant::now()) {
                tracing::warn!(path = self.path, %error, "messages wait");
                std::thread::sleep(RETRY);
            }
            let now = Instant::now();
            let wait = self.state.next_due().map_or(IDLE, |due| due - now.min(due));
            match commands.recv_timeout(wait) {
                Ok(first) => self.batch(first, commands),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn batch(&mut self, first: Command, commands: &Receiver<Command>) {
        let rest = std::iter::from_fn(|| commands.try_recv().ok());
        let (mut writes, mut looks) = (Vec::new(), Vec::new());
        for command in std::iter::once(first).chain(rest.take(BATCH_MAX)) {
            match command {
                Command::Write(write) => writes.push(write),
                Command::Look(look) => looks.push(look),
            }
        }
        if !writes.is_empty() {
            self.write(writes);
        }
        if !looks.is_empty() {
            self.look(looks);
        }
    }

    fn write(&mut self, writes: Vec<Write>) {
        let mut done = Vec::with_capacity(writes.len());
        match self.commit(writes, &mut done) {
            Ok(()) => done.into_iter().for_each(|done| done(Ok(&mut self.state))),
            Err(error) => {
                let error = Error::storage(&self.path, error);
                done.into_iter().for_each(|done| done(Err(error.clone())));
            }
        }
    }

    fn commit(&self, writes: Vec<Write>, done: &mut Vec<Done>) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        for write in writes {
            match write(&transaction) {
                Ok(one) => done.push(one),
                Err((one, error)) => {
                    done.push(one);
                    // Dropping the transaction takes everything back. Who comes later in the batch hears that the
                    // store has not answered.
                    return Err(error);
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn look(&mut self, looks: Vec<Look>) {
        match self.database.begin_read() {
            Ok(transaction) => {
                for look in looks {
                    look(&transaction, &mut self.state);
                }
            }
            // Dropping them tells who waits that there is no answer.
            Err(error) => tracing::warn!(path = self.path, %error, "the store cannot be read"),
        }
    }
}
