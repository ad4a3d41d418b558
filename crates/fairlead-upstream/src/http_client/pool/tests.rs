//! A pool on paused time, in front of a server in memory.

use super::*;
use crate::http_client::{Body as Answer, request::PoolError};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::{io::DuplexStream, sync::mpsc, task::JoinHandle};

/// How long a call to `/slow` takes.
const SLOW: Duration = Duration::from_secs(5);

/// Serves connections made in memory; says on which connection, counted from 1, a call came.
struct Server {
    connections: mpsc::UnboundedSender<DuplexStream>,
    accepting: JoinHandle<()>,
    /// Ends every connection that is open.
    hang_up: tokio::sync::watch::Sender<u64>,
}

impl Server {
    fn start() -> Self {
        let (connections, mut incoming) = mpsc::unbounded_channel::<DuplexStream>();
        let (hang_up, hung_up) = tokio::sync::watch::channel(0);
        let accepting = tokio::spawn(async move {
            let count = AtomicUsize::new(0);
            while let Some(stream) = incoming.recv().await {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                let mut hung_up = hung_up.clone();
                hung_up.mark_unchanged();
                tokio::spawn(async move {
                    let serve = service_fn(move |request: Request<Incoming>| async move {
                        if request.uri().path() == "/slow" {
                            tokio::time::sleep(SLOW).await;
                        }
                        let mut response = Response::new(Full::new(Bytes::from(number.to_string())));
                        if request.uri().path() == "/brief" {
                            response.headers_mut().insert("keep-alive", "timeout=5".parse().expect("a value"));
                        }
                        Ok::<_, Infallible>(response)
                    });
                    let serving =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve);
                    tokio::select! {
                        _ = serving => {}
                        _ = hung_up.changed() => {}
                    }
                });
            }
        });
        Self { connections, accepting, hang_up }
    }

    fn pool(&self, connections: Connections) -> Arc<Pool> {
        let reach = Reach::Memory(self.connections.clone());
        let rules = Rules { connections, connect: Duration::from_secs(1), decodes: true };
        Pool::new(reach, Uri::from_static("http://server/mcp"), rules)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn begin(pool: &Arc<Pool>, path: &'static str) -> Result<Response<Answer>, PoolError> {
    let mut request = Request::new(Body::default());
    *request.uri_mut() = Uri::from_static(path);
    request.headers_mut().insert("host", "server".parse().expect("a value"));
    pool.request(request).await
}

/// The number of the connection a call came on.
async fn call(pool: &Arc<Pool>, path: &'static str) -> Result<usize, PoolError> {
    let body = begin(pool, path).await?.into_body().collect().await.expect("an answer").to_bytes();
    Ok(std::str::from_utf8(&body).expect("text").parse().expect("a number"))
}

fn stats(pool: &Pool) -> PoolStats {
    let mut stats = PoolStats::default();
    pool.add_to(&mut stats);
    stats
}

fn closed(pool: &Pool, why: &str) -> u64 {
    stats(pool).closed().find(|(word, _)| *word == why).expect("a reason").1
}

/// Lets everything that is not waiting for time come to rest.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_used_again_and_those_at_once_get_their_own() {
    let server = Server::start();
    let pool = server.pool(Connections::default());
    for _ in 0..5 {
        assert_eq!(call(&pool, "/").await.unwrap(), 1);
    }
    let (mut slow, mut other) = tokio::join!(call(&pool, "/slow"), call(&pool, "/slow"));
    let mut used = [slow.as_mut().map(|n| *n).unwrap(), other.as_mut().map(|n| *n).unwrap()];
    used.sort_unstable();
    assert_eq!(used, [1, 2]);
    settle().await;
    let stats = stats(&pool);
    assert_eq!((stats.open, stats.idle, stats.in_use(), stats.opened), (2, 2, 0, 2));
}

