//! A follower's side of a job, as long as the job runs here.

use super::{Peer, PeerError, Peers, pieces};
use crate::gateway::body::{HyperBody, Source};
use crate::job::Job;
use axum::body::Body;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{debug, warn};
use tributary_api::placement::{Directive, Placement, Report};
use tributary_arena::Filling;

/// Changes that come so close together are told together.
const TOGETHER: Duration = Duration::from_millis(5);
/// The pause after a failure; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest silence in the middle of a model.
const SILENCE: Duration = Duration::from_secs(10);

/// Runs until the job is stopped. Whoever leads, it follows; while this node leads itself, it waits.
pub(crate) async fn run(job: Arc<Job>, peers: Peers) {
    let mut changes = job.changes();
    while !job.is_stopped() {
        let Some(placement) = job.placement() else {
            return;
        };
        let leader = placement.leader().filter(|leader| leader.node != job.node);
        let following = async {
            match leader {
                Some(leader) => {
                    let peer = peers.at(&leader.url, &job.name, &job.node, &placement.secret);
                    follow(&job, &peer).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = following => {}
            () = another(&job, &placement, &mut changes) => {}
        }
    }
}

/// Returns when the job has another placement, or has been stopped.
async fn another(job: &Job, placement: &Arc<Placement>, changes: &mut watch::Receiver<u64>) {
    let same = || {
        job.placement()
            .is_some_and(|now| now.generation == placement.generation)
    };
    while same() && !job.is_stopped() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Follows one leader under one placement, for ever.
async fn follow(job: &Arc<Job>, leader: &Peer) {
    let (told, heard) = watch::channel(None);
    tokio::join!(
        directives(job, leader, &told),
        reports(job, leader, &told),
        partials(job, leader, &told),
        models(job, leader, heard),
    );
}

/// What the leader said last.
type Told = watch::Sender<Option<Directive>>;

/// Does what the leader says; a newer model is fetched by [`models`].
fn hear(job: &Job, told: &Told, directive: Directive) {
    job.obey(&directive);
    told.send_replace(Some(directive));
}

async fn directives(job: &Job, leader: &Peer, told: &Told) {
    let mut trouble = Trouble::new(job, "hear from");
    loop {
        let known = *told.borrow();
        match leader.directive(known).await {
            Ok(directive) => {
                trouble.over();
                hear(job, told, directive);
            }
            Err(error) => {
                // It may have been started anew, and know nothing.
                told.send_replace(None);
                trouble.pause(&error).await;
            }
        }
    }
}

async fn reports(job: &Job, leader: &Peer, told: &Told) {
    let (mut changes, mut heard) = (job.changes(), told.subscribe());
    let mut trouble = Trouble::new(job, "report to");
    let mut reported = None;
    loop {
        changes.borrow_and_update();
        match *heard.borrow_and_update() {
            None => reported = None,
            // This node may have begun its part anew by itself: what was said last still holds.
            Some(directive) => drop(job.obey(&directive)),
        }
        match job
            .report()
            .filter(|report| !reported.as_ref().is_some_and(|before| same(report, before)))
        {
            Some(report) => {
                match leader.report(&report).await {
                    Ok(directive) => {
                        trouble.over();
                        reported = Some(report);
                        hear(job, told, directive);
                    }
                    Err(error) => trouble.pause(&error).await,
                }
                tokio::time::sleep(TOGETHER).await;
            }
            None => tokio::select! {
                _ = changes.changed() => {}
                _ = heard.changed() => {}
            },
        }
    }
}

/// Whether two reports say the same, whenever they do.
fn same(report: &Report, before: &Report) -> bool {
    Report {
        first_update: None,
        ..report.clone()
    } == Report {
        first_update: None,
        ..before.clone()
    }
}

async fn partials(job: &Arc<Job>, leader: &Peer, told: &Told) {
    let mut changes = job.changes();
    let mut trouble = Trouble::new(job, "hand the partial to");
    loop {
        changes.borrow_and_update();
        let Some(partial) = job.whole_partial() else {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        };
        let bytes = job.partial_content_bytes();
        let content = pieces::content(Arc::downgrade(job), partial, bytes);
        let patience = job.spec().timeout().duration();
        match leader.hand_over(&partial, bytes, content, patience).await {
            Ok(directive) => {
                trouble.over();
                job.count_sent(bytes, pieces::COPIES);
                hear(job, told, directive);
            }
            Err(error) => trouble.pause(&error).await,
        }
    }
}

async fn models(job: &Arc<Job>, leader: &Peer, mut heard: watch::Receiver<Option<Directive>>) {
    let mut trouble = Trouble::new(job, "fetch the model from");
    loop {
        let newest = heard
            .borrow_and_update()
            .map_or(0, |directive| directive.version);
        if newest <= job.model().version {
            if heard.changed().await.is_err() {
                return;
            }
            continue;
        }
        match fetch(job, leader).await {
            Ok(()) => trouble.over(),
            Err(error) => trouble.pause(&error).await,
        }
    }
}

/// Fetches a member's newest model, and goes on with it.
pub(crate) async fn fetch(job: &Arc<Job>, from: &Peer) -> Result<(), PeerError> {
    let (version, body) = from.model().await?;
    let failed = |why: String| from.failed(why);
    let mut filling = loop {
        match job.claim_model() {
            Ok(Some(filling)) => break filling,
            Ok(None) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(failed(error.to_string())),
        }
        if job.is_stopped() {
            return Ok(());
        }
    };
    let mut body = HyperBody::new(Body::new(body), None);
    // Clients wait for the model; what else is told of its round comes meanwhile.
    let (read, told) = tokio::join!(
        read_model(job, &mut body, &mut filling),
        from.round(version.saturating_sub(1)),
    );
    read.map_err(failed)?;
    job.adopt_model(version, filling, told);
    Ok(())
}

async fn read_model(job: &Job, body: &mut HyperBody, filling: &mut Filling) -> Result<(), String> {
    let mut prefix = [0; 8];
    fill(body, &mut prefix).await?;
    let header = u64::from_le_bytes(prefix);
    if header > job.layout.update_header_bytes_max() {
        return Err(format!("its header has {header} bytes"));
    }
    fill(body, &mut vec![0; header as usize]).await?;
    let data = job.layout.data_bytes() as usize;
    fill(body, &mut filling.vector_mut()[..data]).await?;
    // The member's layout is this job's: it was placed with the same revision.
    match body.read(&mut [0; 1]).await {
        Ok(0) => Ok(()),
        _ => Err(format!("it is longer than {data} bytes")),
    }
}

async fn fill(body: &mut HyperBody, into: &mut [u8]) -> Result<(), String> {
    let mut filled = 0;
    while filled < into.len() {
        let read = tokio::time::timeout(SILENCE, body.read(&mut into[filled..])).await;
        match read
            .map_err(|_| "it stops".to_owned())?
            .map_err(|error| error.to_string())?
        {
            0 => return Err("it ends too early".into()),
            read => filled += read,
        }
    }
    Ok(())
}

/// What goes wrong with the leader: told once, and tried again with growing pauses.
struct Trouble<'a> {
    job: &'a Job,
    what: &'static str,
    pause: Duration,
}

impl<'a> Trouble<'a> {
    fn new(job: &'a Job, what: &'static str) -> Self {
        Self {
            job,
            what,
            pause: PAUSE,
        }
    }

    fn over(&mut self) {
        self.pause = PAUSE;
    }

    async fn pause(&mut self, error: &PeerError) {
        let (job, what) = (&self.job.name, self.what);
        if self.pause == PAUSE {
            warn!(%job, %error, "cannot {what} the leader; trying again");
        } else {
            debug!(%job, %error, "cannot {what} the leader");
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}
