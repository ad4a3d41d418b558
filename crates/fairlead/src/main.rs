//! The `fairlead` program: command line, wiring, start, drain and exit codes.
//!
//! Each command is a module with one entry; `main` hands over and turns the outcome into an exit
//! code ([`failure::Exit`] is the one place where those are decided). No rule of the gateway lives
//! here: what a call may do is decided below, in the crates this one puts together.

mod admin;
mod bench;
mod breaker;
mod cache;
mod call;
mod check;
mod cli;
mod configuration;
mod control;
mod demo;
mod explain;
mod failure;
mod faults;
mod import;
mod install;
mod instance;
mod instances;
mod linger;
mod listing;
mod mcp;
mod output;
mod private;
mod reach;
mod reload;
mod runtime;
mod serve;
mod stdio;
mod up;
mod wiring;

use clap::Parser;
use failure::{Exit, Failure};
use std::{ffi::OsStr, process::ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: a guard closes every descriptor it inherited and runs single-threaded.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() == Some(OsStr::new(fairlead_process::GUARD_SUBCOMMAND)) {
        return fairlead_process::guard_main(arguments);
    }
    let command = match cli::Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => {
            // Help and version are answers, on stdout; everything else is a mistake, on stderr. Nobody is left to be
            // told when neither can be written.
            let _ = error.print();
            return if error.use_stderr() { Exit::Failed } else { Exit::Ok }.into();
        }
    };
    match run(command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

fn run(command: cli::Command) -> Result<Exit, Failure> {
    match command {
        cli::Command::Up(arguments) => up::run(&arguments),
        cli::Command::Check(arguments) => check::run(&arguments),
        cli::Command::Schema => check::schema(),
        cli::Command::Stdio(arguments) => stdio::run(&arguments),
        cli::Command::Servers(arguments) => match &arguments.action {
            None => listing::servers(&arguments.listing),
            Some(cli::ServersAction::Breaker(action)) => breaker::run(action),
            Some(cli::ServersAction::Drain(action)) => instances::run(action, true),
            Some(cli::ServersAction::Undrain(action)) => instances::run(action, false),
        },
        cli::Command::Tools(arguments) => listing::items(&arguments, control::Kind::Tools),
        cli::Command::Resources(arguments) => listing::items(&arguments, control::Kind::Resources),
        cli::Command::Prompts(arguments) => listing::items(&arguments, control::Kind::Prompts),
        cli::Command::Call(arguments) => call::run(&arguments),
        cli::Command::Explain(arguments) => explain::run(&arguments),
        cli::Command::Cache(arguments) => cache::run(&arguments),
        cli::Command::Bench(arguments) => bench::run(&arguments),
        cli::Command::Faults(arguments) => faults::run(&arguments),
        cli::Command::Import(arguments) => import::run(&arguments),
        cli::Command::Install(arguments) => install::run(&arguments),
        cli::Command::DemoServer(arguments) => demo::serve(&arguments),
    }
}
