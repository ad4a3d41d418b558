//! A stand-in for the program: the guard, and a "gateway" that starts one command under it and can be killed.
//!
//! `guard gateway|subreaper COMMAND ARGS...` starts the command, prints `guard PID`, passes on what the command writes and
//! prints `status N` when all is over; it closes the command's stdin only then, and ends by itself in two minutes at most.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use fairlead_process::{Child, ChildSpec, GUARD_SUBCOMMAND, GuardBinary, become_subreaper, guard_main, spawn};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The tests kill it long before.
const LIFE_LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let role = args.next().unwrap_or_default();
    if role == GUARD_SUBCOMMAND {
        return guard_main(args);
    }
    let args: Vec<String> = args.map(|argument| argument.to_string_lossy().into_owned()).collect();
    match run(role == "subreaper", &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(subreaper: bool, args: &[String]) -> std::io::Result<()> {
    let [command, args @ ..] = args else { return Err(std::io::Error::other("usage: guard gateway COMMAND ARGS...")) };
    if subreaper {
        become_subreaper()?;
    }
    let spec = ChildSpec {
        command: command.clone(),
        args: args.to_vec(),
        env: std::env::vars().filter(|(name, _)| name == "TEST_MARK").collect(),
        cwd: None,
        stop_grace: Duration::from_secs(30),
        guard: GuardBinary::current()?,
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let Child { stdin, stdout, stderr, mut process } = spawn(&spec)?;
        println!("guard {}", process.pid());
        let output = async { tokio::join!(pass_on(stdout, std::io::stdout()), pass_on(stderr, std::io::stderr())) };
        let all = async { tokio::join!(output, process.wait()) };
        match tokio::time::timeout(LIFE_LIMIT, all).await {
            Ok((_, status)) => println!("status {status:?}"),
            Err(_) => println!("gave up"),
        }
        drop(stdin);
        Ok::<(), std::io::Error>(())
    })?;
    // Stays, so that what is gone by then is not gone because of its own end.
    std::thread::sleep(LIFE_LIMIT);
    Ok(())
}

/// Writes at once and blocking, so that nothing is lost when the stand-in is killed.
async fn pass_on(mut reader: impl AsyncRead + Unpin, mut writer: impl Write) -> std::io::Result<()> {
    let mut chunk = vec![0; 8192];
    loop {
        let length = reader.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        writer.write_all(&chunk[..length])?;
        writer.flush()?;
    }
}
