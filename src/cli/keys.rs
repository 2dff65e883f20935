//! `regrow key`.

use std::fmt::Write;

use clap::Subcommand;
use regrow::repository::{KeysReport, SlotKind, SlotState, Unlock, add_keys, list_keys, remove_key, rotate_keys};
use regrow::secret::SecretRef;
use regrow::{Result, Workspace};

use super::printer::Printer;
use super::settings::Settings;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// List the key slots: what opens the repository
    List,
    /// Add a slot, so that another passphrase or key opens the repository too
    Add {
        /// The new passphrase: env:NAME, file:PATH or cmd:COMMAND (repeatable)
        #[arg(long, value_name = "REF")]
        new_passphrase: Vec<SecretRef>,
        /// The new key of 32 bytes in hexadecimal or base64: env:NAME, file:PATH or cmd:COMMAND (repeatable)
        #[arg(long, value_name = "REF")]
        new_key: Vec<SecretRef>,
    },
    /// Remove a slot; its passphrase or key opens the repository no more
    Remove {
        /// Slot id, or the beginning of one
        #[arg(value_name = "ID")]
        slot: String,
    },
    /// Make a new repository key for everything written from now on, and remove every slot but those named here
    Rotate {
        /// A further passphrase that keeps opening the repository (repeatable)
        #[arg(long, value_name = "REF")]
        also: Vec<SecretRef>,
        /// A further key that keeps opening the repository (repeatable)
        #[arg(long, value_name = "REF")]
        also_key: Vec<SecretRef>,
    },
}

pub(crate) async fn run(settings: &Settings, printer: &Printer, action: KeyAction) -> Result<u8> {
    let workspace = settings.workspace()?;
    let unlock = workspace.unlock().await?;
    let report = match action {
        KeyAction::List => list_keys(workspace.locked_repository().await?, &unlock).await?,
        KeyAction::Add { new_passphrase, new_key } => {
            let new = resolve(&workspace, new_passphrase, new_key).await?;
            add_keys(&workspace.repository().await?, &unlock, &new).await?
        }
        KeyAction::Remove { slot } => remove_key(&workspace.repository().await?, &unlock, &slot).await?,
        KeyAction::Rotate { also, also_key } => {
            let also = resolve(&workspace, also, also_key).await?;
            rotate_keys(&workspace.repository().await?, &unlock, &also).await?
        }
    };
    settings.end_progress();
    printer.report(&report, || view(printer, &report))?;
    Ok(report.exit_code)
}

async fn resolve(workspace: &Workspace, passphrases: Vec<SecretRef>, keys: Vec<SecretRef>) -> Result<Vec<Unlock>> {
    let mut unlocks = Vec::new();
    for reference in passphrases {
        unlocks.push(Unlock::new(workspace.secret(Some(reference)).await?, None));
    }
    for reference in keys {
        unlocks.push(Unlock::new(None, workspace.secret(Some(reference)).await?));
    }
    Ok(unlocks)
}

fn view(p: &Printer, r: &KeysReport) -> String {
    if !r.encrypted {
        return format!("{} is not encrypted\n", r.repository);
    }
    let mut out = String::new();
    for id in &r.added {
        let _ = writeln!(out, "added {id}");
    }
    for id in &r.removed {
        let _ = writeln!(out, "removed {id}");
    }
    if let ("rotate", Some(key)) = (r.action, r.newest_key) {
        let _ = writeln!(out, "everything new is encrypted with key {key}; what is there stays readable");
    }
    let rows: Vec<Vec<String>> = r
        .slots
        .iter()
        .map(|slot| {
            let kind = match slot.kind {
                Some(SlotKind::Passphrase) => "passphrase",
                Some(SlotKind::Key) => "key",
                None => "-",
            };
            let state = match slot.state {
                SlotState::Opens => "opens with what was given",
                SlotState::Another => "opens with another",
                SlotState::Outdated => "lacks newer keys",
                SlotState::Foreign => "not made by an owner",
                SlotState::Damaged => "damaged",
                SlotState::Unknown => "unknown: not opened",
            };
            let created = slot.created.map_or_else(|| "-".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string());
            let keys: Vec<String> = slot.keys.iter().map(ToString::to_string).collect();
            vec![slot.id.clone(), kind.to_owned(), created, keys.join(" "), state.to_owned()]
        })
        .collect();
    out + &p.table(&["slot", "kind", "created", "keys", "state"], &[], &rows)
}
