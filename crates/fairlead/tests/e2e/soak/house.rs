//! The gateway, the servers behind it, and what happens to them.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fairlead_testkit::{Finish, Question, Script, ScriptedServer, StdioScript, ToolScript, Via};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::{clients, gauges::Gauges};
use crate::support::{Gateway, PATIENCE, StdioServer, eventually, rows};

/// Between two things that happen to servers.
const DISTURB: Duration = Duration::from_millis(500);
/// Sessions or processes of a server at most.
const LINKS: u64 = 8;
/// How much more memory than early in the run there may be at the end.
const GROWTH: u64 = 24 * 1024 * 1024;
/// Open files at the end at most: listeners, the store, the runtime, links and idle connections.
const FILES: u64 = 160;
/// Resources of every server.
const RESOURCES: usize = 4;
/// How long the longest tool runs, in milliseconds.
const LONG: u64 = 5_000;

/// The era of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Era {
    Legacy,
    Modern,
}

impl Era {
    pub(super) const ALL: [Self; 2] = [Self::Legacy, Self::Modern];
}

/// A server as clients know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) era: Era,
    /// It is killed all the time.
    pub(super) mortal: bool,
    /// It is reached over HTTP: it tells of its resources, and can ask on the GET stream of a session too.
    pub(super) http: bool,
}

const PLACES: [Place; 8] = [
    Place { name: "legacy", era: Era::Legacy, mortal: false, http: true },
    Place { name: "modern", era: Era::Modern, mortal: false, http: true },
    Place { name: "legacy-pipe", era: Era::Legacy, mortal: false, http: false },
    Place { name: "modern-pipe", era: Era::Modern, mortal: false, http: false },
    Place { name: "legacy-mortal", era: Era::Legacy, mortal: true, http: true },
    Place { name: "modern-mortal", era: Era::Modern, mortal: true, http: true },
    Place { name: "legacy-pipe-mortal", era: Era::Legacy, mortal: true, http: false },
    Place { name: "modern-pipe-mortal", era: Era::Modern, mortal: true, http: false },
];

/// What every server does.
fn script(era: Era) -> Script {
    let base = if era == Era::Legacy { Script::legacy().sse() } else { Script::modern() };
    let only_task = json!({"execution": {"taskSupport": "required"}});
    base.tasks()
        .resources_and_prompts(RESOURCES, 1)
        .tool(ToolScript::new("work").progress(4, 20))
        .tool(ToolScript::new("ask").ask(Question::Elicitation, Via::Call).ask(Question::Sampling, Via::Call))
        .tool(ToolScript::new("ask_aside").ask(Question::Elicitation, Via::Get))
        .tool(ToolScript::new("long").progress(LONG / 500, 500))
        .tool(ToolScript::new("task").as_task().sleep(150).definition(only_task.clone()))
        .tool(ToolScript::new("task_long").as_task().sleep(LONG).definition(only_task))
        .tool(ToolScript::new("fail").finish(Finish::ToolError { text: "alas".to_owned() }))
        // What is only for tests of one process is not recorded: it would fill the disk.
        .stdio(StdioScript { record: Some(PathBuf::from("/dev/null")), ..StdioScript::default() })
}

/// The other half of a place.
pub(super) enum Server {
    Http(ScriptedServer),
    Pipe(StdioServer),
}

impl Server {
    async fn start(place: &Place) -> Self {
        let script = script(place.era);
        if place.http { Self::Http(ScriptedServer::start(script).await) } else { Self::Pipe(StdioServer::new(script)) }
    }

    fn yaml(&self) -> String {
        match self {
            Self::Http(server) => format!("url: \"{}\"", server.url()),
            // Those nobody uses are stopped soon, to be started again.
            Self::Pipe(server) => format!("{}, idle_stop: 2s, stop_grace: 500ms", server.yaml()),
        }
    }
}

/// The gateway and the servers that are left alone.
pub(super) struct House {
    pub(super) gateway: Gateway,
    pub(super) places: Vec<Place>,
    stable: Vec<Server>,
    mortal: Vec<Server>,
    config: String,
}

impl House {
    pub(super) async fn build() -> Self {
        let (mut stable, mut mortal) = (Vec::new(), Vec::new());
        // Everything a client can leave behind is given up within seconds.
        let mut config = "log: { level: \"warn,fairlead=info\" }\n\
             listen: { address: \"127.0.0.1:0\", keep_alive: 500ms }\n\
             sessions: { idle: 3s }\n\
             tasks: { ttl: 5s, max: 500 }\n\
             park: { ttl: 2s, max: 400, gather: 10ms }\n\
             servers:\n"
            .to_owned();
        for place in &PLACES {
            let server = Server::start(place).await;
            config += &format!(
                "  {}: {{ {}, max_sessions: {LINKS}, resources: prefix, timeout: {{ idle: 6s, call: 15s }} }}\n",
                place.name,
                server.yaml()
            );
            if place.mortal { &mut mortal } else { &mut stable }.push(server);
        }
        let gateway = Gateway::start(&config).await;
        for place in &PLACES {
            rows::until_listed(&gateway, place.name).await;
        }
        // A server that asks without saying for which call gets its callers one by one, once that is known of it.
        for place in PLACES.iter().filter(|place| place.era == Era::Legacy) {
            let stream = format!("/servers/{}/mcp", place.name);
            clients::ask_aside_once(&gateway.url(&stream)).await.unwrap();
        }
        Self { gateway, places: PLACES.to_vec(), stable, mortal, config }
    }

