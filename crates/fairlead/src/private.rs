//! The gateway a command talks to: the one that was named, the one that runs, or one of its own for
//! as long as the command takes.
//!
//! A gateway of its own reads the same configuration but has a data directory that is thrown away
//! and no listener, so it is in nobody's way. Commands use it through its control socket, like any other.

use crate::{
    cli, configuration,
    failure::{Failure, chain},
    instance,
    reach::Reach,
    wiring::{Doors, House},
};
use fairlead_config::Config;
use fairlead_core::{Clock, Code};
use fairlead_observe::logging;
use fairlead_upstream::State;
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::{self, Instant};

/// How long servers are waited for before a command asks about them.
const SETTLE: Duration = Duration::from_secs(30);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// What commands that are no gateway themselves log.
const QUIET: &str = "error";

/// A gateway for one command.
pub(crate) struct Private {
    house: House,
    directory: Directory,
}

/// A directory that is removed with everything in it.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, directory = %self.0.display(), "a temporary directory was not removed");
        }
    }
}

impl Private {
    /// Starts it.
    ///
    /// # Errors
    /// As [`House::open`].
    pub(crate) async fn open(mut config: Config) -> Result<Self, Failure> {
        fairlead_process::become_subreaper()
            .map_err(|error| Failure::new(Code::Internal, "cannot supervise child processes").because(&error))?;
        let name = format!("fairlead-{}-{:x}", std::process::id(), Clock::system().unix_ms());
        let directory = std::env::temp_dir().join(name);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(|error| Failure::new(Code::DataDir, "cannot make a temporary directory").because(&error))?;
        let directory = Directory(directory);
        config.data_dir.clone_from(&directory.0);
        // Nobody's calls are waiting when it ends.
        config.drain = Duration::ZERO;
        let house = House::open(Arc::new(config), Doors::ControlOnly).await?;
        Ok(Self { house, directory })
    }

    /// The way to it.
    pub(crate) fn reach(&self) -> Reach {
        Reach::socket(&self.house.socket)
    }

    /// Waits, within bounds, until the servers (or the one that is needed) have been tried.
    async fn settled(&self, only: Option<&str>) {
        let until = Instant::now() + SETTLE;
        let servers = self.house.gateway.servers();
        let needed = |name: &str| only.is_none_or(|only| only == name);
        let known = only.is_none() || servers.iter().any(|server| needed(server.name().as_str()));
        while Instant::now() < until
            && servers.iter().any(|server| {
                let view = server.peek();
                let tried = view.fresh || matches!(view.state, State::Down { .. } | State::Stopped);
                !tried && (!known || needed(server.name().as_str()))
            })
        {
            time::sleep(LOOK).await;
        }
    }

    /// Ends it, with its servers and its directory.
    pub(crate) async fn close(self) {
        self.house.close(Duration::ZERO, std::future::pending()).await;
        drop(self.directory);
    }
}

/// Does `work` with the gateway that `which` names. `only` is the server it is about, where that is known.
pub(crate) async fn with_gateway<T>(
    which: &cli::Which,
    only: Option<&str>,
    work: impl AsyncFnOnce(&Reach) -> Result<T, Failure>,
) -> Result<T, Failure> {
    // A command without a log is not worth failing for.
    let _ = logging::init(QUIET, false, configuration::colour());
    if let Some(url) = &which.url {
        return work(&Reach::url(url)?).await;
    }
    let (_, config) = configuration::load(&which.files.config)?;
    if let Some((_, reach)) = instance::find(&config.data_dir).await {
        return work(&reach).await;
    }
    note_private(&config.data_dir);
    let private = Private::open(config).await?;
    let outcome = tokio::select! {
        outcome = async {
            private.settled(only).await;
            work(&private.reach()).await
        } => outcome,
        interrupted = tokio::signal::ctrl_c() => Err(match interrupted {
            Ok(()) => Failure::usage("interrupted"),
            Err(error) => Failure::new(Code::Internal, chain(&error)),
        }),
    };
    private.close().await;
    outcome
}

/// Does `work` with a gateway that runs already: what changes one has no use for one of its own.
pub(crate) async fn with_running<T>(
    which: &cli::Which,
    work: impl AsyncFnOnce(&Reach) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let _ = logging::init(QUIET, false, configuration::colour());
    if let Some(url) = &which.url {
        return work(&Reach::url(url)?).await;
    }
    let (_, config) = configuration::load(&which.files.config)?;
    match instance::find(&config.data_dir).await {
        Some((_, reach)) => work(&reach).await,
        None => Err(Failure::unreachable("no gateway of this configuration runs").hint("start it: `fairlead up`")),
    }
}

fn note_private(data_dir: &Path) {
    eprintln!("note: no gateway runs on {}: starting one for this command", data_dir.display());
}
