//! pgvector on a real PostgreSQL: the conformance suite, and what only this target has.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures::FutureExt;
use regrow::ErrorKind;
use regrow::event::Events;
use regrow::model::Metric;
use regrow::pipeline::TargetSettings;
use regrow::targets::conformance::{self, Case, Opener, Place, sample, spec, unit_vector, wait_for_index};
use regrow::targets::{CollectionSpec, Filter, Role, SearchRequest, Target, TenantKeeping};
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use crate::servers::Running;

/// One server for all tests of this process, which ends with it.
fn server() -> Option<u16> {
    static SERVER: OnceLock<Option<Running>> = OnceLock::new();
    let ready = |port| {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok_and(|mut socket| {
            use std::io::{Read, Write};
            // A request for TLS, which is answered by one letter.
            let mut answer = [0];
            socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).is_ok() && socket.read_exact(&mut answer).is_ok()
        })
    };
    SERVER.get_or_init(|| Running::start("pgvector", 1, ready)).as_ref().map(|s| s.ports[0])
}

/// A schema of its own per case.
struct Pgvector {
    port: u16,
    database: &'static str,
    /// Further keys of `[pgvector]`.
    own: &'static str,
}

impl Pgvector {
    fn running(own: &'static str) -> Option<Arc<Self>> {
        server().map(|port| Arc::new(Self { port, database: "postgres", own }))
    }

    fn connect(&self, schema: &str) -> Arc<dyn Target> {
        let text = format!(
            "kind = 'pgvector'\nurl = 'postgresql://127.0.0.1:{}'\ndatabase = '{}'\n[pgvector]\nschema = '{schema}'\n{}",
            self.port, self.database, self.own
        );
        let settings: TargetSettings = toml::from_str(&text).unwrap();
        regrow::targets::open(&settings, std::path::Path::new("."), &|_| None, &Events::silent()).unwrap()
    }

    /// As another tool would.
    async fn client(&self) -> Client {
        let address = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }
}

#[async_trait]
impl Opener for Pgvector {
    async fn open(&self, place: &Place) -> Arc<dyn Target> {
        self.connect(&place.name)
    }

    async fn create_foreign(&self, place: &Place, spec: &CollectionSpec) -> bool {
        let statement = format!(
            "CREATE SCHEMA IF NOT EXISTS {0}; CREATE TABLE {0}.\"{1}\" (id uuid PRIMARY KEY, tenant text NOT NULL, \
             embedding vector({2}) NOT NULL, payload jsonb NOT NULL, exact text)",
            place.name, spec.name, spec.dimension
        );
        self.client().await.batch_execute(&statement).await.unwrap();
        true
    }
}

