//! The command line: what is typed becomes settings once, verbs call the library, results are printed.

mod args;
mod bench;
mod copy;
mod diff;
mod doctor;
mod extract;
mod format;
mod keys;
mod models;
mod printer;
mod progress;
mod quickstart;
mod repair;
mod retention;
mod rollback;
mod settings;
mod terminal;
mod verbs;
mod verify;
mod views;

use std::process::ExitCode;

use clap::Parser;
use regrow::cancel::Cancel;
use regrow::{Error, ErrorKind};

use args::{Cli, Verb};
use printer::Printer;
use settings::Settings;
use terminal::Terminal;

/// Runs the process; returns its exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let terminal = Terminal::detect();
    let printer = Printer::new(cli.global.json, terminal);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return finish(&printer, Err(Error::from(e))),
    };
    let cancel = Cancel::default();
    let outcome = runtime.block_on(async {
        tokio::spawn(on_signals(cancel.clone()));
        dispatch(cli, &printer, &terminal, cancel).await
    });
    // Blocking work that was abandoned must not hold the process.
    runtime.shutdown_background();
    finish(&printer, outcome)
}

/// The first Ctrl-C or TERM asks the run to stop at a safe point; the second ends the process at once, which
/// loses nothing that was committed.
async fn on_signals(cancel: Cancel) {
    let exit = || std::process::exit(i32::from(ErrorKind::Cancelled.exit_code()));
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
        loop {
            tokio::select! {
                done = tokio::signal::ctrl_c() => if done.is_err() { return },
                _ = terminate.recv() => {}
            }
            if cancel.is_cancelled() {
                exit();
            }
            cancel.cancel();
        }
    }
    #[cfg(not(unix))]
    while tokio::signal::ctrl_c().await.is_ok() {
        if cancel.is_cancelled() {
            exit();
        }
        cancel.cancel();
    }
}

async fn dispatch(cli: Cli, printer: &Printer, terminal: &Terminal, cancel: Cancel) -> regrow::Result<u8> {
    let settings = Settings::resolve(cli.global, terminal, cancel)?;
    match cli.verb {
        Verb::Init(args) => verbs::init(&settings, printer, &args),
        Verb::Plan(args) => verbs::plan(&settings, printer, &args.choice, args.documents).await,
        Verb::Snapshot(args) => verbs::snapshot(&settings, printer, &args).await,
        Verb::Restore(args) => verbs::restore(&settings, printer, &args).await,
        Verb::Drill(args) => verbs::drill(&settings, printer, &args).await,
        Verb::Extract(args) => extract::run(&settings, printer, &args).await,
        Verb::Verify(args) => verify::run(&settings, printer, &args).await,
        Verb::Repair(args) => repair::run(&settings, printer, &args).await,
        Verb::Copy(args) => copy::run(&settings, printer, &args).await,
        Verb::Forget(args) => retention::forget(&settings, printer, &args).await,
        Verb::Prune(args) => retention::prune(&settings, printer, &args).await,
        Verb::Unlock(args) => retention::unlock(&settings, printer, &args).await,
        Verb::Rollback(args) => rollback::run(&settings, printer, &args).await,
        Verb::Status => verbs::status(&settings, printer).await,
        Verb::Diff(args) => diff::run(&settings, printer, &args).await,
        Verb::List => verbs::list(&settings, printer).await,
        Verb::Show(args) => verbs::show(&settings, printer, &args).await,
        Verb::Query(args) => verbs::query(&settings, printer, &args).await,
        Verb::Key { action } => keys::run(&settings, printer, action).await,
        Verb::Models(args) => models::run(&settings, printer, args.action).await,
        Verb::Bench(args) => bench::run(&settings, printer, args).await,
        Verb::Doctor => doctor::run(&settings, printer).await,
        Verb::Completions { shell } => verbs::completions(printer, shell),
        Verb::Quickstart(args) => quickstart::run(&settings, printer, &args).await,
    }
}

fn finish(printer: &Printer, outcome: regrow::Result<u8>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => ExitCode::from(printer.error(&error)),
    }
}

/// Help and version go to stdout with code 0; a wrong command line is an error like any other.
fn usage(e: &clap::Error) -> ExitCode {
    if !e.use_stderr() {
        drop(e.print());
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().any(|a| a == "--json") {
        let text = e.to_string();
        // Up to the first empty line; what is missing stands on lines of its own.
        let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        let message = lines.join(" ").trim_start_matches("error: ").to_owned();
        let error =
            Error::new(ErrorKind::Configuration, message).guidance("`regrow --help` shows the verbs and options");
        Printer::new(true, Terminal::detect()).error(&error);
    } else {
        drop(e.print());
    }
    ExitCode::from(ErrorKind::Configuration.exit_code())
}
