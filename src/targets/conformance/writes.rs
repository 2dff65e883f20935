//! Writing.

use serde_json::{Value, json};

use super::Case;
use super::data::*;
use crate::error::ErrorKind;
use crate::model::Metric;
use crate::targets::types::*;

/// Repeating writes, in other batches and another order, changes nothing.
pub async fn writing_twice_is_writing_once(case: &Case) {
    let target = case.target().await;
    let owned = filled(&*target, &spec("one", 8, Metric::Cosine), 300).await;
    let before = scroll_all(&*target, "one", 100).await;
    write_range(&*target, &owned, 100..300, 8).await;
    let backwards: Vec<Point> = (0..200).rev().map(|n| sample(n, 8)).collect();
    target.write(&owned, backwards).await.unwrap();
    target.flush(&owned).await.unwrap();
    // The same point twice in one batch.
    target.write(&owned, vec![sample(3, 8), sample(3, 8)]).await.unwrap();
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 300);
    assert_eq!(scroll_all(&*target, "one", 100).await, before);
}

/// The last write of an id is what is there, and nothing of the one before.
pub async fn overwriting_replaces_vector_and_payload(case: &Case) {
    let target = case.target().await;
    let owned = filled(&*target, &spec("one", 8, Metric::Dot), 50).await;
    for indexed in [false, true] {
        if indexed {
            wait_for_index(&*target, &owned).await;
        }
        let Value::Object(payload) = json!({"tenant": "new", "only": indexed}) else { return };
        let new = Point { id: Sample::id(7), vector: raw_vector(1007, 8), payload };
        target.write(&owned, vec![new.clone()]).await.unwrap();
        assert_eq!(target.fetch("one", &[new.id]).await.unwrap(), std::slice::from_ref(&new));
        assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 50);
        // Payload indexes forget what was there, too.
        assert_eq!(target.count("one", &Filter::tenant("new")).await.unwrap(), 1);
        let old = Filter { all: vec![Condition::Equals { field: "document_id".into(), value: "doc-1.md".into() }] };
        assert_eq!(target.count("one", &old).await.unwrap(), 6);
        let found = target.search("one", &nearest(new.vector.clone(), 50, true)).await.unwrap();
        assert_eq!(found.iter().filter(|p| p.id == new.id).count(), 1);
        target.write(&owned, vec![sample(7, 8)]).await.unwrap();
        assert_eq!(target.count("one", &old).await.unwrap(), 7);
    }
    // The last of several in one batch.
    let mut first = sample(8, 8);
    first.payload.insert("text".into(), "first".into());
    target.write(&owned, vec![first, sample(8, 8)]).await.unwrap();
    assert_eq!(target.fetch("one", &[Sample::id(8)]).await.unwrap(), [sample(8, 8)]);
}

/// Bad vectors are refused by id with a reason, and the rest of the batch is written.
pub async fn bad_points_are_refused_by_id(case: &Case) {
    let target = case.target().await;
    let owned = target.create(&spec("one", 4, Metric::Cosine)).await.unwrap();
    let with = |n: u64, vector: Vec<f32>| Point { vector, ..sample(n, 4) };
    let points = vec![
        sample(0, 4),
        with(1, vec![0.5; 3]),
        with(2, vec![0.5; 5]),
        with(3, vec![]),
        with(4, vec![f32::NAN, 0.0, 0.0, 1.0]),
        with(5, vec![0.0, f32::INFINITY, 0.0, 1.0]),
        with(6, vec![0.0, 0.0, f32::NEG_INFINITY, 1.0]),
        sample(7, 4),
    ];
    let outcome = target.write(&owned, points).await.unwrap();
    assert_eq!(outcome.written, 2);
    let mut refused: Vec<_> = outcome.refused.iter().map(|(id, _)| *id).collect();
    let mut expected: Vec<_> = (1..7).map(Sample::id).collect();
    refused.sort_unstable();
    expected.sort_unstable();
    assert_eq!(refused, expected);
    assert!(outcome.refused.iter().all(|(_, reason)| !reason.is_empty()));
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 2);

    let only_bad = target.write(&owned, vec![with(9, vec![1.0])]).await.unwrap();
    assert_eq!((only_bad.written, only_bad.refused.len()), (0, 1));
    assert_eq!(target.write(&owned, Vec::new()).await.unwrap(), WriteOutcome::default());
    target.flush(&owned).await.unwrap();
    assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 2);
}

