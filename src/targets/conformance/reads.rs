//! Reading.

use serde_json::json;

use super::Case;
use super::data::*;
use crate::error::ErrorKind;
use crate::ids::ChunkId;
use crate::model::Metric;
use crate::targets::filter::{check, passes};
use crate::targets::types::*;

/// No points: every method answers.
pub async fn an_empty_collection_can_be_used(case: &Case) {
    let target = case.target().await;
    let owned = target.create(&spec("one", 4, Metric::Cosine)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 0);
        assert_eq!(target.count("one", &Filter::tenant("a")).await.unwrap(), 0);
        assert_eq!(target.fetch("one", &[Sample::id(1)]).await.unwrap(), []);
        assert_eq!(target.scroll("one", None, 10).await.unwrap(), ScrollPage { points: vec![], next: None });
        for exact in [false, true] {
            assert_eq!(target.search("one", &nearest(unit_vector(1, 4), 5, exact)).await.unwrap(), []);
        }
        target.flush(&owned).await.unwrap();
        let state = wait_for_index(&*target, &owned).await;
        assert_eq!(state, IndexState { done: true, indexed: 0, total: 0 });
    }
    target.delete(owned).await.unwrap();
}

/// A fetch returns what exists, once.
pub async fn missing_ids_are_left_out(case: &Case) {
    let target = case.target().await;
    filled(&*target, &spec("one", 4, Metric::Dot), 20).await;
    let ids: Vec<ChunkId> = [3, 500, 4, 3, 501, 19].map(Sample::id).to_vec();
    let mut found = target.fetch("one", &ids).await.unwrap();
    found.sort_by_key(|p| p.id);
    let mut expected = [3, 4, 19].map(|n| sample(n, 4)).to_vec();
    expected.sort_by_key(|p| p.id);
    assert_eq!(found, expected);
    assert_eq!(target.fetch("one", &[]).await.unwrap(), []);
    assert_eq!(target.fetch("one", &[Sample::id(500)]).await.unwrap(), []);
}

/// Every point once, in id order, whatever the size of a page; before and after the index.
pub async fn scrolling_is_complete(case: &Case) {
    const COUNT: u64 = 10_501;
    let target = case.target().await;
    let owned = filled(&*target, &spec("one", 4, Metric::Dot), COUNT).await;
    let mut expected: Vec<Point> = (0..COUNT).map(|n| sample(n, 4)).collect();
    expected.sort_by_key(|p| p.id);
    for page in [997, 4096, COUNT as usize, COUNT as usize + 1] {
        assert!(scroll_all(&*target, "one", page).await == expected, "pages of {page}");
    }
    wait_for_index(&*target, &owned).await;
    // Points in several places: some are written again, some are new.
    write_range(&*target, &owned, COUNT - 100..COUNT + 6, 4).await;
    expected.extend((COUNT..COUNT + 6).map(|n| sample(n, 4)));
    expected.sort_by_key(|p| p.id);
    assert!(scroll_all(&*target, "one", 1013).await == expected);

    let (last, middle) = (expected[expected.len() - 1].id, expected[500].id);
    assert_eq!(target.scroll("one", Some(last), 5).await.unwrap(), ScrollPage { points: vec![], next: None });
    assert_eq!(target.scroll("one", Some(middle), 5).await.unwrap().points, expected[501..506]);
    // The point to continue after need not exist any more, or ever.
    let between = ChunkId(uuid::Uuid::from_u128(middle.0.as_u128() + 1));
    assert_eq!(target.scroll("one", Some(between), 2).await.unwrap().points, expected[501..503]);
    let end = ChunkId(uuid::Uuid::max());
    assert_eq!(target.scroll("one", Some(end), 5).await.unwrap(), ScrollPage { points: vec![], next: None });
}

fn reference(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    match metric {
        Metric::Dot => dot(a, b),
        Metric::Cosine => dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        Metric::Euclidean => pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
    }
}