async fn every_rule_holds(open: Arc<Pgvector>) {
    let mut broken = Vec::new();
    for (name, rule) in conformance::RULES {
        let case = Case::new(open.clone());
        if std::panic::AssertUnwindSafe(rule(&case)).catch_unwind().await.is_err() {
            broken.push(*name);
        }
    }
    assert!(broken.is_empty(), "rules that do not hold: {broken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let Some(open) = Pgvector::running("") else { return };
    every_rule_holds(open).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_hold_tenants() {
    let Some(open) = Pgvector::running("") else { return };
    // Set where a restore sets it: in the specification.
    let case = Case::new(open.clone());
    let target = case.target().await;
    let mut wanted = spec("one", 8, Metric::Cosine);
    wanted.own = json!({"partitions": 3}).as_object().unwrap().clone();
    let owned = target.create(&wanted).await.unwrap();
    let points = |range: std::ops::Range<u64>| range.map(|n| sample(n, 8)).collect::<Vec<_>>();
    assert_eq!(target.write(&owned, points(0..300)).await.unwrap().written, 300);
    assert_eq!(target.write(&owned, points(200..400)).await.unwrap().written, 200);
    // A point that moves to another tenant is still one point.
    let mut moved = sample(7, 8);
    moved.payload.insert("tenant".into(), "elsewhere".into());
    target.write(&owned, vec![moved.clone()]).await.unwrap();
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 400);
    assert_eq!(target.fetch("one", &[moved.id]).await.unwrap(), [moved]);
    assert_eq!(wait_for_index(&*target, &owned).await.indexed, 400);
    for filter in [Filter::tenant("a"), Filter::tenant("elsewhere"), Filter::tenant("nobody")] {
        let count = target.count("one", &filter).await.unwrap();
        let request = SearchRequest { vector: unit_vector(3, 8), limit: 500, filter, exact: false };
        assert_eq!(target.search("one", &request).await.unwrap().len() as u64, count);
    }
    let info = target.describe("one").await.unwrap().unwrap();
    assert_eq!((info.tenants.count, info.tenants.kept), (Some(4), TenantKeeping::Partition));
    assert_eq!(info.own["partitions"], 3);
    target.delete(owned).await.unwrap();
    assert_eq!(target.list().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_collection_holds() {
    let Some(open) = Pgvector::running("") else { return };
    conformance::a_large_collection_holds(&Case::new(open), 50_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halfvec_rounds_and_says_what_it_cannot_hold() {
    let Some(open) = Pgvector::running("") else { return };
    let case = Case::new(open);
    let target = case.target().await;
    let mut wanted = spec("one", 16, Metric::Euclidean);
    wanted.own = json!({"type": "halfvec", "index": "ivfflat", "lists": 4}).as_object().unwrap().clone();
    let owned = target.create(&wanted).await.unwrap();
    let mut points: Vec<_> = (0..200).map(|n| sample(n, 16)).collect();
    points[3].vector[2] = 70_000.0;
    let outcome = target.write(&owned, points.clone()).await.unwrap();
    assert_eq!((outcome.written, outcome.refused.len()), (199, 1));
    assert_eq!(outcome.refused[0].0, points[3].id);
    wait_for_index(&*target, &owned).await;
    let back = target.fetch("one", &[points[9].id]).await.unwrap();
    for (kept, written) in back[0].vector.iter().zip(&points[9].vector) {
        assert!((kept - written).abs() < 1e-3, "{kept} {written}");
    }
    let request = SearchRequest { vector: points[9].vector.clone(), limit: 3, filter: Filter::default(), exact: false };
    assert_eq!(target.search("one", &request).await.unwrap()[0].id, points[9].id);
    let own = target.describe("one").await.unwrap().unwrap().own;
    assert_eq!((&own["type"], &own["index"], &own["lists"]), (&json!("halfvec"), &json!("ivfflat"), &json!(4)));

    let mut wide = spec("wide", 2001, Metric::Cosine);
    let error = target.create(&wide).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.next_step().unwrap().contains("halfvec"), "{error:?}");
    wide.own = json!({"type": "halfvec"}).as_object().unwrap().clone();
    target.create(&wide).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_can_take_the_production_name_themselves() {
    let Some(open) = Pgvector::running("switch = 'rename'") else { return };
    let case = Case::new(open.clone());
    let target = case.target().await;
    conformance::promotion_goes_back(&case).await;
    // Which table has the name is seen from outside.
    let query = "SELECT count(*) FROM pg_tables WHERE tablename = 'live' AND schemaname = $1";
    let row = open.client().await.query_one(query, &[&case.place().name]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
    let info = target.describe("live").await.unwrap().unwrap();
    assert_eq!((info.name.as_str(), info.aliases.as_slice(), info.count), ("one", &["live".to_owned()][..], 10));
    let production = target.delete(target.open_owned("one").await.unwrap()).await.unwrap_err();
    assert_eq!(production.kind(), ErrorKind::Target);
    conformance::production_is_not_deleted(&Case::new(open)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_and_policies_are_recorded_and_made_again() {
    let Some(open) = Pgvector::running("") else { return };
    let case = Case::new(open.clone());
    let target = case.target().await;
    let one = target.create(&spec("one", 4, Metric::Dot)).await.unwrap();
    target.write(&one, (0..30).map(|n| sample(n, 4)).collect()).await.unwrap();
    target.promote("live", &one).await.unwrap();
    let client = open.client().await;
    let schema = &case.place().name;
    let role = format!("reader_{schema}");
    client
        .batch_execute(&format!(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {schema}.live, {schema}.one TO {role}; \
             ALTER TABLE {schema}.one ENABLE ROW LEVEL SECURITY; \
             CREATE POLICY only_a ON {schema}.one FOR SELECT TO {role} USING (tenant = 'a')"
        ))
        .await
        .unwrap();
    let info = target.describe("live").await.unwrap().unwrap();
    assert_eq!(info.roles, [Role { name: role.clone(), grants: vec!["SELECT".to_owned()] }]);
    let again = CollectionSpec { own: info.own.clone(), roles: info.roles.clone(), ..spec("two", 4, Metric::Dot) };
    assert_eq!(target.unsupported(&again).await.unwrap(), Vec::<String>::new());
    let two = target.create(&again).await.unwrap();
    target.write(&two, (0..60).map(|n| sample(n, 4)).collect()).await.unwrap();
    target.promote("live", &two).await.unwrap();
    let after = target.describe("live").await.unwrap().unwrap();
    assert_eq!((&after.own, &after.roles), (&info.own, &info.roles));
    // The reader sees what it saw: its tenant.
    let seen = format!("SET ROLE {role}; SELECT count(*), count(*) FILTER (WHERE tenant <> 'a') FROM {schema}.live");
    let rows = client.simple_query(&seen).await.unwrap();
    let row = rows.iter().find_map(|m| if let tokio_postgres::SimpleQueryMessage::Row(r) = m { Some(r) } else { None });
    assert_eq!(row.map(|r| (r.get(0), r.get(1))), Some((Some("20"), Some("0"))));

    let mut missing = again;
    missing.roles[0].name = "nobody_of_this_name".to_owned();
    let said = target.unsupported(&missing).await.unwrap();
    assert!(said.len() == 1 && said[0].contains("nobody_of_this_name"), "{said:?}");
    // What stands in a policy is one statement, or none.
    let mut evil = spec("evil", 4, Metric::Dot);
    evil.own = json!({"policies": {"p": "USING (true); DROP TABLE one"}}).as_object().unwrap().clone();
    assert!(target.create(&evil).await.is_err());
    assert_eq!(target.list().await.unwrap(), ["one", "two"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_connection_is_said() {
    let Some(port) = server() else { return };
    let open = |rest: &str| {
        let settings: TargetSettings = toml::from_str(&format!("kind = 'pgvector'\n{rest}")).unwrap();
        regrow::targets::open(&settings, std::path::Path::new("."), &|_| Some("hunter2".into()), &Events::silent())
            .unwrap()
    };
    let url = format!("url = 'postgresql://127.0.0.1:{port}'");
    let nobody = open(&format!("{url}\nuser = 'nobody-here'\npassword = 'env:P'")).server().await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Denied, "{nobody:?}");
    assert!(!format!("{nobody:?}").contains("hunter2"));
    let database = open(&format!("{url}\ndatabase = 'none'")).server().await.unwrap_err();
    assert!(database.to_string().contains("none"), "{database:?}");
    let tls = open(&format!("url = 'postgresqls://127.0.0.1:{port}'")).server().await.unwrap_err();
    assert_eq!(tls.kind(), ErrorKind::Target, "{tls:?}");
}

/// Connections that end at any moment cost time, and no point.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_lose_nothing() {
    let Some(open) = Pgvector::running("") else { return };
    // Only this test's connections are ended.
    let client = open.client().await;
    client.batch_execute("CREATE DATABASE regrow_killed").await.unwrap();
    let case = Case::new(Arc::new(Pgvector { port: open.port, database: "regrow_killed", own: "" }));
    let target = case.target().await;
    let owned = target.create(&spec("one", 8, Metric::Cosine)).await.unwrap();
    let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let until = ended.clone();
    let killer = tokio::spawn(async move {
        let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = 'regrow_killed'";
        let mut killed = 0;
        while !until.load(std::sync::atomic::Ordering::Relaxed) {
            killed += client.query_one(query, &[]).await.unwrap().get::<_, i64>(0);
            tokio::time::sleep(std::time::Duration::from_millis(97)).await;
        }
        killed
    });
    let mut expected = Vec::new();
    for from in (0..6000).step_by(300) {
        let points: Vec<_> = (from..from + 300).map(|n| sample(n, 8)).collect();
        expected.extend(points.iter().map(|point| point.id));
        assert_eq!(target.write(&owned, points).await.unwrap().written, 300);
    }
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(killer.await.unwrap() > 0, "nothing was killed");
    expected.sort_unstable();
    let page = target.scroll("one", None, 7000).await.unwrap();
    assert_eq!(page.points.iter().map(|point| point.id).collect::<Vec<_>>(), expected);
}
