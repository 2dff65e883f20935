//! Collections and aliases.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use qdrant_client::qdrant as q;
use qdrant_client::qdrant::alias_operations::Action;
use qdrant_client::qdrant::collections_server::Collections;
use qdrant_client::qdrant::quantization_config::Quantization;
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_edge::{
    Distance, EdgeConfig, EdgeOptimizersConfig, EdgeVectorParams, HnswIndexConfig, QuantizationConfig,
    ScalarQuantizationConfig, ScalarType, WalOptions,
};
use tonic::{Request, Response, Status};

use super::shard::directory;
use super::{Double, Held, Shard, only, words};

type Answer<T> = Result<Response<T>, Status>;

fn done(result: bool) -> Answer<q::CollectionOperationResponse> {
    Ok(Response::new(q::CollectionOperationResponse { result, time: 0.0 }))
}

fn not_here<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("the double does not serve {what}")))
}

/// The configuration of the engine.
fn engine(info: &q::CollectionInfo) -> Result<(EdgeConfig, u64), Status> {
    let config = info.config.clone().unwrap_or_default();
    let params = config.params.unwrap_or_default();
    let (name, vector) = match params.vectors_config.and_then(|vectors| vectors.config) {
        Some(Config::Params(vector)) => (String::new(), vector),
        Some(Config::ParamsMap(map)) if map.map.len() == 1 => map.map.into_iter().next().unwrap(),
        _ => return not_here("several vectors"),
    };
    #[expect(deprecated, reason = "the fields of this version")]
    let served = q::VectorParams {
        size: vector.size,
        distance: vector.distance,
        on_disk: vector.on_disk,
        ..q::VectorParams::default()
    };
    only(&vector, &served)?;
    let distance = match vector.distance() {
        q::Distance::Cosine => Distance::Cosine,
        q::Distance::Dot => Distance::Dot,
        q::Distance::Euclid => Distance::Euclid,
        _ => return not_here("this distance"),
    };
    if vector.size == 0 || vector.size > 65_536 {
        return Err(Status::invalid_argument("value must be from 1 to 65536"));
    }
    let size = usize::try_from(vector.size).unwrap();
    let number = |value: Option<u64>, otherwise: usize| value.map_or(otherwise, |n| usize::try_from(n).unwrap());
    let hnsw = config.hnsw_config.unwrap_or_default();
    let threads = match number(hnsw.max_indexing_threads, 0) {
        0 => 2,
        threads => threads,
    };
    #[expect(deprecated, reason = "the fields of this version")]
    let hnsw = HnswIndexConfig {
        m: number(hnsw.m, 16),
        ef_construct: number(hnsw.ef_construct, 100),
        full_scan_threshold: number(hnsw.full_scan_threshold, 10_000),
        max_indexing_threads: threads,
        on_disk: hnsw.on_disk,
        payload_m: hnsw.payload_m.map(|n| usize::try_from(n).unwrap()),
        inline_storage: hnsw.inline_storage,
    };
    let optimizers = EdgeOptimizersConfig {
        default_segment_number: Some(2),
        max_segment_size: Some(usize::MAX >> 12),
        indexing_threshold: Some(usize::MAX >> 12),
        ..EdgeOptimizersConfig::default()
    };
    #[expect(deprecated, reason = "the fields of this version")]
    let on_disk = (params.on_disk_payload, vector.on_disk.unwrap_or(false));
    let log = WalOptions { segment_capacity: 1 << 20, ..WalOptions::default() };
    let mut builder = EdgeConfig::builder()
        .on_disk_payload(on_disk.0)
        .vector(name, EdgeVectorParams::builder(size, distance).on_disk(on_disk.1).build())
        .hnsw_config(hnsw)
        .optimizers(optimizers)
        .wal_options(log);
    match config.quantization_config.and_then(|config| config.quantization) {
        None => {}
        #[expect(deprecated, reason = "the fields of this version")]
        Some(Quantization::Scalar(scalar)) if scalar.memory.is_none() => {
            builder = builder.quantization_config(QuantizationConfig::from(ScalarQuantizationConfig {
                r#type: ScalarType::Int8,
                quantile: scalar.quantile,
                always_ram: scalar.always_ram,
            }));
        }
        Some(_) => return not_here("this quantization"),
    }
    Ok((builder.build(), vector.size))
}

