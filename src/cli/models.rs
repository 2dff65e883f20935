//! `regrow models`.

use regrow::Result;
use regrow::embed::{Device, place_of};
use regrow::model::ModelCard;
use serde_json::json;

use super::args::ModelsAction;
use super::printer::Printer;
use super::settings::Settings;
use super::views;

pub(crate) async fn run(settings: &Settings, printer: &Printer, action: Option<ModelsAction>) -> Result<u8> {
    match action.unwrap_or(ModelsAction::List) {
        ModelsAction::List => {
            let store = settings.models();
            let cards: Vec<_> = ModelCard::all()?
                .into_iter()
                .map(|card| {
                    let cached = store.cached(&card).is_some();
                    (card, cached)
                })
                .collect();
            let list: Vec<_> = cards.iter().map(|(card, cached)| json!({ "card": card, "cached": cached })).collect();
            let report = json!({
                "verb": "models", "ok": true, "exit_code": 0,
                "cache": settings.cache().display().to_string(), "models": list,
            });
            settings.end_progress();
            printer.report(&report, || views::models(printer, &cards))?;
        }
        ModelsAction::Show { name } => {
            let card = ModelCard::find(&name)?;
            let cached = settings.models().cached(&card).map(|files| files.directory.display().to_string());
            let report = json!({ "verb": "models", "ok": true, "exit_code": 0, "card": card, "cached": cached });
            settings.end_progress();
            printer.report(&report, || views::model(&card, cached.as_deref()))?;
        }
        ModelsAction::Fetch { name, source } => {
            let card = ModelCard::find(&name)?;
            let files = settings.models().get(&card, source.as_deref(), &settings.events).await?;
            let context = files.context(place_of(Device::Auto, None)?.1)?;
            let fingerprint = context.fingerprint()?;
            let report = json!({
                "verb": "models", "ok": true, "exit_code": 0, "model": card.name,
                "directory": files.directory.display().to_string(), "context": context, "fingerprint": fingerprint,
            });
            settings.end_progress();
            printer.report(&report, || {
                format!("{} is in {}\nfingerprint {}\n", card.name, files.directory.display(), fingerprint.short())
            })?;
        }
    }
    Ok(0)
}