#[tokio::test(start_paused = true)]
async fn the_newest_or_the_oldest_is_used_next() {
    let server = Server::start();
    for (reuse, expected) in [(Reuse::Newest, [2, 2]), (Reuse::Oldest, [1, 2])] {
        let pool = server.pool(Connections { reuse, ..Connections::default() });
        let first = begin(&pool, "/slow");
        let second = async {
            tokio::time::sleep(SLOW / 2).await;
            begin(&pool, "/slow").await
        };
        let (first, second) = tokio::join!(first, second);
        let number = async |answer: Response<Answer>| {
            let body = answer.into_body().collect().await.expect("an answer").to_bytes();
            std::str::from_utf8(&body).expect("text").parse::<usize>().expect("a number")
        };
        let (first, second) = (number(first.unwrap()).await, number(second.unwrap()).await);
        settle().await;
        let got = [call(&pool, "/").await.unwrap(), call(&pool, "/").await.unwrap()];
        let named = |got| if got == first { 1 } else { usize::from(got == second) * 2 };
        assert_eq!(got.map(named), expected, "{reuse:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_as_allowed_and_the_rest_wait_in_order_or_give_up() {
    let server = Server::start();
    let limit = SLOW + SLOW / 2;
    let pool = server.pool(Connections { max: Some(2), acquire_timeout: limit, ..Connections::default() });
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { call(&pool, "/slow").await })
        })
        .collect();
    settle().await;
    let now = stats(&pool);
    assert_eq!((now.open, now.waiting, now.connecting), (2, 3, 0));
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.push(call.await.expect("no panic"));
    }
    // Two at once, two after them; the fifth would have had to wait for twice as long as one takes.
    assert!(outcomes[..4].iter().all(|outcome| matches!(outcome, Ok(1 | 2))), "{outcomes:?}");
    assert!(matches!(outcomes[4], Err(PoolError::AcquireTimeout(waited)) if waited == limit), "{outcomes:?}");
    // Who gave up takes nothing with him.
    assert!(call(&pool, "/").await.is_ok());
    let now = stats(&pool);
    assert_eq!((now.opened, now.timed_out, now.waiting), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_between_calls_and_never_within_one() {
    let server = Server::start();
    let pool = server.pool(Connections { max_lifetime: Some(SLOW / 2), ..Connections::default() });
    assert_eq!(call(&pool, "/").await.unwrap(), 1);
    assert_eq!(call(&pool, "/slow").await.unwrap(), 1, "ended within a call");
    assert_eq!(call(&pool, "/").await.unwrap(), 2);
    assert_eq!((closed(&pool, "lifetime"), stats(&pool).open), (1, 1));
    // An idle one is closed without a call.
    tokio::time::sleep(SLOW).await;
    pool.tend();
    assert_eq!((closed(&pool, "lifetime"), stats(&pool).open), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn idle_ones_are_closed_after_their_time_or_their_servers() {
    let server = Server::start();
    let idle = Duration::from_secs(60);
    for (path, kept) in [("/", idle), ("/brief", Duration::from_secs(4))] {
        let pool = server.pool(Connections::default());
        let first = call(&pool, path).await.unwrap();
        tokio::time::sleep(kept - Duration::from_secs(1)).await;
        pool.tend();
        assert_eq!(call(&pool, "/").await.unwrap(), first, "{path}");
        tokio::time::sleep(kept + Duration::from_secs(1)).await;
        assert_ne!(call(&pool, "/").await.unwrap(), first, "{path}");
        assert_eq!(closed(&pool, "idle"), 1);
        tokio::time::sleep(idle + Duration::from_secs(1)).await;
        pool.tend();
        assert_eq!((closed(&pool, "idle"), stats(&pool).open), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_opened_ahead_and_kept() {
    let server = Server::start();
    let rules = Connections { min_idle: 3, max: Some(4), ..Connections::default() };
    let pool = server.pool(rules);
    pool.tend();
    settle().await;
    assert_eq!((stats(&pool).idle, stats(&pool).opened), (3, 3));
    // Used ones are made up for, within the bound.
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { call(&pool, "/slow").await })
        })
        .collect();
    settle().await;
    pool.tend();
    settle().await;
    assert_eq!((stats(&pool).in_use(), stats(&pool).idle), (2, 2));
    for call in calls {
        call.await.expect("no panic").unwrap();
    }
    settle().await;
    // What is more than wanted is closed after its time; what is wanted is not, and is used.
    tokio::time::sleep(Duration::from_secs(61)).await;
    pool.tend();
    assert_eq!((stats(&pool).idle, closed(&pool, "idle")), (3, 1));
    assert!(call(&pool, "/").await.unwrap() <= 4);
    assert_eq!(stats(&pool).opened, 4);
    // The server hangs up: they are opened again.
    server.hang_up.send_modify(|times| *times += 1);
    settle().await;
    pool.tend();
    settle().await;
    assert_eq!((stats(&pool).idle, closed(&pool, "ended"), stats(&pool).opened), (3, 3, 7));
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_not_handed_out() {
    let server = Server::start();
    let pool = server.pool(Connections::default());
    for round in 1..=3 {
        assert_eq!(call(&pool, "/").await.unwrap(), round);
        server.hang_up.send_modify(|times| *times += 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((closed(&pool, "ended"), stats(&pool).failed), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_given_up_closes_its_connection_alone() {
    let server = Server::start();
    let pool = server.pool(Connections { max: Some(1), ..Connections::default() });
    // In the middle of waiting for the head.
    assert!(timeout(SLOW / 2, call(&pool, "/slow")).await.is_err());
    assert_eq!((closed(&pool, "abandoned"), stats(&pool).open), (1, 0));
    // While waiting for a connection.
    let busy = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { call(&pool, "/slow").await }
    });
    settle().await;
    assert!(timeout(SLOW / 2, call(&pool, "/")).await.is_err());
    assert_eq!(busy.await.expect("no panic").unwrap(), 2);
    assert_eq!(call(&pool, "/").await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn too_many_idle_ones_are_closed() {
    let server = Server::start();
    for evict in [Evict::Lru, Evict::Lfu, Evict::Fifo, Evict::Random] {
        let pool = server.pool(Connections { max_idle: 2, evict, ..Connections::default() });
        let calls = (0..4).map(|_| call(&pool, "/slow"));
        for outcome in futures_util::future::join_all(calls).await {
            outcome.unwrap();
        }
        settle().await;
        assert_eq!((stats(&pool).idle, closed(&pool, "surplus")), (2, 2), "{evict:?}");
        assert!(call(&pool, "/").await.is_ok());
    }
    let pool = server.pool(Connections { max_idle: 0, ..Connections::default() });
    assert_ne!(call(&pool, "/").await.unwrap(), call(&pool, "/").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_reached_fails_everybody_who_waits_at_once() {
    let (connections, nobody) = mpsc::unbounded_channel();
    drop(nobody);
    let rules = Rules {
        connections: Connections { max: Some(1), min_idle: 1, ..Connections::default() },
        connect: Duration::from_secs(1),
        decodes: false,
    };
    let pool = Pool::new(Reach::Memory(connections), Uri::from_static("http://server/mcp"), rules);
    let before = Instant::now();
    let calls = (0..5).map(|_| call(&pool, "/"));
    for outcome in futures_util::future::join_all(calls).await {
        assert!(matches!(outcome, Err(PoolError::Connect(_))), "{outcome:?}");
    }
    assert!(before.elapsed() < Duration::from_secs(1));
    // Opening ahead is not tried each time.
    let failed = stats(&pool).failed;
    for _ in 0..10 {
        pool.tend();
        settle().await;
    }
    assert_eq!(stats(&pool).failed, failed);
    tokio::time::sleep(WARM_RETRY.1).await;
    pool.tend();
    settle().await;
    assert_eq!(stats(&pool).failed, failed + 1);
}