fn threshold(info: &q::CollectionInfo) -> u64 {
    let optimizers = info.config.as_ref().and_then(|config| config.optimizer_config.as_ref());
    optimizers.and_then(|optimizers| optimizers.indexing_threshold).unwrap_or(0)
}

/// Makes or opens the shards of a collection.
pub fn open(path: PathBuf, info: q::CollectionInfo) -> Held {
    let (config, dimension) = engine(&info).expect("it was made by this double");
    let shards = info.config.as_ref().and_then(|config| config.params.as_ref()).map_or(1, |params| params.shard_number);
    let shards =
        (0..shards).map(|n| Shard::open(&directory(&path, n), config.clone(), dimension, threshold(&info))).collect();
    Held { directory: path, info: Mutex::new(info), shards }
}

/// What is set here over what is there.
macro_rules! merge {
    ($new:expr, $old:expr, [$($field:ident),* $(,)?]) => {
        $($old.$field = $new.$field.or($old.$field);)*
    };
}

fn merge_optimizers(new: &q::OptimizersConfigDiff, old: &mut q::OptimizersConfigDiff) -> Result<(), Status> {
    if new.deprecated_max_optimization_threads.is_some() {
        return not_here("a deprecated field");
    }
    merge!(
        new,
        old,
        [
            deleted_threshold,
            vacuum_min_vector_number,
            default_segment_number,
            max_segment_size,
            memmap_threshold,
            indexing_threshold,
            flush_interval_sec,
            max_optimization_threads,
            prevent_unoptimized,
        ]
    );
    Ok(())
}

fn made(double: &Double, request: &q::CreateCollection) -> Result<q::CollectionInfo, Status> {
    #[expect(deprecated, reason = "the fields of this version")]
    let served = q::CreateCollection {
        collection_name: request.collection_name.clone(),
        hnsw_config: request.hnsw_config,
        wal_config: request.wal_config,
        optimizers_config: request.optimizers_config,
        shard_number: request.shard_number,
        on_disk_payload: request.on_disk_payload,
        vectors_config: request.vectors_config.clone(),
        replication_factor: request.replication_factor,
        write_consistency_factor: request.write_consistency_factor,
        quantization_config: request.quantization_config,
        metadata: request.metadata.clone(),
        ..q::CreateCollection::default()
    };
    only(request, &served)?;
    let mut optimizers = q::OptimizersConfigDiff {
        deleted_threshold: Some(0.2),
        vacuum_min_vector_number: Some(1000),
        default_segment_number: Some(0),
        indexing_threshold: Some(10_000),
        flush_interval_sec: Some(5),
        max_optimization_threads: Some(q::MaxOptimizationThreads {
            variant: Some(q::max_optimization_threads::Variant::Setting(0)),
        }),
        ..q::OptimizersConfigDiff::default()
    };
    merge_optimizers(&request.optimizers_config.unwrap_or_default(), &mut optimizers)?;
    #[expect(deprecated, reason = "the fields of this version")]
    let mut hnsw = q::HnswConfigDiff {
        m: Some(16),
        ef_construct: Some(100),
        full_scan_threshold: Some(10_000),
        max_indexing_threads: Some(0),
        on_disk: Some(false),
        ..q::HnswConfigDiff::default()
    };
    if let Some(new) = request.hnsw_config {
        if new.memory.is_some() {
            return not_here("memory placement");
        }
        #[expect(deprecated, reason = "the fields of this version")]
        {
            merge!(
                new,
                hnsw,
                [m, ef_construct, full_scan_threshold, max_indexing_threads, on_disk, payload_m, inline_storage]
            );
        }
    }
    let mut wal =
        q::WalConfigDiff { wal_capacity_mb: Some(32), wal_segments_ahead: Some(0), wal_retain_closed: Some(1) };
    if let Some(new) = request.wal_config {
        merge!(new, wal, [wal_capacity_mb, wal_segments_ahead, wal_retain_closed]);
    }
    #[expect(deprecated, reason = "the fields of this version")]
    let params = q::CollectionParams {
        shard_number: request.shard_number.unwrap_or(double.0.settings.shards),
        on_disk_payload: request.on_disk_payload.unwrap_or(true),
        vectors_config: request.vectors_config.clone(),
        replication_factor: Some(request.replication_factor.unwrap_or(1)),
        write_consistency_factor: Some(request.write_consistency_factor.unwrap_or(1)),
        ..q::CollectionParams::default()
    };
    let mut metadata = request.metadata.clone();
    metadata.retain(|_, value| !is_null(value));
    let config = q::CollectionConfig {
        params: Some(params),
        hnsw_config: Some(hnsw),
        optimizer_config: Some(optimizers),
        wal_config: Some(wal),
        quantization_config: request.quantization_config,
        metadata,
        ..q::CollectionConfig::default()
    };
    Ok(q::CollectionInfo { config: Some(config), ..q::CollectionInfo::default() })
}

