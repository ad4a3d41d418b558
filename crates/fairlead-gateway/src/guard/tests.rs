//! Breakers of servers and tools together, and the budget.

use super::*;
use fairlead_core::{BreakerState, breaker::BreakerSettings};

fn guard(retry: bool) -> Arc<Guard> {
    let rule = BreakerRule { settings: BreakerSettings::default(), tools: true };
    let name = ServerName::parse("crm").expect("a name");
    Arc::new(Guard::new(&name, Some(rule), retry.then(RetryRule::default), 1))
}

fn admit(guard: &Arc<Guard>, tool: &str) -> Result<Admission, UpstreamError> {
    Ok(guard.admit(Some(tool))?.expect("there is a breaker"))
}

fn timeout() -> UpstreamError {
    UpstreamError::new(UpstreamErrorKind::Timeout, Outcome::Unknown, "")
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_fails_is_held_back_alone() {
    let guard = guard(false);
    for _ in 0..5 {
        admit(&guard, "slow").expect("it is let through").failed(&timeout());
        for _ in 0..3 {
            admit(&guard, "good").expect("it is let through").answered(Some(200), None);
        }
    }
    let refused = admit(&guard, "slow").expect_err("its breaker is open");
    assert_eq!(refused.kind, UpstreamErrorKind::HeldBack);
    assert_eq!(refused.retry_after, Some(Duration::from_secs(30)));
    admit(&guard, "good").expect("the others go on");
    let reading = guard.read();
    assert_eq!(reading.breaker.expect("there is one").state, BreakerState::Closed);
    assert_eq!(reading.tools.len(), 1, "only a tool that failed has a breaker");
    assert_eq!(reading.held_back, 1);
    tokio::time::advance(Duration::from_secs(30)).await;
    admit(&guard, "slow").expect("a trial").answered(Some(200), None);
    assert_eq!(guard.read().tools[0].1.state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_is_held_back() {
    let guard = guard(false);
    for tool in ["a", "b", "c", "d", "e"] {
        admit(&guard, tool).expect("it is let through").failed(&timeout());
    }
    assert!(admit(&guard, "f").is_err());
    assert_eq!(guard.is_open(), Some(Some(Duration::from_secs(30))));
    assert!(guard.force(None, None, None));
    admit(&guard, "f").expect("closed by hand");
    assert!(!guard.force(None, Some("a"), Some(Force::Open)) || admit(&guard, "a").is_err());
}

#[tokio::test(start_paused = true)]
async fn impatience_and_errors_of_the_request_are_no_failures() {
    let guard = guard(false);
    for _ in 0..20 {
        let mut admission = admit(&guard, "a").expect("it is let through");
        admission.waits_until(Some(Instant::now()));
        admission.failed(&timeout());
        admit(&guard, "a").expect("it is let through").answered(Some(400), None);
        drop(admit(&guard, "a").expect("it is let through"));
    }
    assert_eq!(guard.read().breaker.expect("there is one").failures, 0);
}

#[tokio::test(start_paused = true)]
async fn too_much_for_one_tool_holds_that_back() {
    let guard = guard(false);
    admit(&guard, "a").expect("it is let through").answered(Some(429), Some(Duration::from_secs(5)));
    assert_eq!(admit(&guard, "a").expect_err("it asked for quiet").retry_after, Some(Duration::from_secs(5)));
    admit(&guard, "b").expect("the limit is the tool's").answered(Some(503), Some(Duration::from_secs(2)));
    assert!(admit(&guard, "c").is_err(), "the server as a whole");
}

#[tokio::test(start_paused = true)]
async fn guards_outlive_reloads_that_leave_them_as_they_are() {
    let guards = Guards::default();
    let name = ServerName::parse("crm").expect("a name");
    let rule = BreakerRule { settings: BreakerSettings::default(), tools: true };
    let one = guards.of(&name, Some(rule), None).expect("a guard");
    assert!(Arc::ptr_eq(&one, &guards.of(&name, Some(rule), None).expect("a guard")));
    assert!(!Arc::ptr_eq(&one, &guards.of(&name, Some(rule), Some(RetryRule::default())).expect("a guard")));
    assert!(guards.of(&name, None, None).is_none());
}

#[tokio::test(start_paused = true)]
async fn retries_wait_at_least_what_the_server_says() {
    let guard = guard(true);
    let retries = guard.retries().expect("they are configured");
    assert!(retries.wait(1, None) <= Duration::from_millis(100));
    assert_eq!(retries.wait(1, Some(Duration::from_secs(4))), Duration::from_secs(4));
    for _ in 0..10 {
        guard.deposit();
    }
    let granted = (0..50).filter(|_| guard.afford(Second::Retry)).count();
    assert_eq!(granted, 5, "two of ten, and the reserve of three");
    assert_eq!(guard.read().unaffordable, 45);
}

#[tokio::test(start_paused = true)]
async fn what_one_instance_does_says_nothing_of_its_siblings() {
    let guard = guard(false);
    let instance = |id| Instance::new(id, &format!("i{id}"), 1, std::collections::BTreeMap::new());
    let (bad, good) = (instance(1), instance(2));
    guard.settle([&bad, &good].into_iter());
    let go = |to: &Instance| {
        let mut admission = admit(&guard, "search")?;
        admission.goes_to(to).map(|()| admission)
    };
    for _ in 0..5 {
        go(&bad).expect("it is let through").failed(&timeout());
        go(&good).expect("it is let through").answered(Some(200), None);
    }
    assert_eq!(go(&bad).expect_err("its breaker is open").kind, UpstreamErrorKind::HeldBack);
    assert!(!bad.is_admitted() && good.is_admitted());
    assert_eq!(guard.is_open(), None, "the server answers");
    go(&good).expect("the other goes on");
    assert!(guard.force(Some("i2"), None, Some(Force::Open)) && !guard.force(Some("i3"), None, None));
    assert_eq!(guard.is_open(), Some(Some(Duration::from_secs(30))), "nobody is left");
    // A reload that leaves both keeps what is known.
    guard.settle([&bad, &good].into_iter());
    assert!(!bad.is_admitted());
    assert!(guard.force(None, None, None));
    go(&bad).expect("closed by hand, with all of them");
    for _ in 0..5 {
        admit(&guard, "search").expect("it is let through").failed(&timeout());
    }
    assert!(guard.is_open().is_some(), "where no instance can be had, that is the server's");
}
