//! Seeded failures: each must be caught by the check that is there for it, and by no other than those it touches.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::double::Double;
use super::*;
use crate::ids::{ChunkId, Digest};
use crate::model::{Architecture, Dtype, Metric, Pooling};
use crate::pipeline::IndexSettings;
use crate::targets::{CollectionInfo, CollectionState, Marker, Purpose, field};
use crate::vectors::VectorRow;

const DIMENSION: usize = 48;
const ROWS: usize = 120;

/// A vector that depends on the text alone, of length 1: what a model is, as far as validation can see.
fn vector_of(text: &str, salt: &str) -> Vec<f32> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(salt.as_bytes()).update(text.to_lowercase().as_bytes());
    let mut bytes = [0; DIMENSION];
    hasher.finalize_xof().fill(&mut bytes);
    let v: Vec<f32> = bytes.iter().map(|b| f32::from(*b) - 127.5).collect();
    let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
    v.iter().map(|x| x / length).collect()
}

struct Hashing(&'static str);
impl QueryEmbedder for Hashing {
    fn embed(&self, _: bool, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        Ok(texts.iter().map(|t| vector_of(t, self.0)).collect())
    }
}

struct Parts(Vec<Vec<VectorRow>>);
#[async_trait]
impl VectorSource for Parts {
    fn parts(&self) -> usize {
        self.0.len()
    }
    fn rows(&self) -> u64 {
        self.0.iter().map(|p| p.len() as u64).sum()
    }
    async fn read(&self, part: usize) -> Result<Vec<VectorRow>> {
        Ok(self.0[part].clone())
    }
}

struct Inventory(BTreeSet<String>);
#[async_trait]
impl DocumentLookup for Inventory {
    async fn present(&self, ids: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        Ok(ids.intersection(&self.0).cloned().collect())
    }
}

fn context() -> ModelContext {
    ModelContext {
        name: "hashing".into(),
        weights: Digest::of(b"w"),
        tokenizer: Digest::of(b"t"),
        config: Digest::of(b"c"),
        architecture: Architecture::Noop,
        pooling: Pooling::Mean,
        normalize: true,
        query_prefix: String::new(),
        document_prefix: String::new(),
        max_tokens: 256,
        dtype: Dtype::F32,
        dimension: DIMENSION as u32,
        metric: Metric::Cosine,
    }
}

fn row(n: usize) -> VectorRow {
    let document_id = format!("doc-{}.md", n / 2);
    // The last rows repeat the first ones but for case: the same vector under another digest.
    let text = if n >= ROWS - 4 { format!("TEXT NUMBER {}", n + 4 - ROWS) } else { format!("text number {n}") };
    let chunk_digest = Digest::of(text.as_bytes());
    VectorRow {
        chunk_id: ChunkId::new(&document_id, (n % 2) as u32, &chunk_digest),
        document_id,
        ordinal: (n % 2) as u32,
        start: 0,
        end: text.len() as u64,
        title: n.is_multiple_of(3).then(|| format!("Title {n}")),
        tenant: Some(["red", "green", "blue"][n % 3].to_owned()),
        acl: if n.is_multiple_of(4) { vec!["staff".into(), "boss".into()] } else { vec!["staff".into()] },
        metadata: Map::from_iter([("year".to_owned(), json!(2000 + n % 5))]),
        chunk_digest,
        vector: vector_of(&text, ""),
        text,
    }
}

/// Everything a validation takes, healthy until a test breaks something.
struct World {
    source: Parts,
    target: Double,
    settings: ValidationSettings,
    indexes: BTreeMap<String, FieldType>,
    context: ModelContext,
    documents: u64,
    embedder: Hashing,
    golden: Vec<GoldenQuery>,
    baseline: Option<GoldenBaseline>,
    inventory: Option<Inventory>,
    seed: u64,
}

impl World {
    fn new(rows: usize) -> Self {
        let all: Vec<VectorRow> = (0..rows).map(row).collect();
        let context = context();
        let indexes: BTreeMap<String, FieldType> =
            [("tenant".to_owned(), FieldType::Keyword), ("metadata.year".to_owned(), FieldType::Integer)].into();
        let marker = Marker {
            instance: uuid::Uuid::from_u128(1),
            restore_key: Digest::of(b"k"),
            snapshot: "s".into(),
            model_fingerprint: context.fingerprint().unwrap(),
            rules_fingerprint: Digest::of(b"r"),
            purpose: Purpose::Drill,
            state: CollectionState::Ready,
            created: jiff::Timestamp::UNIX_EPOCH,
        };
        let info = CollectionInfo {
            name: "scratch".into(),
            aliases: vec![],
            dimension: DIMENSION,
            metric: Metric::Cosine,
            index: IndexSettings::default(),
            payload_indexes: indexes.clone(),
            count: rows as u64,
            tenants: crate::targets::Tenants { count: None, kept: crate::targets::TenantKeeping::Payload },
            roles: Vec::new(),
            own: serde_json::Map::new(),
            marker: Some(marker),
        };
        let points = all.iter().cloned().map(|r| (r.chunk_id, r.into_point())).collect();
        Self {
            source: Parts(all.chunks(34).map(<[VectorRow]>::to_vec).collect()),
            target: Double { info, points, leaks: None, index_skips: 1 },
            settings: ValidationSettings { sample: 40, recall_queries: 20, ..ValidationSettings::default() },
            indexes,
            context,
            documents: rows.div_ceil(2) as u64,
            embedder: Hashing(""),
            golden: vec![],
            baseline: None,
            inventory: None,
            seed: 5,
        }
    }

    async fn try_validate(&self) -> Result<Verdict> {
        let input = ValidationInput {
            target: &self.target,
            collection: "scratch",
            source: &self.source,
            settings: &self.settings,
            payload_indexes: &self.indexes,
            embedder: &self.embedder,
            context: &self.context,
            expected_documents: self.documents,
            golden: &self.golden,
            baseline: self.baseline.as_ref(),
            documents: self.inventory.as_ref().map(|i| i as &dyn DocumentLookup),
            seed: self.seed,
        };
        validate(&input, &Events::silent()).await
    }

    async fn validate(&self) -> Verdict {
        self.try_validate().await.unwrap()
    }

    /// Validates and returns the names of the failing checks.
    async fn failing(&self) -> Vec<String> {
        self.validate().await.failed().map(|c| c.name.clone()).collect()
    }

    fn any_id(&self) -> ChunkId {
        *self.target.points.keys().nth(17).unwrap()
    }
}

fn golden(query: &str, expected: &[&str]) -> GoldenQuery {
    let expected = expected.iter().map(|d| Grade { document: (*d).to_owned(), grade: 1.0 }).collect();
    GoldenQuery { query: query.into(), filter: Default::default(), tenant: None, acl: vec![], expected, k: None }
}

#[tokio::test]
async fn a_healthy_collection_passes_every_check() {
    let verdict = World::new(ROWS).validate().await;
    assert!(verdict.passed(), "{:#?}", verdict.checks);
    let skipped: Vec<&str> =
        verdict.checks.iter().filter(|c| c.outcome == Outcome::Skipped).map(|c| c.name.as_str()).collect();
    assert_eq!(skipped, ["golden", "golden_baseline"]);
    assert_eq!(verdict.check("recall").unwrap().measured["mean"], 1.0);
    assert_eq!(verdict.check("self_retrieval").unwrap().measured, 1.0);
    assert!(verdict.latency.unwrap().searches > 60);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_verdict_whatever_the_order_of_parts() {
    let mut world = World::new(ROWS);
    world.target.index_skips = 2;
    let checks = |v: Verdict| v.checks;
    let first = checks(world.validate().await);
    assert_eq!(checks(world.validate().await), first);
    world.source.0.reverse();
    assert_eq!(checks(world.validate().await), first);
    world.seed += 1;
    assert_ne!(checks(world.validate().await), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_collection_of_an_empty_vector_set_passes() {
    let verdict = World::new(0).validate().await;
    assert!(verdict.passed(), "{:#?}", verdict.checks);
    assert_eq!(verdict.check("recall").unwrap().outcome, Outcome::Skipped);
    let mut world = World::new(0);
    world.documents = 3;
    assert_eq!(world.failing().await, ["documents"]);
}

#[tokio::test]
async fn an_empty_collection_of_a_full_vector_set_fails() {
    let mut world = World::new(ROWS);
    world.target.points.clear();
    let failing = world.failing().await;
    for name in ["count", "ids", "vectors", "payloads", "tenants", "self_retrieval", "recall"] {
        assert!(failing.iter().any(|f| f == name), "{name} {failing:?}");
    }
}

#[tokio::test]
async fn a_missing_point_is_named() {
    let mut world = World::new(ROWS);
    let id = world.any_id();
    world.target.points.remove(&id);
    let verdict = world.validate().await;
    assert_eq!(verdict.check("count").unwrap().outcome, Outcome::Fail);
    let ids = verdict.check("ids").unwrap();
    assert_eq!(ids.outcome, Outcome::Fail);
    assert!(ids.reason.starts_with(&format!("1 missing: {id} of doc-")), "{}", ids.reason);
}

#[tokio::test]
async fn an_extra_point_is_named() {
    let mut world = World::new(ROWS);
    let mut point = world.target.points.values().next().unwrap().clone();
    point.id = ChunkId(uuid::Uuid::from_u128(7));
    world.target.points.insert(point.id, point);
    let verdict = world.validate().await;
    assert_eq!(verdict.check("count").unwrap().reason, "1 points too many");
    let ids = verdict.check("ids").unwrap();
    assert!(ids.reason.contains("1 that the vector set does not have: 00000000-0000-0000-0000-000000000007"));
}

#[tokio::test]
async fn a_point_under_another_id_is_caught_though_the_count_is_right() {
    let mut world = World::new(ROWS);
    let id = world.any_id();
    let mut point = world.target.points.remove(&id).unwrap();
    point.id = ChunkId(uuid::Uuid::from_u128(7));
    world.target.points.insert(point.id, point);
    let failing = world.failing().await;
    assert!(failing.contains(&"ids".to_owned()) && !failing.contains(&"count".to_owned()), "{failing:?}");
}

#[tokio::test]
async fn a_row_that_comes_twice_is_caught() {
    let mut world = World::new(ROWS);
    let again = world.source.0[0][0].clone();
    world.source.0[1].push(again);
    let verdict = world.validate().await;
    assert!(verdict.check("ids").unwrap().reason.contains("holds 1 ids twice"), "{:?}", verdict.check("ids"));
}

#[tokio::test]
async fn swapped_payloads_are_caught() {
    let mut world = World::new(ROWS);
    world.settings.sample = ROWS;
    let (a, b) = (world.any_id(), *world.target.points.keys().next().unwrap());
    let payload = |w: &World, id| w.target.points[&id].payload.clone();
    let (of_a, of_b) = (payload(&world, a), payload(&world, b));
    world.target.points.get_mut(&a).unwrap().payload = of_b;
    world.target.points.get_mut(&b).unwrap().payload = of_a;
    let verdict = world.validate().await;
    let payloads = verdict.check("payloads").unwrap();
    assert_eq!(payloads.outcome, Outcome::Fail);
    assert_eq!(payloads.measured["different"], 2);
    assert!(
        payloads.reason.contains(&a.to_string()) && payloads.reason.contains(" instead of "),
        "{}",
        payloads.reason
    );
    assert_eq!(verdict.check("vectors").unwrap().outcome, Outcome::Pass);
}

#[tokio::test]
async fn a_dropped_tenant_is_caught() {
    let mut world = World::new(ROWS);
    let id = *world.target.points.iter().find(|(_, p)| p.payload[field::TENANT] == "red").unwrap().0;
    world.target.points.get_mut(&id).unwrap().payload.remove(field::TENANT);
    world.settings.sample = 0;
    let verdict = world.validate().await;
    let tenants = verdict.check("tenants").unwrap();
    assert_eq!(tenants.outcome, Outcome::Fail);
    assert_eq!(tenants.reason, format!("red has {} points instead of {}", ROWS / 3 - 1, ROWS / 3));
}

#[tokio::test]
async fn a_filter_that_leaks_is_caught() {
    for (field, check) in [(field::TENANT, "tenants"), (field::ACL, "acl")] {
        let mut world = World::new(ROWS);
        world.target.leaks = Some(field);
        assert_eq!(world.failing().await, [check]);
    }
}

#[tokio::test]
async fn a_leak_that_only_one_name_could_show_is_caught() {
    let mut world = World::new(ROWS);
    for row in world.source.0.iter_mut().flatten() {
        row.tenant = Some("only".into());
    }
    world.target.points = world.source.0.iter().flatten().cloned().map(|r| (r.chunk_id, r.into_point())).collect();
    assert!(world.failing().await.is_empty());
    world.target.leaks = Some(field::TENANT);
    assert_eq!(world.failing().await, ["tenants"]);
}

#[tokio::test]
async fn vectors_of_another_model_are_caught() {
    // Loaded faithfully, so only embedding the texts again can tell.
    let mut world = World::new(ROWS);
    world.embedder = Hashing("another model");
    assert_eq!(world.failing().await, ["self_retrieval"]);

    // Loaded wrongly: the points themselves differ.
    let mut world = World::new(ROWS);
    for point in world.target.points.values_mut() {
        point.vector = vector_of(point.payload[field::TEXT].as_str().unwrap(), "another model");
    }
    assert_eq!(world.failing().await, ["vectors", "self_retrieval", "recall"]);
}

#[tokio::test]
async fn another_models_fingerprint_is_caught() {
    let mut world = World::new(ROWS);
    world.target.info.marker.as_mut().unwrap().model_fingerprint = Digest::of(b"another");
    assert_eq!(world.failing().await, ["model"]);
    world.target.info.marker = None;
    assert_eq!(world.validate().await.check("model").unwrap().outcome, Outcome::Skipped);
}

#[tokio::test]
async fn a_lost_or_different_payload_index_is_caught() {
    let mut world = World::new(ROWS);
    world.target.info.payload_indexes.remove("metadata.year");
    world.target.info.payload_indexes.insert("tenant".into(), FieldType::Integer);
    let verdict = world.validate().await;
    let check = verdict.check("payload_indexes").unwrap();
    assert_eq!(check.outcome, Outcome::Fail);
    assert_eq!(check.reason, "metadata.year has no index; tenant is indexed as \"integer\"");
}

#[tokio::test]
async fn a_wrong_metric_is_caught() {
    let mut world = World::new(ROWS);
    world.target.info.metric = Metric::Euclidean;
    assert_eq!(world.failing().await, ["metric"], "unit vectors rank the same, so only the metric shows it");
}

#[tokio::test]
async fn a_wrong_dimension_or_value_is_caught() {
    let mut world = World::new(ROWS);
    let id = world.any_id();
    world.target.points.get_mut(&id).unwrap().vector[3] = f32::NAN;
    let verdict = world.validate().await;
    let check = verdict.check("dimension").unwrap();
    assert_eq!(check.outcome, Outcome::Fail);
    assert!(check.reason.contains(&id.to_string()), "{}", check.reason);
    world.target.points.get_mut(&id).unwrap().vector.pop();
    assert!(world.failing().await.contains(&"dimension".to_owned()));
}

#[tokio::test]
async fn a_target_that_normalises_passes_for_cosine_only() {
    let mut world = World::new(ROWS);
    for row in world.source.0.iter_mut().flatten() {
        row.vector.iter_mut().for_each(|v| *v *= 3.0);
    }
    let verdict = world.validate().await;
    assert!(verdict.passed(), "{:#?}", verdict.checks);
    let check = verdict.check("vectors").unwrap();
    assert_eq!(check.measured["normalised"], 40);
    assert!(check.reason.contains("normalised by the target"));
    world.context.metric = Metric::Dot;
    world.target.info.metric = Metric::Dot;
    assert!(world.failing().await.contains(&"vectors".to_owned()));
}

#[tokio::test]
async fn an_index_that_misses_points_is_caught() {
    let mut world = World::new(ROWS);
    world.target.index_skips = 2;
    let verdict = world.validate().await;
    let recall = verdict.check("recall").unwrap();
    assert_eq!(recall.outcome, Outcome::Fail);
    let mean = recall.measured["mean"].as_f64().unwrap();
    assert!((0.3..0.7).contains(&mean), "half the points are visible, recall {mean}");
}

#[tokio::test]
async fn documents_that_the_snapshot_does_not_list_are_caught() {
    let mut world = World::new(ROWS);
    world.documents -= 1;
    assert_eq!(world.failing().await, ["documents"]);
    world.documents += 10;
    assert!(world.failing().await.is_empty(), "documents without text have no vector");
}

#[tokio::test]
async fn golden_queries_pass_and_failures_say_why() {
    let mut world = World::new(ROWS);
    world.golden = vec![golden("text number 10", &["doc-5.md"]), golden("Text Number 20", &["doc-10.md"])];
    world.golden[0].tenant = Some(["red", "green", "blue"][10 % 3].into());
    let verdict = world.validate().await;
    assert!(verdict.passed(), "{:#?}", verdict.checks);
    assert_eq!(verdict.check("golden").unwrap().measured["mrr"], 1.0);
    assert_eq!(verdict.check("golden").unwrap().measured["ndcg"], Value::Null);

    // One that the corpus lacks, one that lost its vectors, one hidden by the index, one that does not rank.
    let hidden = world.target.points.values().nth(1).unwrap();
    let (text, document) = (hidden.payload["text"].clone(), hidden.payload["document_id"].clone());
    world.golden.push(golden(text.as_str().unwrap(), &[document.as_str().unwrap()]));
    world.golden.push(golden("text number 30", &["nowhere.md", "lost.md", "doc-15.md"]));
    world.golden[3].expected[2].grade = 3.0;
    world.golden[3].k = Some(5);
    world.golden.push(golden("something else", &["doc-7.md"]));
    world.golden[4].tenant = Some("nobody".into());
    world.inventory = Some(Inventory(["lost.md".to_owned()].into()));
    world.target.index_skips = 2;
    let verdict = world.validate().await;
    let check = verdict.check("golden").unwrap();
    assert_eq!(check.outcome, Outcome::Fail);
    assert!(check.reason.contains("mean recall is"), "{}", check.reason);
    let reasons = |query: &str| -> Vec<MissReason> {
        let outcome = verdict.golden.iter().find(|o| o.query == query).unwrap();
        outcome.missed.iter().map(|m| m.reason).collect()
    };
    assert_eq!(reasons("something else"), [MissReason::RankedBelow]);
    let graded = verdict.golden.iter().find(|o| o.query == "text number 30").unwrap();
    assert!(graded.ndcg.is_some());
    assert!(graded.missed.contains(&Miss { document: "nowhere.md".into(), reason: MissReason::NotInCorpus }));
    assert!(graded.missed.contains(&Miss { document: "lost.md".into(), reason: MissReason::NotInVectors }));
    // The other chunk of its document may still be found; if it is not, the index is to blame.
    let outcome = verdict.golden.iter().find(|o| o.query == text.as_str().unwrap()).unwrap();
    assert!(outcome.missed.iter().all(|m| m.reason == MissReason::MissedByIndex), "{outcome:?}");
    assert!(verdict.golden.windows(2).all(|w| w[0].recall <= w[1].recall), "worst first");
}

#[tokio::test]
async fn a_baseline_is_recorded_and_compared() {
    let mut world = World::new(ROWS);
    let queries = vec![golden("text number 10", &["doc-5.md"]), golden("anything", &["doc-1.md"])];
    let baseline = record_baseline(&world.target, "scratch", &world.embedder, &queries, 10).await.unwrap();
    assert_eq!(baseline.queries[0].hits.len(), 10);
    let json = serde_json::to_string(&baseline).unwrap();
    assert_eq!(serde_json::from_str::<GoldenBaseline>(&json).unwrap(), baseline);
    world.baseline = Some(baseline);
    let verdict = world.validate().await;
    assert!(verdict.passed());
    assert_eq!(verdict.check("golden_baseline").unwrap().measured["overlap"], 1.0);

    world.embedder = Hashing("another model");
    assert!(world.failing().await.contains(&"golden_baseline".to_owned()));
}

#[tokio::test]
async fn what_cannot_be_checked_is_an_error() {
    let mut world = World::new(ROWS);
    world.target.info.name = "other".into();
    assert_eq!(world.try_validate().await.unwrap_err().kind(), ErrorKind::NotFound);

    struct Short;
    impl QueryEmbedder for Short {
        fn embed(&self, _: bool, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
            Ok(vec![vec![1.0]; texts.len()])
        }
    }
    let world = World::new(ROWS);
    let input = ValidationInput {
        target: &world.target,
        collection: "scratch",
        source: &world.source,
        settings: &world.settings,
        payload_indexes: &world.indexes,
        embedder: &Short,
        context: &world.context,
        expected_documents: world.documents,
        golden: &[],
        baseline: None,
        documents: None,
        seed: 1,
    };
    let e = validate(&input, &Events::silent()).await.unwrap_err();
    assert_eq!((e.kind(), e.context_value("model_dimension")), (ErrorKind::ModelMismatch, Some("1")));
}

/// Validation may run in a task of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validation_can_be_spawned() {
    let verdict = tokio::spawn(async { World::new(ROWS).validate().await }).await.unwrap();
    assert!(verdict.passed());
}