fn is_null(value: &q::Value) -> bool {
    words::json(value.clone()).is_ok_and(|value| value.is_null())
}

/// The file system's names are not the collections'.
fn path_for(root: &Path, name: &str) -> PathBuf {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    let path = root.join("collections").join(unique);
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("name"), name).unwrap();
    path
}

impl Double {
    /// Everything that a collection says now.
    fn told(&self, held: &Held) -> q::CollectionInfo {
        let mut info = held.info().clone();
        let engines: Vec<_> = held.shards.iter().map(|shard| shard.engine().info()).collect();
        let sum = |of: fn(&qdrant_edge::ShardInfo) -> usize| Some(engines.iter().map(|e| of(e) as u64).sum());
        // The worst of all shards: the numbers of the statuses are not in this order.
        let worst = |status: &q::CollectionStatus| match status {
            q::CollectionStatus::Green => 0,
            q::CollectionStatus::Yellow => 1,
            q::CollectionStatus::Grey => 2,
            _ => 3,
        };
        let status = held.shards.iter().map(|shard| shard.status()).max_by_key(worst).unwrap_or_default();
        info.status = status.into();
        info.optimizer_status = Some(q::OptimizerStatus { ok: true, error: String::new() });
        info.segments_count = sum(|e| e.segments_count).unwrap_or(0);
        info.points_count = sum(|e| e.points_count);
        info.indexed_vectors_count = sum(|e| e.indexed_vectors_count);
        let length = held.shards.iter().map(|shard| shard.waiting()).sum();
        info.update_queue = Some(q::UpdateQueueInfo { length, deferred_points: None });
        info
    }

