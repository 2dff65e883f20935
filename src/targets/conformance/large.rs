//! One collection of a size that shows what small ones hide. Slow: run it once per target.

use futures::{StreamExt, TryStreamExt};

use super::Case;
use super::data::*;
use crate::error::Error;
use crate::model::Metric;
use crate::targets::types::*;

/// Loads `count` points with several writers, indexes, and looks at everything: count, fetch bit by bit, filter, tenants,
/// recall@10 of at least 0.95 against exact search, a complete scroll, loading some of it twice, promoting and going back.
pub async fn a_large_collection_holds(case: &Case, count: u64) {
    const DIMENSION: usize = 64;
    let target = case.target().await;
    let mut wanted = spec("large", DIMENSION, Metric::Cosine);
    // Vectors without any structure are the hardest there are: with the default of 128 candidates, 50,000 of them have a
    // recall of about 0.87.
    wanted.index.ef_search = 400;
    let owned = target.create(&wanted).await.unwrap();
    let capabilities = target.capabilities();
    let size = capabilities.max_batch_points.min(2000) as u64;
    let load = async |range: std::ops::Range<u64>| {
        let starts: Vec<u64> = range.clone().step_by(size as usize).collect();
        futures::stream::iter(starts)
            .map(async |from| {
                let points: Vec<Point> = (from..(from + size).min(range.end)).map(|n| sample(n, DIMENSION)).collect();
                let sent = points.len();
                let outcome = target.write(&owned, points).await?;
                assert_eq!(outcome, WriteOutcome { written: sent, refused: Vec::new() });
                Ok::<_, Error>(())
            })
            .buffer_unordered(capabilities.write_concurrency)
            .try_collect::<()>()
            .await
            .unwrap();
        target.flush(&owned).await.unwrap();
    };
    load(0..count).await;
    load(count / 3..count / 2).await;
    assert_eq!(target.count("large", &Filter::default()).await.unwrap(), count);
    let state = wait_for_index(&*target, &owned).await;
    assert_eq!((state.indexed, state.total), (count, count));

    let mut hits = 0;
    for query in 0..100 {
        let request = nearest(unit_vector(9_000_000 + query, DIMENSION), 10, true);
        let exact = target.search("large", &request).await.unwrap();
        let found = target.search("large", &SearchRequest { exact: false, ..request }).await.unwrap();
        assert_eq!((exact.len(), found.len()), (10, 10));
        hits += found.iter().filter(|f| exact.iter().any(|e| e.id == f.id)).count();
    }
    assert!(hits >= 950, "recall@10 is {}", hits as f64 / 1000.0);

    for tenant in ["a", "b", "c"] {
        let filter = Filter::tenant(tenant);
        let expected = (0..count).filter(|n| Sample::payload(*n)["tenant"] == tenant).count() as u64;
        assert_eq!(target.count("large", &filter).await.unwrap(), expected);
        let request = SearchRequest { filter, ..nearest(unit_vector(17, DIMENSION), 10, false) };
        let found = target.search("large", &request).await.unwrap();
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|p| p.payload["tenant"] == tenant));
    }

    // Every point once, in order, bit for bit, in bounded memory: ids are compared by their sorted list.
    let mut ids: Vec<(crate::ids::ChunkId, u64)> = (0..count).map(|n| (Sample::id(n), n)).collect();
    ids.sort_unstable();
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = target.scroll("large", after, 2000).await.unwrap();
        for point in &page.points {
            assert!(*point == sample(ids[seen].1, DIMENSION), "point {seen} in order differs");
            seen += 1;
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen as u64, count);
    let some: Vec<_> = (0..count).step_by(997).map(Sample::id).collect();
    let mut fetched = target.fetch("large", &some).await.unwrap();
    fetched.sort_by_key(|p| p.id);
    let mut expected: Vec<Point> = (0..count).step_by(997).map(|n| sample(n, DIMENSION)).collect();
    expected.sort_by_key(|p| p.id);
    assert!(fetched == expected);

    let small = filled(&*target, &spec("small", DIMENSION, Metric::Cosine), 10).await;
    target.promote("live", &small).await.unwrap();
    let before = target.promote("live", &owned).await.unwrap().unwrap();
    assert_eq!(target.count("live", &Filter::default()).await.unwrap(), count);
    let back = target.open_owned(&before).await.unwrap();
    target.promote("live", &back).await.unwrap();
    assert_eq!(target.count("live", &Filter::default()).await.unwrap(), 10);
}
