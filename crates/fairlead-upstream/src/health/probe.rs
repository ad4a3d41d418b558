//! Making the checks of an instance, each on its own interval, and noting what comes of them.

use super::Standing;
use crate::{
    catalog,
    handle::InstanceHandle,
    http_client::{HttpClients, Worker},
    instance::{Instance, Out},
    link::Link,
    owner::{Command, Environment},
    view::State,
};
use bytes::Bytes;
use fairlead_config::{Check, Connections, Health, HostPort, Probe, Transport, Url};
use fairlead_process::{ChildSpec, GuardBinary};
use fairlead_wire::Era;
use http::{Request, header, uri::PathAndQuery};
use http_body_util::Full;
use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{copy, sink},
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// What a check that has not passed yet waits at most until the next time.
const IMPATIENT: Duration = Duration::from_secs(1);
/// How long a program that checks may take to end when its time is over.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// What a check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    Startup,
    Readiness,
    Liveness,
}

/// The checks of one server.
pub(crate) struct Checks {
    health: Health,
    guard: GuardBinary,
    tls: Arc<rustls::ClientConfig>,
}

/// What a probe found.
enum Found {
    Passed,
    Failed(String),
    /// There is nothing to ask, and that is as it should be.
    Nothing,
}

impl Checks {
    pub(crate) fn new(health: &Health, environment: &Environment) -> Self {
        Self { health: health.clone(), guard: environment.guard.clone(), tls: Arc::clone(&environment.tls) }
    }

    /// Starts the checks of one instance. `changed` is called whenever one comes to another result.
    pub(crate) fn start(
        &self,
        tasks: &mut JoinSet<()>,
        own: &InstanceHandle,
        changed: impl Fn() + Clone + Send + Sync + 'static,
    ) {
        let all = [
            (Aim::Startup, &self.health.startup),
            (Aim::Readiness, &self.health.readiness),
            (Aim::Liveness, &self.health.liveness),
        ];
        for (aim, check) in all.into_iter().filter_map(|(aim, check)| Some((aim, check.clone()?))) {
            // One that was taken over from the configuration before has started.
            if aim == Aim::Startup && !matches!(own.peek().state, State::Ready | State::Idle) {
                own.0.instance.set_out(Out::NOT_STARTED, true);
            }
            let prober = Prober::new(&check, own, self);
            let one = One { aim, prober, own: own.clone(), check, standing: Standing::default() };
            tasks.spawn(one.run(changed.clone()));
        }
    }
}

/// One check of one instance.
struct One {
    aim: Aim,
    check: Check,
    own: InstanceHandle,
    prober: Prober,
    standing: Standing,
}

impl One {
    async fn run(mut self, changed: impl Fn()) {
        loop {
            let began = Instant::now();
            let probing = timeout(self.check.timeout, self.prober.probe(&self.own, began + self.check.timeout));
            let found = probing.await.unwrap_or_else(|_| Found::Failed("no answer in time".to_owned()));
            let is_impatient = self.aim == Aim::Startup || matches!(found, Found::Nothing);
            let (passed, why) = match found {
                Found::Passed => (Some(true), None),
                Found::Failed(why) => (Some(false), Some(why)),
                Found::Nothing => (None, None),
            };
            let verdict = passed.and_then(|passed| self.standing.take(&self.check, passed));
            if let Some(healthy) = verdict {
                self.settle(healthy, why).await;
                changed();
                if healthy && self.aim == Aim::Startup {
                    return;
                }
            }
            let wait = if is_impatient { self.check.interval.min(IMPATIENT) } else { self.check.interval };
            sleep(wait.saturating_sub(began.elapsed())).await;
        }
    }

    async fn settle(&mut self, healthy: bool, why: Option<String>) {
        let instance: &Arc<Instance> = &self.own.0.instance;
        let reason = why.map(|why| format!("{}: {why}", self.word()));
        match self.aim {
            Aim::Startup => instance.set_out(Out::NOT_STARTED, !healthy),
            Aim::Readiness => {
                if healthy && instance.is_out_for(Out::UNREADY) {
                    instance.healed();
                }
                instance.set_out(Out::UNREADY, !healthy);
            }
            Aim::Liveness if !healthy => {
                let reason = reason.clone().unwrap_or_default().into();
                let _ = self.own.0.commands.send(Command::Reopen { reason }).await;
                // It has as many tries again before the next time.
                self.standing = Standing::passed();
            }
            Aim::Liveness => {}
        }
        instance.set_reason(reason);
    }

    fn word(&self) -> &'static str {
        match self.aim {
            Aim::Startup => "the startup check fails",
            Aim::Readiness => "the readiness check fails",
            Aim::Liveness => "the liveness check fails",
        }
    }
}

/// A check with what it needs to be made.
enum Prober {
    Ask(Probe),
    Http {
        clients: Box<HttpClients>,
        path: PathAndQuery,
    },
    Tcp(HostPort),
    Socket(PathBuf),
    Command(Box<ChildSpec>),
    /// There is no way to make it on this transport.
    Impossible(&'static str),
}

impl Prober {
    fn new(check: &Check, own: &InstanceHandle, checks: &Checks) -> Self {
        let transport = &own.0.server.transport;
        match &check.probe {
            Probe::Ping | Probe::List => Self::Ask(check.probe.clone()),
            Probe::Http(target) => Self::http(target, own, check.timeout, checks),
            Probe::Tcp(Some(address)) => Self::Tcp(address.clone()),
            Probe::Tcp(None) => Self::reach(transport),
            Probe::Command(command) => Self::Command(Box::new(ChildSpec {
                command: command.first().cloned().unwrap_or_default(),
                args: command.iter().skip(1).cloned().collect(),
                env: vec![("FAIRLEAD_INSTANCE".to_owned(), own.0.instance.name().to_owned())],
                cwd: None,
                stop_grace: STOP_GRACE,
                guard: checks.guard.clone(),
            })),
        }
    }