    fn change(&self, request: &q::UpdateCollection) -> Result<(), Status> {
        let served = q::UpdateCollection {
            collection_name: request.collection_name.clone(),
            optimizers_config: request.optimizers_config,
            params: request.params,
            strict_mode_config: request.strict_mode_config.clone(),
            metadata: request.metadata.clone(),
            ..q::UpdateCollection::default()
        };
        only(request, &served)?;
        let held = self.state().collections.get(&request.collection_name).cloned();
        let held = held.ok_or_else(|| Status::not_found("Not found: there is no such collection"))?;
        let mut info = held.info();
        let mut new = info.clone();
        let config = new.config.get_or_insert_default();
        if let Some(optimizers) = &request.optimizers_config {
            merge_optimizers(optimizers, config.optimizer_config.get_or_insert_default())?;
        }
        if let Some(params) = &request.params {
            let served = q::CollectionParamsDiff {
                read_fan_out_factor: params.read_fan_out_factor,
                read_fan_out_delay_ms: params.read_fan_out_delay_ms,
                ..q::CollectionParamsDiff::default()
            };
            only(params, &served)?;
            merge!(params, config.params.get_or_insert_default(), [read_fan_out_factor, read_fan_out_delay_ms]);
        }
        if let Some(strict) = &request.strict_mode_config {
            config.strict_mode_config = Some(strict.clone());
        }
        for (key, value) in &request.metadata {
            match is_null(value) {
                true => drop(config.metadata.remove(key)),
                false => drop(config.metadata.insert(key.clone(), value.clone())),
            }
        }
        held.save(&new);
        *info = new;
        if request.optimizers_config.is_some() {
            held.shards.iter().for_each(|shard| shard.optimize(threshold(&info)));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Collections for Double {
    async fn get(&self, request: Request<q::GetCollectionInfoRequest>) -> Answer<q::GetCollectionInfoResponse> {
        let held = self.held(&request.into_inner().collection_name)?;
        Ok(Response::new(q::GetCollectionInfoResponse { result: Some(self.told(&held)), time: 0.0 }))
    }

    async fn list(&self, _: Request<q::ListCollectionsRequest>) -> Answer<q::ListCollectionsResponse> {
        let names: Vec<String> = self.state().collections.keys().cloned().collect();
        let collections = names.into_iter().map(|name| q::CollectionDescription { name }).collect();
        Ok(Response::new(q::ListCollectionsResponse { collections, time: 0.0 }))
    }

    async fn create(&self, request: Request<q::CreateCollection>) -> Answer<q::CollectionOperationResponse> {
        let request = request.into_inner();
        let name = &request.collection_name;
        if name.is_empty() || name.len() > 255 || name.contains(['/', '\0']) {
            return Err(Status::invalid_argument("Validation error in body: [collection_name]"));
        }
        let mut state = self.state();
        if state.collections.contains_key(name) {
            return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
        }
        if state.aliases.contains_key(name) {
            return Err(Status::invalid_argument("Wrong input: Alias with the same name already exists"));
        }
        let info = made(self, &request)?;
        engine(&info)?;
        let held = open(path_for(&self.0.settings.directory, name), info.clone());
        held.save(&info);
        state.collections.insert(name.clone(), Arc::new(held));
        done(true)
    }

    async fn update(&self, request: Request<q::UpdateCollection>) -> Answer<q::CollectionOperationResponse> {
        self.change(&request.into_inner())?;
        done(true)
    }

    async fn delete(&self, request: Request<q::DeleteCollection>) -> Answer<q::CollectionOperationResponse> {
        let request = request.into_inner();
        let mut state = self.state();
        state.aliases.retain(|_, collection| *collection != request.collection_name);
        self.save_aliases(&state);
        let Some(held) = state.collections.remove(&request.collection_name) else { return done(false) };
        std::fs::remove_file(held.directory.join("info")).unwrap();
        done(true)
    }

    async fn update_aliases(&self, request: Request<q::ChangeAliases>) -> Answer<q::CollectionOperationResponse> {
        let mut state = self.state();
        for action in request.into_inner().actions {
            match action.action {
                Some(Action::CreateAlias(create)) => {
                    if !state.collections.contains_key(&create.collection_name) {
                        return Err(Status::not_found("Not found: there is no such collection"));
                    }
                    if state.collections.contains_key(&create.alias_name) {
                        return Err(Status::already_exists("Wrong input: a collection has this name"));
                    }
                    state.aliases.insert(create.alias_name, create.collection_name);
                }
                Some(Action::DeleteAlias(delete)) => drop(state.aliases.remove(&delete.alias_name)),
                _ => return not_here("this action"),
            }
            self.save_aliases(&state);
        }
        done(true)
    }

    async fn list_aliases(&self, _: Request<q::ListAliasesRequest>) -> Answer<q::ListAliasesResponse> {
        let state = self.state();
        let aliases = state.aliases.iter().map(|(alias, collection)| q::AliasDescription {
            alias_name: alias.clone(),
            collection_name: collection.clone(),
        });
        Ok(Response::new(q::ListAliasesResponse { aliases: aliases.collect(), time: 0.0 }))
    }

    async fn list_collection_aliases(
        &self,
        _: Request<q::ListCollectionAliasesRequest>,
    ) -> Answer<q::ListAliasesResponse> {
        not_here("aliases of one collection")
    }

    async fn collection_cluster_info(
        &self,
        _: Request<q::CollectionClusterInfoRequest>,
    ) -> Answer<q::CollectionClusterInfoResponse> {
        not_here("clusters")
    }

    async fn collection_exists(&self, _: Request<q::CollectionExistsRequest>) -> Answer<q::CollectionExistsResponse> {
        not_here("this question")
    }

    async fn update_collection_cluster_setup(
        &self,
        _: Request<q::UpdateCollectionClusterSetupRequest>,
    ) -> Answer<q::UpdateCollectionClusterSetupResponse> {
        not_here("clusters")
    }

    async fn create_shard_key(&self, _: Request<q::CreateShardKeyRequest>) -> Answer<q::CreateShardKeyResponse> {
        not_here("shard keys")
    }

    async fn delete_shard_key(&self, _: Request<q::DeleteShardKeyRequest>) -> Answer<q::DeleteShardKeyResponse> {
        not_here("shard keys")
    }

    async fn list_shard_keys(&self, _: Request<q::ListShardKeysRequest>) -> Answer<q::ListShardKeysResponse> {
        not_here("shard keys")
    }
}
