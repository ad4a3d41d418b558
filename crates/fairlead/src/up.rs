//! `fairlead up`: run the gateway until it is told to stop.

use crate::{
    cli,
    configuration::{self, Origin},
    failure::{Exit, Failure},
    output::banner::Banner,
    reload, runtime,
    wiring::{Doors, House},
};
use fairlead_config::{Config, LogFormat};
use fairlead_core::Code;
use fairlead_observe::logging::{self, LogControl};
use std::{path::PathBuf, sync::Arc};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs the gateway.
pub(crate) fn run(arguments: &cli::Up) -> Result<Exit, Failure> {
    let (origin, config) = configuration::load(&arguments.files.config)?;
    if arguments.background {
        // So that the end of the terminal, or of the client, is not ours.
        let _ = nix::unistd::setsid();
    }
    let log = logging::init(&config.log.level, config.log.format == LogFormat::Json, configuration::colour())
        .map_err(|error| Failure::new(Code::BadConfig, "cannot set up the log").because(&error))?;
    fairlead_process::become_subreaper()
        .map_err(|error| Failure::new(Code::Internal, "cannot supervise child processes").because(&error))?;
    let doors = if arguments.background { Doors::WhereFree } else { Doors::All };
    runtime::control(serve(origin, config, doors, log))
}

/// What a gateway is told while it runs.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::new(Code::Internal, "cannot listen to signals").because(&error))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn stop(terminate: &mut Signal, interrupt: &mut Signal) {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

async fn serve(origin: Origin, config: Config, doors: Doors, log: LogControl) -> Result<Exit, Failure> {
    // Before anything is opened: a signal must not find a half-open house without anybody to close it.
    let mut signals = Signals::new()?;
    let files = match &origin {
        Origin::Files(files) => files.clone(),
        Origin::Demo => Vec::new(),
    };
    // Before anybody can know that we run: a file that is changed from then on is seen.
    let mut watch = reload::Watch::new(&files);
    watch.follow(&config);
    let house = House::open(Arc::new(config), doors).await?;
    announce(&house, &origin);
    let busy = {
        let gateway = house.gateway.clone();
        move || {
            let counts = gateway.counts();
            counts.calls > 0 || counts.streams > 0
        }
    };
    let abandoned = house.attached.clone().abandoned(busy);
    tokio::pin!(abandoned);
    loop {
        tokio::select! {
            () = Signals::stop(&mut signals.terminate, &mut signals.interrupt) => {
                tracing::info!("stopping: calls in flight may finish; a second signal cuts them off");
                break;
            }
            () = &mut abandoned, if doors == Doors::WhereFree => {
                tracing::info!("stopping: nobody is served any more");
                break;
            }
            _ = signals.hangup.recv() => {
                watch.refresh();
                reload::reload(&house, &origin, &log).await;
                watch.follow(&house.gateway.config());
            }
            () = watch.changed() => {
                reload::reload(&house, &origin, &log).await;
                watch.follow(&house.gateway.config());
            }
        }
    }
    let drain = house.gateway.config().drain;
    house.close(drain, Signals::stop(&mut signals.terminate, &mut signals.interrupt)).await;
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// Says that it is ready: people get a block, machines a line.
fn announce(house: &House, origin: &Origin) {
    let config = house.gateway.config();
    match house.mcp {
        Some(mcp) if config.log.format == LogFormat::Text => {
            let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("fairlead"));
            let banner = Banner { config: &config, origin, mcp, admin: house.admin, program: &program };
            eprint!("{}", banner.render());
        }
        _ => tracing::info!(
            mcp = house.mcp.map(|address| config.listen.origin(address) + "/mcp"),
            admin = house.admin.map(|address| format!("http://{address}")),
            socket = %house.socket.display(),
            configuration = origin.describe(),
            servers = config.servers.len(),
            "ready"
        ),
    }
}
