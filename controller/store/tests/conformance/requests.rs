//! Questions and answers.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use tributary_store::{Bus, Error, Request, Stream};

use crate::bench::{Bench, PATIENCE, bytes, soon, text};

/// Answers everything with its name and the question.
fn answer(mut requests: Stream<Request>, name: &'static str) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let reply = format!("{name} {} {}", request.subject, text(&request.payload));
            request.respond(bytes(&reply)).await.unwrap();
        }
    })
}

async fn ask(bus: &dyn Bus, subject: &str, question: &str) -> Result<String, Error> {
    let answer = bus.request(subject, bytes(question), PATIENCE).await;
    answer.map(|answer| text(&answer))
}

pub(crate) async fn answers_arrive(bench: Bench) {
    let bus = bench.bus().await;
    let other = bench.another().await.bus().await.unwrap();
    answer(bus.serve("nodes.*.commands").await.unwrap(), "server");
    let asked = ask(&*other, "nodes.n1.commands", "start").await;
    assert_eq!(asked.unwrap(), "server nodes.n1.commands start");
    let questions = (0..100).map(|number| {
        let bus = &bus;
        async move {
            ask(&**bus, "nodes.n2.commands", &number.to_string())
                .await
                .unwrap()
        }
    });
    let answers = soon(futures_util::future::join_all(questions)).await;
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(*answer, format!("server nodes.n2.commands {number}"));
    }
}

pub(crate) async fn nobody_serves(bench: Bench) {
    let bus = bench.bus().await;
    answer(bus.serve("nodes.n1").await.unwrap(), "server");
    let subject = "nodes.n2".to_owned();
    let asked = ask(&*bus, &subject, "start").await;
    assert_eq!(asked, Err(Error::NoResponder { subject }));
}

pub(crate) async fn nobody_answers(bench: Bench) {
    let bus = bench.bus().await;
    let mut requests = bus.serve("nodes.n1").await.unwrap();
    let after = Duration::from_millis(300);
    let asked = bus.request("nodes.n1", bytes("start"), after).await;
    let subject = "nodes.n1".to_owned();
    assert_eq!(asked, Err(Error::Timeout { subject, after }));
    // It had arrived; an answer that is too late harms nobody, and neither does none.
    let late = soon(requests.next()).await.unwrap();
    late.respond(bytes("late")).await.unwrap();
    let asking = bus.request("nodes.n1", bytes("again"), after);
    let (asked, ()) = tokio::join!(asking, async { drop(soon(requests.next()).await) });
    assert!(matches!(asked, Err(Error::Timeout { .. })), "{asked:?}");
}

pub(crate) async fn several_serve(bench: Bench) {
    let bus = bench.bus().await;
    let other = bench.another().await.bus().await.unwrap();
    answer(bus.serve("nodes.>").await.unwrap(), "here");
    answer(other.serve("nodes.>").await.unwrap(), "there");
    let mut answered = BTreeSet::new();
    // Which one answers is chance; in the end both have.
    soon(async {
        while answered.len() < 2 {
            let asked = ask(&*bus, "nodes.a", "who").await.unwrap();
            answered.insert(asked);
        }
    })
    .await;
    assert!(answered.contains("here nodes.a who"), "{answered:?}");
    assert!(answered.contains("there nodes.a who"), "{answered:?}");
}

pub(crate) async fn who_has_gone_serves_no_more(bench: Bench) {
    let bus = bench.bus().await;
    let requests = bus.serve("nodes.n1").await.unwrap();
    drop(requests);
    // That it has gone takes a moment to be known.
    soon(async {
        loop {
            let after = Duration::from_millis(100);
            match bus.request("nodes.n1", bytes("start"), after).await {
                Err(Error::NoResponder { .. }) => return,
                Err(Error::Timeout { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}