    /// What the gateway says of each server, for when something is left behind.
    pub(super) async fn describe(&self) -> String {
        let mut lines = String::new();
        for place in &self.places {
            lines += &format!("{}\n", rows::row(&self.gateway, place.name).await);
        }
        lines
    }

    /// Those that [`disturb`] kills.
    pub(super) fn take_mortals(&mut self) -> Vec<Server> {
        std::mem::take(&mut self.mortal)
    }

    /// What may be left when all is over.
    pub(super) fn bounds(&self, early: u64) -> Gauges {
        // A link to each server over HTTP, for whoever comes next, and what has not been idle for long enough.
        let links = self.places.iter().filter(|place| place.http).count() as u64 * LINKS;
        Gauges::bounds(&[("links", links)], early + early / 4 + GROWTH, FILES)
    }

    /// The servers too have nothing left of it.
    pub(super) async fn assert_quiet(&self, mortals: &[Server]) {
        let (mortal, stable): (Vec<&Place>, Vec<&Place>) = PLACES.iter().partition(|place| place.mortal);
        for (place, server) in stable.iter().zip(&self.stable).chain(mortal.iter().zip(mortals)) {
            match server {
                Server::Http(server) => {
                    let (sessions, listeners) = (server.sessions(), server.listeners());
                    println!("`{}`: {sessions} sessions, {listeners} listeners left", place.name);
                    // What it was told by DELETE; sessions it forgot itself are none.
                    assert!(sessions as u64 <= LINKS && listeners <= 1, "`{}` is not quiet", place.name);
                }
                Server::Pipe(server) => {
                    eventually(PATIENCE, &format!("`{}` is stopped", place.name), || server.living().is_empty()).await;
                }
            }
        }
    }
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Disturbed {
    restarts: u64,
    kills: u64,
    forgotten: u64,
    reloads: u64,
    changes: u64,
}

impl fmt::Display for Disturbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { restarts, kills, forgotten, reloads, changes } = self;
        write!(
            f,
            "{restarts} servers restarted, {kills} processes killed, sessions forgotten {forgotten} times, \
             {reloads} reloads, {changes} rounds of changes"
        )
    }
}

/// Kills and restarts servers, changes lists and resources, and reloads the configuration, until all is over. Near the
/// end, from `until` on, only what clients wait for still happens.
pub(super) async fn disturb(
    house: Arc<House>,
    mut mortals: Vec<Server>,
    until: Instant,
    over: Arc<AtomicBool>,
) -> (Disturbed, Vec<Server>) {
    let mut done = Disturbed::default();
    let mut turn = 0_usize;
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(DISTURB).await;
        turn += 1;
        // Everybody who watches hears something soon.
        for server in house.stable.iter().chain(&mortals) {
            let Server::Http(server) = server else { continue };
            for number in 0..RESOURCES {
                let uri = json!({"uri": format!("test://resource/{number}")});
                server.notify("notifications/resources/updated", &uri).await;
            }
            if turn.is_multiple_of(4) {
                server.change_list().await;
            }
            // What a server remembers of ten minutes is much.
            server.clear_received();
        }
        done.changes += 1;
        if Instant::now() >= until {
            continue;
        }
        let count = mortals.len();
        match (turn % 6, &mut mortals[turn / 6 % count]) {
            (1, Server::Http(server)) => {
                server.restart().await.unwrap();
                done.restarts += 1;
            }
            (1 | 3, Server::Pipe(server)) => {
                for pid in server.living() {
                    // It may be gone already.
                    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).ok();
                    done.kills += 1;
                }
            }
            (3, Server::Http(server)) => {
                server.forget_sessions();
                done.forgotten += 1;
            }
            (5, _) => {
                // Another server comes and goes; the others keep what they have.
                let extra = "  extra: { command: sleep, args: [\"1000\"], disabled: true }\n";
                let more = if done.reloads.is_multiple_of(2) { extra } else { "" };
                house.gateway.reload(&format!("{}{more}", house.config)).await;
                done.reloads += 1;
            }
            _ => {}
        }
    }
    // Those who were killed live on: what is left can be told from what is dead.
    (done, mortals)
}
