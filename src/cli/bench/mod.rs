//! `regrow bench`: what this machine, and the pipeline's target, can do.

mod embed;
mod load;

use regrow::Result;

use super::args::{BenchArgs, BenchWhat};
use super::printer::Printer;
use super::settings::Settings;

pub(crate) async fn run(settings: &Settings, printer: &Printer, args: BenchArgs) -> Result<u8> {
    match args.what {
        BenchWhat::Embed(args) => embed::run(settings, printer, args).await,
        BenchWhat::Load(args) => load::run(settings, printer, &args).await,
    }
}
