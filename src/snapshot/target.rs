//! The target as a snapshot records it.

use std::sync::Arc;

use crate::embed::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::TargetKind;
use crate::repository::TargetRecord;
use crate::validate::{GoldenBaseline, load_golden, record_baseline};
use crate::workspace::{EngineQueries, Workspace};

/// The target's configuration as the pipeline has it, when the live collection is not looked at.
pub(super) fn unreached(workspace: &Workspace) -> TargetRecord {
    let target = &workspace.pipeline.target;
    TargetRecord {
        kind: target.kind.name().to_owned(),
        collection: workspace.pipeline.collection().to_owned(),
        index: target.index.clone(),
        payload_indexes: target.payload_indexes.clone(),
        live_count: None,
        live_collection: None,
        server: None,
        tenants: None,
        roles: Vec::new(),
        own: target.own(),
    }
}

/// The live collection's state and what golden queries find in it, where there is one.
pub(super) async fn live(
    workspace: &Workspace,
    engine: &Arc<Engine>,
) -> Result<(TargetRecord, Option<GoldenBaseline>)> {
    let mut record = unreached(workspace);
    if workspace.pipeline.target.kind == TargetKind::Memory {
        return Ok((record, None));
    }
    let described = match workspace.target() {
        Ok(target) => match target.describe(workspace.pipeline.collection()).await {
            Ok(Some(info)) => Some((target, info)),
            Ok(None) => None,
            Err(e) => return Ok(unreachable(workspace, record, &e)),
        },
        Err(e) if matches!(e.kind(), ErrorKind::Target | ErrorKind::Denied) => {
            return Ok(unreachable(workspace, record, &e));
        }
        Err(e) => return Err(e),
    };
    let Some((target, info)) = described else { return Ok((record, None)) };
    record.index = info.index.clone();
    if workspace.pipeline.target.kind.is_server() {
        match target.server().await {
            Ok(server) => record.server = Some(server),
            Err(e) => return Ok(unreachable(workspace, record, &e)),
        }
        record.tenants = Some(info.tenants.clone());
        record.roles = info.roles.clone();
        record.own = info.own.clone();
    }
    record.live_count = Some(info.count);
    record.live_collection = Some(info.name.clone());
    let Some(golden) = &workspace.pipeline.validation.golden else { return Ok((record, None)) };
    let queries = load_golden(&workspace.base.join(golden))?;
    let same_model = match &info.marker {
        Some(marker) => marker.model_fingerprint == engine.context().fingerprint()?,
        None => info.dimension == engine.context().dimension as usize,
    };
    if !same_model {
        workspace.events.warn("no golden-query baseline: the live collection was made with another model");
        return Ok((record, None));
    }
    let settings = &workspace.pipeline.validation;
    let baseline =
        record_baseline(target.as_ref(), &info.name, &EngineQueries(engine.clone()), &queries, settings.k).await?;
    Ok((record, Some(baseline)))
}

fn unreachable(workspace: &Workspace, record: TargetRecord, error: &Error) -> (TargetRecord, Option<GoldenBaseline>) {
    workspace.events.warn(format!("the live collection could not be read, so its state is not recorded: {error}"));
    (record, None)
}