    fn http(target: &str, own: &InstanceHandle, limit: Duration, checks: &Checks) -> Self {
        const BAD: Prober = Prober::Impossible("there is no such URL");
        let server = &own.0.server;
        let pool = Connections { min_idle: 0, max_idle: 1, ..server.connections.clone() };
        let (uri, socket, path) = match (target.starts_with('/'), &server.transport) {
            (true, Transport::Http(http)) => (http.url.uri().clone(), http.socket.clone(), target.to_owned()),
            (true, _) => return Self::Impossible("a path can only be asked of an HTTP server"),
            (false, _) => match Url::parse(target) {
                Ok(url) => (url.uri().clone(), None, url.path_and_query().to_owned()),
                Err(_) => return BAD,
            },
        };
        let Ok(path) = path.parse() else { return BAD };
        let clients = HttpClients::new(1, &uri, socket.as_deref(), limit, &pool, false, &checks.tls);
        Self::Http { clients: Box::new(clients), path }
    }

    fn reach(transport: &Transport) -> Self {
        let of = |url: &Url| Self::Tcp(HostPort { host: url.host().trim_matches(['[', ']']).into(), port: url.port() });
        match transport {
            Transport::Http(http) => match &http.socket {
                Some(socket) => Self::Socket(socket.clone()),
                None => of(&http.url),
            },
            Transport::WebSocket(socket) => of(&socket.url),
            Transport::Tcp(address) => Self::Tcp(address.clone()),
            Transport::Unix(path) => Self::Socket(path.clone()),
            Transport::Stdio(_) => Self::Impossible("a process has no address"),
        }
    }

    async fn probe(&self, own: &InstanceHandle, deadline: Instant) -> Found {
        match self {
            Self::Ask(probe) => ask(probe, own, deadline).await,
            Self::Http { clients, path } => get(clients, path).await,
            Self::Tcp(address) => reached(TcpStream::connect((&*address.host, address.port))).await,
            Self::Socket(path) => reached(UnixStream::connect(path)).await,
            Self::Command(spec) => run(spec).await,
            Self::Impossible(why) => Found::Failed((*why).to_owned()),
        }
    }
}

async fn reached<T>(connecting: impl Future<Output = std::io::Result<T>>) -> Found {
    match connecting.await {
        Ok(_) => Found::Passed,
        Err(error) => Found::Failed(format!("cannot connect: {}", error.kind())),
    }
}

/// Asks over a link that is open: that one is there is its owner's business.
async fn ask(probe: &Probe, own: &InstanceHandle, deadline: Instant) -> Found {
    let open: Option<Arc<Link>> = own.links().into_iter().find(|link| !link.is_closed());
    // One that is down is out for that, and back as soon as it is connected to.
    let Some(link) = open else { return Found::Nothing };
    let heard = link.inbound.heard();
    let meta = || format!("{{\"_meta\":{}}}", catalog::own_meta());
    let asked = match (probe, link.key().era) {
        (Probe::List, Era::Modern) => catalog::ask(&link, "tools/list", Some(&meta()), deadline).await,
        (Probe::List, Era::Legacy) => catalog::ask(&link, "tools/list", None, deadline).await,
        (_, Era::Modern) => catalog::ask(&link, "server/discover", Some(&meta()), deadline).await,
        (_, Era::Legacy) => catalog::ask(&link, "ping", None, deadline).await,
    };
    match asked {
        Ok(_) => Found::Passed,
        // It is busy with what it says to others.
        Err(_) if link.inbound.heard() != heard => Found::Passed,
        Err(error) => Found::Failed(error.to_string()),
    }
}

async fn get(clients: &HttpClients, path: &PathAndQuery) -> Found {
    let mut request = Request::new(Full::<Bytes>::default());
    *request.uri_mut() = clients.at(path.clone());
    request.headers_mut().insert(header::HOST, clients.host().clone());
    match clients.of(Worker(0)).request(request).await {
        Ok(response) if response.status().is_success() => Found::Passed,
        Ok(response) => Found::Failed(format!("HTTP {}", response.status().as_u16())),
        Err(_) => Found::Failed("it cannot be reached".to_owned()),
    }
}

/// Runs a program to its end. Dropping the process, when its time is over, ends it with everything it started.
async fn run(spec: &ChildSpec) -> Found {
    let child = match fairlead_process::spawn(spec) {
        Ok(child) => child,
        Err(error) => return Found::Failed(format!("the program cannot be started: {}", error.kind())),
    };
    let fairlead_process::Child { stdin, mut stdout, mut stderr, mut process } = child;
    drop(stdin);
    let (mut said, mut complained) = (sink(), sink());
    let (_, _, status) = tokio::join!(copy(&mut stdout, &mut said), copy(&mut stderr, &mut complained), process.wait());
    if status.success() { Found::Passed } else { Found::Failed(format!("the program ended with {status}")) }
}