/// Vectors of any length for dot and Euclidean, of length 1 for cosine; before and after the index.
pub async fn vectors_come_back_bit_for_bit(case: &Case) {
    let target = case.target().await;
    for metric in [Metric::Dot, Metric::Euclidean, Metric::Cosine] {
        let name = format!("{metric:?}").to_lowercase();
        let spec = spec(&name, 24, metric);
        let owned = target.create(&spec).await.unwrap();
        let mut points: Vec<Point> = (0..400).map(|n| sample(n, 24)).collect();
        if metric != Metric::Cosine {
            for (n, point) in points.iter_mut().enumerate() {
                point.vector = raw_vector(n as u64, 24);
            }
            points[1].vector = vec![f32::MIN_POSITIVE; 24];
            points[2].vector = vec![-0.0; 24];
        }
        target.write(&owned, points.clone()).await.unwrap();
        points.sort_by_key(|p| p.id);
        let bits = |points: &[Point]| -> Vec<Vec<u32>> {
            points.iter().map(|p| p.vector.iter().map(|v| v.to_bits()).collect()).collect()
        };
        assert_eq!(bits(&scroll_all(&*target, &name, 150).await), bits(&points));
        wait_for_index(&*target, &owned).await;
        assert_eq!(bits(&scroll_all(&*target, &name, 150).await), bits(&points));
    }
    // A vector without direction can be stored, and is similar to nothing.
    let owned = target.open_owned("cosine").await.unwrap();
    let zero = Point { vector: vec![0.0; 24], ..sample(1000, 24) };
    target.write(&owned, vec![zero.clone()]).await.unwrap();
    assert_eq!(target.fetch("cosine", &[zero.id]).await.unwrap(), std::slice::from_ref(&zero));
    let found = target.search("cosine", &nearest(unit_vector(1, 24), 1000, true)).await.unwrap();
    assert_eq!(found.iter().find(|p| p.id == zero.id).map(|p| p.score), Some(0.0));
}

/// Payloads come back as JSON values, not as text that looks like them.
pub async fn payloads_keep_types(case: &Case) {
    let target = case.target().await;
    let owned = target.create(&spec("one", 4, Metric::Dot)).await.unwrap();
    let value = json!({
        "tenant": "a",
        "metadata": {
            "big": 9_007_199_254_740_993_i64, "least": i64::MIN, "most": u64::MAX, "zero": 0, "minus": -1,
            "float": 0.1, "whole_float": 3.0, "huge": 1e300, "tiny": -2.5e-300,
            "yes": true, "no": false, "none": null, "empty": {}, "no_items": [],
            "list": [1, "two", 3.5, null, [true], {"deep": {"er": [null]}}],
            "number_text": "42", "date": "2026-11-20T15:42:00Z", "key.with.dots": 1, "key with \"quotes\"": 2,
            "ключ": "значение", "": "empty key", "control": "\u{0}\u{1}\t\n\u{7f}", "long": "ä".repeat(10_000),
        },
    });
    let Value::Object(payload) = value else { return };
    let typed = Point { payload, ..sample(0, 4) };
    let empty = Point { payload: serde_json::Map::new(), ..sample(1, 4) };
    target.write(&owned, vec![typed.clone(), empty.clone()]).await.unwrap();
    target.flush(&owned).await.unwrap();
    for indexed in [false, true] {
        if indexed {
            wait_for_index(&*target, &owned).await;
        }
        assert_eq!(target.fetch("one", &[typed.id]).await.unwrap(), std::slice::from_ref(&typed));
        assert_eq!(target.fetch("one", &[empty.id]).await.unwrap(), std::slice::from_ref(&empty));
        let found = target.search("one", &nearest(typed.vector.clone(), 1, true)).await.unwrap();
        assert_eq!(found[0].payload, typed.payload);
    }
}