/// Scores are cosine similarity, dot product or Euclidean distance; best first; complete.
pub async fn exact_search_is_exact(case: &Case) {
    const DIMENSION: usize = 20;
    let target = case.target().await;
    for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
        let name = format!("{metric:?}").to_lowercase();
        let owned = target.create(&spec(&name, DIMENSION, metric)).await.unwrap();
        let points: Vec<Point> =
            (0..600).map(|n| Point { vector: raw_vector(n, DIMENSION), ..sample(n, DIMENSION) }).collect();
        target.write(&owned, points.clone()).await.unwrap();
        for indexed in [false, true] {
            if indexed {
                wait_for_index(&*target, &owned).await;
            }
            for query in 0..10 {
                let vector = raw_vector(5_000 + query, DIMENSION);
                let found = target.search(&name, &nearest(vector.clone(), 25, true)).await.unwrap();
                let mut scores: Vec<f64> = points.iter().map(|p| reference(metric, &vector, &p.vector)).collect();
                for hit in &found {
                    let point = points.iter().find(|p| p.id == hit.id).unwrap();
                    let expected = reference(metric, &vector, &point.vector);
                    assert!((f64::from(hit.score) - expected).abs() < 1e-4, "{metric:?} {} {expected}", hit.score);
                    assert_eq!(hit.payload, point.payload);
                }
                scores.sort_by(|a, b| if metric == Metric::Euclidean { a.total_cmp(b) } else { b.total_cmp(a) });
                assert_eq!(found.len(), 25);
                for (hit, expected) in found.iter().zip(&scores) {
                    assert!((f64::from(hit.score) - expected).abs() < 1e-4, "not the best ones: {metric:?}");
                }
                let in_order = found.is_sorted_by(|a, b| match metric {
                    Metric::Euclidean => a.score <= b.score,
                    Metric::Cosine | Metric::Dot => a.score >= b.score,
                });
                assert!(in_order, "{metric:?}");
            }
        }
        assert_eq!(target.search(&name, &nearest(raw_vector(1, DIMENSION), 0, true)).await.unwrap(), []);
        assert_eq!(target.search(&name, &nearest(raw_vector(1, DIMENSION), 9999, true)).await.unwrap().len(), 600);
    }
}

/// Equal scores: the least ids, in order, also at the cut.
pub async fn ties_come_in_id_order(case: &Case) {
    let target = case.target().await;
    let owned = target.create(&spec("one", 4, Metric::Dot)).await.unwrap();
    let same = vec![0.5_f32, -0.25, 0.125, 1.0];
    let mut points: Vec<Point> = (0..90).map(|n| Point { vector: same.clone(), ..sample(n, 4) }).collect();
    points[40].vector = vec![5.0, 0.0, 0.0, 5.0];
    target.write(&owned, points.clone()).await.unwrap();
    let mut rest: Vec<ChunkId> = points.iter().map(|p| p.id).filter(|id| *id != points[40].id).collect();
    rest.sort_unstable();
    for limit in [1, 2, 8, 33, 89, 90, 200] {
        let found = target.search("one", &nearest(same.clone(), limit, true)).await.unwrap();
        let expected: Vec<ChunkId> = std::iter::once(points[40].id).chain(rest.clone()).take(limit).collect();
        assert_eq!(found.iter().map(|p| p.id).collect::<Vec<_>>(), expected, "limit {limit}");
    }
}

fn equals(field: &str, value: serde_json::Value) -> Condition {
    Condition::Equals { field: field.into(), value }
}

fn any_of(field: &str, values: &[&str]) -> Condition {
    Condition::AnyOf { field: field.into(), values: values.iter().map(|v| json!(v)).collect() }
}

fn range(field: &str, min: Option<f64>, max: Option<f64>) -> Condition {
    Condition::Range { field: field.into(), min, max }
}

