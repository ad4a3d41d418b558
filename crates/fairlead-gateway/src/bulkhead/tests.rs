//! Bounds hold, order is by priority, nothing leaks whoever goes away when.

use super::*;
use futures_util::{FutureExt, future::BoxFuture};

fn pool(concurrency: usize, queue: usize, memory: usize) -> Arc<Bulkhead> {
    Bulkhead::new(Bounds {
        name: "test".into(),
        concurrency,
        queue,
        queue_time: Duration::from_secs(5),
        memory,
        adaptive: false,
    })
}

/// Later than any wait in a queue.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// A call that has begun to wait.
fn waiting(pool: &Arc<Bulkhead>, priority: Priority, bytes: usize) -> BoxFuture<'static, Result<Place, Full>> {
    let pool = Arc::clone(pool);
    let mut entering = async move { pool.enter(priority, bytes, far()).await }.boxed();
    assert!((&mut entering).now_or_never().is_none(), "it does not wait");
    entering
}

fn counts(pool: &Arc<Bulkhead>) -> (usize, usize, usize) {
    let counts = pool.counts();
    (counts.running, counts.waiting, counts.held)
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_let_in_by_priority_and_then_in_order() {
    let pool = pool(1, 8, 1000);
    let mut place = Some(pool.enter(Priority::Low, 1, far()).await.unwrap());
    let order = [Priority::Low, Priority::Normal, Priority::Critical, Priority::Normal, Priority::High];
    let mut all: Vec<_> = order.iter().map(|priority| Some(waiting(&pool, *priority, 1))).collect();
    let mut seen = Vec::new();
    while seen.len() < order.len() {
        drop(place.take());
        let came = all.iter_mut().enumerate().find_map(|(index, entering)| {
            let done = entering.as_mut()?.now_or_never()?;
            Some((index, done))
        });
        let (index, entered) = came.expect("one is let in");
        all[index] = None;
        place = Some(entered.unwrap());
        seen.push(index);
    }
    assert_eq!(seen, [2, 4, 1, 3, 0]);
    drop(place);
    assert_eq!(counts(&pool), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn queue_time_queue_and_memory_are_bounded() {
    let pool = pool(1, 2, 100);
    let place = pool.enter(Priority::Normal, 50, far()).await.unwrap();
    let began = Instant::now();
    assert_eq!(pool.enter(Priority::Normal, 10, far()).await.err(), Some(Full::Late));
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    // One that has less time does not wait longer than it has.
    let (began, soon) = (Instant::now(), Instant::now() + Duration::from_secs(2));
    assert_eq!(pool.enter(Priority::Normal, 10, soon).await.err(), Some(Full::NoTime));
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(counts(&pool), (1, 0, 50));
    assert_eq!(pool.enter(Priority::Critical, 51, far()).await.err(), Some(Full::Memory));
    let (low, normal) = (waiting(&pool, Priority::Low, 10), waiting(&pool, Priority::Normal, 10));
    assert_eq!(pool.enter(Priority::Low, 10, far()).await.err(), Some(Full::Queue));
    let high = waiting(&pool, Priority::High, 10);
    assert_eq!(low.await.err(), Some(Full::Displaced));
    drop(normal);
    assert_eq!(counts(&pool), (1, 1, 60));
    drop(place);
    let high = high.await.unwrap();
    assert_eq!(counts(&pool), (1, 0, 10));
    drop(high);
    assert_eq!(counts(&pool), (0, 0, 0));
    pool.enter(Priority::Low, 5000, far()).await.expect("an empty pool takes one of any size");
    assert_eq!(pool.counts().refused, 5);
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_while_it_is_let_in_leaves_the_place() {
    let pool = pool(1, 8, 100);
    let place = pool.enter(Priority::Normal, 1, far()).await.unwrap();
    let (first, second) = (waiting(&pool, Priority::Normal, 1), waiting(&pool, Priority::Normal, 1));
    drop(place);
    // Counted in, and never heard of it.
    drop(first);
    let place = second.await.unwrap();
    assert_eq!(counts(&pool), (1, 0, 1));
    drop(place);
    assert_eq!(counts(&pool), (0, 0, 0));
}

/// One that is under way, as the calls themselves count it.
struct Running(Arc<std::sync::atomic::AtomicUsize>);

impl Running {
    fn new(running: Arc<std::sync::atomic::AtomicUsize>) -> Self {
        assert!(running.fetch_add(1, Ordering::SeqCst) < 7);
        Self(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn never_more_than_the_bound_under_a_storm() {
    let pool = pool(7, 1000, 100_000);
    let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let calls: Vec<_> = (0..200_usize)
        .map(|number| {
            let (pool, running) = (Arc::clone(&pool), Arc::clone(&running));
            tokio::spawn(async move {
                let priority = Priority::ALL[number % 4];
                let _place = pool.enter(priority, 3, far()).await.unwrap();
                // Dropped before the place, also where the call is aborted.
                let _running = Running::new(running);
                tokio::task::yield_now().await;
            })
        })
        .collect();
    for call in calls.into_iter().enumerate().filter_map(|(at, call)| {
        if at % 3 == 0 {
            call.abort();
            None
        } else {
            Some(call)
        }
    }) {
        call.await.unwrap();
    }
    while counts(&pool) != (0, 0, 0) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_pool_lets_fewer_through_while_calls_fail_and_a_reload_resizes() {
    let mut bounds = Bounds {
        name: "test".into(),
        concurrency: 10,
        queue: 8,
        queue_time: Duration::from_secs(1),
        memory: 100,
        adaptive: true,
    };
    let pool = Bulkhead::new(bounds.clone());
    for _ in 0..50 {
        pool.enter(Priority::Normal, 1, far()).await.unwrap().note(Signal::Overloaded);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert_eq!(pool.counts().limit, 1);
    bounds.adaptive = false;
    bounds.concurrency = 2;
    pool.configure(&bounds);
    assert_eq!(pool.counts().limit, 2);
}
