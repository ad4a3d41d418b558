//! `fairlead stdio`: one client on standard streams, served by a gateway.
//!
//! A client that can only start programs gets the same gateway as everybody else: the one that runs
//! on the configuration's data directory. When none runs, one is started in the background and left
//! running while anybody uses it, so that the servers behind it exist once and not once per client.

mod bridge;
mod outbox;
mod session;

use crate::{
    cli,
    configuration::{self, Origin},
    control,
    failure::{Exit, Failure},
    instance,
    private::Private,
    reach::Reach,
    runtime,
};
use bytes::Bytes;
use fairlead_core::Code;
use fairlead_observe::logging;
use http::Request;
use http_body_util::{BodyExt, Full};
use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{self, Instant},
};

/// How long a gateway in the background may take until it answers. It does not wait for its servers.
const START: Duration = Duration::from_secs(20);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(25);
/// When ours ended because another one was first, how long that one may take.
const OTHER: Duration = Duration::from_secs(5);
/// What a gateway in the background logs goes there, in the data directory.
const LOG_FILE: &str = "background.log";
/// How much of that is shown when it fails.
const LOG_SHOWN: u64 = 4096;
/// A longer log is begun anew at the next start.
const LOG_KEPT: u64 = 1 << 20;
/// Pause before an attachment that broke is made again.
const ATTACH_AGAIN: Duration = Duration::from_secs(1);

/// Bridges standard streams to a gateway.
pub(crate) fn run(arguments: &cli::Stdio) -> Result<Exit, Failure> {
    // stdout belongs to the protocol; a bridge without a log is still a bridge.
    let _ = logging::init("warn", false, configuration::colour());
    runtime::control(async {
        if let Some(url) = &arguments.which.url {
            bridge(Reach::url(url)?).await?;
            return Ok(Exit::Ok);
        }
        let files = &arguments.which.files.config;
        let (origin, config) = configuration::load(files)?;
        if arguments.private {
            let private = Private::open(config).await?;
            let served = bridge(private.reach()).await;
            private.close().await;
            return served.map(|()| Exit::Ok);
        }
        let reach = match instance::find(&config.data_dir).await {
            Some((_, reach)) => reach,
            None => start(&origin, &config.data_dir).await?,
        };
        let attached = tokio::spawn(attach(reach.clone()));
        let served = bridge(reach).await;
        attached.abort();
        served.map(|()| Exit::Ok)
    })
}

/// Serves until the client closes its end or the program is told to stop.
async fn bridge(reach: Reach) -> Result<(), Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::new(Code::Internal, "cannot listen to signals").because(&error));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    bridge::run(reach, tokio::io::stdin(), tokio::io::stdout(), stop).await;
    Ok(())
}

/// Starts a gateway in the background and waits until it, or another one that was faster, answers.
async fn start(origin: &Origin, data_dir: &Path) -> Result<Reach, Failure> {
    let (mut child, log, before) = spawn(origin, data_dir)
        .map_err(|error| Failure::new(Code::DataDir, "cannot start a gateway in the background").because(&error))?;
    let mut until = Instant::now() + START;
    let mut ended = false;
    while Instant::now() < until {
        if let Some((instance, reach)) = instance::find(data_dir).await {
            if instance.pid == child.id() {
                eprintln!(
                    "note: started a gateway in the background (process {}); its log is {}",
                    instance.pid,
                    log.display()
                );
            }
            return Ok(reach);
        }
        if !ended && matches!(child.try_wait(), Ok(Some(_))) {
            ended = true;
            until = Instant::now() + OTHER;
        }
        time::sleep(LOOK).await;
    }
    let mut said = String::new();
    if let Ok(mut file) = fs::File::open(&log)
        && file.seek(SeekFrom::Start(before)).is_ok()
    {
        // What is not UTF-8 is not shown; the file is named below.
        let _ = file.take(LOG_SHOWN).read_to_string(&mut said);
    }
    eprint!("{said}");
    Err(Failure::unreachable("the gateway that was started in the background does not answer")
        .hint(format!("its log is {}; `fairlead up` shows what it does", log.display())))
}

fn spawn(origin: &Origin, data_dir: &Path) -> std::io::Result<(Child, PathBuf, u64)> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let path = data_dir.join(LOG_FILE);
    let log = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
    let mut before = log.metadata()?.len();
    if before > LOG_KEPT {
        log.set_len(0)?;
        before = 0;
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["up", "--background"]);
    if let Origin::Files(files) = origin {
        for file in files {
            command.arg("-c").arg(file);
        }
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
    Ok((child, path, before))
}

/// Lets a gateway in the background know, for as long as this task runs, that it is needed.
async fn attach(reach: Reach) {
    loop {
        let mut request = Request::new(Full::new(Bytes::new()));
        if let Ok(path) = control::attach_path().parse() {
            *request.uri_mut() = path;
        }
        if let Ok(response) = reach.send(request).await {
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
        time::sleep(ATTACH_AGAIN).await;
    }
}