/// A payload of a megabyte, several in one batch.
pub async fn huge_payloads_are_kept(case: &Case) {
    let target = case.target().await;
    let owned = target.create(&spec("one", 4, Metric::Dot)).await.unwrap();
    let points: Vec<Point> = (0..8)
        .map(|n| {
            let mut point = sample(n, 4);
            // Not one letter again and again, which would compress to nothing.
            let text: String = (0..65_536).map(|k| format!("{:016x}", k * (n + 1) * 0x9e37_79b9)).collect();
            point.payload.insert("text".into(), text.into());
            point
        })
        .collect();
    let outcome = target.write(&owned, points.clone()).await.unwrap();
    assert_eq!(outcome.written, 8);
    target.flush(&owned).await.unwrap();
    for point in points {
        assert!(target.fetch("one", &[point.id]).await.unwrap() == [point], "a megabyte of text differs");
    }
}

/// Writers do not lose each other's points.
pub async fn concurrent_writes_all_land(case: &Case) {
    let target = case.target().await;
    let owned = target.create(&spec("one", 8, Metric::Cosine)).await.unwrap();
    let writers = (0..6_u64).map(|w| {
        let (target, owned) = (target.clone(), owned.clone());
        tokio::spawn(async move {
            // Neighbours overlap by half.
            for batch in 0..5 {
                let from = w * 250 + batch * 100;
                target.write(&owned, (from..from + 100).map(|n| sample(n, 8)).collect()).await.unwrap();
                target.count("one", &Filter::default()).await.unwrap();
                if batch == 2 {
                    target.flush(&owned).await.unwrap();
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let mut expected: Vec<Point> = (0..1750).map(|n| sample(n, 8)).collect();
    expected.sort_by_key(|p| p.id);
    assert_eq!(scroll_all(&*target, "one", 500).await, expected);
}

/// The index finds what exact search finds, and points written after it was built are found too.
pub async fn writes_after_the_index_are_found(case: &Case) {
    const DIMENSION: usize = 32;
    let target = case.target().await;
    let owned = filled(&*target, &spec("one", DIMENSION, Metric::Cosine), 9000).await;
    assert!(!target.index_state(&owned).await.unwrap().done, "nothing is indexed before it is asked for");
    let state = wait_for_index(&*target, &owned).await;
    assert_eq!((state.indexed, state.total), (9000, 9000));

    let mut hits = 0;
    for query in 0..50 {
        let vector = unit_vector(1_000_000 + query, DIMENSION);
        let exact = target.search("one", &nearest(vector.clone(), 10, true)).await.unwrap();
        let found = target.search("one", &nearest(vector, 10, false)).await.unwrap();
        assert_eq!(found.len(), 10);
        hits += found.iter().filter(|f| exact.iter().any(|e| e.id == f.id)).count();
    }
    assert!(hits >= 475, "recall@10 is {}", hits as f64 / 500.0);

    write_range(&*target, &owned, 8900..9200, DIMENSION).await;
    for round in 0..2 {
        for n in [0, 8950, 9001, 9199] {
            let found = target.search("one", &nearest(unit_vector(n, DIMENSION), 3, false)).await.unwrap();
            assert_eq!(found[0].id, Sample::id(n), "point {n}, round {round}");
            assert!((found[0].score - 1.0).abs() < 1e-5);
        }
        assert_eq!(target.count("one", &Filter::default()).await.unwrap(), 9200);
        assert_eq!(wait_for_index(&*target, &owned).await.total, 9200);
    }
    target.flush(&owned).await.unwrap();
    let other = target.search("one", &SearchRequest { vector: vec![1.0; 3], ..nearest(vec![], 1, false) }).await;
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Target);
}