/// Counts, exact searches and searches of the index agree with the meaning of every kind of condition.
pub async fn filters_mean_what_they_say(case: &Case) {
    const COUNT: u64 = 2000;
    let target = case.target().await;
    let owned = filled(&*target, &spec("one", 8, Metric::Cosine), COUNT).await;
    let filters: Vec<Vec<Condition>> = vec![
        vec![],
        vec![equals("tenant", json!("b"))],
        vec![equals("tenant", json!("nobody"))],
        vec![equals("acl", json!("group-2"))],
        vec![any_of("acl", &["group-1", "group-4"])],
        vec![any_of("acl_unindexed", &["group-1", "group-4"])],
        vec![any_of("acl", &[])],
        vec![equals("metadata.year", json!(1999))],
        vec![Condition::AnyOf { field: "metadata.year".into(), values: vec![json!(1999), json!(2001)] }],
        vec![Condition::AnyOf { field: "metadata.year".into(), values: vec![json!("1999"), json!(2001)] }],
        vec![equals("metadata.year", json!("1999"))],
        vec![range("metadata.year", Some(2000.0), Some(2003.0))],
        vec![range("metadata.year", None, Some(1990.0))],
        vec![range("metadata.score", Some(0.25), Some(0.5))],
        vec![range("metadata.score", Some(3.75), None)],
        vec![range("metadata.score", Some(3.0), Some(2.0))],
        vec![equals("metadata.draft", json!(true))],
        vec![equals("metadata.draft", json!(false))],
        vec![equals("metadata.nested.deep", json!(1))],
        vec![equals("metadata.absent", json!(1))],
        vec![equals("absent.metadata", json!("x"))],
        vec![range("ordinal", Some(5.0), None)],
        vec![equals("tenant", json!("a")), any_of("acl", &["group-0"]), range("metadata.year", Some(2010.0), None)],
    ];
    for indexed in [false, true] {
        if indexed {
            wait_for_index(&*target, &owned).await;
        }
        for all in &filters {
            let filter = Filter { all: all.clone() };
            let checked = check(&filter).unwrap();
            let expected = (0..COUNT).filter(|n| passes(&checked, &Sample::payload(*n))).count();
            assert_eq!(target.count("one", &filter).await.unwrap(), expected as u64, "{filter:?}");
            for exact in [true, false] {
                let request = SearchRequest { filter: filter.clone(), ..nearest(unit_vector(9, 8), 60, exact) };
                let found = target.search("one", &request).await.unwrap();
                assert!(found.iter().all(|p| passes(&checked, &p.payload)), "{filter:?}");
                assert_eq!(found.len(), expected.min(60), "{filter:?}, exact: {exact}");
            }
        }
    }
}

/// A search as one tenant never returns another's point.
pub async fn a_tenant_sees_only_its_own(case: &Case) {
    let target = case.target().await;
    let owned = filled(&*target, &spec("one", 8, Metric::Cosine), 1500).await;
    for indexed in [false, true] {
        if indexed {
            wait_for_index(&*target, &owned).await;
        }
        for tenant in ["a", "b", "c"] {
            let filter = Filter::tenant(tenant);
            assert_eq!(target.count("one", &filter).await.unwrap(), 500);
            for query in 0..30 {
                // The nearest point of all belongs to each tenant in turn.
                for exact in [false, true] {
                    let vector = unit_vector(query, 8);
                    let request = SearchRequest { vector, limit: 20, filter: filter.clone(), exact };
                    let found = target.search("one", &request).await.unwrap();
                    assert_eq!(found.len(), 20);
                    assert!(found.iter().all(|p| p.payload["tenant"] == tenant));
                }
            }
        }
        assert_eq!(target.count("one", &Filter::tenant("A")).await.unwrap(), 0);
        assert_eq!(target.count("one", &Filter::tenant("")).await.unwrap(), 0);
    }
}

/// Wrong dimension, values that are not finite, filters that mean nothing.
pub async fn bad_queries_are_refused(case: &Case) {
    let target = case.target().await;
    filled(&*target, &spec("one", 4, Metric::Dot), 5).await;
    for vector in [vec![], vec![1.0; 3], vec![1.0; 5], vec![f32::NAN; 4], vec![0.0, 0.0, 0.0, f32::INFINITY]] {
        let error = target.search("one", &nearest(vector, 3, true)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Target, "{error}");
        assert!(!error.retryable());
    }
    for bad in [equals("a", json!(0.5)), equals("a", json!([1])), range("a", None, None), equals("", json!(1))] {
        let filter = Filter { all: vec![bad] };
        assert_eq!(target.count("one", &filter).await.unwrap_err().kind(), ErrorKind::Configuration);
        let request = SearchRequest { filter, ..nearest(unit_vector(1, 4), 3, true) };
        assert_eq!(target.search("one", &request).await.unwrap_err().kind(), ErrorKind::Configuration);
    }
    let none = target.search("absent", &nearest(unit_vector(1, 4), 3, true)).await.unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
}
